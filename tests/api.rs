//! The public names, what they are, and the defaults as literals.

use std::time::{Duration, SystemTime};

use rds_proxy_pool::postgres::Tx;
use rds_proxy_pool::{
    Access, Deadline, EnvironmentCredentials, Error, ErrorKind, Isolation, LazyProxyPool, OnceKey, Outcome, Phase,
    PoolCounts, ProxyConfig, ProxyConfigBuilder, ProxyPool, Secret, Status, TransactionOptions,
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
    is_send_and_sync::<OnceKey>();
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
    let captured = &borrowed;
    is_send(&pool.transaction_once(OnceKey::new("scope", "key"), |mut tx| async move {
        sqlx::query_scalar::<_, String>("SELECT $1").bind(captured).fetch_one(&mut tx).await
    }));
    is_send(&pool.purge_once(Duration::ZERO));
    is_send(&async {
        let mut transaction = pool.begin().await?;
        sqlx::query("SELECT $1").bind(&borrowed).execute(&mut transaction).await?;
        transaction.commit().await?;
        let mut connection = pool.acquire().await?;
        sqlx::query("SELECT $1").bind(&borrowed).execute(&mut connection).await?;
        connection.lend();
        let handle = pool.by(SystemTime::now()).idempotent().resolved();
        sqlx::query_scalar::<_, String>("SELECT $1").bind(&borrowed).fetch_one(&handle).await
    });
    tokio::spawn(async move { sqlx::query("SELECT 1").execute(&pool).await });
}

/// A user's error.
#[allow(dead_code)]
enum Mine {
    Rule,
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Mine {
    fn from(error: sqlx::Error) -> Self {
        Mine::Database(error)
    }
}

async fn helper(tx: &mut Tx, n: i64) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT $1").bind(n).fetch_one(tx).await
}

/// Compiled, never run: the forms of closures that the documentation promises.
#[allow(dead_code)]
async fn closures_of_every_form(pool: ProxyPool, names: Vec<String>) -> Result<(), Mine> {
    let borrowed = String::from("captured");
    let mut runs = 0;
    let by_reference = pool.transaction(|mut tx| {
        runs += 1;
        let borrowed = &borrowed;
        async move { sqlx::query("SELECT $1").bind(borrowed).execute(&mut tx).await.map(drop) }
    });
    is_send(&by_reference);
    by_reference.await?;

    let names = &names;
    let work = pool.transaction(|mut tx| async move {
        for name in names {
            sqlx::query("SELECT $1").bind(name).execute(&mut tx).await?;
        }
        let mut savepoint = tx.savepoint().await.map_err(sqlx::Error::from)?;
        sqlx::query("SELECT 1").execute(&mut savepoint).await?;
        savepoint.release().await.map_err(sqlx::Error::from)?;
        if helper(&mut tx, 7).await? == 7 { Err(Mine::Rule) } else { Ok(names.len()) }
    });
    is_send(&work);
    work.await?;

    let options = TransactionOptions::new().isolation(Isolation::Serializable);
    let handle = pool.by(Duration::from_secs(3));
    is_send(&handle.transaction_with(options, |mut tx| async move { helper(&mut tx, 1).await }));

    let owned = pool.clone();
    let name = borrowed.clone();
    tokio::spawn(async move {
        let name = &name;
        let insert = |mut tx: Tx| async move { sqlx::query("SELECT $1").bind(name).execute(&mut tx).await };
        owned.by(SystemTime::now()).transaction(insert).await
    });
    Ok(())
}

/// Compiled, never run: as a handler of `lambda_runtime`, which may run several at once.
#[allow(dead_code)]
fn as_a_handler(pool: &'static ProxyPool) -> impl Future<Output = Result<(), lambda_runtime::Error>> {
    lambda_runtime::run_concurrent(lambda_runtime::service_fn(
        move |event: lambda_runtime::LambdaEvent<i64>| async move {
            let n = event.payload;
            let pool = pool.by(event.context.deadline());
            pool.transaction(|mut tx| async move { helper(&mut tx, n).await })
                .await
                .map_err(lambda_runtime::Error::from)
        },
    ))
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
    assert_eq!(config.once_table(), "rds_proxy_pool_once");
}
