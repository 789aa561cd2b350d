//! Futures dropped after every poll: nothing leaks, and what comes next is right.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::TryStreamExt;
use rds_proxy_pool::{Outcome, ProxyPool};
use sqlx::{Connection, Executor, SqlSafeStr};

use crate::support::world::{World, is_in_transaction};

/// Polls a future a number of times and then gives it up.
struct Polled<F> {
    future: Pin<Box<F>>,
    left: usize,
}

impl<F: Future> Future for Polled<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        match self.future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // Given up at the next wake-up, or here if that was the last poll.
            Poll::Pending if self.left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

async fn polled<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    Polled { future: Box::pin(future), left: polls }.await
}

/// The next three values are the right ones, and the counts balance.
async fn is_sound(pool: &ProxyPool, what: &str, polls: usize) {
    for number in 1..=3 {
        let value: i32 = sqlx::query_scalar("SELECT $1 * 10")
            .bind(number)
            .fetch_one(pool)
            .await
            .unwrap_or_else(|error| panic!("{what} dropped after {polls} polls: {error}"));
        assert_eq!(value, number * 10, "{what} dropped after {polls} polls");
    }
    assert!(!is_in_transaction(pool).await, "{what} dropped after {polls} polls leaked a transaction");
    let status = pool.status();
    assert_eq!((status.open, status.idle, status.waiting), (1, 1, 0), "{what} dropped after {polls} polls");
}

/// Drops what `start` returns after 1, 2, 3, … polls until it gets to its end.
///
/// An answer that is there at the first poll leaves nothing to drop; then it is tried again.
macro_rules! dropped_after_every_poll {
    ($pool:expr, $what:literal, $start:expr) => {{
        let mut dropped = 0;
        for _ in 0..20 {
            let mut polls = 0;
            loop {
                polls += 1;
                let done = polled(polls, $start).await.is_some();
                is_sound(&$pool, $what, polls).await;
                if done {
                    break;
                }
                dropped += 1;
                assert!(polls < 1000, "{} does not end", $what);
            }
            if dropped > 0 {
                break;
            }
        }
        assert!(dropped > 0, "{} was never dropped", $what);
    }};
}

#[tokio::test]
async fn acquire_dropped_after_every_poll_leaks_nothing() {
    let Some(world) = World::start().await else { return };
    // A fresh pool each time, so that connecting is what is dropped.
    let mut polls = 0;
    loop {
        polls += 1;
        let pool = world.pool();
        let done = polled(polls, pool.acquire()).await.is_some();
        is_sound(&pool, "acquire", polls).await;
        if done {
            break;
        }
    }
    assert!(polls > 3, "connecting takes several polls");
    world.only_open(0).await;
}

#[tokio::test]
async fn acquire_dropped_in_the_queue_leaves_it() {
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().max_idle(1).max_connections(1).build().unwrap()).unwrap();
    let held = pool.acquire().await.unwrap();
    assert!(polled(1, pool.acquire()).await.is_none());
    assert_eq!(pool.status().waiting, 0);
    drop(held);
    is_sound(&pool, "a queued acquire", 2).await;
}

#[tokio::test]
async fn a_query_dropped_after_every_poll_never_changes_what_comes_next() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let mut text = 0;
    dropped_after_every_poll!(pool, "a query", {
        text += 1;
        // A new text each time, so that preparing it is dropped as well.
        let sql = sqlx::AssertSqlSafe(format!("SELECT $1::int4 AS n{text}, pg_sleep(0.002)"));
        sqlx::query(sql).bind(5).fetch_all(&pool)
    });
}

#[tokio::test]
async fn a_stream_dropped_after_every_poll_never_changes_what_comes_next() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    dropped_after_every_poll!(pool, "a stream", async {
        let mut rows = sqlx::query("SELECT generate_series(1, 30), pg_sleep(0.001)").fetch(&pool);
        while rows.try_next().await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    });
}

#[tokio::test]
async fn prepare_dropped_after_every_poll_never_changes_what_comes_next() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let mut text = 0;
    dropped_after_every_poll!(pool, "prepare", {
        text += 1;
        (&pool).prepare(sqlx::AssertSqlSafe(format!("SELECT $1::int4 AS p{text}")).into_sql_str())
    });
}

#[tokio::test]
async fn begin_dropped_after_every_poll_leaves_no_transaction() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    dropped_after_every_poll!(pool, "begin", pool.begin());
}

#[tokio::test]
async fn commit_dropped_after_every_poll_closes_its_connection() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    sqlx::raw_sql("CREATE TABLE t (n int)").execute(&pool).await.unwrap();
    let insert = async || {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&mut transaction).await.unwrap();
        transaction
    };
    dropped_after_every_poll!(pool, "commit", insert().await.commit());
}

#[tokio::test]
async fn a_ping_dropped_after_every_poll_never_changes_what_comes_next() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    dropped_after_every_poll!(pool, "ping", async {
        let mut connection = pool.acquire().await.unwrap();
        connection.lend().ping().await.unwrap();
    });
}

#[tokio::test]
async fn the_check_after_a_gap_dropped_after_every_poll_never_changes_what_comes_next() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    pool.warm().await.unwrap();
    dropped_after_every_poll!(pool, "the check", async {
        world.clock.advance(std::time::Duration::from_secs(5));
        pool.acquire().await.unwrap();
    });
}

#[tokio::test]
async fn a_held_connection_whose_query_was_dropped_answers_its_holder_and_is_then_closed() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let mut connection = pool.acquire().await.unwrap();
    assert!(polled(1, sqlx::query("SELECT pg_sleep(0.05)").execute(&mut connection)).await.is_none());
    let value: i32 = sqlx::query_scalar("SELECT $1 + 1").bind(1).fetch_one(&mut connection).await.unwrap();
    assert_eq!(value, 2);
    drop(connection);
    assert_eq!(pool.status().open, 0);
}

#[tokio::test]
async fn the_error_of_a_statement_that_was_dropped_is_not_taken_for_the_next_one_s() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let failing = || sqlx::query("SELECT 1 / length(pg_sleep(0.1)::text)");
    let mut connection = pool.acquire().await.unwrap();
    // Prepared, so that it is the answer to its execution that is dropped.
    failing().execute(&mut connection).await.unwrap_err();
    for _ in 0..2 {
        assert!(polled(1, failing().execute(&mut connection)).await.is_none());
        assert!(polled(1, failing().execute(&mut connection)).await.is_none());
        let value: i32 = sqlx::query_scalar("SELECT $1 + 1").bind(1).fetch_one(&mut connection).await.unwrap();
        assert_eq!(value, 2);
        assert!(polled(1, failing().execute(&mut connection)).await.is_none());
        let rows: Vec<_> = sqlx::query("SELECT 1").fetch(&mut connection).try_collect().await.unwrap();
        assert_eq!(rows.len(), 1);
        assert!(polled(1, failing().execute(&mut connection)).await.is_none());
        (&mut connection).prepare("SELECT 2".into_sql_str()).await.unwrap();
    }
    drop(connection);
    assert_eq!(pool.status().open, 0);

    let mut transaction = pool.begin().await.unwrap();
    assert!(
        polled(1, sqlx::raw_sql("SELECT 1 / length(pg_sleep(0.1)::text)").execute(&mut transaction)).await.is_none()
    );
    let error = transaction.commit().await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("commit.aborted", Outcome::RolledBack));
}
