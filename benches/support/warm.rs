//! The candidates of the warm path that need nothing but sqlx.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rds_proxy_pool::clock::SystemClock;
use rds_proxy_pool::{ProxyConfigBuilder, ProxyPool};
use sqlx::pool::PoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor, PgPool, Postgres};
use tokio::sync::Mutex;

use super::measure::Candidate;

pub const QUERY: &str = "SELECT 1";

/// The time of one query.
pub async fn timed<'e>(executor: impl Executor<'e, Database = Postgres>) -> Duration {
    let started = Instant::now();
    let one: i32 = sqlx::query_scalar(QUERY).fetch_one(executor).await.expect("an answer");
    assert_eq!(one, 1);
    started.elapsed()
}

/// A pool for so many tasks, connected, with the clock that users have; a world's own is for tests to move.
pub async fn pool(config: ProxyConfigBuilder, tasks: usize) -> ProxyPool {
    let config = config.clock(SystemClock).max_idle(tasks).max_connections(tasks.max(2));
    let pool = ProxyPool::new(config.build().expect("the configuration is right")).expect("the pool can be made");
    let mut connections = Vec::new();
    for _ in 0..tasks {
        connections.push(pool.acquire().await.expect("the pool connects"));
    }
    drop(connections);
    pool
}

/// The options of a plain pool: they carry a token and nothing else of ours.
pub async fn options(pool: &ProxyPool) -> Arc<PgConnectOptions> {
    pool.sqlx_pool().await.expect("a token").connect_options()
}

/// sqlx's own pool, connected.
pub async fn sqlx_pool(options: &PgConnectOptions, tasks: usize, tests: bool) -> PgPool {
    let size = u32::try_from(tasks).expect("few tasks");
    let pool = PoolOptions::new().max_connections(size).min_connections(size).test_before_acquire(tests);
    let pool = pool.connect_with(options.clone()).await.expect("sqlx connects");
    while pool.num_idle() < tasks {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pool
}

pub fn queries_of_pool(pool: &ProxyPool) -> Candidate {
    let pool = pool.clone();
    Candidate::new("pool", move |_| {
        let pool = pool.clone();
        async move { timed(&pool).await }
    })
}

pub fn queries_of_sqlx_pool(name: &str, pool: &PgPool, tasks: usize) -> Candidate {
    let (asked, resting) = (pool.clone(), pool.clone());
    let queries = Candidate::new(name, move |_| {
        let pool = asked.clone();
        async move { timed(&pool).await }
    });
    // Its releases go on in tasks of their own and would be in the way of the next.
    queries.rests_when(move || resting.num_idle() == tasks)
}

/// A connection held by each task: the floor.
pub async fn queries_of_held(name: &str, options: &PgConnectOptions, tasks: usize) -> Candidate {
    let mut held = Vec::new();
    for _ in 0..tasks {
        held.push(Mutex::new(options.connect().await.expect("sqlx connects")));
    }
    let held = Rc::new(held);
    Candidate::new(name, move |task| {
        let held = Rc::clone(&held);
        async move {
            let mut connection = held[task].lock().await;
            timed(&mut *connection).await
        }
    })
}

/// So many acquires and releases of the pool; a time is the mean.
pub fn acquires_of_pool(pool: &ProxyPool, times: u32) -> Candidate {
    let pool = pool.clone();
    Candidate::new("pool", move |_| {
        let pool = pool.clone();
        async move {
            let started = Instant::now();
            for _ in 0..times {
                drop(pool.acquire().await.expect("a warm connection"));
            }
            started.elapsed() / times
        }
    })
}
