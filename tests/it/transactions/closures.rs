use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rds_proxy_pool::emulator::{Fault, Kind, Message, Point};
use rds_proxy_pool::{Error, ErrorKind, Isolation, Outcome, ProxyPool, TransactionOptions};

use super::{marked_pool, markers, written};
use crate::support::world::World;

const INSERT: &str = "INSERT INTO written VALUES ($1)";

/// An error of the user's own.
#[derive(Debug)]
enum Ours {
    Refused,
    Database,
}

impl From<sqlx::Error> for Ours {
    fn from(_: sqlx::Error) -> Self {
        Ours::Database
    }
}

#[tokio::test]
async fn a_closure_that_returns_ok_is_committed_with_its_value() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let n = pool
        .transaction(|mut tx| async move {
            sqlx::query(INSERT).bind(7_i64).execute(&mut tx).await?;
            sqlx::query_scalar::<_, i64>("SELECT max(n) FROM written").fetch_one(&mut tx).await
        })
        .await
        .unwrap();
    assert_eq!((n, written(&pool).await, markers(&pool).await), (7, vec![7], (1, 0)));
}

#[tokio::test]
async fn an_error_of_the_closure_rolls_back_and_comes_back_untouched() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let result: Result<(), Ours> = pool
        .transaction(|mut tx| async move {
            sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await?;
            Err(Ours::Refused)
        })
        .await;
    assert!(matches!(result, Err(Ours::Refused)));
    assert_eq!((written(&pool).await, markers(&pool).await), (vec![], (0, 0)));
    assert_eq!(pool.status().connects, 1, "the connection is kept");
}

#[tokio::test]
async fn a_marked_transaction_costs_the_round_trips_of_a_plain_one() {
    let Some(world) = World::start().await else { return };
    let marked = marked_pool(&world).await;
    let plain = world.pool();
    let mut costs = Vec::new();
    for pool in [&plain, &marked, &plain, &marked] {
        let before = world.round_trips();
        pool.transaction(|mut tx| async move {
            sqlx::raw_sql("INSERT INTO written VALUES (1)").execute(&mut tx).await?;
            sqlx::raw_sql("INSERT INTO written VALUES (2)").execute(&mut tx).await
        })
        .await
        .unwrap();
        costs.push(world.round_trips() - before);
    }
    assert_eq!(costs[2..], [4, 4], "BEGIN, two statements, COMMIT: {costs:?}");
}

/// Runs a transaction whose connection breaks at this point once; how often the closure ran.
async fn broken_once(world: &World, pool: &ProxyPool, fault: Fault) -> (u32, Result<(), sqlx::Error>) {
    let runs = AtomicU32::new(0);
    drop(world.proxy().inject(fault));
    let result = pool
        .by(Duration::from_secs(20))
        .transaction(|mut tx| {
            let runs = &runs;
            async move {
                runs.fetch_add(1, Ordering::Relaxed);
                sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await.map(drop)
            }
        })
        .await;
    (runs.into_inner(), result)
}

#[tokio::test]
async fn a_connection_lost_anywhere_is_not_noticed_and_the_effect_is_there_once() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let mut expected = 0;
    for message in [Message::Begin, Message::Parse, Message::Execute, Message::Commit] {
        for point in Point::ALL {
            for kind in [Kind::Close, Kind::Reset, Kind::AdminShutdown] {
                let (runs, result) = broken_once(&world, &pool, Fault::new(message, point, kind)).await;
                world.proxy().clear_faults();
                result.unwrap_or_else(|error| panic!("{message:?} {point:?} {kind:?}: {error:?}"));
                assert!(runs <= 2, "{message:?} {point:?} {kind:?}: {runs} runs");
                expected += 1;
                assert_eq!(written(&pool).await.len(), expected, "{message:?} {point:?} {kind:?}");
            }
        }
    }
    let (committed, tombstones) = markers(&pool).await;
    assert_eq!(committed, expected as i64);
    assert!(tombstones > 0, "some of the commits never arrived");
}

#[tokio::test]
async fn without_markers_a_lost_commit_is_unknown_and_never_run_again() {
    let Some(world) = World::start().await else { return };
    drop(marked_pool(&world).await);
    let pool = world.pool();
    let (runs, result) = broken_once(&world, &pool, Fault::new(Message::Commit, Point::BeforeReply, Kind::Reset)).await;
    let error = result.unwrap_err();
    let ours = Error::find(&error).expect("ours");
    assert_eq!((runs, ours.code(), ours.outcome()), (1, "commit.unknown", Outcome::Unknown));
    assert_eq!((ours.outcome_key(), written(&pool).await), (None, vec![1]));
}

