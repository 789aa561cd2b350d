//! What the pool adds to a warm call, as ratios in one run: `cargo bench --bench warm_path`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use rds_proxy_pool::ProxyPool;
use rds_proxy_pool::clock::SystemClock;
use sqlx::pool::PoolOptions;
use sqlx::{Connection, Executor, Postgres};

use support::world::World;

const ROUNDS: usize = 2_000;
const ACQUIRES: u32 = 100_000;
const QUERY: &str = "SELECT 1";

fn main() {
    if cfg!(debug_assertions) {
        println!("not optimized: the bars are for what users run");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(run());
}

async fn run() {
    let Some(world) = World::start().await else { return };
    // With the clock that users have; the world's own is for tests to move.
    let config = world.config().clock(SystemClock).build().expect("the configuration is right");
    let pool = ProxyPool::new(config).expect("the pool can be made");
    let options = pool.sqlx_pool().await.expect("a token").connect_options();
    let mut bare = sqlx::PgConnection::connect_with(&options).await.expect("sqlx connects");
    let sqlx_pool = PoolOptions::<Postgres>::new().max_connections(1).connect_with((*options).clone()).await;
    let sqlx_pool = sqlx_pool.expect("sqlx connects");
    pool.warm().await.expect("the pool connects");

    let (mut ours, mut held, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(timed(&pool).await);
        held.push(timed(&mut bare).await);
    }
    // Apart, for its release goes on in a task of its own and would be in the way of the others.
    for _ in 0..ROUNDS {
        theirs.push(timed(&sqlx_pool).await);
    }
    let (ours, held, theirs) = (median(ours), median(held), median(theirs));
    println!("warm query: pool {ours:.1} us, held connection {held:.1} us, ratio {:.3} (bar 1.05)", ours / held);
    println!("warm query: pool {ours:.1} us, sqlx::Pool {theirs:.1} us, ratio {:.3} (bar 0.5)", ours / theirs);

    let started = Instant::now();
    for _ in 0..ACQUIRES {
        drop(pool.acquire().await.expect("a warm connection"));
    }
    let each = started.elapsed() / ACQUIRES;
    println!("warm acquire and release: {} ns (bar 300 ns)", each.as_nanos());
}

async fn timed<'e>(executor: impl Executor<'e, Database = Postgres>) -> Duration {
    let started = Instant::now();
    let one: i32 = sqlx::query_scalar(QUERY).fetch_one(executor).await.expect("an answer");
    assert_eq!(one, 1);
    started.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}
