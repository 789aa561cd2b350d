//! What a hostile reader of the code found out: each of these failed once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, future};
use futures::future::{BoxFuture, pending};
use futures::{FutureExt, TryStreamExt};
use rds_proxy_pool::clock::Clock;
use rds_proxy_pool::emulator::{Backend, Existing};
use rds_proxy_pool::{Error, ErrorKind, Outcome, ProxyConfig, ProxyPool};
use sqlx::Connection;

use crate::support::servers::Postgres;
use crate::support::world::World;

const SECOND: Duration = Duration::from_secs(1);

async fn with_table() -> Option<(World, ProxyPool)> {
    let world = World::start().await?;
    let pool = world.pool();
    sqlx::raw_sql("CREATE TABLE written (n int)").execute(&pool).await.unwrap();
    Some((world, pool))
}

/// Credentials made by a function of how often they were asked for.
struct Provider<F>(F, AtomicU32);

impl<F> Provider<F> {
    fn new(provide: F) -> Self {
        Provider(provide, AtomicU32::new(0))
    }
}

impl<F> fmt::Debug for Provider<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}

impl<F: Fn(u32) -> BoxFuture<'static, Credentials> + Send + Sync> ProvideCredentials for Provider<F> {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let asked = self.1.fetch_add(1, Ordering::Relaxed) + 1;
        future::ProvideCredentials::new((self.0)(asked).map(Ok))
    }
}

fn credentials() -> Credentials {
    let (key, secret, session) = World::keys();
    Credentials::new(key, secret, session, None, "test")
}

#[tokio::test]
async fn a_statement_that_may_have_run_is_unknown_even_if_it_could_not_be_sent_again() {
    let Some((world, pool)) = with_table().await else { return };
    let _held = world.hold().await;
    let writing = pool.idempotent().by(2 * SECOND);
    for streamed in [false, true] {
        let mark = world.statements().len();
        let writing = writing.by(2 * SECOND);
        let running = tokio::spawn(async move {
            let insert = sqlx::query("INSERT INTO written SELECT 1 FROM pg_advisory_xact_lock_shared(1)");
            if streamed {
                insert.fetch(&writing).try_collect::<Vec<_>>().await.map(drop)
            } else {
                insert.execute(&writing).await.map(drop)
            }
        });
        world.statement_seen(mark, "INSERT INTO written").await;
        world.refuse_connections(true).await;
        world.cut_all().await;
        let error = running.await.unwrap().unwrap_err();
        let ours = Error::find(&error).expect("ours");
        assert_eq!(ours.outcome(), Outcome::Unknown, "{ours:#}");
        world.refuse_connections(false).await;
    }
}

#[tokio::test]
async fn nothing_is_sent_after_the_deadline_of_a_held_connection() {
    let Some((world, pool)) = with_table().await else { return };
    let handle = pool.by(20 * SECOND);
    let mut connection = handle.acquire().await.unwrap();
    let mut transaction = handle.begin().await.unwrap();
    sqlx::raw_sql("INSERT INTO written VALUES (1)").execute(&mut transaction).await.unwrap();
    world.clock.advance(30 * SECOND);
    let mark = world.statements().len();

    let insert = || sqlx::raw_sql("INSERT INTO written VALUES (2)");
    let executed = insert().execute(&mut connection).await.map(drop);
    let streamed = insert().fetch(&mut connection).try_collect::<Vec<_>>().await.map(drop);
    for result in [executed, streamed] {
        let error = result.unwrap_err();
        let ours = Error::find(&error).expect("ours");
        assert_eq!((ours.kind(), ours.outcome()), (ErrorKind::Deadline, Outcome::NotSent), "{ours:#}");
    }
    drop(connection);
    let error = transaction.commit().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Deadline, Outcome::NotSent), "{error:#}");
    let written: i64 = sqlx::query_scalar("SELECT count(*) FROM written").fetch_one(&pool).await.unwrap();
    assert_eq!(written, 0);
    let sent = &world.statements()[mark..];
    assert!(!sent.iter().any(|sql| sql.contains("INSERT") || sql.contains("COMMIT")), "{sent:?}");
}

