//! Transactions whose COMMIT is what the faults are aimed at: the plan, the workers, and the runs.

use std::time::{Duration, Instant};

use futures::future::{OptionFuture, join, join_all};
use rds_proxy_pool::CommitMarkers;
use rds_proxy_pool::emulator::{Kind, Message, Point};

use crate::aim::{Aim, Met};
use crate::bank::{MARKERS, Op, Told};
use crate::client::Client;
use crate::judge::{Findings, Trial};
use crate::plan::{Global, Local, Plan, failover};
use crate::sentence::{Sentence, Verdict};
use crate::stage::{Run, Stage, lock};
use crate::watch::is_silent;
use crate::{FAULTS_OF_A_CONTROL, Options, Outcome};

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(4);
/// One in so many calls brings a fault with it, while there are any.
const ONE_IN: u32 = 2;
/// What a client that asks for the commit's outcome waits for before, and a little more.
const PATIENCE: Duration = Duration::from_millis(2600);
/// Between two faults that concern everybody: so long that a row of them is no outage longer than a deadline.
const BREATH: Duration = Duration::from_millis(800);
/// Crashes for the control that believes the server: in some of them numbers of transactions are given out again.
const CRASHES: usize = 10;

/// One call.
#[derive(Debug)]
pub(crate) struct Deed {
    pub(crate) op: Op,
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    pub(crate) told: Told,
    /// The fault of its own that it met.
    pub(crate) met: Option<Met>,
}

/// All runs.
pub(crate) async fn experiment(options: Options) -> Outcome<Sentence> {
    let Options { faults, seed, workers, minutes, .. } = options;
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let stage = Stage::start().await?;
    let markers = CommitMarkers::table(MARKERS);
    let ours = stage.our_clients(workers, &markers)?;
    if let Some(Client::Ours(pool)) = ours.first() {
        stage.open_the_bank(pool).await?;
    }
    let ours = run(&stage, options, &Plan::of_transactions(seed, faults), ours, until).await?;

    let mut plan = Plan::of_transactions(seed, faults.min(FAULTS_OF_A_CONTROL));
    // sqlx's pool waits for ever for the answer to its ROLLBACK, and the accounts stay locked as long.
    plan.local.retain(|fault| !is_silent(fault.kind));
    let plain = run(&stage, options, &plan, stage.sqlx_clients(workers, Client::Plain), until).await?;
    let stubborn = run(&stage, options, &plan, stage.sqlx_clients(workers, Client::Stubborn), until).await?;
    let plan = Plan::of_crashes();
    let asking = run(&stage, options, &plan, stage.sqlx_clients(workers, Client::Asking), until).await?;
    let controls = [("sqlx_pool", plain), ("naive_replay", stubborn), ("pg_xact_status", asking)];
    Ok(Sentence { seed, ours, controls })
}

async fn run(stage: &Stage, options: Options, plan: &Plan, clients: Vec<Client>, until: Instant) -> Outcome<Verdict> {
    let started = Instant::now();
    stage.open_the_books().await?;
    let run = Run::new(stage, options.workers, plan);
    let workers = (0..options.workers).map(|worker| {
        let client = &clients[worker * clients.len() / options.workers];
        run.transact(worker, client, options.seed)
    });
    let (deeds, lags, directed) = tokio::join!(join_all(workers), run.look_at_the_clock(), run.direct(plan, until));
    directed?;
    let took = started.elapsed();
    stage.proxy.clear_faults();
    let deeds: Vec<_> = deeds.into_iter().flatten().collect();
    // Before anything is closed: those that are unknown can still be asked for.
    let trial = Trial::of(stage, clients.first(), &deeds).await?;
    join_all(clients.iter().map(Client::close)).await;
    stage.settle().await;
    let windows = std::mem::take(&mut *lock(&run.windows));
    let findings = Findings::of(stage, deeds, &windows, &lags, trial).await?;
    let global = run.global_done.load(std::sync::atomic::Ordering::Relaxed) as usize;
    let global = plan.global.iter().take(global).map(|fault| fault.name()).collect();
    Ok(Verdict { faults: run.faults(), planned: plan.faults(), global, findings, took })
}

