//! Each limit of the proxy: where it is, what is said there, and that it can be moved under those who wait.

use std::time::Duration;

use rds_proxy_pool::clock::AdjustableClock;
use rds_proxy_pool::emulator::{Builder, Closed, Event, Existing, Limit};
use sqlx::postgres::PgSslMode;
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::task::JoinHandle;

use super::{Client, IAM_USER, MINUTE, Stage, backend, ended, soon};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// The code and text of a request that was refused.
fn told(answer: Result<i32, sqlx::Error>) -> (String, String) {
    let error = answer.unwrap_err();
    let error = error.as_database_error().unwrap_or_else(|| panic!("not from the proxy: {error}"));
    (error.code().expect("every refusal has a code").into_owned(), error.message().to_owned())
}

/// The client's request, once it waits for a database.
async fn queued(stage: &Stage, mut client: Client) -> JoinHandle<(Result<i32, sqlx::Error>, Client)> {
    let mut events = stage.proxy.events();
    let session = client.session;
    let queued = tokio::spawn(async move { (client.double(1).await, client) });
    soon(events.wait_for(|event: &Event| *event == Event::Queued(session))).await;
    queued
}

#[tokio::test]
async fn more_connections_in_a_second_than_the_rate_are_refused_before_anything_is_checked() {
    let clock = AdjustableClock::stopped();
    let set_up = |builder: Builder| builder.clock(clock.clone()).connection_rate_limit(2);
    let Some(stage) = Stage::start_with(set_up).await else { return };
    let mut events = stage.proxy.events();
    let (_first, mut second) = (stage.client().await, stage.client().await);
    let text = "Rate of connection to proxy exceeded 2.";
    let nobody = stage.options().username("nobody");
    for options in [stage.options(), nobody, stage.options().ssl_mode(PgSslMode::Disable)] {
        let (code, message) = stage.refusal(options).await;
        assert_eq!((code.as_str(), message.as_str()), ("53300", text));
    }
    let is_refused = |event: &Event| {
        matches!(event, Event::LoginRefused { code: "53300", limit: Some(Limit::ConnectionRate), user: Some(_), .. })
    };
    soon(events.wait_for(is_refused)).await;
    assert_eq!(second.double(1).await.unwrap(), 2, "who is connected stays");

    clock.advance(SECOND);
    let _third = stage.client().await;
    stage.proxy.set_connection_rate_limit(Some(1));
    assert_eq!(stage.refusal(stage.options()).await.1, "Rate of connection to proxy exceeded 1.");
    stage.proxy.set_connection_rate_limit(None);
    stage.client().await;
    let counts = stage.proxy.counts();
    assert_eq!((counts.logins_refused, counts.refused_by_connection_rate), (4, 4));
    assert_eq!((counts.refused_by_client_limit, counts.refused_by_iam_rate), (0, 0));
}

#[tokio::test]
async fn more_tokens_in_a_second_than_the_rate_are_refused_unseen_and_passwords_are_none_of_them() {
    let clock = AdjustableClock::stopped();
    let set_up = |builder: Builder| builder.clock(clock.clone()).iam_rate_limit(1);
    let Some(stage) = Stage::start_with(set_up).await else { return };
    let by_token = || stage.options().username(IAM_USER);
    let mut events = stage.proxy.events();
    assert_eq!(stage.refusal(by_token()).await.0, "28P01", "the first is looked into");
    let (code, message) = stage.refusal(by_token()).await;
    let text = "The IAM authentication failed because of too many competing requests.";
    assert_eq!((code.as_str(), message.as_str()), ("53300", text));
    let is_refused = |event: &Event| matches!(event, Event::LoginRefused { limit: Some(Limit::IamRate), .. });
    let refused = soon(events.wait_for(is_refused)).await;
    assert!(matches!(refused, Event::LoginRefused { token: None, .. }), "{refused:?}");
    stage.client().await;

    clock.advance(SECOND);
    assert_eq!(stage.refusal(by_token()).await.0, "28P01");
    stage.proxy.set_iam_rate_limit(Some(2));
    assert_eq!(stage.refusal(by_token()).await.0, "28P01");
    assert_eq!(stage.refusal(by_token()).await.0, "53300");
    stage.proxy.set_iam_rate_limit(None);
    assert_eq!(stage.refusal(by_token()).await.0, "28P01");
    assert_eq!(stage.proxy.counts().refused_by_iam_rate, 2);
}

