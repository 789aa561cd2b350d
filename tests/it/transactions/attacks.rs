//! What looks like a way to lose, to double or to misreport a transaction, and is none.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use rds_proxy_pool::emulator::{Fault, Kind, Message, Point};
use rds_proxy_pool::{CommitMarkers, Error, Outcome, ProxyPool, Resolved, TransactionOptions};
use sqlx::Connection;

use super::{TABLE, marked_pool, markers, written};
use crate::support::world::World;

const INSERT: &str = "INSERT INTO written VALUES ($1)";

fn ours(error: &sqlx::Error) -> (&str, Outcome) {
    let ours = Error::find(error).unwrap_or_else(|| panic!("ours: {error:?}"));
    (ours.code(), ours.outcome())
}

/// The answer to one write is lost after it was done.
fn lose_answer(world: &World, message: Message) {
    drop(world.proxy().inject(Fault::new(message, Point::BeforeReply, Kind::Reset)));
}

#[tokio::test]
async fn a_transaction_that_was_rolled_back_says_nothing_about_later_statements_on_its_connection() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    pool.begin().await.unwrap().rollback().await.unwrap();
    lose_answer(&world, Message::Execute);
    let error = sqlx::query(INSERT).bind(1_i64).execute(&pool).await.unwrap_err();
    assert_eq!(ours(&error).1, Outcome::Unknown);
    assert_eq!(written(&pool).await, [1]);
}

#[tokio::test]
async fn a_borrower_who_ended_the_transaction_is_found_out_by_its_commit() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query(INSERT).bind(1_i64).execute(&mut transaction).await.unwrap();
    // A transaction of the driver within ours: dropped, it rolls back all there is.
    drop(transaction.lend().begin().await.unwrap());
    let error = transaction.commit().await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("commit.ended", Outcome::Unknown));
    assert_eq!(written(&pool).await, Vec::<i64>::new());
}

#[tokio::test]
async fn a_comment_does_not_hide_what_ends_a_transaction() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let mut transaction = pool.begin().await.unwrap();
    sqlx::raw_sql("COMMIT /* from here to there */").execute(&mut transaction).await.unwrap();
    lose_answer(&world, Message::Execute);
    let error = sqlx::query(INSERT).bind(1_i64).execute(&mut transaction).await.unwrap_err();
    assert_eq!(ours(&error).1, Outcome::Unknown);
    assert_eq!(written(&pool).await, [1]);
}

#[tokio::test]
async fn a_return_to_a_savepoint_that_is_dropped_half_way_happens_once() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    pool.transaction(|mut tx| async move {
        let mut savepoint = tx.savepoint().await?;
        sqlx::query("SELECT 1 / 0").execute(&mut savepoint).await.unwrap_err();
        assert!(savepoint.rollback().now_or_never().is_none(), "it waits for the server");
        sqlx::query(INSERT).bind(2_i64).execute(&mut tx).await
    })
    .await
    .unwrap();
    assert_eq!(written(&pool).await, [2]);
}

#[tokio::test]
async fn savepoints_whose_futures_were_dropped_are_not_taken_for_one_another() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let mut transaction = pool.begin().await.unwrap();
    assert!(transaction.savepoint().now_or_never().is_none(), "it waits for the server");
    sqlx::query(INSERT).bind(1_i64).execute(&mut transaction).await.unwrap();
    let mut second = transaction.savepoint().await.unwrap();
    sqlx::query(INSERT).bind(2_i64).execute(&mut second).await.unwrap();
    assert!(second.release().now_or_never().is_none(), "it waits for the server");
    let _ = sqlx::query(INSERT).bind(3_i64).execute(&mut transaction).await;
    let committed = transaction.commit().await.is_ok();
    assert!(!committed || written(&pool).await.contains(&1), "the first was lost");
}

