//! No connect carries a token the proxy would refuse: the proxy is the judge, by the same clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use rds_proxy_pool::clock::{AdjustableClock, Clock};
use rds_proxy_pool::{ErrorKind, Phase, ProxyPool};

use crate::support::world::World;

const MINUTE: Duration = Duration::from_secs(60);

async fn reconnects(world: &World, pool: &ProxyPool) {
    world.cut_all().await;
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(pool).await.unwrap();
    assert_eq!(one, 1);
    assert_eq!(world.logins_refused(), 0, "no login was refused");
}

#[tokio::test]
async fn a_token_is_used_again_for_less_than_fourteen_minutes_and_then_replaced() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    reconnects(&world, &pool).await;
    world.clock.advance(13 * MINUTE);
    reconnects(&world, &pool).await;
    assert_eq!(pool.status().tokens_signed, 1, "13 minutes old: the same token");
    world.clock.advance(MINUTE);
    reconnects(&world, &pool).await;
    assert_eq!(pool.status().tokens_signed, 2, "14 minutes old: another");
    world.clock.advance(15 * MINUTE);
    reconnects(&world, &pool).await;
    world.clock.advance(20 * MINUTE);
    reconnects(&world, &pool).await;
    world.clock.advance_wall(20 * MINUTE);
    reconnects(&world, &pool).await;
    world.clock.set_wall_back(60 * MINUTE);
    reconnects(&world, &pool).await;
    assert_eq!(pool.status().tokens_signed, 6);
}

/// Credentials that live for five minutes from when they were asked for, like a container's endpoint gives them.
#[derive(Debug)]
struct ShortLived {
    clock: AdjustableClock,
    life: Duration,
    asked: Arc<AtomicU64>,
}

impl ProvideCredentials for ShortLived {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (key, secret, session) = World::keys();
        let expiry = self.clock.wall() + self.life;
        future::ProvideCredentials::ready(Ok(Credentials::new(key, secret, session, Some(expiry), "test")))
    }
}

#[tokio::test]
async fn a_token_does_not_outlive_the_credentials_that_signed_it() {
    let Some(world) = World::start().await else { return };
    let asked = Arc::new(AtomicU64::new(0));
    let provider = ShortLived { clock: world.clock.clone(), life: 5 * MINUTE, asked: Arc::clone(&asked) };
    let pool = ProxyPool::new(world.config().credentials_provider(provider).build().unwrap()).unwrap();
    world.expire_credentials_in(5 * MINUTE);
    reconnects(&world, &pool).await;
    world.clock.advance(3 * MINUTE + MINUTE / 2);
    reconnects(&world, &pool).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    world.clock.advance(MINUTE);
    world.expire_credentials_in(5 * MINUTE);
    reconnects(&world, &pool).await;
    assert_eq!(asked.load(Ordering::Relaxed), 2, "4.5 minutes old: fresh credentials");
}

#[tokio::test]
async fn expired_credentials_are_an_error_of_their_own_and_nothing_is_sent() {
    let Some(world) = World::start().await else { return };
    let (key, secret, session) = World::keys();
    let expiry = world.clock.wall() - MINUTE;
    let expired = SharedCredentialsProvider::new(Credentials::new(key, secret, session, Some(expiry), "test"));
    let pool = ProxyPool::new(world.config().credentials_provider(expired).build().unwrap()).unwrap();
    let error = pool.acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Credentials, "credentials.expired"));
    assert_eq!(error.phase(), Some(Phase::Token));
    assert_eq!(world.connections_accepted(), 0);
}

#[tokio::test]
async fn a_cached_token_that_is_refused_is_tried_once_more_with_fresh_credentials() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    reconnects(&world, &pool).await;
    world.rotate_keys();
    world.cut_all().await;
    let pool_now = ProxyPool::new(world.config().credentials_provider(world.rotating()).build().unwrap()).unwrap();
    pool_now.warm().await.unwrap();
    world.rotate_keys();
    world.cut_all().await;
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&pool_now).await.unwrap();
    assert_eq!(one, 1);
    assert_eq!(world.logins_refused(), 1, "the cached token, once");
    assert_eq!(pool_now.status().tokens_signed, 2);
}

#[tokio::test]
async fn many_connects_at_once_sign_one_token() {
    let Some(world) = World::start().await else { return };
    let asked = Arc::new(AtomicU64::new(0));
    let provider = ShortLived { clock: world.clock.clone(), life: 60 * MINUTE, asked: Arc::clone(&asked) };
    let config = world.config().credentials_provider(provider).max_idle(8).max_connections(8).build().unwrap();
    let pool = ProxyPool::new(config).unwrap();
    let connections = futures::future::join_all((0..8).map(|_| pool.acquire())).await;
    assert!(connections.iter().all(Result::is_ok));
    assert_eq!((pool.status().tokens_signed, asked.load(Ordering::Relaxed)), (1, 1));
}
