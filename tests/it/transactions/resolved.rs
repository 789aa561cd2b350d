//! Single writes through `resolved()`: they take effect once, or say what became of them.

mod faults;

use std::time::Duration;

use futures::TryStreamExt;
use rds_proxy_pool::emulator::{Fault, Kind, Message, Point};
use rds_proxy_pool::{CommitMarkers, Error, ErrorKind, Outcome, ProxyPool, Resolved};
use sqlx::{Executor, Row, SqlSafeStr};

use super::{TABLE, marked_pool, markers, written};
use crate::secrets::Written;
use crate::support::world::World;

const INSERT: &str = "INSERT INTO written SELECT n FROM unnest($1::bigint[]) AS n RETURNING n";

/// What is ours in an error: code, outcome, and whether it has a key.
fn told(error: &sqlx::Error) -> (&'static str, Outcome, bool) {
    let ours = Error::find(error).unwrap_or_else(|| panic!("not ours: {error:?}"));
    (ours.code(), ours.outcome(), ours.outcome_key().is_some())
}

#[tokio::test]
async fn a_warm_write_costs_one_round_trip_and_its_answers_are_those_of_the_text() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await.resolved();
    for warm in [false, true, true] {
        let before = world.round_trips();
        let rows: Vec<i64> = sqlx::query_scalar(INSERT).bind(vec![1_i64, 2, 3]).fetch_all(&pool).await.unwrap();
        assert_eq!(rows, [1, 2, 3]);
        let update = sqlx::query("UPDATE written SET n = n + $1 WHERE n > $2").bind(10_i64).bind(1_i64);
        assert!(update.execute(&pool).await.unwrap().rows_affected() >= 2);
        let none = sqlx::query("DELETE FROM written WHERE n = $1 RETURNING n").bind(0_i64);
        assert!(none.fetch_optional(&pool).await.unwrap().is_none());
        let deleted = sqlx::raw_sql("DELETE FROM written;").execute(&pool).await.unwrap();
        assert_eq!(deleted.rows_affected(), 3);
        assert!(!warm || world.round_trips() - before == 4, "{} for 4 writes", world.round_trips() - before);
    }
    assert_eq!((markers(&pool).await, pool.status().connects), ((12, 0), 1));
}

#[tokio::test]
async fn a_text_is_prepared_once_however_often_it_is_sent_and_a_statement_prepared_by_hand_is_marked_too() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await.resolved();
    let by_hand = (&pool).prepare("INSERT INTO written VALUES ($1)".into_sql_str()).await.unwrap();
    for n in 0..5_i64 {
        sqlx::Statement::query(&by_hand).bind(n).execute(&pool).await.unwrap();
    }
    let prepared = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%INTO written%'";
    let prepared: i64 = sqlx::raw_sql(prepared).fetch_one(&pool).await.unwrap().get(0);
    assert_eq!((written(&pool).await, markers(&pool).await, prepared), (vec![0, 1, 2, 3, 4], (5, 0), 2));
}

#[tokio::test]
async fn what_cannot_write_is_sent_as_ever_and_handles_compose() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let pool = pool.idempotent().resolved().by(Duration::from_secs(20));
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&pool).await.unwrap();
    assert_eq!((one, markers(&pool).await), (1, (0, 0)));
    sqlx::query(INSERT).bind(vec![1_i64]).execute(&pool).await.unwrap();
    assert_eq!((written(&pool).await, markers(&pool).await), (vec![1], (1, 0)));
}

#[tokio::test]
async fn errors_of_the_statement_are_unchanged_and_it_leaves_nothing() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await.resolved();
    sqlx::raw_sql("ALTER TABLE written ADD UNIQUE (n)").execute(&pool.resolved()).await.unwrap();
    sqlx::query(INSERT).bind(vec![1_i64]).execute(&pool).await.unwrap();
    let error = sqlx::query(INSERT).bind(vec![2_i64, 1]).execute(&pool).await.unwrap_err();
    assert!(error.as_database_error().is_some_and(|error| error.is_unique_violation()), "{error:?}");
    assert!(Error::find(&error).is_none());
    let error = sqlx::query("INSERT INTO nowhere VALUES ($1)").bind(1_i64).execute(&pool).await.unwrap_err();
    assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("42P01"));
    assert!(Error::find(&error).is_none());
    // One marker for the table's change, one for the row.
    assert_eq!((written(&pool).await, markers(&pool).await), (vec![1], (2, 0)));
    assert_eq!(pool.status().connects, 1, "the connection is kept");
}

