//! What a TLS connect with an IAM token costs, as a ratio to plain sqlx 0.9.0 in the same run: `cargo bench --bench connect`.
//!
//! Both connect to the same emulator in front of the same PostgreSQL, one after the other, with the same kind of token and
//! the same verification. The bar is 0.15 as long as the driver leaves Nagle's algorithm on; above it the bench fails.

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sqlx::{ConnectOptions, Connection};

use support::world::World;

const ROUNDS: usize = 40;
const BAR: f64 = 0.15;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(run())
}

async fn run() -> ExitCode {
    let Some(world) = World::start().await else { return ExitCode::SUCCESS };
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    // The options of a plain pool carry a token and nothing else of ours.
    let options = world.pool().sqlx_pool().await.expect("a token").connect_options();
    for _ in 0..ROUNDS {
        let pool = world.pool();
        let started = Instant::now();
        pool.warm().await.expect("the pool connects");
        ours.push(started.elapsed());
        pool.close(Duration::from_secs(1)).await;

        let started = Instant::now();
        let connection = options.connect().await.expect("sqlx connects");
        plain.push(started.elapsed());
        connection.close().await.expect("sqlx says goodbye");
    }
    let (ours, plain) = (median(ours), median(plain));
    let ratio = ours / plain;
    println!("tls connect: pool {ours:.2} ms, sqlx {plain:.2} ms, ratio {ratio:.3} (bar {BAR})");
    if ratio <= BAR { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}
