//! What happens to clients when their database moves, goes, or ends one of its processes, and when time passes.

use std::time::Duration;

use rds_proxy_pool::emulator::{Backend, Closed, Event, Existing, RdsProxyEmulator};

use super::{Client, MINUTE, PASSWORD, Stage, USER, backend, ended, is_lost, options, soon};
use crate::support::servers::Postgres;

#[tokio::test]
async fn an_idle_client_and_its_prepared_statements_are_moved_to_the_other_server_unnoticed() {
    let Some(first) = Postgres::start().await else { return };
    let Some(second) = Postgres::start().await else { return };
    let login = |server: &Postgres| Backend::new(server.address()).login("app", "");
    let proxy = RdsProxyEmulator::builder(login(&first)).password_user(USER, PASSWORD).start().unwrap();
    let mut client = Client::login(&proxy, &options(&proxy, "app")).await;
    client.run("CREATE TABLE on_the_first (n int)").await.unwrap();
    assert_eq!(client.double(1).await.unwrap(), 2);

    proxy.set_backend(login(&second), Existing::Move);
    let before = proxy.counts().round_trips;
    assert_eq!(client.double(2).await.unwrap(), 4);
    assert_eq!(proxy.counts().round_trips - before, 1, "the statement is still prepared");
    let is_opened = |event: &Event| matches!(event, Event::BackendOpened { .. });
    let opened = soon(client.events.wait_for(is_opened)).await;
    assert_eq!(opened, Event::BackendOpened { session: client.session, address: second.address() });
    let there = "SELECT to_regclass('on_the_first') IS NOT NULL";
    let there: bool = soon(sqlx::query_scalar(there).fetch_one(&mut client.connection)).await.unwrap();
    assert!(!there, "this is the other server");
}

#[tokio::test]
async fn a_failover_cuts_open_transactions_and_statements_under_way_and_nobody_else() {
    let Some(stage) = Stage::start().await else { return };
    let (mut idle, mut open, mut failed, mut over) =
        (stage.client().await, stage.client().await, stage.client().await, stage.client().await);
    let (busy, busy_session, mut busy_events) = stage.client().await.busy().await;
    open.run("BEGIN; SELECT 1").await.unwrap();
    failed.run("BEGIN").await.unwrap();
    failed.run("SELECT 1 / 0").await.unwrap_err();
    over.run("BEGIN").await.unwrap();
    over.run("COMMIT").await.unwrap();

    stage.proxy.set_backend(backend(&stage.database), Existing::Move);
    for cut in [&mut open, &mut failed] {
        assert_eq!(ended(&mut cut.events, cut.session).await, Closed::BackendLost);
        let error = cut.double(1).await.unwrap_err();
        assert!(is_lost(&error), "{error}");
    }
    assert_eq!(ended(&mut busy_events, busy_session).await, Closed::BackendLost);
    let error = soon(busy).await.unwrap().unwrap_err();
    assert!(is_lost(&error), "{error}");
    assert_eq!(idle.double(4).await.unwrap(), 8);
    assert_eq!(over.double(4).await.unwrap(), 8);
    assert_eq!(stage.proxy.counts().open, 2);
}

#[tokio::test]
async fn clients_that_stay_keep_their_server_process_and_new_ones_get_the_other_server() {
    let Some(stage) = Stage::start().await else { return };
    let Some(other) = Postgres::start().await else { return };
    let mut stays = stage.client().await;
    let pid = stays.pid().await;
    stage.proxy.set_backend(Backend::new(other.address()).login("app", ""), Existing::Stay);
    let mut new = Client::login(&stage.proxy, &options(&stage.proxy, "app")).await;
    assert_eq!(stays.pid().await, pid);
    let mut opened = stage.proxy.all_events();
    let is_new = |event: &Event| matches!(event, Event::BackendOpened { session, .. } if *session == new.session);
    let opened = soon(opened.wait_for(is_new)).await;
    assert_eq!(opened, Event::BackendOpened { session: new.session, address: other.address() });
    assert_eq!(new.double(3).await.unwrap(), 6);
}

#[tokio::test]
async fn a_database_for_new_clients_serves_the_queued_ones_too() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    stage.proxy.clear_backend();
    let session = client.session;
    let mut events = stage.proxy.events();
    let queued = tokio::spawn(async move { client.double(4).await });
    soon(events.wait_for(|event: &Event| *event == Event::Queued(session))).await;
    stage.proxy.set_backend(backend(&stage.database), Existing::Stay);
    assert_eq!(soon(queued).await.unwrap().unwrap(), 8);
}

