//! Candidates measured in turns, and rows of what came of it.
//!
//! Not with criterion: it measures one candidate to the end before the next, so that a ratio holds what the machine did
//! meanwhile. Here all take turns within milliseconds, in an order that is mirrored from one round to the next: each
//! stands as often in every place and behind every other.

use std::rc::Rc;
use std::time::{Duration, Instant};

use futures::future::{LocalBoxFuture, join_all};

/// One call of a candidate by the task of this number: how long it took.
type Call = Rc<dyn Fn(usize) -> LocalBoxFuture<'static, Duration>>;

/// Something that is measured beside others.
pub struct Candidate {
    pub name: String,
    call: Call,
    rest: Option<Rc<dyn Fn() -> bool>>,
    times: Vec<Duration>,
}

impl Candidate {
    /// The future times itself, so that what it needs before is not counted.
    pub fn new<F: Future<Output = Duration> + 'static>(name: &str, call: impl Fn(usize) -> F + 'static) -> Self {
        let call: Call = Rc::new(move |task| Box::pin(call(task)));
        Candidate { name: name.to_owned(), call, rest: None, times: Vec::new() }
    }

    /// What it left behind is waited for before the next one's turn.
    pub fn rests_when(mut self, rests: impl Fn() -> bool + 'static) -> Self {
        self.rest = Some(Rc::new(rests));
        self
    }

    /// The median in microseconds.
    pub fn median(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e6
    }

    /// A turn of one task: each call is a time.
    async fn turn(&mut self, calls: usize) {
        for _ in 0..calls {
            self.times.push((self.call)(0).await);
        }
    }

    /// A turn of several tasks at once: their whole time by the number of calls is the time.
    async fn turn_of_many(&mut self, calls: usize, tasks: usize) {
        let started = Instant::now();
        let each = (0..tasks).map(|task| {
            let call = Rc::clone(&self.call);
            tokio::task::spawn_local(async move {
                for _ in 0..calls {
                    call(task).await;
                }
            })
        });
        for ended in join_all(each).await {
            ended.expect("no candidate fails");
        }
        self.times.push(started.elapsed() / u32::try_from(calls * tasks).expect("a bench ends"));
    }
}

/// How much is measured: so many rounds, in each of which everyone has a turn of so many calls by so many tasks.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    pub calls: usize,
    pub tasks: usize,
}

impl Effort {
    /// Measures all, after one round that does not count. For several tasks it has to run in a `LocalSet`.
    pub async fn measure(self, candidates: &mut [Candidate]) {
        for round in 0..=self.rounds {
            for place in 0..candidates.len() {
                let place = if round % 2 == 0 { place } else { candidates.len() - 1 - place };
                let candidate = &mut candidates[place];
                if self.tasks == 1 {
                    candidate.turn(self.calls).await;
                } else {
                    candidate.turn_of_many(self.calls, self.tasks).await;
                }
                while candidate.rest.as_ref().is_some_and(|rests| !rests()) {
                    tokio::task::yield_now().await;
                }
            }
            if round == 0 {
                candidates.iter_mut().for_each(|candidate| candidate.times.clear());
            }
        }
    }
}

/// Prints the rows, and remembers whether one was missed that counts.
#[derive(Default)]
pub struct Report {
    missed: bool,
}

/// What a ratio is to be at most.
#[derive(Clone, Copy)]
pub enum Bar {
    None,
    /// Where it is missed the row says so.
    Shown(f64),
    /// Where it is missed the bench fails: the number is the same in every run.
    Held(f64),
}

impl Report {
    /// A row: one candidate beside another.
    pub fn row(&mut self, what: &str, ours: &Candidate, theirs: &Candidate, bar: Bar) {
        let values = format!("{} {}, {} {}", ours.name, in_unit(ours), theirs.name, in_unit(theirs));
        self.ratio(what, &values, ours.median() / theirs.median(), bar);
    }

    /// A row of any two values.
    pub fn ratio(&mut self, what: &str, values: &str, ratio: f64, bar: Bar) {
        let verdict = self.verdict(ratio, bar, "");
        println!("{what}: {values}, ratio {ratio:.3}{verdict}");
    }

    /// A row of one value that has a bar of its own.
    pub fn value(&mut self, what: &str, value: f64, unit: &str, bar: Bar) {
        let verdict = self.verdict(value, bar, unit);
        println!("{what}: {value:.1} {unit}{verdict}");
    }

    fn verdict(&mut self, value: f64, bar: Bar, unit: &str) -> String {
        let (Bar::Shown(limit) | Bar::Held(limit)) = bar else { return String::new() };
        let met = value <= limit;
        self.missed |= !met && matches!(bar, Bar::Held(_));
        format!(" (bar {limit} {unit}",).trim_end().to_owned() + if met { ": met)" } else { ": missed)" }
    }

    pub fn exit_code(&self) -> std::process::ExitCode {
        if self.missed { std::process::ExitCode::FAILURE } else { std::process::ExitCode::SUCCESS }
    }
}

fn in_unit(candidate: &Candidate) -> String {
    match candidate.median() {
        time if time < 1.0 => format!("{:.0} ns", time * 1e3),
        time if time < 1e3 => format!("{time:.1} us"),
        time => format!("{:.2} ms", time / 1e3),
    }
}

/// Runs a bench on one thread, as a Lambda function is advised to run, where its tasks may be local.
pub fn run(bench: impl Future<Output = Report>) -> std::process::ExitCode {
    if cfg!(debug_assertions) {
        println!("not optimized: the bars are for what users run, whatever is computed here takes many times as long");
    }
    // What else runs, the build of this very program among it, makes the rows uncertain.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    if let (Some(load), Ok(cores)) =
        (load.split(' ').next().filter(|load| !load.is_empty()), std::thread::available_parallelism())
    {
        println!("load of the machine in the last minute: {load} on {cores} cores");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(tokio::task::LocalSet::new().run_until(bench)).exit_code()
}