#[tokio::test]
async fn an_opening_or_rollback_that_is_not_answered_in_time_left_nothing() {
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().max_idle(2).build().unwrap()).unwrap();
    futures::future::join(pool.warm(), pool.warm()).await.0.unwrap();
    let transaction = pool.by(2 * SECOND).begin().await.unwrap();
    world.stop_answering(true);
    let error = pool.by(SECOND).begin().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Deadline, Outcome::NotExecuted), "{error:#}");
    let error = transaction.rollback().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Deadline, Outcome::RolledBack), "{error:#}");
}

#[tokio::test]
async fn a_commit_that_is_not_answered_in_time_has_the_code_of_an_unknown_commit() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    pool.warm().await.unwrap();
    let transaction = pool.by(SECOND).begin().await.unwrap();
    world.stop_answering(true);
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error:#}");
    assert_eq!((error.code(), error.outcome()), ("commit.unknown", Outcome::Unknown), "{error:#}");
}

#[tokio::test]
async fn close_takes_a_timeout_without_end() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    pool.warm().await.unwrap();
    assert!(pool.close(Duration::MAX).await);
}

#[tokio::test]
async fn no_more_than_max_idle_stay_when_waiters_gave_up() {
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().max_idle(0).max_connections(1).build().unwrap()).unwrap();
    let held = pool.acquire().await.unwrap();
    let mut waiting = Box::pin(pool.acquire());
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(held);
    drop(waiting);
    pool.settle().await;
    assert_eq!(pool.status().open, 0);
}

#[test]
fn a_second_runtime_keeps_its_connection_too() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let home = runtime();
    let Some(world) = home.block_on(World::start()) else { return };
    let pool = world.pool();
    let (first, second) = (runtime(), runtime());
    first.block_on(pool.warm()).unwrap();
    second.block_on(pool.warm()).unwrap();
    second.block_on(pool.warm()).unwrap();
    assert_eq!(pool.status().connects, 2, "one for each runtime");
}

#[tokio::test]
async fn a_connection_being_looked_at_by_settle_counts_against_the_maximum() {
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().max_idle(1).max_connections(1).build().unwrap()).unwrap();
    let mut connection = pool.acquire().await.unwrap();
    connection.lend().ping().await.unwrap();
    drop(connection);
    let mut settling = Box::pin(pool.settle());
    assert!(futures::poll!(&mut settling).is_pending());
    let mut acquiring = Box::pin(pool.acquire());
    assert!(futures::poll!(&mut acquiring).is_pending());
    assert_eq!(pool.status().open, 1);
    let ((), acquired) = futures::join!(settling, acquiring);
    drop(acquired.unwrap());
    assert_eq!(pool.status().connects, 1, "the one that was looked at is used");
}

#[tokio::test]
async fn a_table_that_changed_under_a_prepared_statement_is_not_noticed() {
    let Some((_world, pool)) = with_table().await else { return };
    let select = || sqlx::query("SELECT * FROM written");
    select().fetch_all(&pool).await.unwrap();
    sqlx::raw_sql("ALTER TABLE written ADD COLUMN m int").execute(&pool).await.unwrap();
    select().fetch_all(&pool).await.unwrap();

    sqlx::raw_sql("ALTER TABLE written ADD COLUMN o int").execute(&pool).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let error = select().fetch_all(&mut connection).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("0A000"));
    drop(connection);
    assert_eq!(pool.status().open, 0, "its statements are stale");
}

