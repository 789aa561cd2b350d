//! What the pool adds to a warm call, counted and not timed: `cargo bench --bench instructions`.
//!
//! Runs itself under valgrind with some calls and with twice as many and takes the difference, so that what happens once
//! drops out. The count is the same on a busy machine and on an idle one; above the bar for a warm acquire and release it
//! fails. `.ci/run` runs it as `cargo test --bench instructions`: not optimized, with a bar of its own, and built in no
//! time beside the tests. What the kernel does is not counted; under valgrind that includes reading a clock.
//!
//! What there is to see (optimized, x86-64):
//! - Warm acquire and release: 790 instructions, 150 of them to read two clocks and to subtract, 70 in the semaphore's
//!   release. The clocks are read once each, which is 20 to 50 ns each and most of the time; a connection that was used
//!   costs two readings more at its release.
//! - Warm query: 2,400 more than on a held connection, 4,000 with a deadline, of 20,000. No system call of ours: send,
//!   receive and wait, as the driver alone does.
//! - Start to first row: 3.7 million, of which 1.5 are two signatures checked in the TLS handshake and 0.4 the dynamic
//!   linker. Of 320 system calls 70 are the four looks for the driver's socket and 30 its state, together some 100 us;
//!   without them the handshake waits 80 ms. Three are the driver's own look for a server's Unix socket.
//!
//! `-- serve` starts the servers, prints how to run one process by hand, under strace or callgrind, and waits.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rds_proxy_pool::{ProxyConfig, ProxyPool};
use sqlx::{ConnectOptions, Executor, Postgres};

use support::process::find_program;
use support::world::World;

/// Instructions of a warm acquire and release: a tenth above what it takes.
const BAR: u64 = if cfg!(debug_assertions) { 5_000 } else { 870 };

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    if let ["calls", what, count] = arguments[..] {
        runtime.block_on(calls(what, count.parse().expect("a number")));
        return ExitCode::SUCCESS;
    }
    runtime.block_on(measure(arguments.contains(&"serve")))
}

/// The process that is measured: a function's first call and `count` warm ones.
async fn calls(what: &str, count: u32) {
    // Under valgrind all of it takes seconds: no call is to fail by it, and no connection to be looked at twice.
    let patience = Duration::from_secs(60);
    let config = ProxyConfig::builder_from_env().expect("the variables are set");
    let config = config.acquire_timeout(patience).connect_timeout(patience).validate_after(patience);
    let pool = ProxyPool::new(config.build().expect("the configuration is right")).expect("the pool can be made");
    match what {
        "acquire" => {
            pool.warm().await.expect("the pool connects");
            for _ in 0..count {
                drop(pool.acquire().await.expect("a warm connection"));
            }
        }
        "query" => {
            for _ in 0..count {
                query(&pool).await;
            }
        }
        "query-by" => {
            for _ in 0..count {
                query(&pool.by(patience)).await;
            }
        }
        "held" => {
            let options = pool.sqlx_pool().await.expect("a token").connect_options();
            let mut held = options.connect().await.expect("sqlx connects");
            for _ in 0..count {
                query(&mut held).await;
            }
        }
        _ => panic!("{what} is none of acquire, query, query-by, held"),
    }
}

async fn query<'e>(executor: impl Executor<'e, Database = Postgres>) {
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(executor).await.expect("an answer");
    assert_eq!(one, 1);
}

async fn measure(serve: bool) -> ExitCode {
    let Some(world) = World::start().await else { return ExitCode::SUCCESS };
    let ca = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(ca.path(), world.ca_pem()).expect("the file is ours");
    let (key, secret, session) = World::keys();
    let config = world.config().build().expect("the configuration is right");
    let variables = [
        ("RDS_PROXY_ENDPOINT", format!("localhost:{}", world.port())),
        ("DB_USER", config.user().to_owned()),
        ("DB_NAME", config.database().to_owned()),
        ("DB_CA_FILE", ca.path().display().to_string()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", key.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", secret.to_owned()),
        ("AWS_SESSION_TOKEN", session.unwrap_or_default()),
    ];
    let program = std::env::current_exe().expect("we run");
    if serve {
        let shown: Vec<_> = variables.iter().map(|(name, value)| format!("{name}='{value}'")).collect();
        println!("env {} {} calls query 1", shown.join(" "), program.display());
        return std::future::pending().await;
    }
    let Some(valgrind) = find_program("valgrind") else {
        println!("SKIPPED: no valgrind to count instructions with");
        let required = std::env::var("RDS_PROXY_POOL_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
        return if required { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    };
    let each = async |what: &'static str, count: u32| {
        let mut collected = Vec::new();
        for count in [count, 2 * count] {
            let mut command = under(&valgrind);
            command.arg(&program).args(["calls", what, &count.to_string()]).envs(variables.clone());
            collected.push(tokio::task::spawn_blocking(move || count_instructions(command)).await.expect("no panic"));
        }
        collected[1].saturating_sub(collected[0]) / u64::from(count)
    };
    let acquire = each("acquire", 20_000).await;
    println!("warm acquire and release: {acquire} instructions (bar {BAR})");
    // Most of a query is the driver's; not optimized it says nothing.
    if !cfg!(debug_assertions) {
        let (ours, by, held) = (each("query", 1_000).await, each("query-by", 1_000).await, each("held", 1_000).await);
        println!("warm query: pool {ours} instructions, with a deadline {by}, held connection {held}");
    }
    if acquire <= BAR { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn under(valgrind: &Path) -> Command {
    let mut command = Command::new(valgrind);
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command
}

/// Runs valgrind and reads what it says at the end: "Collected : 123".
fn count_instructions(mut command: Command) -> u64 {
    let output = command.output().expect("valgrind starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    collected.unwrap_or_else(|| panic!("no count in {said}"))
}