#[tokio::test]
async fn without_a_database_new_work_queues_until_there_is_one() {
    let Some(stage) = Stage::start().await else { return };
    let (mut client, mut open) = (stage.client().await, stage.client().await);
    let first_pid = client.pid().await;
    open.run("BEGIN; SELECT 1").await.unwrap();

    stage.proxy.clear_backend();
    assert_eq!(ended(&mut open.events, open.session).await, Closed::BackendLost);
    let session = client.session;
    let mut events = stage.proxy.events();
    let queued = tokio::spawn(async move { (client.pid().await, client) });
    let is_queued = |event: &Event| *event == Event::Queued(session);
    soon(events.wait_for(is_queued)).await;
    // Logins are accepted meanwhile; their work queues as well.
    let mut new = stage.client().await;
    assert!(!queued.is_finished());

    stage.proxy.set_backend(backend(&stage.database), Existing::Move);
    let (pid, mut client) = soon(queued).await.unwrap();
    assert_ne!(pid, first_pid);
    assert_eq!(client.double(2).await.unwrap(), 4);
    assert_eq!(new.double(2).await.unwrap(), 4);
}

#[tokio::test]
async fn work_queued_for_two_minutes_is_refused_with_08000_and_the_session_goes_on() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    assert_eq!(client.double(1).await.unwrap(), 2);
    stage.proxy.clear_backend();
    for kind in ["prepared", "prepared anew", "plain"] {
        let session = client.session;
        let mut events = stage.proxy.events();
        let queued = tokio::spawn(async move {
            let answer = match kind {
                "prepared" => client.double(2).await.map(drop),
                "plain" => client.run("SELECT 3").await,
                _ => {
                    let new = sqlx::query("SELECT 3 * $1").bind(2).execute(&mut client.connection);
                    soon(new).await.map(drop)
                }
            };
            (answer, client)
        });
        soon(events.wait_for(|event: &Event| *event == Event::Queued(session))).await;
        stage.clock.advance(Duration::from_secs(100));
        stage.take_a_turn().await;
        assert!(!queued.is_finished(), "{kind}: 100 seconds are not enough");
        stage.clock.advance(Duration::from_secs(20));
        let answer;
        (answer, client) = soon(queued).await.unwrap();
        let error = answer.unwrap_err();
        let error = error.as_database_error().unwrap_or_else(|| panic!("{kind}: {error}"));
        assert_eq!(error.code().as_deref(), Some("08000"), "{kind}");
        assert_eq!(error.message(), "Timed-out waiting to acquire database connection.", "{kind}");
    }
    stage.proxy.set_backend(backend(&stage.database), Existing::Move);
    assert_eq!(client.double(2).await.unwrap(), 4);
    assert_eq!(client.pid().await, client.pid().await);
}

#[tokio::test]
async fn an_idle_client_is_closed_after_thirty_minutes_and_not_a_minute_before() {
    let Some(stage) = Stage::start().await else { return };
    let (mut quiet, mut speaks) = (stage.client().await, stage.client().await);
    stage.clock.advance(29 * MINUTE);
    stage.take_a_turn().await;
    assert_eq!(speaks.double(1).await.unwrap(), 2);
    assert_eq!(stage.proxy.counts().open, 2, "nobody is closed after 29 minutes");
    stage.clock.advance(MINUTE);
    assert_eq!(ended(&mut quiet.events, quiet.session).await, Closed::TimedOut);
    let error = quiet.double(1).await.unwrap_err();
    assert!(matches!(error, sqlx::Error::Io(_)), "no error message comes with it: {error}");
    assert_eq!(speaks.double(1).await.unwrap(), 2, "who spoke a minute ago stays");
}

#[tokio::test]
async fn a_client_that_is_never_idle_is_closed_after_a_day() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    for _ in 0..(24 * 60 / 20 - 1) {
        stage.clock.advance(20 * MINUTE);
        assert_eq!(client.double(1).await.unwrap(), 2);
    }
    stage.clock.advance(20 * MINUTE);
    assert_eq!(ended(&mut client.events, client.session).await, Closed::TimedOut);
}

#[tokio::test]
async fn a_server_process_that_ends_while_its_client_is_idle_is_replaced_unnoticed() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    assert_eq!(client.double(1).await.unwrap(), 2);
    let pid = client.pid().await;
    stage.terminate(pid).await;
    let before = stage.proxy.counts().round_trips;
    assert_eq!(client.double(1).await.unwrap(), 2);
    assert_eq!(stage.proxy.counts().round_trips - before, 1, "the statement is still prepared");
    assert_ne!(client.pid().await, pid);
}

#[tokio::test]
async fn a_server_process_that_ends_in_a_transaction_takes_its_client_along() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    client.run("BEGIN").await.unwrap();
    let pid = client.pid().await;
    stage.terminate(pid).await;
    assert_eq!(ended(&mut client.events, client.session).await, Closed::BackendLost);
    let error = client.double(1).await.unwrap_err();
    assert!(is_lost(&error), "{error}");
}
