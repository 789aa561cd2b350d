//! Each kind of error, as a caller of the pool meets it.

use std::time::Duration;

use aws_credential_types::Credentials;
use rds_proxy_pool::clock::Clock;
use rds_proxy_pool::emulator::{Fault, Kind, Message, Point};
use rds_proxy_pool::{Error, ErrorKind, Outcome, ProxyConfig, ProxyPool};

use crate::support::world::World;

/// Long enough for several attempts.
const SHORTLY: Duration = Duration::from_millis(900);

fn pool(config: rds_proxy_pool::ProxyConfigBuilder) -> ProxyPool {
    ProxyPool::new(config.build().expect("the configuration is right")).expect("the pool can be made")
}

async fn insert(pool: &ProxyPool) -> sqlx::Error {
    sqlx::query("INSERT INTO t VALUES (1)").execute(pool).await.expect_err("it fails")
}

fn ours(error: &sqlx::Error) -> (ErrorKind, &'static str, Outcome) {
    let error = Error::find(error).unwrap_or_else(|| panic!("not of this crate: {error}"));
    (error.kind(), error.code(), error.outcome())
}

#[tokio::test]
async fn a_configuration_that_lacks_something_is_its_own_kind() {
    let error = ProxyConfig::builder().endpoint("localhost").build().unwrap_err();
    assert_eq!((error.kind(), error.code(), error.outcome()), (ErrorKind::Config, "config.missing", Outcome::NotSent));
}

#[tokio::test]
async fn credentials_that_have_expired_are_their_own_kind() {
    let Some(world) = World::start().await else { return };
    let (key, secret, _) = World::keys();
    let past = world.clock.wall() - Duration::from_secs(60);
    let expired = Credentials::new(key, secret, None, Some(past), "test");
    let pool = pool(world.config().credentials_provider(expired));
    assert_eq!(ours(&insert(&pool).await), (ErrorKind::Credentials, "credentials.expired", Outcome::NotSent));
    assert_eq!(world.connections_accepted(), 0);
}

#[tokio::test]
async fn a_login_that_is_refused_is_its_own_kind() {
    let Some(world) = World::start().await else { return };
    let pool = pool(world.config().credentials_provider(World::wrong_credentials()));
    assert_eq!(ours(&insert(&pool).await), (ErrorKind::Auth, "auth.refused", Outcome::NotSent));
}

#[tokio::test]
async fn a_server_that_cannot_be_trusted_is_a_failure_to_connect() {
    let Some(world) = World::start().await else { return };
    let always = Fault::new(Message::Startup, Point::BeforeRequest, Kind::OtherHost).times(u64::MAX);
    world.proxy().inject(always);
    assert_eq!(ours(&insert(&world.pool()).await), (ErrorKind::Connect, "connect.certificate", Outcome::NotSent));
}

#[tokio::test]
async fn a_deadline_that_is_reached_is_its_own_kind() {
    let Some(world) = World::start().await else { return };
    world.stop_answering(true);
    assert_eq!(
        ours(&insert(&world.pool().by(SHORTLY)).await),
        (ErrorKind::Deadline, "deadline.login", Outcome::NotSent)
    );
}

#[tokio::test]
async fn a_proxy_at_its_limits_is_its_own_kind_and_has_run_nothing() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    sqlx::query("CREATE TABLE t (n int)").execute(&pool).await.unwrap();
    world.proxy().set_connection_borrow_timeout(Duration::ZERO);
    world.proxy().clear_backend();
    assert_eq!(
        ours(&insert(&pool.by(SHORTLY)).await),
        (ErrorKind::Throttled, "throttled.borrow", Outcome::NotExecuted)
    );
}

#[tokio::test]
async fn an_answer_that_is_lost_is_its_own_kind_and_says_that_nothing_is_known() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    sqlx::query("CREATE TABLE t (n int)").execute(&pool).await.unwrap();
    world.proxy().inject(Fault::new(Message::Execute, Point::BeforeReply, Kind::Reset).text("INSERT"));
    assert_eq!(ours(&insert(&pool.by(SHORTLY)).await), (ErrorKind::Lost, "lost.connection", Outcome::Unknown));
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&pool).await.unwrap();
    assert_eq!(rows, 1, "it was done, once");
}

#[tokio::test]
async fn a_writer_that_stays_demoted_is_its_own_kind_and_has_run_nothing() {
    let Some(world) = World::start_with_standby().await else { return };
    sqlx::query("CREATE TABLE t (n int)").execute(&world.pool()).await.unwrap();
    world.demote();
    let error = world.pool().by(SHORTLY).begin().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::ReadOnly, Outcome::NotExecuted));
}

#[tokio::test]
async fn a_pool_that_was_closed_is_its_own_kind() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    pool.close(Duration::from_secs(1)).await;
    assert_eq!(ours(&insert(&pool).await), (ErrorKind::Closed, "closed.pool", Outcome::NotSent));
}

#[tokio::test]
async fn what_the_database_says_of_a_statement_stays_what_it_is() {
    let Some(world) = World::start().await else { return };
    let error = insert(&world.pool()).await;
    assert!(Error::find(&error).is_none(), "the driver's own: {error}");
    assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("42P01"));

    let mut transaction = world.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 / 0").execute(&mut transaction).await.unwrap_err();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.code(), error.outcome()),
        (ErrorKind::Database, "commit.aborted", Outcome::RolledBack)
    );
}