#[tokio::test]
async fn a_table_of_markers_that_is_not_there_or_out_of_reach_is_told_from_one_of_the_statement() {
    let Some(world) = World::start().await else { return };
    let marked = marked_pool(&world).await.resolved();
    let closed = "CREATE TABLE closed (LIKE rds_proxy_pool_outcome); CREATE SCHEMA closed_too; \
                  CREATE TABLE closed_too.outcome (LIKE rds_proxy_pool_outcome)";
    sqlx::raw_sql(closed).execute(&mut world.hold().await).await.unwrap();
    for (table, code) in [
        ("nowhere", "42P01"),
        ("no_schema.nowhere", "42P01"),
        ("written", "42703"),
        ("closed", "42501"),
        ("closed_too.outcome", "42501"),
    ] {
        let config = world.config().commit_markers(CommitMarkers::table(table));
        let pool = ProxyPool::new(config.build().unwrap()).unwrap().resolved();
        let error = sqlx::query("INSERT INTO written VALUES (1)").execute(&pool).await.unwrap_err();
        assert_eq!(told(&error), ("markers.missing", Outcome::NotExecuted, false), "{table}");
        assert_eq!(written(&pool).await, Vec::<i64>::new());
        assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some(code), "{table}");
        // Where the markers have a table of their own it is the statement's business.
        let sql = sqlx::AssertSqlSafe(format!("UPDATE {table} SET key = NULL"));
        let error = sqlx::query(sql).execute(&marked).await.unwrap_err();
        assert!(Error::find(&error).is_none(), "{error:?}");
        assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some(code), "{table}");
    }
}

#[tokio::test]
async fn what_no_transaction_can_hold_and_what_leaves_no_marker_is_refused_before_it_is_sent() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let unmarked = world.pool().resolved();
    let read_only = world.config().access(rds_proxy_pool::Access::ReadOnly);
    let read_only = ProxyPool::new(read_only.commit_markers(CommitMarkers::table(TABLE)).build().unwrap()).unwrap();
    let mark = world.statements().len();
    for sql in [
        "INSERT INTO written VALUES (1); INSERT INTO written VALUES (2)",
        "BEGIN",
        "COMMIT",
        "CALL p()",
        "do $$begin end$$",
        "VACUUM written",
        "/* a */ CREATE DATABASE other",
        "CREATE INDEX CONCURRENTLY ON written (n)",
        "PREPARE TRANSACTION 'x'",
        "DISCARD ALL",
    ] {
        let error = sqlx::raw_sql(sql).execute(&pool.resolved()).await.unwrap_err();
        assert_eq!(told(&error), ("resolved.statement", Outcome::NotSent, false), "{sql}");
        let error = sqlx::query(sql).fetch(&pool.resolved()).try_next().await.unwrap_err();
        assert_eq!(told(&error).0, "resolved.statement", "{sql}");
    }
    for pool in [unmarked, read_only.resolved()] {
        let error = sqlx::query("INSERT INTO written VALUES (1)").execute(&pool).await.unwrap_err();
        assert_eq!(told(&error), ("markers.off", Outcome::NotSent, false));
        assert_eq!(Error::find(&error).map(Error::kind), Some(ErrorKind::Usage));
    }
    assert_eq!(world.statements()[mark..], [""; 0], "nothing was sent");
}

