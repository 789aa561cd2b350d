//! What the question for an outcome does to what is still under way, and what it leaves alone.

use std::time::Duration;

use futures::future::join_all;
use rds_proxy_pool::emulator::{Fault, Kind, Message, Point};
use rds_proxy_pool::{CommitMarkers, Error, Outcome, OutcomeKey, ProxyPool, Resolved};
use sqlx::Connection;

use super::{TABLE, marked_pool, markers, wait_out, written};
use crate::support::servers::{Postgres, Replication};
use crate::support::world::World;

const INSERT: &str = "INSERT INTO written VALUES ($1)";

/// The question waits for whoever holds the key.
const FENCE_WAITS: &str = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND \
                           wait_event_type = 'Lock' AND query LIKE 'INSERT INTO rds_proxy_pool_outcome AS%'";

/// Nobody is in a transaction and idle.
const NOTHING_OPEN: &str = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND \
                            state LIKE 'idle in transaction%'";

/// A transaction that has written a row, and its key.
async fn begun(pool: &ProxyPool, n: i64) -> (rds_proxy_pool::postgres::ProxyTransaction, OutcomeKey) {
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query(INSERT).bind(n).execute(&mut transaction).await.unwrap();
    let key = transaction.outcome_key().expect("markers are on");
    (transaction, key)
}

#[tokio::test]
async fn repeated_questions_agree() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let (committed, key) = begun(&pool, 1).await;
    committed.commit().await.unwrap();
    for _ in 0..3 {
        assert_eq!(pool.resolve(key).await.unwrap(), Resolved::Committed);
    }
    let (undone, key) = begun(&pool, 2).await;
    undone.rollback().await.unwrap();
    for _ in 0..3 {
        assert_eq!(pool.resolve(key).await.unwrap(), Resolved::RolledBack);
    }
    assert_eq!((markers(&pool).await, written(&pool).await), ((1, 1), vec![1]));
}

#[tokio::test]
async fn the_fence_waits_for_a_live_commit() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let slow = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \
                'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END'; \
                CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON written DEFERRABLE INITIALLY DEFERRED \
                FOR EACH ROW EXECUTE FUNCTION wait()";
    sqlx::raw_sql(slow).execute(&pool).await.unwrap();
    let held = world.hold().await;
    let (transaction, key) = begun(&pool.by(Duration::from_secs(20)), 1).await;
    let mark = world.statements().len();
    let committing = tokio::spawn(transaction.commit());
    world.statement_seen(mark, "COMMIT").await;
    world.executing().await;
    world.cut_all().await;
    world.wait_until(FENCE_WAITS).await;
    assert!(!committing.is_finished());
    held.close().await.unwrap();
    committing.await.unwrap().expect("the commit that was under way has come to its end");
    assert_eq!(pool.resolve(key).await.unwrap(), Resolved::Committed);
    assert_eq!((written(&pool).await, markers(&pool).await), (vec![1], (1, 0)));
}

#[tokio::test]
async fn a_tombstone_stops_a_late_commit() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let (undone, key) = begun(&pool, 1).await;
    undone.rollback().await.unwrap();
    let sent = world.statements().into_iter().find(|sql| sql.contains(&key.to_string())).expect("the opening");
    assert_eq!(pool.resolve(key).await.unwrap(), Resolved::RolledBack);
    // All that the transaction had sent arrives once more.
    let mut late = pool.sqlx_pool().await.unwrap().acquire().await.unwrap().detach();
    let error = sqlx::raw_sql(sqlx::AssertSqlSafe(sent)).execute(&mut late).await.unwrap_err();
    assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("23505"));
    sqlx::query(INSERT).bind(1_i64).execute(&mut late).await.unwrap_err();
    sqlx::raw_sql("COMMIT").execute(&mut late).await.unwrap();
    late.close().await.unwrap();
    assert_eq!((written(&pool).await, markers(&pool).await), (vec![], (0, 1)));
    assert_eq!(pool.resolve(key).await.unwrap(), Resolved::RolledBack);
}

#[tokio::test]
async fn concurrent_checkers_agree() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let mut expected = vec![];
    for n in 0..12 {
        let (transaction, key) = begun(&pool, n).await;
        let checkers = join_all((0..4).map(|_| async { pool.resolve(key).await.unwrap() }));
        let end = async {
            match n % 3 {
                0 => transaction.commit().await.unwrap(),
                1 => transaction.rollback().await.unwrap(),
                _ => drop(transaction),
            }
        };
        let (answers, ()) = futures::join!(checkers, end);
        let right = if n % 3 == 0 { Resolved::Committed } else { Resolved::RolledBack };
        assert_eq!(answers, [right; 4], "{n}");
        expected.extend((n % 3 == 0).then_some(n));
    }
    assert_eq!((written(&pool).await, markers(&pool).await), (expected, (4, 8)));
}

