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
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::OnceCell;

use super::process::{POLL, Process, Signal};
use template::{Installation, plain_environment};

#[cfg(feature = "docker-tests")]
mod docker;
mod pair;
mod template;

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

#[derive(Debug)]
struct Local {
    installation: Installation,
    dir: PathBuf,
    arguments: Vec<String>,
    process: Mutex<Option<Process>>,
}

/// A primary and a standby that follows it by streaming replication.
#[derive(Debug)]
pub struct Pair {
    /// Takes writes.
    pub primary: Postgres,
    /// Takes reads, and writes once promoted.
    pub standby: Postgres,
}

/// Whether a commit waits for the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// It does not: a failover may lose the newest commits.
    Asynchronous,
    /// It does, until the standby shows the change: nothing acknowledged is lost.
    Synchronous,
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

    /// Starts a primary and a standby; `None` when there is no PostgreSQL to start.
    pub async fn start_pair(replication: Replication) -> Option<Pair> {
        or_skip(Self::try_start_pair(replication).await)
    }

    /// As [`start`](Self::start), with the reason instead of a skip.
    pub async fn try_start() -> Result<Postgres, Failure> {
        match Installation::find() {
            Ok(installation) => {
                let dir = installation.fresh_dir()?;
                installation.create_cluster(&dir.join("data"))?;
                Self::start_local(installation, dir, Vec::new()).await
            }
            #[cfg(feature = "docker-tests")]
            Err(Failure::Missing) => docker::start().await,
            Err(failure) => Err(failure),
        }
    }

    /// As [`start_pair`](Self::start_pair), with the reason instead of a skip.
    pub async fn try_start_pair(replication: Replication) -> Result<Pair, Failure> {
        let installation = Installation::find()?;
        let primary = Self::try_start().await?;
        let dir = installation.fresh_dir()?;
        let data = dir.join("data").to_string_lossy().into_owned();
        let from = format!("host=127.0.0.1 port={} user=postgres", primary.port);
        let copy = ["-d", &from, "-D", &data, "-R", "-X", "stream", "-c", "fast", "--no-sync"];
        installation.run("pg_basebackup", &dir, &copy, "")?;
        let arguments = vec!["-c".to_owned(), "cluster_name=standby".to_owned()];
        let standby = Self::start_local(installation, dir, arguments).await?;
        let pair = Pair { primary, standby };
        pair.wait_replicated().await;
        if replication == Replication::Synchronous {
            pair.primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'").await;
            pair.primary.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'").await;
            pair.primary.execute("SELECT pg_reload_conf()").await;
            let synchronous = "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
            pair.primary.wait_until(synchronous).await;
        }
        Ok(pair)
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
        self.execute("SELECT pg_promote(true)").await;
        self.wait_until("SELECT NOT pg_is_in_recovery()").await;
    }

    /// An orderly stop that does not wait for clients: they are told (57P01) and disconnected.
    pub async fn stop_fast(&self) {
        self.stop(|process| process.signal(Signal::INT)).await;
    }

    /// The end without warning: every process of the server is killed.
    pub async fn kill9(&self) {
        self.stop(Process::kill_tree).await;
    }

    /// Starts it again after [`stop_fast`](Self::stop_fast) or [`kill9`](Self::kill9), on the same port and data.
    pub async fn start_again(&self) {
        let Place::Local(local) = &self.place else { panic!("only a server of this machine can be started again") };
        if let Err(failure) = local.run(self.port).await {
            panic!("{failure}");
        }
    }

    async fn stop(&self, how: impl FnOnce(&Process)) {
        match &self.place {
            Place::Local(local) => {
                let process = local.process.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(process) = process {
                    how(&process);
                    process.wait().await;
                }
            }
            #[cfg(feature = "docker-tests")]
            Place::Docker(container) => container.stop().await,
            Place::Elsewhere => panic!("the server of RDS_PROXY_POOL_POSTGRES_URL is not ours to stop"),
        }
    }

    async fn start_local(installation: Installation, dir: PathBuf, arguments: Vec<String>) -> Result<Self, Failure> {
        let local = Local { installation, dir, arguments, process: Mutex::new(None) };
        // The port is free when we look; somebody may take it before the server does, so look again.
        let mut attempt = 0;
        let port = loop {
            attempt += 1;
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            match local.run(port).await {
                Ok(()) => break port,
                Err(failure) if attempt == 3 => return Err(failure),
                Err(_) => {}
            }
        };
        Ok(Self::at(port, Place::Local(local)))
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

impl Local {
    /// Starts the server and waits until its own status file says that it accepts connections.
    async fn run(&self, port: u16) -> Result<(), Failure> {
        let launch = self.installation.launch("postgres");
        let log = self.dir.join("log");
        let mut command = launch.command();
        command.arg("-D").arg(self.dir.join("data")).args(["-p", &port.to_string()]).args(&self.arguments);
        plain_environment(&mut command, &self.dir);
        let output = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        command.current_dir(&self.dir).stdout(output.try_clone()?).stderr(output);
        let process = launch.spawn(command)?;
        let deadline = Instant::now() + PATIENCE;
        let id = process.id().to_string();
        loop {
            let status = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
            let line = |number| status.lines().nth(number).unwrap_or_default().trim();
            if line(0) == id && matches!(line(7), "ready" | "standby") {
                break;
            }
            if process.try_wait().is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(Failure::Broken(format!("PostgreSQL did not start:\n{log}")));
            }
            tokio::time::sleep(POLL).await;
        }
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        Ok(())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        drop(self.process.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn or_skip<T>(found: Result<T, Failure>) -> Option<T> {
    let set = |name: &str| std::env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    match found {
        Ok(found) => Some(found),
        Err(Failure::Missing) if !set("RDS_PROXY_POOL_REQUIRE_SERVERS") && !set("CI") => {
            eprintln!("SKIPPED: {HOW_TO_GET_ONE}");
            None
        }
        Err(failure) => panic!("{failure}"),
    }
}