#[tokio::test]
async fn what_cannot_carry_its_marker_is_run_in_a_transaction_and_its_answer_survives_the_loss_of_the_commit() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let function = "CREATE FUNCTION put(bigint) RETURNS bigint LANGUAGE sql AS \
                    'INSERT INTO written VALUES ($1) RETURNING n * 10'";
    sqlx::raw_sql(function).execute(&pool).await.unwrap();
    let resolved = pool.resolved().by(Duration::from_secs(20));
    let mut expected = vec![];
    for (n, (message, point)) in [
        (Message::Begin, Point::BeforeReply),
        (Message::Execute, Point::BeforeReply),
        (Message::Execute, Point::MidReply),
        (Message::Commit, Point::BeforeRequest),
        (Message::Commit, Point::BeforeReply),
        (Message::Commit, Point::MidReply),
    ]
    .into_iter()
    .enumerate()
    {
        let n = n as i64;
        let mut injected = world.proxy().inject(Fault::new(message, point, Kind::Reset));
        let query = sqlx::query_scalar::<_, i64>("SELECT put($1)").bind(n);
        assert_eq!(query.fetch_one(&resolved).await.unwrap(), n * 10, "{message:?} {point:?}");
        injected.struck().await;
        expected.push(n);
        assert_eq!(written(&pool).await, expected, "{message:?} {point:?}");
    }
    assert_eq!(markers(&pool).await, (6, 1), "one commit never arrived");
    let merge = "MERGE INTO written USING (VALUES (100::bigint)) AS new (n) ON written.n = new.n \
                 WHEN NOT MATCHED THEN INSERT VALUES (new.n)";
    assert_eq!(sqlx::query(merge).execute(&resolved).await.unwrap().rows_affected(), 1);
    assert_eq!(markers(&pool).await, (7, 1));
}

#[tokio::test]
async fn an_outage_longer_than_the_deadline_leaves_a_key_that_tells_later() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await.resolved();
    for (n, point) in [(1_i64, Point::BeforeReply), (2, Point::BeforeRequest)] {
        let fault = Fault::new(Message::Execute, point, Kind::Reset).text("INTO written");
        let mut injected = world.proxy().inject(fault);
        let pool = pool.by(Duration::from_secs(3));
        let query = sqlx::query(INSERT).bind(vec![n]);
        let outage = async {
            injected.struck().await;
            world.refuse_connections(true).await;
        };
        let (error, ()) = futures::join!(query.execute(&pool), outage);
        let error = error.unwrap_err();
        let ours = Error::find(&error).expect("ours");
        assert_eq!((ours.outcome(), ours.kind()), (Outcome::Unknown, ErrorKind::Lost), "{ours:?}");
        let key = ours.outcome_key().expect("a key");
        world.refuse_connections(false).await;
        let resolved = if n == 1 { Resolved::Committed } else { Resolved::RolledBack };
        assert_eq!(elsewhere(&world).resolve(key).await.unwrap(), resolved);
    }
    assert_eq!(written(&world.pool()).await, [1]);
}

/// Another one, as another environment would have it.
fn elsewhere(world: &World) -> ProxyPool {
    ProxyPool::new(world.config().commit_markers(CommitMarkers::table(TABLE)).build().unwrap()).unwrap()
}

#[tokio::test]
async fn a_write_dropped_in_flight_closes_its_connection_and_warns_once_with_its_key() {
    let log = Written::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::level_filters::LevelFilter::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let held = world.hold().await;
    let resolved = pool.resolved();
    let mark = world.statements().len();
    let write = "INSERT INTO written SELECT $1 FROM pg_advisory_xact_lock_shared(1)";
    let write = sqlx::query(write).bind(1_i64).execute(&resolved);
    let seen = async {
        world.statement_seen(mark, "INTO written").await;
        world.executing().await;
    };
    tokio::select! {
        result = write => panic!("it waits for a lock: {result:?}"),
        () = seen => {}
    }
    assert_eq!(pool.status().open, 0, "it is closed");
    let log = log.text();
    let warned: Vec<&str> = log.lines().filter(|line| line.contains("commit.unknown")).collect();
    let [warned] = *warned else { panic!("{log}") };
    let key = warned.split("key=").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a key");
    // It is still running and has left no marker: whoever asks now decides.
    assert_eq!(pool.resolve(key.parse().unwrap()).await.unwrap(), Resolved::RolledBack);
    drop(held);
    let ended = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND \
                 pid <> pg_backend_pid() AND state = 'active' AND query LIKE '%INTO written%'";
    world.wait_until(ended).await;
    assert_eq!(written(&pool).await, Vec::<i64>::new());
}