#[tokio::test]
async fn the_rate_is_checked_before_the_number_of_clients_and_that_before_passwords() {
    let clock = AdjustableClock::stopped();
    let Some(stage) = Stage::start_with(|builder| builder.clock(clock.clone())).await else { return };
    let _client = stage.client().await;
    stage.proxy.set_client_limit(Some(1));
    stage.proxy.set_connection_rate_limit(Some(2));
    let (code, message) = stage.refusal(stage.options().password("wrong")).await;
    let text = "The maximum number of client connections to the proxy exceeded 1.";
    assert_eq!((code.as_str(), message.as_str()), ("53300", text));
    let message = stage.refusal(stage.options()).await.1;
    assert_eq!(message, "Rate of connection to proxy exceeded 2.", "who was refused has used up the rate");
    let counts = stage.proxy.counts();
    assert_eq!((counts.refused_by_client_limit, counts.refused_by_connection_rate), (1, 1));
}

#[tokio::test]
async fn a_borrow_timeout_that_changes_does_so_for_requests_that_queue() {
    let Some(stage) = Stage::start().await else { return };
    let client = stage.client().await;
    stage.proxy.clear_backend();

    let shortened = queued(&stage, client).await;
    stage.clock.advance(MINUTE);
    stage.proxy.set_connection_borrow_timeout(MINUTE);
    let (answer, client) = soon(shortened).await.unwrap();
    let expected = ("08000", "Timed-out waiting to acquire database connection.");
    let (code, message) = told(answer);
    assert_eq!((code.as_str(), message.as_str()), expected);

    let prolonged = queued(&stage, client).await;
    stage.proxy.set_connection_borrow_timeout(2 * HOUR);
    stage.clock.advance(HOUR);
    stage.take_a_turn().await;
    assert!(!prolonged.is_finished(), "an hour is not enough any more");
    stage.clock.advance(HOUR);
    assert_eq!(told(soon(prolonged).await.unwrap().0).0, "08000");
}

#[tokio::test]
async fn with_a_borrow_timeout_of_zero_a_request_without_a_database_session_is_refused_at_once() {
    let Some(stage) = Stage::start().await else { return };
    let (mut has_one, mut has_none) = (stage.client().await, stage.client().await);
    has_one.run("BEGIN").await.unwrap();
    stage.proxy.set_connection_borrow_timeout(Duration::ZERO);
    assert_eq!(told(has_none.double(1).await).0, "08000");
    assert_eq!(has_one.double(1).await.unwrap(), 2);
    has_one.run("COMMIT").await.unwrap();
    assert_eq!(has_none.double(1).await.unwrap(), 2, "one that nobody has is no new one");
}

#[tokio::test]
async fn an_idle_timeout_that_changes_does_so_for_clients_that_are_idle() {
    let Some(stage) = Stage::start_with(|builder| builder.idle_client_timeout(HOUR)).await else { return };
    let (mut quiet, mut speaks) = (stage.client().await, stage.client().await);
    stage.proxy.set_idle_client_timeout(3 * HOUR);
    stage.clock.advance(2 * HOUR);
    assert_eq!(speaks.double(1).await.unwrap(), 2);
    stage.take_a_turn().await;
    assert_eq!(stage.proxy.counts().open, 2, "two hours are not three");
    stage.proxy.set_idle_client_timeout(2 * HOUR);
    assert_eq!(ended(&mut quiet.events, quiet.session).await, Closed::TimedOut);
    assert_eq!(speaks.double(1).await.unwrap(), 2, "who has spoken since stays");
    stage.proxy.set_idle_client_timeout(Duration::MAX);
    stage.clock.advance(10 * HOUR);
    assert_eq!(speaks.double(1).await.unwrap(), 2);
}

