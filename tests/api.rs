//! The public names, what they are, and the defaults as literals.

use std::time::{Duration, SystemTime};

use rds_proxy_pool::{
    Access, Deadline, EnvironmentCredentials, Error, ErrorKind, LazyProxyPool, Outcome, Phase, PoolCounts, ProxyConfig,
    ProxyConfigBuilder, ProxyPool, Secret, Status,
};

fn is_send_and_sync<T: Send + Sync>() {}
fn is_send<T: Send>(_: &T) {}

#[test]
fn public_types_can_be_shared_between_threads() {
    is_send_and_sync::<ProxyPool>();
    is_send_and_sync::<LazyProxyPool>();
    is_send_and_sync::<ProxyConfig>();
    is_send_and_sync::<ProxyConfigBuilder>();
    is_send_and_sync::<Error>();
    is_send_and_sync::<(Access, Deadline, EnvironmentCredentials, ErrorKind, Outcome, Phase)>();
    is_send_and_sync::<(PoolCounts, Secret, Status)>();
    is_send_and_sync::<rds_proxy_pool::postgres::ProxyConnection>();
    is_send_and_sync::<rds_proxy_pool::postgres::ProxyTransaction>();
}

/// Compiled, never run: `tokio::spawn`, axum and concurrent runtimes need every future to be `Send`.
#[allow(dead_code)]
fn futures_can_be_spawned(pool: ProxyPool) {
    let borrowed = String::from("captured");
    is_send(&pool.acquire());
    is_send(&pool.begin());
    is_send(&pool.warm());
    is_send(&pool.settle());
    is_send(&pool.close(Duration::ZERO));
    is_send(&pool.sqlx_pool());
    is_send(&ProxyPool::get());
    is_send(&async {
        let mut transaction = pool.begin().await?;
        sqlx::query("SELECT $1").bind(&borrowed).execute(&mut transaction).await?;
        transaction.commit().await?;
        let mut connection = pool.acquire().await?;
        sqlx::query("SELECT $1").bind(&borrowed).execute(&mut connection).await?;
        connection.lend();
        let handle = pool.by(SystemTime::now()).idempotent();
        sqlx::query_scalar::<_, String>("SELECT $1").bind(&borrowed).fetch_one(&handle).await
    });
    tokio::spawn(async move { sqlx::query("SELECT 1").execute(&pool).await });
}

#[test]
fn defaults_are_what_the_documentation_says() {
    let config = ProxyConfig::builder().endpoint("localhost").user("u").database("d").password("p").build().unwrap();
    assert_eq!(config.max_idle(), 1);
    assert_eq!(config.max_connections(), 4);
    assert_eq!(config.acquire_timeout(), Duration::from_secs(2));
    assert_eq!(config.connect_timeout(), Duration::from_secs(5));
    assert_eq!(config.syn_timeout(), Duration::from_secs(1));
    assert_eq!(config.margin(), Duration::from_millis(250));
    assert_eq!(config.min_attempt(), Duration::from_millis(100));
    assert_eq!(config.validate_after(), Duration::from_secs(1));
    assert_eq!(config.ping_timeout(), Duration::from_secs(2));
    assert_eq!(config.idle_limit(), Duration::from_secs(25 * 60));
    assert_eq!(config.max_lifetime(), Duration::from_secs(12 * 60 * 60));
    assert_eq!(config.access(), Access::ReadWrite);
    assert_eq!(config.call_timeout(), None);
    assert_eq!(config.statement_cache_capacity(), 100);
}
