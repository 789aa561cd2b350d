//! What pins a client to its database session, and what that means.

use rds_proxy_pool::emulator::{Closed, Event, PinReason};
use sqlx::{Connection, Executor};

use super::{Client, Stage, ended, soon};
use crate::support::world::World;

use PinReason::{
    AdvisoryLock, Cursor, Discard, Library, Listen, PreparedStatement, Sequence, Setting, TemporaryObject, TextTooLong,
};

/// By what it was pinned since it logged in.
fn pinned(client: &mut Client) -> Option<PinReason> {
    let mut found = None;
    while let Some(event) = client.events.try_next() {
        if let Event::Pinned { session, reason } = event
            && session == client.session
        {
            assert_eq!(found.replace(reason), None, "once");
        }
    }
    found
}

fn code(answer: Result<i32, sqlx::Error>) -> Option<String> {
    answer.unwrap_err().as_database_error().and_then(|error| error.code().map(String::from))
}

#[tokio::test]
async fn a_text_pins_or_does_not() {
    let Some(stage) = Stage::start().await else { return };
    let set_up = "CREATE SEQUENCE s; CREATE TABLE t (id serial, temp int); \
                  CREATE FUNCTION leave() RETURNS void LANGUAGE sql AS $$ SELECT set_config('my.x', '1', false) $$";
    stage.client().await.run(set_up).await.unwrap();
    for (sql, expected) in [
        ("SET my.x = '1'", Some(Setting)),
        ("/* why */ set time zone 'UTC'", Some(Setting)),
        ("BEGIN; SET LOCAL my.x = '1'; COMMIT", Some(Setting)),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", Some(Setting)),
        ("RESET ALL", Some(Setting)),
        ("SELECT 1, pg_catalog.set_config ('my.x', '1', true)", Some(Setting)),
        ("SELECT 'SET'; SELECT 1 AS set_config", None),
        ("UPDATE t SET temp = 1", None),
        ("SELECT leave()", None),
        ("DO $$ BEGIN PERFORM set_config('my.x', '1', false); END $$", None),
        ("SELECT $$; SET my.x = '1'$$, E'\\'; SET my.x = 1; --', '; RESET ALL'", None),
        ("SELECT 1 /* /* ; SET my.x = '1' */ ; SET my.x = '2' */ -- ; SET my.x = '3'", None),
        ("PREPARE p AS SELECT 1", Some(PreparedStatement)),
        ("EXPLAIN (FORMAT JSON) EXECUTE nobody", Some(PreparedStatement)),
        ("DEALLOCATE ALL", Some(PreparedStatement)),
        ("PREPARE TRANSACTION 'x'", None),
        ("DISCARD PLANS", Some(Discard)),
        ("CREATE TEMP TABLE one (n int)", Some(TemporaryObject)),
        ("CREATE OR REPLACE LOCAL TEMPORARY VIEW two AS SELECT 1", Some(TemporaryObject)),
        ("CREATE TEMPORARY SEQUENCE three", Some(TemporaryObject)),
        ("SELECT 1 AS n INTO TEMP four", Some(TemporaryObject)),
        ("CREATE TABLE temp (n int)", None),
        ("INSERT INTO temp VALUES (1)", None),
        ("BEGIN; DECLARE c CURSOR FOR SELECT 1; COMMIT", Some(Cursor)),
        ("LISTEN here", Some(Listen)),
        ("NOTIFY here", None),
        ("LOAD 'auto_explain'", Some(Library)),
        ("SELECT nextval('s')", Some(Sequence)),
        ("SELECT setval('s', 7)", Some(Sequence)),
        ("INSERT INTO t (temp) VALUES (1) RETURNING id", None),
        ("SELECT pg_advisory_lock(1)", Some(AdvisoryLock)),
        ("SELECT PG_TRY_ADVISORY_LOCK_SHARED(2)", Some(AdvisoryLock)),
        ("SELECT pg_advisory_xact_lock(3), pg_try_advisory_xact_lock_shared(4)", None),
        ("BEGIN; SELECT 1; ROLLBACK", None),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY; COMMIT", None),
    ] {
        let mut client = stage.client().await;
        // Some fail, which makes no difference.
        let _ = client.run(sql).await;
        assert_eq!(pinned(&mut client), expected, "{sql}");
        // With its locks.
        drop(client);
        let mut client = stage.client().await;
        if !sql.contains(';') {
            let prepared = soon(client.connection.prepare(sqlx::SqlStr::from_static(sql))).await;
            assert_eq!(pinned(&mut client), None, "to parse {sql} is not to run it");
            if prepared.is_ok() {
                let _ = soon(sqlx::query(sql).execute(&mut client.connection)).await;
                assert_eq!(pinned(&mut client), expected, "{sql}, prepared by the protocol");
            }
        }
    }
}

