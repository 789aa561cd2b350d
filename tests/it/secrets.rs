//! No password, token or key in anything that can be printed.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rds_proxy_pool::{EnvironmentCredentials, LazyProxyPool, ProxyConfig, ProxyPool, Secret};
use sqlx::Executor;

use crate::support::world::World;

const PASSWORD: &str = "correct-horse-battery-staple";

#[derive(Clone, Default)]
pub(super) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Every way to print a thing.
macro_rules! printed {
    ($out:expr, $($thing:expr),+ $(,)?) => {{
        $(writeln!($out, "{:?} {:#?}", $thing, $thing).unwrap();)+
    }};
}

macro_rules! printed_error {
    ($out:expr, $error:expr) => {{
        let error = $error;
        writeln!($out, "{error} {error:#} {error:?} {error:#?}").unwrap();
    }};
}

#[tokio::test]
async fn no_secret_is_in_anything_printed_or_logged() {
    let written = Written::default();
    let mut out = written.clone();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::level_filters::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);

    // By token: a good life, a refusal, a lost connection, a deadline.
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    printed!(out, pool, pool.config(), pool.status(), world.config());
    let mut connection = pool.acquire().await.unwrap();
    printed!(out, connection);
    connection.execute("SELECT 1").await.unwrap();
    drop(connection);
    let transaction = pool.begin().await.unwrap();
    printed!(out, transaction);
    transaction.commit().await.unwrap();
    let refused = world.config().credentials_provider(World::wrong_credentials()).build().unwrap();
    let error = ProxyPool::new(refused).unwrap().acquire().await.unwrap_err();
    printed_error!(out, &error);
    printed_error!(out, sqlx::Error::from(error));
    world.refuse_connections(true).await;
    world.cut_all().await;
    let error = sqlx::query("SELECT 1").execute(&pool.by(Duration::from_millis(500))).await.unwrap_err();
    printed_error!(out, &error);

    // By password: a good life, a wrong one, and every place it passes through.
    let Some(world) = World::start().await else { return };
    let by_password = |password: &str| world.config().user(World::PASSWORD_USER).password(password);
    world.set_password(PASSWORD);
    let pool = ProxyPool::new(by_password(PASSWORD).build().unwrap()).unwrap();
    pool.warm().await.unwrap();
    printed!(out, by_password(PASSWORD), pool, pool.config(), pool.config().auth(), pool.sqlx_pool().await.is_ok());
    let wrong = ProxyPool::new(by_password("correct-horse-but-wrong").build().unwrap()).unwrap();
    printed_error!(out, wrong.acquire().await.unwrap_err());
    let url = format!("postgres://u:{PASSWORD}@localhost/d");
    for url in [url.clone(), format!("{url}?sslmode=disable"), url.replace("localhost", "local host")] {
        match ProxyConfig::builder().database_url(&url).build() {
            Ok(config) => printed!(out, config),
            Err(error) => printed_error!(out, error),
        }
    }
    static LAZY: LazyProxyPool = LazyProxyPool::new(|| Err(ProxyConfig::builder().build().unwrap_err()));
    printed_error!(out, LAZY.get().await.unwrap_err());
    printed!(out, Secret::from(PASSWORD), EnvironmentCredentials);

    let written = written.text();
    assert!(written.contains("sending a statement"), "the log was captured");
    let (_, secret_key, session_token) = World::keys();
    let secrets = [
        ("password", PASSWORD),
        ("wrong password", "correct-horse-but-wrong"),
        ("secret key", secret_key),
        ("session token", session_token.as_deref().unwrap_or("no session token is in use")),
        ("token", "X-Amz-Signature="),
    ];
    for (what, secret) in secrets {
        if let Some(at) = written.find(secret) {
            panic!("the {what} was printed: …{}", &written[at.saturating_sub(300)..at]);
        }
    }
}
