//! Does the pool keep its promises when everything else breaks? A real primary and a synchronous standby, the emulator
//! before them, and workers that read and write through the pool's public API while faults of all kinds happen, at random
//! from a seed. In the end the database is compared with what the callers were told.
//!
//! Run it with `cargo run --release --example fault_lab -- --faults 2000 --seed 1`; `--json` prints the findings as one
//! line of JSON, `--workers N` changes how many work, `--minutes N` how long it may take, and `--mix transactions` has them
//! work in transactions, as told at the end. It needs PostgreSQL's server
//! binaries (Debian: `apt-get install postgresql`).
//!
//! Some faults take more than the emulator. The process stops itself (SIGSTOP) as an environment is frozen, and its connections
//! are reset or their packets dropped meanwhile; packets are also dropped while it runs. That takes root, and `ss` and `nft`;
//! what cannot be done is skipped, and said so. Only the emulator's port is concerned, and what is put into the kernel is
//! taken away by a shell that outlives this process.
//!
//! What the findings mean, where a name does not say it:
//!
//! - `unknown_where`: how far the request had come. `read_and_not_passed_on` is one whose statement the emulator had read
//!   whole and whose database got nothing of it. `under_way` ones lay in a socket or in the emulator when everybody was cut
//!   off, kept waiting, or had a server lost. None of these can be told by a client from one that was done: it has written
//!   the request, and the connection ends without a word. A cut while idle has no such excuse: `unknown_of_idle_cuts` is 0.
//! - `errors_of_reads` and `errors_of_idempotent_writes` are of calls that could be served in time. Apart from them stand
//!   `errors_beyond_the_deadline`, when an outage lasted as long as the call could wait, `errors_of_silence`, when its own
//!   connection took the request and never answered, which is not to be told from a slow query, and
//!   `errors_of_certificates`: a certificate that nobody may trust is surfaced at once and not tried again.
//! - `late_ms_max`: how long after its deadline a call came, less what a timer of the process was late at that time.
//!
//! The same faults are then brought about for three others, so that one sees the checker convict: sqlx's own pool with
//! every error taken for a failure, one that repeats everything that failed, and this crate's pool with `idempotent()`
//! said of a statement that is not.
//!
//! With `--mix transactions` money goes between accounts and lists grow, each in a transaction that leaves a commit marker,
//! and most faults are aimed at the COMMIT: it is never delivered, or done and its answer lost, or delivered when the client
//! has given up, or held by a lock; servers are killed, crash, and are replaced, also by one that has missed the last commits.
//! An outage is shorter than a deadline, so next to nothing may stay unknown: `unknown_of_commits_ratio` is of the commits
//! that met a fault of their own. The controls are sqlx's own pool with every error taken for a failure, one that repeats
//! everything that failed, and one that asks the server with `pg_xact_status` what became of a transaction; that one is led
//! through crashes, after which the number of a transaction that was lost is given to another.

#[path = "fault_lab/aim.rs"]
mod aim;
#[path = "fault_lab/bank.rs"]
mod bank;
#[path = "fault_lab/check.rs"]
mod check;
#[path = "fault_lab/client.rs"]
mod client;
#[path = "fault_lab/commits.rs"]
mod commits;
#[path = "fault_lab/director.rs"]
mod director;
#[path = "fault_lab/judge.rs"]
mod judge;
#[path = "fault_lab/kernel.rs"]
mod kernel;
#[path = "fault_lab/plan.rs"]
mod plan;
#[path = "fault_lab/report.rs"]
mod report;
#[path = "fault_lab/sentence.rs"]
mod sentence;
#[path = "fault_lab/stage.rs"]
mod stage;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "fault_lab/watch.rs"]
mod watch;
#[path = "fault_lab/worker.rs"]
mod worker;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures::future::join_all;

use check::Findings;
use client::Client;
use plan::Plan;
use rds_proxy_pool::CommitMarkers;
use report::{Statements, Verdict};
use stage::{Run, Stage, Window, lock};
use worker::Mix;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A control meets so many faults at most: enough to be convicted.
const FAULTS_OF_A_CONTROL: u64 = 150;

#[derive(Clone, Copy, Debug)]
struct Options {
    faults: u64,
    seed: u64,
    workers: usize,
    minutes: u64,
    json: bool,
    transactions: bool,
}

/// What the runs have come to.
trait Report {
    /// The calls behind what is wrong, in words.
    fn culprits(&self) -> &[String];

    /// What is wrong, in words.
    fn complaints(&self) -> Vec<String>;

    fn to_json(&self) -> String;

