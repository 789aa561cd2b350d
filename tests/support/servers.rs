//! Real PostgreSQL for tests.
//!
//! Looked for in this order:
//!
//! 1. a server named by `RDS_PROXY_POOL_POSTGRES_URL`, for what needs a database and does no harm to the server,
//! 2. server binaries: the directory `RDS_PROXY_POOL_POSTGRES_BIN`, `PATH`, the newest of `/usr/lib/postgresql`,
//! 3. Docker, with the feature `docker-tests`: the image `RDS_PROXY_POOL_POSTGRES_IMAGE` (default `postgres:16`).
//!
//! Without any of them the functions return `None` after saying how to get one, and the test is skipped; where
//! `RDS_PROXY_POOL_REQUIRE_SERVERS=1` or `CI=true` is set, they panic instead. A server that is there and does not
//! start is always a panic.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::OnceCell;

use super::process::{POLL, Signal};
use super::tools;
use local::Local;
use template::Installation;

#[cfg(feature = "docker-tests")]
mod docker;
mod local;
pub mod pair;
pub mod pgbouncer;
mod template;

pub use pair::{Pair, Replication};

/// How long a server may take for anything; far more than it does.
const PATIENCE: Duration = Duration::from_secs(60);

const HOW_TO_GET_ONE: &str = "no PostgreSQL for this test. Any one of these gives it one:
  - install the server: apt-get install postgresql (or run .ci/setup); no cluster needs to run
  - RDS_PROXY_POOL_POSTGRES_BIN=<directory with initdb and postgres>
  - RDS_PROXY_POOL_POSTGRES_URL=postgres://superuser@host/postgres (tests that stop the server still need binaries)
  - Docker: cargo test --features docker-tests";

/// Why there is no server.
#[derive(Debug)]
pub enum Failure {
    /// None was found: a reason to skip.
    Missing,
    /// One was found and did not do as told.
    Broken(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Missing => f.write_str(HOW_TO_GET_ONE),
            Failure::Broken(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Broken(error.to_string())
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Failure::Broken(error.to_string())
    }
}

/// A database of one's own.
#[derive(Debug)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Its address with the role that owns it.
    pub url: String,
    /// The same database as superuser.
    pub superuser_url: String,
}

/// A PostgreSQL of one's own on 127.0.0.1, stopped and removed when dropped.
///
/// It has the superuser `postgres`, the role and database `app`, and believes whoever connects, except the role
/// `with_password`, whose password is `a password`.
#[derive(Debug)]
pub struct Postgres {
    url: PgConnectOptions,
    port: u16,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Named by the environment; not ours to stop.
    Elsewhere,
    Local(Local),
    #[cfg(feature = "docker-tests")]
    Docker(docker::Container),
}

impl Postgres {
    /// Starts a primary; `None` when there is no PostgreSQL to start.
    pub async fn start() -> Option<Postgres> {
        or_skip(Self::try_start().await)
    }

    /// A fresh database on a server that all callers in this process share; `None` when there is none.
    ///
    /// Not for tests that stop the server.
    pub async fn shared() -> Option<Database> {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        let found = SHARED
            .get_or_try_init(|| async {
                match std::env::var("RDS_PROXY_POOL_POSTGRES_URL") {
                    Ok(url) => Self::elsewhere(&url),
                    Err(_) => Self::try_start().await,
                }
            })
            .await;
        Some(or_skip(found)?.database().await)
    }

    /// As [`start`](Self::start), with the reason instead of a skip.
    pub async fn try_start() -> Result<Postgres, Failure> {
        match Installation::find() {
            Ok(installation) => {
                let local = Local::new(installation)?;
                local.create().await?;
                Ok(Self::at(local.start().await?, Place::Local(local)))
            }
            #[cfg(feature = "docker-tests")]
            Err(Failure::Missing) => docker::start().await,
            Err(failure) => Err(failure),
        }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The database `postgres` as superuser.
    pub fn superuser_url(&self) -> String {
        self.url.to_url_lossy().to_string()
    }

    /// The database `app` as its owner, the role `app`.
    pub fn url(&self) -> String {
        self.url.clone().username("app").database("app").to_url_lossy().to_string()
    }

    /// How to connect as superuser.
    pub fn options(&self) -> PgConnectOptions {
        self.url.clone()
    }

    /// A connection as superuser.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect_with(&self.url).await
    }