#[tokio::test]
async fn a_reader_is_not_asked() {
    let Some(world) = World::start_with_standby().await else { return };
    let pool = marked_pool(&world).await;
    let (committed, committed_key) = begun(&pool, 1).await;
    committed.commit().await.unwrap();
    let (undone, undone_key) = begun(&pool, 2).await;
    undone.rollback().await.unwrap();
    for (key, answer) in [(committed_key, Resolved::Committed), (undone_key, Resolved::RolledBack)] {
        world.demote();
        let error = pool.by(Duration::from_secs(2)).resolve(key).await.unwrap_err();
        assert_eq!((error.code(), error.outcome()), ("commit.unknown", Outcome::Unknown), "{error:?}");
        assert_eq!(error.outcome_key(), Some(key));
        // It asks on until there is a writer.
        let patient = pool.by(Duration::from_secs(20));
        let mark = world.statements().len();
        let back = async {
            world.statement_seen(mark, &key.to_string()).await;
            world.demote_existing().await;
        };
        let (resolved, ()) = futures::join!(patient.resolve(key), back);
        assert_eq!(resolved.unwrap(), answer);
    }
    assert_eq!(written(&pool).await, [1]);
}

#[tokio::test]
async fn a_question_that_is_not_answered_is_asked_again_on_another_connection() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let (committed, key) = begun(&pool, 1).await;
    committed.commit().await.unwrap();
    for point in [Point::BeforeRequest, Point::BeforeReply] {
        let fault = Fault::new(Message::Execute, point, Kind::NeverAnswer).text("rds_proxy_pool_outcome AS");
        let injected = world.proxy().inject(fault);
        let deadline = Duration::from_secs(20);
        let pool = pool.by(deadline);
        let (resolved, ()) = futures::join!(pool.resolve(key), wait_out(&world, injected, deadline / 2));
        assert_eq!(resolved.unwrap(), Resolved::Committed, "{point:?}");
    }
}

#[tokio::test]
async fn a_partial_begin_message_closes_its_connection() {
    let Some(world) = World::start().await else { return };
    sqlx::raw_sql("CREATE TABLE written (n bigint NOT NULL)").execute(&world.pool()).await.unwrap();
    for split in [false, true] {
        let config = world.config().commit_markers(CommitMarkers::table(TABLE)).split_messages(split);
        let pool = ProxyPool::new(config.build().unwrap()).unwrap();
        let error = pool.begin().await.unwrap_err();
        assert_eq!((error.code(), error.outcome()), ("markers.missing", Outcome::NotExecuted));
        assert_eq!(pool.status().open, 0, "BEGIN itself has succeeded");
        let error = pool
            .transaction(|mut tx| async move { sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await })
            .await
            .unwrap_err();
        assert_eq!(Error::find(&error).map(Error::code), Some("markers.missing"));
        world.wait_until(NOTHING_OPEN).await;
        // Were the transaction still open, this would be lost with it.
        sqlx::query(INSERT).bind(i64::from(split)).execute(&pool).await.unwrap();
        drop(pool);
    }
    assert_eq!(written(&world.pool()).await, [0, 1]);
}

#[tokio::test]
async fn the_transaction_side_never_gives_way_to_a_conflict() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let mark = world.statements().len();
    let (transaction, _) = begun(&pool, 1).await;
    transaction.commit().await.unwrap();
    sqlx::query(INSERT).bind(2_i64).execute(&pool.resolved()).await.unwrap();
    sqlx::raw_sql("INSERT INTO written VALUES (3)").execute(&pool.resolved()).await.unwrap();
    let sent = world.statements();
    let markers: Vec<&String> = sent[mark..].iter().filter(|sql| sql.contains(TABLE)).collect();
    assert_eq!(markers.len(), 3, "{markers:?}");
    for sql in markers {
        assert!(sql.contains("'C')") && !sql.to_ascii_uppercase().contains("CONFLICT"), "{sql}");
    }
}

#[tokio::test]
async fn a_holder_is_ended_after_patience() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let (transaction, key) = begun(&pool, 1).await;
    let asking = tokio::spawn({
        let pool = pool.by(Duration::from_secs(60));
        async move { pool.resolve(key).await }
    });
    world.wait_until(FENCE_WAITS).await;
    world.clock.advance(Duration::from_millis(1500));
    world.wait_until(FENCE_WAITS).await;
    assert!(!asking.is_finished(), "it has had 1.5 s");
    world.clock.advance(Duration::from_millis(500));
    let answer = tokio::time::timeout(Duration::from_secs(5), asking).await.expect("it has had 2 s");
    assert_eq!(answer.unwrap().unwrap(), Resolved::RolledBack);
    world.wait_until(NOTHING_OPEN).await;
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack, "{error:?}");
    assert_eq!((written(&pool).await, markers(&pool).await), (vec![], (0, 1)));
}

#[tokio::test]
async fn a_holder_waiting_for_its_standby_is_left_alone() {
    let Some(pair) = Postgres::start_pair(Replication::Synchronous).await else { return };
    let world = World::in_front_of(pair.primary()).await;
    let pool = marked_pool(&world).await;
    pair.disconnect().await;
    let (transaction, key) = begun(&pool.by(Duration::from_secs(3)), 1).await;
    let mark = world.statements().len();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("commit.unknown", Outcome::Unknown), "{error:?}");
    assert_eq!(error.outcome_key(), Some(key));
    world.statement_seen(mark, "pg_terminate_backend").await;
    let waits = "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%COMMIT'";
    tokio::time::timeout(Duration::from_secs(5), world.wait_until(waits)).await.expect("it was left alone");
    pair.rebuild().await;
    assert_eq!(pool.by(Duration::from_secs(20)).resolve(key).await.unwrap(), Resolved::Committed);
    assert_eq!((written(&pool).await, markers(&pool).await), (vec![1], (1, 0)));
}