#[tokio::test]
async fn an_open_transaction_is_not_idle() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    client.run("BEGIN").await.unwrap();
    stage.clock.advance(HOUR);
    stage.take_a_turn().await;
    assert_eq!(client.double(1).await.unwrap(), 2);
    client.run("COMMIT").await.unwrap();
    stage.clock.advance(HOUR);
    assert_eq!(ended(&mut client.events, client.session).await, Closed::TimedOut);
}

#[tokio::test]
async fn a_life_that_changes_does_so_for_clients_that_live_idle_and_busy() {
    let Some(stage) = Stage::start_with(|builder| builder.client_life(20 * MINUTE)).await else { return };
    let mut idle = stage.client().await;
    let (busy, busy_session, mut busy_events) = stage.client().await.busy().await;
    stage.proxy.set_client_life(25 * MINUTE);
    stage.clock.advance(21 * MINUTE);
    stage.take_a_turn().await;
    assert_eq!(stage.proxy.counts().open, 2, "21 minutes are not 25");
    stage.proxy.set_client_life(21 * MINUTE);
    assert_eq!(ended(&mut idle.events, idle.session).await, Closed::TimedOut);
    assert_eq!(ended(&mut busy_events, busy_session).await, Closed::TimedOut);
    soon(busy).await.unwrap().unwrap_err();
    stage.client().await.double(1).await.expect("a new client has a life of its own");
}

#[tokio::test]
async fn a_new_database_session_takes_the_init_delay_longer_and_an_open_one_does_not() {
    let clock = AdjustableClock::stopped();
    let Some(stage) = Stage::start_with(|builder| builder.clock(clock.clone()).init_delay(10 * SECOND)).await else {
        return;
    };
    let mut events = stage.proxy.events();
    let log_in = || {
        let options = stage.options();
        tokio::spawn(async move { options.connect().await })
    };
    let delayed = log_in();
    soon(events.wait_for(|event: &Event| matches!(event, Event::Queued(_)))).await;
    clock.advance(9 * SECOND);
    // A login that needs no database session, so the emulator has done what it had to.
    assert_eq!(stage.refusal(stage.options().password("wrong")).await.0, "28P01");
    assert!(!delayed.is_finished());
    clock.advance(SECOND);
    let mut connection = soon(delayed).await.unwrap().expect("the delay is over");

    let mut second = soon(log_in()).await.unwrap().expect("it needs no database session yet");
    soon(connection.execute("BEGIN")).await.expect("it has the open one");
    let shortened = tokio::spawn(async move { second.ping().await });
    soon(events.wait_for(|event: &Event| matches!(event, Event::Queued(_)))).await;
    soon(connection.ping()).await.expect("it still has it");
    assert!(!shortened.is_finished());
    stage.proxy.set_init_delay(Duration::ZERO);
    soon(shortened).await.unwrap().expect("no delay is left");
}

#[tokio::test]
async fn what_does_not_concern_who_waits_for_the_init_delay_does_not_make_it_begin_anew() {
    let clock = AdjustableClock::stopped();
    let Some(stage) = Stage::start_with(|builder| builder.clock(clock.clone()).init_delay(10 * SECOND)).await else {
        return;
    };
    let mut events = stage.proxy.events();
    let options = stage.options();
    let delayed = tokio::spawn(async move { options.connect().await });
    soon(events.wait_for(|event: &Event| matches!(event, Event::Queued(_)))).await;
    clock.advance(9 * SECOND);
    stage.proxy.cut_idle();
    stage.proxy.set_backend(backend(&stage.database), Existing::Stay);
    // The emulator has done what it had to.
    assert_eq!(stage.refusal(stage.options().password("wrong")).await.0, "28P01");
    clock.advance(SECOND);
    soon(delayed).await.unwrap().expect("the delay is over");
    assert_eq!(stage.proxy.metrics().get("DatabaseConnectionRequests"), Some(1.0));
}
