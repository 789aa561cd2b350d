//! From the start of a process to its first row (IAM, TLS), and the size of its program, beside the way of the AWS
//! examples: `cargo bench --bench cold_start` in this folder.
//!
//! Both handlers are packages of their own under `handlers`, as a user has one, and run in the tests' Lambda. What that
//! does to start a process is in both times.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rds_proxy_pool::emulator::Link;
use serde_json::json;

use rds_proxy_pool_peers::bench::measure::{Bar, Candidate, Effort, Report, run};
use rds_proxy_pool_peers::support::lambda::{Builder, LambdaFunction};
use rds_proxy_pool_peers::support::world::World;

const EFFORT: Effort = Effort { rounds: 40, calls: 1, tasks: 1 };
const OURS: &str = "handler-with-the-pool";
const BY_HAND: &str = "handler-by-hand";

fn main() -> ExitCode {
    run(measure())
}

async fn measure() -> Report {
    let mut report = Report::default();
    let (ours, by_hand) = (build(OURS), build(BY_HAND));
    let [mine, other] = [&ours, &by_hand].map(|program| {
        let size = program.metadata().expect("it was built").len();
        size as f64 / 1e6
    });
    report.value("stripped program", mine, "MB", Bar::Held(5.0));
    report.ratio(
        "stripped program",
        &format!("pool {mine:.2} MB, by hand {other:.2} MB"),
        mine / other,
        Bar::Held(0.6),
    );

    let Some(world) = World::start().await else { return report };
    let folder = tempfile::tempdir().expect("there is room");
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, world.ca_pem()).expect("the folder is ours");
    let options = world.pool().sqlx_pool().await.expect("a token").connect_options();
    let (key, secret, session) = World::keys();
    let function = |program: &PathBuf| {
        LambdaFunction::builder(program)
            .freezes(false)
            .env("AWS_ACCESS_KEY_ID", key)
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env("AWS_SESSION_TOKEN", session.clone().unwrap_or_default())
            .env("RDS_PROXY_ENDPOINT", format!("localhost:{}", world.port()))
            .env("DB_HOST", "localhost")
            .env("DB_PORT", world.port().to_string())
            .env("DB_USER", options.get_username())
            .env("DB_NAME", options.get_database().expect("a database is named"))
            .env("DB_CA_FILE", authority.display().to_string())
    };
    for microseconds in [0, 500, 2000] {
        let latency = Duration::from_micros(microseconds) / 2;
        if !latency.is_zero() {
            world.proxy().set_link(Link::new().latency(latency));
        }
        let mut candidates = [starts("pool", function(&ours)), starts("by hand", function(&by_hand))];
        EFFORT.measure(&mut candidates).await;
        let [ours, by_hand] = &candidates;
        let what = format!("process start to first row, {} ms per round trip", 2e3 * latency.as_secs_f64());
        report.row(&what, ours, by_hand, Bar::Held(0.5));
    }
    report
}

fn starts(name: &str, function: Builder) -> Candidate {
    Candidate::new(name, move |_| {
        let mut function = function.clone().idle();
        async move {
            let invocation = function.invoke(json!({})).await.expect("the handler starts");
            let answer = invocation.value().expect("it answers");
            assert!(answer["current_time"].is_string(), "{answer}");
            invocation.init.expect("it has just started") + invocation.duration
        }
    })
}

/// Builds a handler, by itself: with others its dependencies would have their features too.
fn build(package: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--locked", "--package", package, "--message-format", "json"]);
    // What `cargo bench` tells this program about its package would make build scripts think that something changed.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_MANIFEST_") || text.starts_with("CARGO_PKG_") {
            build.env_remove(&name);
        }
    }
    build.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
    let built = build.output().expect("cargo starts");
    assert!(built.status.success(), "{package} does not build");
    let messages = String::from_utf8_lossy(&built.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let program = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).last();
    program.expect("a handler is a program")
}
