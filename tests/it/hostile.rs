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
    let writing = pool.idempotent().by(2 * SECOND);
    for streamed in [false, true] {
        let mark = world.statements().len();
        let writing = writing.by(2 * SECOND);
        let running = tokio::spawn(async move {
            let insert = sqlx::query("INSERT INTO written SELECT 1 FROM pg_sleep(0.4)");
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