    /// Runs statements as superuser on a connection of their own.
    pub async fn execute(&self, sql: &'static str) {
        let run = async {
            let mut connection = self.connect().await?;
            sqlx::raw_sql(sql).execute(&mut connection).await?;
            connection.close().await
        };
        if let Err(error) = run.await {
            panic!("{sql}: {error}");
        }
    }

    /// Polls a query that returns one boolean until it is true.
    pub async fn wait_until(&self, sql: &'static str) {
        let deadline = Instant::now() + PATIENCE;
        let mut connection = self.connect().await.expect("the server accepts connections");
        while !sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut connection).await.expect("the server answers") {
            assert!(Instant::now() < deadline, "not true within {PATIENCE:?}: {sql}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// A new, empty database that the role `app` owns.
    pub async fn database(&self) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let create = async {
            let mut connection = self.connect().await?;
            let owner = if matches!(self.place, Place::Elsewhere) { "" } else { "OWNER app" };
            let sql = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} {owner}"));
            sqlx::raw_sql(sql).execute(&mut connection).await?;
            connection.close().await
        };
        if let Err(error) = create.await {
            panic!("cannot create a database for the test: {error}");
        }
        let superuser = self.url.clone().database(&name);
        let superuser_url = superuser.to_url_lossy().to_string();
        let url = match self.place {
            Place::Elsewhere => superuser_url.clone(),
            _ => superuser.username("app").to_url_lossy().to_string(),
        };
        Database { name, url, superuser_url }
    }

    /// Completes when connections are accepted; at once when they are already.
    pub async fn wait_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.connect().await {
            assert!(Instant::now() < deadline, "no connection within {PATIENCE:?}: {error}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Makes a standby the new primary; completes when it takes writes.
    pub async fn promote(&self) {
        // Its own way of waiting looks ten times a second.
        self.execute("SELECT pg_promote(false)").await;
        self.wait_until("SELECT NOT pg_is_in_recovery()").await;
    }

    /// An orderly stop that does not wait for clients: they are told (57P01) and disconnected.
    pub async fn stop_fast(&self) {
        self.stop(Signal::INT).await;
    }

    /// The end without warning: every process of the server is killed.
    pub async fn kill9(&self) {
        self.stop(Signal::KILL).await;
    }

    /// Starts it again after [`stop_fast`](Self::stop_fast) or [`kill9`](Self::kill9), on the same port and data.
    pub async fn start_again(&self) {
        let Place::Local(local) = &self.place else { panic!("only a server of this machine can be started again") };
        if let Err(failure) = local.run(self.port).await {
            panic!("{failure}");
        }
    }

    async fn stop(&self, signal: Signal) {
        match &self.place {
            Place::Local(local) => local.stop(signal).await,
            #[cfg(feature = "docker-tests")]
            Place::Docker(container) => container.stop().await,
            Place::Elsewhere => panic!("the server of RDS_PROXY_POOL_POSTGRES_URL is not ours to stop"),
        }
    }

    fn at(port: u16, place: Place) -> Self {
        let url = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port);
        let url = url.username("postgres").database("postgres").ssl_mode(PgSslMode::Disable);
        Postgres { url: url.disable_statement_logging(), port, place }
    }

    fn elsewhere(url: &str) -> Result<Self, Failure> {
        let url: PgConnectOptions = url.parse()?;
        Ok(Postgres { port: url.get_port(), url: url.disable_statement_logging(), place: Place::Elsewhere })
    }
}

fn or_skip<T>(found: Result<T, Failure>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(Failure::Missing) => {
            tools::skip(HOW_TO_GET_ONE);
            None
        }
        Err(failure) => panic!("{failure}"),
    }
}