#[tokio::test]
async fn a_commit_answered_with_a_code_for_unknown_is_unknown() {
    let Some((_world, pool)) = with_table().await else { return };
    for code in ["08007", "40003"] {
        let trigger = format!(
            "DROP TABLE IF EXISTS odd; CREATE TABLE odd (n int); \
             CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$; \
             CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON odd DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(trigger)).execute(&pool).await.unwrap();
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("INSERT INTO odd VALUES (1)").execute(&mut transaction).await.unwrap();
        let error = transaction.commit().await.unwrap_err();
        assert_eq!((error.code(), error.outcome()), ("commit.unknown", Outcome::Unknown), "{code}");
    }
}

#[tokio::test]
async fn a_signer_that_nobody_polls_does_not_hold_up_the_others() {
    let Some(world) = World::start().await else { return };
    let provide = |asked| match asked {
        1 => pending().boxed(),
        _ => async { credentials() }.boxed(),
    };
    let config = world.config().credentials_provider(Provider::new(provide)).acquire_timeout(5 * SECOND);
    let pool = ProxyPool::new(config.build().unwrap()).unwrap();
    let mut stuck = Box::pin(pool.acquire());
    assert!(futures::poll!(&mut stuck).is_pending());
    pool.acquire().await.unwrap();
}

#[tokio::test]
async fn credentials_about_to_expire_that_are_refused_are_refused_at_once() {
    let Some(world) = World::start().await else { return };
    let wrong = World::wrong_credentials();
    let expiry = Some(world.clock.wall() + 30 * SECOND);
    let session = wrong.session_token().map(str::to_owned);
    let wrong = Credentials::new(wrong.access_key_id(), wrong.secret_access_key(), session, expiry, "test");
    let config = world.config().credentials_provider(wrong).acquire_timeout(2 * SECOND).build().unwrap();
    let error = ProxyPool::new(config).unwrap().acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Auth, "auth.refused"), "{error:#}");
    assert!(error.attempts() <= 2, "{error:#}");
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_by_each_of_many_who_connect_together() {
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().max_idle(6).build().unwrap()).unwrap();
    pool.warm().await.unwrap();
    world.rotate_keys();
    world.cut_all().await;
    world.clock.advance(60 * SECOND);
    let refused = futures::future::join_all((0..6).map(|_| pool.acquire())).await;
    let attempts: Vec<_> = refused.into_iter().map(|refused| refused.unwrap_err().attempts()).collect();
    assert!(attempts.iter().all(|attempts| *attempts <= 2), "{attempts:?}");
}

#[tokio::test]
async fn a_pool_that_is_closed_stops_connecting() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    world.refuse_connections(true).await;
    let connecting = pool.clone();
    let connecting = tokio::spawn(async move { connecting.acquire().await.map(drop) });
    while pool.status().connect_failures == 0 {
        tokio::task::yield_now().await;
    }
    assert!(pool.close(5 * SECOND).await, "nothing is being opened any more");
    assert_eq!(connecting.await.unwrap().unwrap_err().code(), "closed.pool");
}

/// A server without TLS that refuses the first login with `code` and counts those that follow.
async fn refuses_first(code: &'static str) -> (u16, Arc<AtomicU32>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, logins) = (server.local_addr().unwrap().port(), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&logins);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = server.accept().await {
            let _ = client.read(&mut [0; 1024]).await;
            // The second is told that its password is wrong, which ends the matter.
            let code = if count.fetch_add(1, Ordering::SeqCst) == 0 { code } else { "28P01" };
            let fields = format!("SFATAL\0VFATAL\0C{code}\0Mno\0\0");
            let mut answer = vec![b'E'];
            answer.extend(u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
            answer.extend(fields.as_bytes());
            let _ = client.write_all(&answer).await;
        }
    });
    (port, logins)
}

#[tokio::test]
async fn a_login_that_failed_for_a_passing_reason_is_tried_again() {
    for code in ["57014", "08006", "XX000", "58000"] {
        let (port, logins) = refuses_first(code).await;
        let endpoint = format!("localhost:{port}");
        let config = ProxyConfig::builder().endpoint(endpoint).user("app").password("secret").database("app");
        let pool = ProxyPool::new(config.danger_disable_tls().build().unwrap()).unwrap();
        let error = pool.acquire().await.unwrap_err();
        assert_eq!((logins.load(Ordering::SeqCst), error.code()), (2, "auth.refused"), "{code}: {error:#}");
    }
}

