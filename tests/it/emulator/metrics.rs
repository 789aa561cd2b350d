//! What the metrics show of clients whose every step is known.

use rds_proxy_pool::clock::AdjustableClock;
use rds_proxy_pool::emulator::{Backend, Event, Existing, RdsProxyEmulator};
use sqlx::Connection;
use sqlx::postgres::PgSslMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Client, MINUTE, Stage, TLS_PLEASE, connected, ended, soon};

/// These have these values and the others are as they were.
#[track_caller]
fn assert_shows(proxy: &RdsProxyEmulator, expected: &[(&str, f64)]) {
    let metrics = proxy.metrics();
    for (name, value) in expected {
        assert_eq!(metrics.get(name), Some(*value), "{name} in {metrics:?}");
    }
}

#[tokio::test]
async fn connections_are_counted_by_how_they_came_and_how_they_ended() {
    let Some(stage) = Stage::start_with(|builder| builder.requires_tls(false).client_limit(2)).await else { return };
    let proxy = &stage.proxy;
    assert!(proxy.metrics().iter().all(|(_, value)| value == 0.0), "{:?}", proxy.metrics());
    let (mut by_tls, mut plain) =
        (stage.client().await, Client::login(proxy, &stage.options().ssl_mode(PgSslMode::Disable)).await);
    let two_clients = [
        ("ClientConnections", 2.0),
        ("ClientConnectionsTLS", 1.0),
        ("ClientConnectionsNoTLS", 1.0),
        ("ClientConnectionsInSetup", 0.0),
        ("ClientConnectionsReceived", 2.0),
        ("ClientConnectionsClosed", 0.0),
        ("ClientConnectionsSetupSucceeded", 2.0),
        ("ClientConnectionsSetupFailedAuth", 0.0),
        ("DatabaseConnections", 1.0),
        ("DatabaseConnectionRequests", 1.0),
        ("DatabaseConnectionsSetupSucceeded", 1.0),
        ("DatabaseConnectionsSetupFailed", 0.0),
    ];
    assert_shows(proxy, &two_clients);

    let mut setting_up = connected(proxy).await;
    assert_shows(proxy, &[("ClientConnections", 2.0), ("ClientConnectionsInSetup", 1.0)]);
    setting_up.write_all(&TLS_PLEASE).await.unwrap();
    assert_eq!(soon(setting_up.read_u8()).await.unwrap(), b'S');
    setting_up.write_all(b"this is no TLS").await.unwrap();
    soon(proxy.counted(|counts| counts.open == 2)).await;
    assert_shows(proxy, &[("ClientConnectionsSetupFailedAuth", 1.0), ("ClientConnectionsInSetup", 0.0)]);

    // A limit and an option that is not supported are no failed authentication, a wrong password is one.
    assert_eq!(stage.refusal(stage.options()).await.0, "53300");
    assert_eq!(stage.refusal(stage.options().options([("jit", "off")])).await.0, "0A000");
    assert_shows(proxy, &[("ClientConnectionsSetupFailedAuth", 1.0)]);
    proxy.set_client_limit(None);
    assert_eq!(stage.refusal(stage.options().password("wrong")).await.0, "28P01");
    soon(proxy.counted(|counts| counts.open == 2)).await;
    assert_shows(proxy, &[("ClientConnectionsSetupFailedAuth", 2.0), ("ClientConnectionsSetupSucceeded", 2.0)]);

    for client in [&mut by_tls, &mut plain] {
        soon(proxy.cut(client.session)).await;
        ended(&mut client.events, client.session).await;
    }
    let nobody = [
        ("ClientConnections", 0.0),
        ("ClientConnectionsReceived", 6.0),
        ("ClientConnectionsClosed", 6.0),
        ("DatabaseConnections", 1.0),
        ("DatabaseConnectionsCurrentlyBorrowed", 0.0),
        ("DatabaseConnectionRequests", 1.0),
    ];
    assert_shows(proxy, &nobody);
}

