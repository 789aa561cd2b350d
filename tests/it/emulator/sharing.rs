//! Database sessions that clients share, a transaction at a time.

use std::time::Duration;

use futures::future::join_all;
use rds_proxy_pool::emulator::{Backend, Event, RdsProxyEmulator};
use sqlx::{Connection, PgConnection, Row};

use super::{Client, PASSWORD, Stage, USER, options, soon};
use crate::support::process::POLL;
use crate::support::servers::Postgres;

const CLIENTS: i32 = 50;
const LIMIT: usize = 3;

/// A number by a statement that is prepared by the protocol.
async fn number(client: &mut Client, sql: &'static str, value: i32) -> i32 {
    soon(sqlx::query_scalar(sql).bind(value).fetch_one(&mut client.connection)).await.expect("the client is served")
}

#[tokio::test]
async fn clients_that_take_turns_have_one_database_session_and_each_its_own_in_transactions() {
    let Some(stage) = Stage::start().await else { return };
    let (mut one, mut other) = (stage.client().await, stage.client().await);
    let pid = one.pid().await;
    assert_eq!(other.pid().await, pid);
    assert_eq!(stage.proxy.counts().backend_connections, 1);

    one.run("BEGIN").await.unwrap();
    assert_eq!(one.pid().await, pid);
    let second = other.pid().await;
    assert_ne!(second, pid, "the first is taken");
    assert_eq!(one.pid().await, pid);
    one.run("COMMIT").await.unwrap();
    for _ in 0..3 {
        assert_eq!((one.pid().await, other.pid().await), (pid, second), "each gets the one it had last");
    }
    assert_eq!(stage.proxy.counts().backend_connections, 2);
}

#[tokio::test]
async fn clients_of_another_database_or_startup_packet_do_not_share() {
    let Some(stage) = Stage::start().await else { return };
    let pid = stage.client().await.pid().await;
    let named = stage.options().application_name("another");
    assert_ne!(Client::login(&stage.proxy, &named).await.pid().await, pid);
    assert_ne!(Client::login(&stage.proxy, &stage.options().database("postgres")).await.pid().await, pid);
    assert_eq!(stage.client().await.pid().await, pid);
}

#[tokio::test]
async fn statements_of_the_same_name_and_other_texts_are_kept_apart() {
    let Some(stage) = Stage::start_with(|builder| builder.database_connection_limit(1)).await else { return };
    let (mut one, mut other) = (stage.client().await, stage.client().await);
    for turn in 0..5 {
        // The driver gives both the same name.
        assert_eq!(number(&mut one, "SELECT 2 * $1", turn).await, 2 * turn);
        assert_eq!(number(&mut other, "SELECT 10 + $1", turn).await, 10 + turn);
        let unnamed = |sql: &'static str| sqlx::query(sql).persistent(false).bind(turn);
        let first = soon(unnamed("SELECT 3 * $1").fetch_one(&mut one.connection)).await.unwrap();
        let second = soon(unnamed("SELECT 20 + $1").fetch_one(&mut other.connection)).await.unwrap();
        assert_eq!((first.get::<i32, _>(0), second.get::<i32, _>(0)), (3 * turn, 20 + turn));
    }
    assert_eq!(stage.proxy.counts().backend_connections, 1);
}

#[tokio::test]
async fn a_statement_goes_along_to_a_database_session_that_never_saw_it_and_back() {
    let Some(stage) = Stage::start().await else { return };
    let (mut one, mut other) = (stage.client().await, stage.client().await);
    let first = one.pid().await;
    assert_eq!(one.double(1).await.unwrap(), 2);
    other.run("BEGIN").await.unwrap();
    assert_eq!(other.pid().await, first);
    let before = stage.proxy.counts().round_trips;
    assert_eq!(one.double(2).await.unwrap(), 4);
    assert_eq!(stage.proxy.counts().round_trips - before, 1, "it is still prepared");
    assert_ne!(one.pid().await, first);
    other.run("ROLLBACK").await.unwrap();
    assert_eq!(one.double(3).await.unwrap(), 6);
    assert_eq!(stage.proxy.counts().pinned, 0);
}