#[tokio::test]
async fn a_slow_provider_does_not_spend_the_time_of_connecting() {
    let Some(world) = World::start().await else { return };
    let clock = world.clock.clone();
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    // Takes two seconds of the pool's time.
    let provide = move |_| {
        let clock = clock.clone();
        count.fetch_add(1, Ordering::Relaxed);
        let slow = async move {
            for _ in 0..5 {
                clock.advance(Duration::from_millis(400));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            credentials()
        };
        slow.boxed()
    };
    let config = world.config().credentials_provider(Provider::new(provide)).connect_timeout(SECOND).build().unwrap();
    ProxyPool::new(config).unwrap().acquire().await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_plain_pool_is_not_waited_for_beyond_the_deadline() {
    let Some(world) = World::start().await else { return };
    let config = world.config().credentials_provider(Provider::new(|_| pending().boxed())).build().unwrap();
    let pool = ProxyPool::new(config).unwrap().by(SECOND);
    let made = tokio::time::timeout(5 * SECOND, pool.sqlx_pool()).await.expect("it answers");
    let error = made.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Deadline, "deadline.token"), "{error:#}");
}

#[tokio::test]
async fn close_waits_for_the_plain_pool_and_none_is_made_afterwards() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let held = pool.sqlx_pool().await.unwrap().acquire().await.unwrap();
    assert!(!pool.close(Duration::from_millis(50)).await, "one of its connections is in use");
    assert_eq!(pool.sqlx_pool().await.unwrap_err().code(), "closed.pool");
    drop(held);
    assert!(pool.close(5 * SECOND).await);
}

#[tokio::test]
async fn a_deadline_that_cannot_be_meant_leaves_the_one_before_it() {
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().max_idle(1).max_connections(1).build().unwrap()).unwrap();
    let _held = pool.acquire().await.unwrap();
    let error = pool.by(SECOND).by(SystemTime::UNIX_EPOCH).acquire().await.unwrap_err();
    assert!(error.waited() < 2 * SECOND, "{error:#}");
}

/// The sessions that exist lead to a server that takes bytes and never answers, as long as what is returned lives; new
/// ones to a good one.
async fn silence_existing(world: &World) -> Option<tokio::net::TcpListener> {
    let database = Postgres::shared().await?;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.proxy().set_backend(Backend::new(silent.local_addr().unwrap()), Existing::Move);
    let url = url::Url::parse(&database.url).unwrap();
    let host = (url.host_str().unwrap_or("localhost"), url.port().unwrap_or(5432));
    let address = tokio::net::lookup_host(host).await.unwrap().next().unwrap();
    let good = Backend::new(address).login(url.username(), url.password().unwrap_or_default());
    world.proxy().set_backend(good, Existing::Stay);
    Some(silent)
}

#[tokio::test]
async fn a_silent_session_is_replaced_within_the_acquire_timeout() {
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().acquire_timeout(2 * SECOND).build().unwrap()).unwrap();
    pool.warm().await.unwrap();
    let _silent = silence_existing(&world).await;
    world.clock.advance(60 * SECOND);
    pool.acquire().await.unwrap();
    assert_eq!(pool.status().connects, 2);
}

#[tokio::test]
async fn a_silent_session_is_replaced_before_a_transaction() {
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().acquire_timeout(2 * SECOND).build().unwrap()).unwrap();
    pool.warm().await.unwrap();
    let _silent = silence_existing(&world).await;
    world.clock.advance(60 * SECOND);
    pool.begin().await.unwrap().rollback().await.unwrap();
    assert_eq!(pool.status().connects, 2);
}