#[tokio::test]
async fn a_savepoint_undoes_only_the_failures_after_it() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let error = pool
        .transaction(|mut tx| async move {
            let too_many = (0..70_000).fold(sqlx::query("SELECT 1"), |query, n: i32| query.bind(n));
            too_many.execute(&mut tx).await.unwrap_err();
            tx.savepoint().await?.rollback().await?;
            sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await
        })
        .await
        .unwrap_err();
    assert_eq!(ours(&error), ("transaction.failed", Outcome::RolledBack));
}

#[tokio::test]
async fn a_failure_in_a_savepoint_that_is_dropped_last_does_not_forbid_the_commit() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    pool.transaction(|mut tx| async move {
        sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await?;
        let mut savepoint = tx.savepoint().await?;
        sqlx::query("SELECT 1 / 0").execute(&mut savepoint).await.unwrap_err();
        drop(savepoint);
        Ok::<_, sqlx::Error>(())
    })
    .await
    .unwrap();
    assert_eq!(written(&pool).await, [1]);
}

#[tokio::test]
async fn what_a_borrower_does_is_not_undone_with_a_savepoint_that_was_dropped_before() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let error = pool
        .transaction(|mut tx| async move {
            drop(tx.savepoint().await?);
            sqlx::query(INSERT).bind(1_i64).execute(tx.lend()).await
        })
        .await
        .unwrap_err();
    assert_eq!(ours(&error).0, "transaction.savepoint");
    assert_eq!(written(&pool).await, Vec::<i64>::new());
}

fn split_pool(world: &World) -> ProxyPool {
    let config = world.config().commit_markers(CommitMarkers::table(TABLE)).split_messages(true);
    ProxyPool::new(config.build().unwrap()).unwrap()
}

#[tokio::test]
async fn split_messages_hold_one_statement_each_and_the_outcome_is_known_all_the_same() {
    let Some(world) = World::start().await else { return };
    drop(marked_pool(&world).await);
    let pool = split_pool(&world);
    let mut expected = 0;
    for (text, point) in [
        ("SELECT 1", Point::BeforeReply),
        ("SELECT 1", Point::BeforeRequest),
        ("COMMIT", Point::BeforeRequest),
        ("COMMIT", Point::BeforeReply),
    ] {
        let message = if text == "COMMIT" { Message::Commit } else { Message::Execute };
        drop(world.proxy().inject(Fault::new(message, point, Kind::Reset).text(text)));
        let mark = world.statements().len();
        pool.transaction(|mut tx| async move { sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await })
            .await
            .unwrap_or_else(|error| panic!("{text} {point:?}: {error:?}"));
        world.proxy().clear_faults();
        expected += 1;
        assert_eq!(written(&pool).await.len(), expected, "{text} {point:?}");
        let sent = world.statements();
        assert!(sent[mark..].iter().all(|text| !text.contains(';')), "{:?}", &sent[mark..]);
    }
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("SELECT 1 / 0").execute(&mut transaction).await.unwrap_err();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("commit.aborted", Outcome::RolledBack));
}

#[tokio::test]
async fn without_a_deadline_a_closure_that_took_long_is_run_again() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let runs = AtomicU32::new(0);
    let (runs_ref, clock) = (&runs, &world.clock);
    pool.transaction(|mut tx| async move {
        if runs_ref.fetch_add(1, Ordering::Relaxed) == 0 {
            clock.advance(Duration::from_secs(60));
            let conflict = "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$";
            sqlx::query(conflict).execute(&mut tx).await?;
        }
        Ok::<_, sqlx::Error>(())
    })
    .await
    .unwrap();
    assert_eq!(runs.into_inner(), 2);
}

#[tokio::test]
async fn a_read_only_closure_that_lent_its_connection_is_not_run_again() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    lose_answer(&world, Message::Commit);
    let runs = AtomicU32::new(0);
    let error = pool
        .transaction_with(TransactionOptions::new().read_only(), |mut tx| {
            runs.fetch_add(1, Ordering::Relaxed);
            async move { tx.lend().ping().await }
        })
        .await
        .unwrap_err();
    assert_eq!((runs.into_inner(), ours(&error).1), (1, Outcome::Unknown));
}