#[tokio::test]
async fn queries_are_counted_once_each_and_transactions_while_they_are_open() {
    let Some(stage) = Stage::start_with(|builder| builder.requires_tls(false)).await else { return };
    let mut client = stage.client().await;
    let mut plain = Client::login(&stage.proxy, &stage.options().ssl_mode(PgSslMode::Disable)).await;
    let shows = |queries, in_transaction| {
        let expected = [("QueryRequestsTLS", queries), ("DatabaseConnectionsCurrentlyInTransaction", in_transaction)];
        assert_shows(&stage.proxy, &expected);
    };
    client.double(1).await.unwrap();
    shows(1.0, 0.0);
    client.connection.ping().await.unwrap();
    shows(1.0, 0.0);
    client.run("SELECT 1; SELECT 2").await.unwrap();
    shows(2.0, 0.0);
    client.run("BEGIN").await.unwrap();
    shows(3.0, 1.0);
    client.run("SELECT 1 / 0").await.unwrap_err();
    shows(4.0, 1.0);
    client.run("ROLLBACK").await.unwrap();
    shows(5.0, 0.0);
    client.run("BEGIN").await.unwrap();
    plain.run("BEGIN").await.unwrap();
    shows(6.0, 2.0);
    soon(stage.proxy.cut(client.session)).await;
    shows(6.0, 1.0);
    assert_shows(&stage.proxy, &[("QueryRequests", 7.0), ("QueryRequestsNoTLS", 1.0)]);
}

#[tokio::test]
async fn latencies_are_averages_by_the_emulator_s_clock_and_tell_the_database_from_the_wait_for_it() {
    let clock = AdjustableClock::stopped();
    let Some(stage) = Stage::start_with(|builder| builder.clock(clock.clone())).await else { return };
    let latency = |name| stage.proxy.metrics().get(name);
    let mut client = stage.client().await;
    assert_eq!(latency("DatabaseConnectionsBorrowLatency"), Some(0.0), "no time passes");
    assert_eq!(latency("QueryResponseLatency"), None, "there was no query yet");
    client.connection.ping().await.unwrap();
    assert_eq!(latency("QueryResponseLatency"), None, "a ping is none");

    stage.proxy.clear_backend();
    let session = client.session;
    let mut events = stage.proxy.events();
    let queued = tokio::spawn(async move { (client.run("SELECT 1").await, client) });
    soon(events.wait_for(|event| *event == Event::Queued(session))).await;
    clock.advance(MINUTE);
    stage.proxy.set_backend(super::backend(&stage.database), Existing::Move);
    let (answer, mut client) = soon(queued).await.unwrap();
    answer.unwrap();
    // For the login and the ping there was one at once, for the query after a minute.
    assert_eq!(latency("DatabaseConnectionsBorrowLatency"), Some(20e6));
    assert_eq!(latency("QueryResponseLatency"), Some(60e6));
    assert_eq!(latency("QueryDatabaseResponseLatency"), Some(0.0));
    client.run("SELECT 1").await.unwrap();
    assert_eq!(latency("QueryResponseLatency"), Some(30e6));
}

#[tokio::test]
async fn attempts_to_reach_a_database_that_is_not_there_are_requests_that_failed() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    let nobody_listens = {
        let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap()
    };
    stage.proxy.set_backend(Backend::new(nobody_listens), Existing::Move);
    let session = client.session;
    let mut events = stage.proxy.events();
    let queued = tokio::spawn(async move { client.run("SELECT 1").await });
    soon(events.wait_for(|event| *event == Event::Queued(session))).await;
    let metrics = stage.proxy.metrics();
    let failed = metrics.get("DatabaseConnectionsSetupFailed").unwrap();
    let requests = metrics.get("DatabaseConnectionRequests").unwrap();
    assert!(failed >= 1.0 && requests > failed, "{metrics:?}");
    assert_shows(&stage.proxy, &[("DatabaseConnections", 0.0), ("QueryRequests", 1.0)]);
    stage.clock.advance(2 * MINUTE);
    soon(queued).await.unwrap().unwrap_err();
    assert_shows(&stage.proxy, &[("QueryRequests", 1.0), ("DatabaseConnectionsSetupSucceeded", 1.0)]);
}
