//! What the pool adds to a warm call, as ratios in one run: `cargo bench --bench warm_path`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use rds_proxy_pool::ProxyPool;
use rds_proxy_pool::clock::SystemClock;
use sqlx::pool::PoolOptions;
use sqlx::{Connection, Executor, Postgres};

use support::world::World;

const ROUNDS: usize = 20;
const BLOCK: usize = 100;
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
    // What one held connection differs from another is the error of this measurement.
    let mut other = sqlx::PgConnection::connect_with(&options).await.expect("sqlx connects");
    let sqlx_pool = PoolOptions::<Postgres>::new().max_connections(1).connect_with((*options).clone()).await;
    let sqlx_pool = sqlx_pool.expect("sqlx connects");
    pool.warm().await.expect("the pool connects");

    let (mut ours, mut held, mut control, mut theirs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // Blocks in mirrored order: each is as warm as the others, and a place in it favours none.
    for _ in 0..ROUNDS {
        block(&mut ours, async || timed(&pool).await).await;
        block(&mut held, async || timed(&mut bare).await).await;
        block(&mut control, async || timed(&mut other).await).await;
        for _ in 0..2 {
            block(&mut theirs, async || timed(&sqlx_pool).await).await;
            // Its release goes on in a task of its own and would be in the way of the others.
            while sqlx_pool.num_idle() == 0 {
                tokio::task::yield_now().await;
            }
        }
        block(&mut control, async || timed(&mut other).await).await;
        block(&mut held, async || timed(&mut bare).await).await;
        block(&mut ours, async || timed(&pool).await).await;
    }
    let (ours, held, control, theirs) = (median(ours), median(held), median(control), median(theirs));
    println!("warm query: pool {ours:.1} us, held connection {held:.1} us, ratio {:.3} (bar 1.05)", ours / held);
    println!("warm query: another held connection {control:.1} us, ratio {:.3}: the error here", control / held);
    println!("warm query: pool {ours:.1} us, sqlx::Pool {theirs:.1} us, ratio {:.3} (bar 0.5)", ours / theirs);

    let started = Instant::now();
    for _ in 0..ACQUIRES {
        drop(pool.acquire().await.expect("a warm connection"));
    }
    let each = started.elapsed() / ACQUIRES;
    println!("warm acquire and release: {} ns (bar 300 ns)", each.as_nanos());
}

async fn block(times: &mut Vec<Duration>, mut call: impl AsyncFnMut() -> Duration) {
    for _ in 0..BLOCK {
        times.push(call().await);
    }
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