#[tokio::test]
async fn a_text_above_16_kb_pins_and_long_values_do_not() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    let long = "x".repeat(100_000);
    soon(sqlx::query("SELECT $1").bind(&long).execute(&mut client.connection)).await.unwrap();
    for (length, expected) in [(16_384, None), (16_385, Some(TextTooLong))] {
        let sql = format!("SELECT '{}'", "x".repeat(length - "SELECT ''".len()));
        soon(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut client.connection)).await.unwrap();
        assert_eq!(pinned(&mut client), expected, "{length}");
    }
    let text = TextTooLong.to_string();
    assert_eq!(text, "The connection ran a SQL query which exceeded the 16384 byte limit.");
}

#[tokio::test]
async fn a_pinned_client_keeps_its_database_session_for_itself_until_it_closes() {
    let Some(stage) = Stage::start_with(|builder| builder.database_connection_limit(2)).await else { return };
    let mut client = stage.client().await;
    client.run("SET my.x = 'mine'").await.unwrap();
    let pid = client.pid().await;
    let mut other = stage.client().await;
    for _ in 0..3 {
        assert_ne!(other.pid().await, pid);
        assert_eq!(client.pid().await, pid);
    }
    let metrics = stage.proxy.metrics();
    assert_eq!(metrics.get("DatabaseConnectionsCurrentlySessionPinned"), Some(1.0), "{metrics:?}");
    assert_eq!(metrics.get("DatabaseConnectionsCurrentlyBorrowed"), Some(1.0), "{metrics:?}");
    let Client { connection, session, mut events } = client;
    connection.close().await.unwrap();
    ended(&mut events, session).await;
    assert_eq!(stage.proxy.metrics().get("DatabaseConnectionsCurrentlySessionPinned"), Some(0.0));
    other.run("BEGIN").await.unwrap();
    let mut third = stage.client().await;
    let left = sqlx::query_scalar::<_, Option<String>>("SELECT current_setting('my.x', true)");
    assert_eq!(soon(left.fetch_one(&mut third.connection)).await.unwrap(), None, "nothing is left of it");
}

#[tokio::test]
async fn a_pinned_client_whose_database_session_has_gone_is_told_so_at_each_request_and_stays() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    client.run("SET my.x = '1'").await.unwrap();
    let (pid, session) = (client.pid().await, client.session);
    stage.terminate(pid).await;
    soon(client.events.wait_for(|event| *event == Event::BackendLost(session))).await;
    for _ in 0..2 {
        assert_eq!(code(client.double(1).await).as_deref(), Some("XX000"));
    }
    let mut events = client.events;
    client.connection.close().await.unwrap();
    assert_eq!(ended(&mut events, session).await, Closed::ByClient);
    assert_eq!(stage.client().await.double(1).await.unwrap(), 2);
}

#[tokio::test]
async fn a_setting_made_inside_a_function_is_not_seen_and_left_to_the_next_client() {
    let Some(stage) = Stage::start().await else { return };
    let (mut one, mut other) = (stage.client().await, stage.client().await);
    one.run("DO $$ BEGIN PERFORM set_config('my.x', 'left behind', false); END $$").await.unwrap();
    let setting = sqlx::query_scalar::<_, String>("SELECT current_setting('my.x')");
    assert_eq!(soon(setting.fetch_one(&mut other.connection)).await.unwrap(), "left behind");
}

#[tokio::test]
async fn a_statement_of_the_protocol_can_be_run_and_removed_by_sql_under_its_own_name() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    assert_eq!(client.double(1).await.unwrap(), 2);
    let described = soon(client.connection.describe(sqlx::SqlStr::from_static("SELECT 1 AS n"))).await.unwrap();
    assert_eq!(described.nullable(0), None);
    client.run("DEALLOCATE sqlx_s_1").await.unwrap();
    assert_eq!(code(client.double(1).await).as_deref(), Some("26000"));
}

#[tokio::test]
async fn nothing_the_pool_of_this_crate_sends_pins_and_neither_does_the_plain_driver() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    sqlx::query("CREATE TABLE t (n int)").execute(&pool).await.unwrap();
    let plain = sqlx::PgPool::connect_with((*pool.sqlx_pool().await.unwrap().connect_options()).clone()).await.unwrap();
    for n in 0..3 {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES ($1)").bind(n).execute(&mut transaction).await.unwrap();
        transaction.commit().await.unwrap();
        drop(pool.begin().await.unwrap());
        sqlx::query("SELECT n FROM t WHERE n = $1").bind(n).fetch_all(&pool).await.unwrap();
        sqlx::raw_sql("SELECT 1; SELECT 2").execute(&pool).await.unwrap();
        let mut connection = pool.acquire().await.unwrap();
        sqlx::query("SELECT 1").persistent(false).execute(&mut connection).await.unwrap();

        let mut transaction = plain.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES ($1)").bind(n).execute(&mut *transaction).await.unwrap();
        let mut nested = transaction.begin().await.unwrap();
        sqlx::query("SELECT 1").persistent(false).execute(&mut *nested).await.unwrap();
        nested.rollback().await.unwrap();
        transaction.commit().await.unwrap();
        plain.acquire().await.unwrap().ping().await.unwrap();
    }
    pool.close(std::time::Duration::from_secs(10)).await;
    plain.close().await;
    assert_eq!(world.proxy().counts().pinned, 0);
    assert!(world.proxy().counts().statements > 20);
}