    fn print_table(&self);
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Options> {
        let mut options = Options { faults: 500, seed: 1, workers: 0, minutes: 15, json: false, transactions: false };
        while let Some(argument) = arguments.next() {
            if argument == "--json" {
                options.json = true;
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{argument} needs a number"))?;
            match argument.as_str() {
                "--faults" => options.faults = value.parse()?,
                "--seed" => options.seed = value.parse()?,
                "--workers" => options.workers = value.parse()?,
                "--minutes" => options.minutes = value.parse()?,
                "--mix" => options.transactions = is_of_transactions(&value)?,
                _ => {
                    return Err(format!(
                        "{argument}: not one of --faults, --seed, --workers, --minutes, --mix, --json"
                    )
                    .into());
                }
            }
        }
        if options.workers == 0 {
            options.workers = if options.transactions { 16 } else { 8 };
        }
        if !(1..=256).contains(&options.workers) || options.faults == 0 {
            return Err("1 to 256 workers and one fault at least".into());
        }
        Ok(options)
    }
}

fn is_of_transactions(mix: &str) -> Outcome<bool> {
    match mix {
        "statements" => Ok(false),
        "transactions" => Ok(true),
        _ => Err(format!("{mix}: not one of statements, transactions").into()),
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("fault_lab: {error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be started");
    match runtime.block_on(report(options)) {
        Ok(report) => {
            if options.json {
                println!("{}", report.to_json());
            } else {
                report.print_table();
            }
            report.culprits().iter().for_each(|culprit| eprintln!("fault_lab: {culprit}"));
            let complaints = report.complaints();
            complaints.iter().for_each(|complaint| eprintln!("fault_lab: {complaint}"));
            if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("fault_lab: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn report(options: Options) -> Outcome<Box<dyn Report>> {
    match options.transactions {
        true => Ok(Box::new(commits::experiment(options).await?)),
        false => Ok(Box::new(experiment(options).await?)),
    }
}

async fn experiment(options: Options) -> Outcome<Statements> {
    let Options { faults, seed, workers, .. } = options;
    let until = Instant::now() + Duration::from_secs(60 * options.minutes);
    let stage = Stage::start().await?;
    let skipped = stage.kernel.missing();
    skipped.iter().for_each(|what| eprintln!("fault_lab: SKIPPED: {what}"));
    let ours = stage.our_clients(workers, &CommitMarkers::off())?;
    let verdict = run(&stage, options, &Plan::new(seed, faults, stage.kernel), ours, Mix::Everything, until).await?;

    let plan = Plan::new(seed, faults.min(FAULTS_OF_A_CONTROL), stage.kernel);
    let plain = stage.sqlx_clients(workers, Client::Plain);
    let plain = run(&stage, options, &plan, plain, Mix::Everything, until).await?;
    let stubborn = stage.sqlx_clients(workers, Client::Stubborn);
    let stubborn = run(&stage, options, &plan, stubborn, Mix::Everything, until).await?;
    let blind = stage.our_clients(workers, &CommitMarkers::off())?;
    let blind = run(&stage, options, &plan, blind, Mix::Overwrites, until).await?;
    let controls = [("sqlx_pool", plain), ("retry_everything", stubborn), ("blind_overwrite", blind)];
    Ok(Statements { seed, skipped, ours: verdict, controls })
}

async fn run(
    stage: &Stage,
    options: Options,
    plan: &Plan,
    clients: Vec<Client>,
    mix: Mix,
    until: Instant,
) -> Outcome<Verdict> {
    let started = Instant::now();
    stage.empty_tables().await?;
    let run = Run::new(stage, options.workers, plan);
    let workers = (0..options.workers).map(|worker| {
        let client = &clients[worker * clients.len() / options.workers];
        run.work(worker, client, mix, options.seed)
    });
    let (records, lags, directed) = tokio::join!(join_all(workers), run.look_at_the_clock(), run.direct(plan, until));
    directed?;
    let took = started.elapsed();
    join_all(clients.iter().map(Client::close)).await;
    stage.settle().await;
    let mut by_fault = run.watch.strikes();
    for fault in plan.global.iter().take(run.global_done.load(std::sync::atomic::Ordering::Relaxed) as usize) {
        *by_fault.entry(fault.name()).or_default() += 1;
    }
    let records: Vec<_> = records.into_iter().flatten().collect();
    let mut windows = std::mem::take(&mut *lock(&run.windows));
    windows.extend(run.watch.logins().into_iter().map(Window::of_login));
    let findings = Findings::of(stage, &records, &windows, &run.watch.certificates(), &lags).await?;
    Ok(Verdict { faults: run.faults(), planned: plan.faults(), by_fault, findings, took })
}
