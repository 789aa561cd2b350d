//! Answers that do not end: the deadline holds for those who are kept busy, too.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use rds_proxy_pool::{Error, Outcome, ProxyPool};

use crate::support::world::World;

/// From the moment of a call to its deadline, and how much later it may answer on a busy machine.
const SOON: Duration = Duration::from_millis(700);
const LATE: Duration = Duration::from_millis(600);

const ROWS: &str = "SELECT repeat('x', 2000) FROM generate_series(1, 1000000)";

async fn ends_in_time(pool: &ProxyPool, what: &str, call: impl AsyncFn(ProxyPool) -> Result<(), sqlx::Error>) {
    pool.warm().await.expect("a connection");
    let started = Instant::now();
    let error = call(pool.by(SOON)).await.expect_err("it cannot be done by then");
    let took = started.elapsed();
    assert!(took < SOON + LATE, "{what} answered after {took:?}");
    let ours = Error::find(&error).unwrap_or_else(|| panic!("{what}: {error}"));
    assert_eq!((ours.code(), ours.outcome()), ("deadline.statement", Outcome::Unknown), "{what}");
    assert_eq!(pool.status().open, 0, "{what}: the rest of the answer went with its connection");
}

#[tokio::test]
async fn a_deadline_that_has_passed_before_the_call_is_not_blamed_on_the_pool() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    pool.warm().await.expect("a connection");
    // The margin alone is longer.
    for deadline in [Duration::ZERO, Duration::from_millis(100)] {
        let pool = pool.by(deadline);
        let error = sqlx::query("SELECT 1").execute(&pool).await.unwrap_err();
        let begun = pool.begin().await.map(drop).unwrap_err();
        for error in [Error::find(&error).expect("ours"), &begun] {
            assert_eq!((error.code(), error.outcome()), ("deadline.unsent", Outcome::NotSent), "{error:#}");
        }
    }
    assert_eq!(pool.status().idle, 1);
}

#[tokio::test]
async fn rows_without_end_do_not_hide_the_deadline() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    ends_in_time(&pool, "execute", async |pool| sqlx::query(ROWS).execute(&pool).await.map(drop)).await;
    ends_in_time(&pool, "fetch_one", async |pool| sqlx::query(ROWS).fetch_one(&pool).await.map(drop)).await;
    ends_in_time(&pool, "a stream that is read at once", async |pool| {
        sqlx::query(ROWS).fetch(&pool).try_for_each(|_| async { Ok(()) }).await
    })
    .await;
}

#[tokio::test]
async fn rows_that_are_there_already_do_not_hide_the_deadline() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    ends_in_time(&pool, "a stream whose reader is slower than the server", async |pool| {
        let mut rows = sqlx::query("SELECT generate_series(1, 300)").fetch(&pool);
        while rows.try_next().await?.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn notices_without_end_do_not_hide_the_deadline() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let flood = "DO $$ BEGIN LOOP RAISE NOTICE '%', repeat('x', 2000); END LOOP; END $$";
    ends_in_time(&pool, "a flood of notices", async |pool| sqlx::raw_sql(flood).execute(&pool).await.map(drop)).await;
}