impl Run<'_> {
    /// Works until the run is over.
    async fn transact(&self, worker: usize, client: &Client, seed: u64) -> Vec<Deed> {
        let mut random = fastrand::Rng::with_seed(seed ^ (worker as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut deeds = Vec::new();
        while !self.is_done() {
            let fault = if random.u32(..ONE_IN) == 0 { self.next_local() } else { None };
            let op = Op::any(self.stage.number(), worker, &mut random);
            let (aim, holder) = Aim::take(self, worker, op.number, fault).await;
            let start = Instant::now();
            let call = async {
                let told = tokio::select! {
                    told = client.transact(op, &aim) => told,
                    never = aim.watch() => match never {},
                };
                let end = Instant::now();
                aim.over();
                (told, end)
            };
            let holding = OptionFuture::from(holder.map(|holder| holder.hold(self)));
            let ((told, end), held) = join(call, holding).await;
            let met = aim.met(held.flatten());
            deeds.push(Deed { op, start, end, told, met });
            tokio::time::sleep(PAUSE.mul_f64(2.0 * random.f64())).await;
        }
        deeds
    }
}

impl Plan {
    /// Most faults are one connection's and cheap; each that concerns everybody takes a second or more.
    pub(crate) fn of_transactions(seed: u64, faults: u64) -> Plan {
        let mut random = fastrand::Rng::with_seed(seed);
        let some = |one_in| 0..u64::div_ceil(faults, one_in);
        let mut global: Vec<Global> = Vec::new();
        global.extend(some(80).map(|_| Global::Cut { reset: random.bool() }));
        global.extend(some(120).map(|_| Global::Refuse { lasts: Duration::from_millis(random.u64(50..2000)) }));
        global.extend(some(150).map(|_| Global::Restart { noticed: random.bool(), piled: random.bool() }));
        global.extend(some(150).map(|_| Global::Crash { piled: random.bool() }));
        global.extend(some(250).map(|number| failover(number, &mut random)));
        let lasts = Duration::from_millis(random.u64(20..250));
        global.extend(some(400).map(|_| Global::MissedCommits { lasts }));
        random.shuffle(&mut global);
        let local = (global.len() as u64..faults).map(|_| local(&mut random)).collect();
        Plan { local, global, breath: BREATH }
    }

    /// Crashes and nothing else.
    fn of_crashes() -> Plan {
        let global = (0..CRASHES).map(|number| match number % 2 {
            0 => Global::Restart { noticed: false, piled: true },
            _ => Global::Crash { piled: true },
        });
        Plan { local: [].into(), global: global.collect(), breath: BREATH / 4 }
    }
}

fn local(random: &mut fastrand::Rng) -> Local {
    let end = |random: &mut fastrand::Rng| match random.u8(..10) {
        0..4 => Kind::Close,
        4..8 => Kind::Reset,
        8 => Kind::AdminShutdown,
        _ => Kind::CrashShutdown,
    };
    let before = |random: &mut fastrand::Rng| if random.bool() { Point::BeforeRequest } else { Point::MidRequest };
    let after = |random: &mut fastrand::Rng| if random.u8(..4) > 0 { Point::BeforeReply } else { Point::MidReply };
    let message = match random.u8(..100) {
        0..70 => Message::Commit,
        70..80 => Message::Begin,
        80..92 => Message::Execute,
        92..96 => Message::Parse,
        96..98 => Message::Startup,
        _ => Message::Login,
    };
    let mut held = None;
    let any = *random.choice(&Point::ALL).unwrap_or(&Point::BeforeReply);
    let (point, kind) = match (message, random.u8(..100)) {
        (Message::Commit, 0..32) => (before(random), end(random)),
        (Message::Commit, 32..66) => (after(random), end(random)),
        (Message::Commit, 66..79) => {
            let late = while_away(random);
            (before(random), Kind::Late { least: late, most: late })
        }
        (Message::Commit, 79..91) => {
            held = Some(while_away(random));
            (Point::BeforeReply, Kind::Close)
        }
        (Message::Commit, 91..92) => (any, Kind::Delay { least: PATIENCE, most: PATIENCE * 2 }),
        (_, 95..97) => (any, Kind::NeverAnswer),
        (_, 97..99) => (any, Kind::Delay { least: Duration::from_millis(20), most: Duration::from_millis(600) }),
        (_, 99) => (any, Kind::Drip { bytes: random.usize(1..30), every: Duration::from_millis(1) }),
        _ => (any, end(random)),
    };
    Local { message, point, kind, held }
}

/// Mostly short, and sometimes longer than an old session is waited for.
fn while_away(random: &mut fastrand::Rng) -> Duration {
    let most = if random.u8(..5) == 0 { 3500 } else { 800 };
    Duration::from_millis(random.u64(5..most))
}
