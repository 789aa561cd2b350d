//! Whatever becomes of a transaction's future, the server is not left with an open one.

use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, select};
use rds_proxy_pool::ProxyPool;

use super::{marked_pool, written};
use crate::support::world::World;

const INSERT: &str = "INSERT INTO written VALUES (1)";

/// No session of a client is in a transaction any more; and what was begun has left nothing.
async fn nothing_is_left(world: &World, pool: &ProxyPool) {
    world.no_transaction_open().await;
    assert_eq!(written(pool).await, Vec::<i64>::new());
}

#[tokio::test]
async fn a_begin_that_is_cancelled_at_any_point_leaves_no_transaction_open() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    for polls in 0..12 {
        let mut begin = Box::pin(pool.begin());
        for _ in 0..polls {
            if begin.as_mut().now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(begin);
        nothing_is_left(&world, &pool).await;
    }
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_undone_at_once() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query(INSERT).execute(&mut transaction).await.unwrap();
    drop(transaction);
    nothing_is_left(&world, &pool).await;
}

#[tokio::test]
async fn a_closure_that_panics_leaves_no_transaction_open() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let panicking = pool.clone();
    let panicked = tokio::spawn(async move {
        panicking
            .transaction(|mut tx| async move {
                sqlx::query(INSERT).execute(&mut tx).await?;
                if tx.outcome_key().is_some() {
                    panic!("on purpose");
                }
                Ok::<_, sqlx::Error>(())
            })
            .await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    nothing_is_left(&world, &pool).await;
}

#[tokio::test]
async fn a_closure_whose_future_is_dropped_leaves_no_transaction_open() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let (reached, waiting) = tokio::sync::oneshot::channel::<()>();
    let mut reached = Some(reached);
    let work = pool.transaction(|mut tx| {
        let reached = reached.take();
        async move {
            sqlx::query(INSERT).execute(&mut tx).await?;
            drop(reached);
            std::future::pending::<()>().await;
            Ok::<_, sqlx::Error>(())
        }
    });
    let work = Box::pin(work);
    match select(work, waiting).await {
        Either::Left(_) => panic!("it waits for ever"),
        Either::Right((_, work)) => drop(work),
    }
    nothing_is_left(&world, &pool).await;
}

#[tokio::test]
async fn a_freeze_right_after_the_return_finds_no_transaction_open() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let result: Result<(), sqlx::Error> = pool
        .transaction(|mut tx| async move {
            sqlx::query(INSERT).execute(&mut tx).await?;
            Err(sqlx::Error::RowNotFound)
        })
        .await;
    assert!(matches!(result, Err(sqlx::Error::RowNotFound)));
    // Nothing of the pool runs from here on.
    world.no_transaction_open().await;
    world.clock.advance(Duration::from_secs(20 * 60));
    nothing_is_left(&world, &pool).await;
}