#[tokio::test]
async fn a_tx_that_outlives_its_closure_is_not_committed() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let mut kept = None;
    let kept_by = &mut kept;
    let error = pool
        .transaction(|mut tx| {
            let sent = futures::executor::block_on(async { 1 });
            let kept_by = &mut *kept_by;
            *kept_by = Some(tokio::spawn(async move {
                sqlx::query(INSERT).bind(i64::from(sent)).execute(&mut tx).await?;
                std::future::pending::<()>().await;
                drop(tx);
                Ok::<_, sqlx::Error>(())
            }));
            async { Ok::<_, sqlx::Error>(()) }
        })
        .await
        .unwrap_err();
    let ours = Error::find(&error).expect("ours");
    assert_eq!((ours.code(), ours.kind()), ("transaction.escaped", ErrorKind::Usage));
    kept.expect("it was spawned").abort();
    assert_eq!(written(&pool).await, Vec::<i64>::new());
}

#[tokio::test]
async fn a_swallowed_error_forbids_the_commit_and_a_savepoint_allows_it() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let error = pool
        .transaction(|mut tx| async move {
            sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await?;
            let _ = sqlx::query("SELECT 1 / 0").execute(&mut tx).await;
            Ok::<_, sqlx::Error>(())
        })
        .await
        .unwrap_err();
    let ours = Error::find(&error).expect("ours");
    assert_eq!((ours.code(), ours.outcome()), ("transaction.failed", Outcome::RolledBack));
    assert_eq!(written(&pool).await, Vec::<i64>::new());

    pool.transaction(|mut tx| async move {
        sqlx::query(INSERT).bind(2_i64).execute(&mut tx).await?;
        let mut savepoint = tx.savepoint().await?;
        sqlx::query(INSERT).bind(3_i64).execute(&mut savepoint).await?;
        assert!(sqlx::query("SELECT 1 / 0").execute(&mut savepoint).await.is_err());
        savepoint.rollback().await?;
        {
            let mut dropped = tx.savepoint().await?;
            sqlx::query(INSERT).bind(4_i64).execute(&mut dropped).await?;
        }
        let mut kept = tx.savepoint().await?;
        sqlx::query(INSERT).bind(5_i64).execute(&mut kept).await?;
        kept.release().await?;
        Ok::<_, sqlx::Error>(())
    })
    .await
    .unwrap();
    assert_eq!(written(&pool).await, [2, 5]);
}

#[tokio::test]
async fn what_would_end_the_transaction_is_refused_before_it_is_sent() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    for sql in ["COMMIT", "ROLLBACK", "end", "BEGIN", "SELECT 1; COMMIT", "PREPARE TRANSACTION 'x'"] {
        let mark = world.statements().len();
        let error = pool
            .transaction(|mut tx| async move { sqlx::raw_sql(sql).execute(&mut tx).await.map(drop) })
            .await
            .unwrap_err();
        let ours = Error::find(&error).expect("ours");
        assert_eq!((ours.code(), ours.outcome()), ("transaction.refused_statement", Outcome::NotSent), "{sql}");
        // The pool itself rolls back.
        let sent = world.statements();
        assert!(sent[mark..].iter().all(|sent| sent != sql || sql == "ROLLBACK"), "{sql}");
    }
}

#[tokio::test]
async fn serialization_failures_and_deadlocks_run_again() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    sqlx::query(INSERT).bind(0_i64).execute(&pool).await.unwrap();
    let options = TransactionOptions::new().isolation(Isolation::Serializable);
    let count = |pool: ProxyPool| async move {
        for _ in 0..10 {
            pool.transaction_with(options, |mut tx| async move {
                let n: i64 = sqlx::query_scalar("SELECT n FROM written").fetch_one(&mut tx).await?;
                sqlx::query("UPDATE written SET n = $1").bind(n + 1).execute(&mut tx).await
            })
            .await
            .unwrap();
        }
    };
    let counters = (0..4).map(|_| tokio::spawn(count(pool.by(Duration::from_secs(30)))));
    futures::future::try_join_all(counters).await.unwrap();
    assert_eq!(written(&pool).await, [40]);
    assert!(pool.status().retries > 0, "they met");
}

#[tokio::test]
async fn a_read_only_transaction_leaves_no_marker_and_runs_again_whatever_became_of_it() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let before = world.proxy().inject(Fault::new(Message::Commit, Point::BeforeReply, Kind::Reset));
    let runs = AtomicU32::new(0);
    let options = TransactionOptions::new().read_only();
    pool.transaction_with(options, |mut tx| {
        assert_eq!(tx.outcome_key(), None);
        runs.fetch_add(1, Ordering::Relaxed);
        async move { sqlx::query("SELECT 1").execute(&mut tx).await }
    })
    .await
    .unwrap();
    drop(before);
    assert_eq!((runs.into_inner(), markers(&pool).await), (2, (0, 0)));
}