#[tokio::test]
async fn a_read_only_closure_cannot_make_itself_writable() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    for sql in [
        "SET TRANSACTION READ WRITE",
        "set transaction isolation level read committed, read /* */ write",
        "SET transaction_read_only = off",
        "SET LOCAL transaction_read_only TO 0",
        "RESET transaction_read_only",
        "SET \"transaction_read_only\" = off",
    ] {
        let options = TransactionOptions::new().read_only();
        let work = pool.transaction_with(options, |mut tx| async move {
            sqlx::raw_sql(sql).execute(&mut tx).await?;
            sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await
        });
        let error = work.await.unwrap_err();
        assert_eq!(ours(&error), ("transaction.refused_statement", Outcome::NotSent), "{sql}");
    }
}

#[tokio::test]
async fn a_fence_ends_nobody_who_only_locks_the_table() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let other = world.pool();
    let transaction = pool.begin().await.unwrap();
    let key = transaction.outcome_key().expect("markers are on");
    transaction.rollback().await.unwrap();
    let mut migration = other.begin().await.unwrap();
    sqlx::query("LOCK TABLE rds_proxy_pool_outcome").execute(&mut migration).await.unwrap();
    let error = pool.by(Duration::from_secs(6)).resolve(key).await.unwrap_err();
    assert_eq!((error.outcome(), error.outcome_key()), (Outcome::Unknown, Some(key)));
    migration.commit().await.unwrap();
}

#[tokio::test]
async fn what_was_said_to_be_undone_cannot_be_committed_afterwards() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let hurried = ProxyPool::new(world.config().call_timeout(Duration::from_millis(1500)).build().unwrap()).unwrap();
    let held = world.hold().await;
    let mut transaction = hurried.begin().await.unwrap();
    let insert = "INSERT INTO written SELECT 1 FROM pg_advisory_xact_lock_shared(1)";
    let error = sqlx::query(insert).execute(&mut transaction).await.unwrap_err();
    assert_eq!(ours(&error), ("deadline.statement", Outcome::RolledBack));
    held.close().await.unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert_eq!(written(&pool).await, Vec::<i64>::new());
}

#[tokio::test]
async fn of_a_tx_that_escaped_after_it_was_lent_nothing_is_promised() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let kept = std::sync::Mutex::new(None);
    let error = pool
        .transaction(|mut tx| {
            let kept = &kept;
            async move {
                sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await?;
                sqlx::raw_sql("COMMIT").execute(tx.lend()).await?;
                *kept.lock().unwrap() = Some(tx);
                Ok::<_, sqlx::Error>(())
            }
        })
        .await
        .unwrap_err();
    assert_eq!(ours(&error), ("transaction.escaped", Outcome::Unknown));
    assert_eq!((written(&pool).await, markers(&pool).await), (vec![1], (1, 0)));
}

#[tokio::test]
async fn a_fence_with_little_time_ends_the_session_it_waits_for_too() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query(INSERT).bind(1_i64).execute(&mut transaction).await.unwrap();
    let key = transaction.outcome_key().expect("markers are on");
    let resolved = pool.by(Duration::from_secs(3)).resolve(key).await.unwrap();
    assert_eq!(resolved, Resolved::RolledBack);
    transaction.commit().await.unwrap_err();
    assert_eq!(written(&pool).await, Vec::<i64>::new());
}

#[tokio::test]
async fn many_who_ask_while_the_transaction_is_open_agree_and_leave_no_connection_too_many() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query(INSERT).bind(1_i64).execute(&mut transaction).await.unwrap();
    let key = transaction.outcome_key().expect("markers are on");
    let asking = pool.by(Duration::from_secs(10));
    let answers = futures::future::join_all((0..8).map(|_| asking.resolve(key))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Resolved::RolledBack))), "{answers:?}");
    transaction.commit().await.unwrap_err();
    let status = pool.status();
    assert!(status.open <= status.max_connections && status.open == status.idle, "{status:?}");
    assert_eq!((written(&pool).await, markers(&pool).await), (vec![], (0, 1)));
}