#[tokio::test]
async fn fifty_clients_are_served_by_three_database_sessions() {
    let Some(stage) = Stage::start_with(|builder| builder.database_connection_limit(LIMIT)).await else { return };
    let mut observer = PgConnection::connect(&stage.database.superuser_url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (n int); GRANT ALL ON t TO public").execute(&mut observer).await.unwrap();
    let clients = join_all((0..CLIENTS).map(|_| stage.client())).await;
    let work = clients.into_iter().zip(0..).map(|(mut client, n)| async move {
        for turn in 0..4 {
            client.run("BEGIN").await.unwrap();
            let insert = sqlx::query("INSERT INTO t VALUES ($1)").bind(n).execute(&mut client.connection);
            soon(insert).await.unwrap();
            assert_eq!(number(&mut client, "SELECT 2 * $1", turn).await, 2 * turn);
            client.run("COMMIT").await.unwrap();
            assert_eq!(client.double(n).await.unwrap(), 2 * n);
        }
    });
    let working = join_all(work);
    let observing = async {
        let mut most = 0;
        loop {
            let count = "SELECT count(*) FROM pg_stat_activity \
                         WHERE datname = current_database() AND pid <> pg_backend_pid()";
            most = most.max(sqlx::query_scalar::<_, i64>(count).fetch_one(&mut observer).await.unwrap());
            let done = "SELECT count(*) FROM t";
            if sqlx::query_scalar::<_, i64>(done).fetch_one(&mut observer).await.unwrap() == i64::from(CLIENTS) * 4 {
                return most;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let (_, most) = soon(futures::future::join(working, observing)).await;
    assert_eq!(most, LIMIT as i64);
    assert_eq!(stage.proxy.counts().backend_connections, LIMIT as u64);
    assert_eq!(stage.proxy.metrics().get("MaxDatabaseConnectionsAllowed"), Some(LIMIT as f64));
}

#[tokio::test]
async fn who_waits_for_a_database_session_gets_one_in_order_of_arrival_or_08000() {
    let Some(stage) = Stage::start_with(|builder| builder.database_connection_limit(1)).await else { return };
    let (mut holder, first, second) = (stage.client().await, stage.client().await, stage.client().await);
    holder.run("BEGIN").await.unwrap();
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut events = stage.proxy.events();
    let mut waiting = Vec::new();
    for (name, mut client) in [("first", first), ("second", second)] {
        let (order, session) = (std::sync::Arc::clone(&order), client.session);
        waiting.push(tokio::spawn(async move {
            client.double(1).await?;
            order.lock().unwrap().push(name);
            Ok::<_, sqlx::Error>(client)
        }));
        soon(events.wait_for(|event| *event == Event::Queued(session))).await;
    }
    assert_eq!(stage.proxy.metrics().get("DatabaseConnectionsCurrentlyBorrowed"), Some(1.0));
    holder.run("COMMIT").await.unwrap();
    let mut clients = join_all(waiting).await.into_iter().map(|client| client.unwrap().unwrap());
    assert_eq!(*order.lock().unwrap(), ["first", "second"]);

    holder.run("BEGIN").await.unwrap();
    let mut client = clients.next().unwrap();
    let session = client.session;
    let mut events = stage.proxy.events();
    let queued = tokio::spawn(async move { (client.double(1).await, client) });
    soon(events.wait_for(|event| *event == Event::Queued(session))).await;
    stage.clock.advance(Duration::from_secs(120));
    let (answer, mut client) = soon(queued).await.unwrap();
    let error = answer.unwrap_err();
    assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("08000"), "{error}");
    stage.proxy.set_database_connection_limit(Some(2));
    assert_eq!(client.double(1).await.unwrap(), 2, "there is room for two");
    assert_eq!(stage.proxy.counts().backend_connections, 2);
}

#[tokio::test]
async fn at_the_limit_one_that_nobody_has_makes_room_for_another_user_s() {
    let Some(stage) = Stage::start_with(|builder| builder.database_connection_limit(1)).await else { return };
    let mut one = stage.client().await;
    let mut other = Client::login(&stage.proxy, &stage.options().application_name("another")).await;
    for turn in 0..3 {
        assert_eq!(one.double(turn).await.unwrap(), 2 * turn);
        assert_eq!(other.double(turn).await.unwrap(), 2 * turn);
    }
    assert_eq!(stage.proxy.metrics().get("DatabaseConnections"), Some(1.0));
}

#[tokio::test]
async fn database_sessions_that_nobody_has_may_end_unnoticed_with_their_server() {
    let Some(server) = Postgres::start().await else { return };
    let proxy = RdsProxyEmulator::builder(Backend::new(server.address()).login("app", ""))
        .password_user(USER, PASSWORD)
        .start()
        .unwrap();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Client::login(&proxy, &options(&proxy, "app")).await);
    }
    for round in 0..3 {
        // As many database sessions as clients.
        for client in &mut clients {
            client.run("BEGIN").await.unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.double(round).await.unwrap(), 2 * round);
            client.run("COMMIT").await.unwrap();
        }
        match round {
            0 => server.stop_fast().await,
            _ => server.kill9().await,
        }
        server.start_again().await;
    }
    for client in &mut clients {
        assert_eq!(client.double(5).await.unwrap(), 10);
    }
    assert_eq!(proxy.counts().open, 4);
}
