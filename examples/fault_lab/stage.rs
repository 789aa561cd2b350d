//! The servers, the emulator before them, and what the workers share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use rds_proxy_pool::clock::AdjustableClock;
use rds_proxy_pool::emulator::{AccessKey, Backend, Existing, RdsProxyEmulator};
use rds_proxy_pool::{CommitMarkers, ProxyConfig, ProxyPool};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::RwLock;

use crate::Outcome;
use crate::client::{Client, DEADLINE};
use crate::kernel::Kernel;
use crate::plan::{Local, Plan};
use crate::support::servers::{Pair, Postgres, Replication};
use crate::watch::Watch;

const USER: &str = "app";
/// A user for sqlx's own pool, which cannot sign.
const PASSWORD_USER: &str = "by_password";
const PASSWORD: &str = "a password";
const DATABASE: &str = "app";
const KEY: &str = "ASIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const SESSION_TOKEN: &str = "a-session-token-as-lambda-has-one";
/// So many workers have a pool together.
const PER_POOL: usize = 4;
/// A login that is never answered must leave time for another.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);
/// Registers are written by several workers.
pub(crate) const SHARED: usize = 3;

const TABLES: &str = "
    CREATE TABLE counter (id bigint PRIMARY KEY, n bigint NOT NULL);
    CREATE TABLE increment (op bigint NOT NULL, counter bigint NOT NULL);
    CREATE TABLE entry (op bigint NOT NULL);
    CREATE TABLE item (id bigint PRIMARY KEY, version bigint NOT NULL);
    CREATE TABLE register (id bigint PRIMARY KEY, op bigint NOT NULL);
    CREATE TABLE overwrite (at bigserial, op bigint NOT NULL, register bigint NOT NULL);";
const EMPTY: &str = "
    TRUNCATE counter, increment, entry, item, register, overwrite;
    INSERT INTO counter SELECT id, 0 FROM generate_series(0, 255) AS id;
    INSERT INTO register SELECT id, 0 FROM generate_series(0, 255) AS id;";

/// A time in which a fault was at work on everybody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) name: &'static str,
    pub(crate) begin: Instant,
    /// When everybody could be served again, if for a while nobody was.
    pub(crate) served: Option<Instant>,
    pub(crate) end: Instant,
    /// Nothing was under way: no unknown outcome comes from that.
    pub(crate) idle: bool,
    /// Everybody met it; otherwise one call did, and which one is not known.
    pub(crate) for_all: bool,
    /// Reads were served all the time.
    pub(crate) writes_only: bool,
}

impl Window {
    /// How much longer it lasts for whoever has begun to connect in it: packets that were dropped are sent again only after
    /// a while, and an attempt is given half of its time before the next.
    pub(crate) fn unnoticed(&self) -> Duration {
        if self.name.contains("dropped") { CONNECT_TIMEOUT / 2 } else { Duration::ZERO }
    }

    /// Whom it met may have had no connection until the timeout, or had to begin anew.
    pub(crate) fn of_login((begin, slow): (Instant, bool)) -> Window {
        let (name, lasts) = if slow { ("slow_login", CONNECT_TIMEOUT) } else { ("failed_login", Duration::ZERO) };
        let end = begin + lasts;
        Window { name, begin, served: Some(end), end, idle: true, writes_only: false, for_all: false }
    }
}

pub(crate) struct Stage {
    pub(crate) pair: Pair,
    pub(crate) proxy: RdsProxyEmulator,
    pub(crate) clock: AdjustableClock,
    pub(crate) kernel: Kernel,
    /// Held by every call; whoever has it alone knows that nothing is under way.
    pub(crate) gate: RwLock<()>,
    next: AtomicI64,
}

/// One run with one kind of client.
pub(crate) struct Run<'s> {
    pub(crate) stage: &'s Stage,
    pub(crate) watch: Watch,
    pub(crate) windows: Mutex<Vec<Window>>,
    pub(crate) done: AtomicBool,
    pub(crate) global_done: AtomicU64,
    pub(crate) global_all: u64,
    local: Mutex<VecDeque<Local>>,
    local_all: u64,
    pub(crate) local_struck: AtomicU64,
    /// These strike whoever logs in next.
    pub(crate) logins_injected: AtomicU64,
}

impl Stage {
    pub(crate) async fn start() -> Outcome<Stage> {
        let pair = Postgres::try_start_pair(Replication::Synchronous).await?;
        let clock = AdjustableClock::new();
        let proxy = RdsProxyEmulator::builder(backend(pair.primary()))
            .iam_user(USER)
            .password_user(PASSWORD_USER, PASSWORD)
            .access_key(AccessKey::new(KEY, SECRET).session_token(SESSION_TOKEN))
            .clock(clock.clone())
            .start()?;
        let mut owner = PgConnection::connect(&pair.primary().url()).await?;
        sqlx::raw_sql(TABLES).execute(&mut owner).await?;
        owner.close().await?;
        Ok(Stage { pair, proxy, clock, kernel: Kernel::find().await, gate: RwLock::new(()), next: AtomicI64::new(1) })
    }

    /// A number nobody has had.
    pub(crate) fn number(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The database as its owner, the proxy apart.
    pub(crate) async fn owner(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&self.pair.primary().url()).await
    }

    pub(crate) async fn empty_tables(&self) -> Outcome<()> {
        let mut owner = self.owner().await?;
        sqlx::raw_sql(EMPTY).execute(&mut owner).await?;
        Ok(owner.close().await?)
    }

    /// This crate's pools, one for a few workers.
    pub(crate) fn our_clients(&self, workers: usize, markers: &CommitMarkers) -> Outcome<Vec<Client>> {
        let config = || {
            ProxyConfig::builder()
                .endpoint(format!("{}:{}", self.proxy.host(), self.proxy.port()))
                .user(USER)
                .database(DATABASE)
                .region("us-east-1")
                .credentials_provider(Credentials::new(KEY, SECRET, Some(SESSION_TOKEN.to_owned()), None, "fault_lab"))
                .ca_pem(self.proxy.ca_pem().as_bytes().to_vec())
                .max_connections(PER_POOL)
                .max_idle(PER_POOL)
                .connect_timeout(CONNECT_TIMEOUT)
                .commit_markers(markers.clone())
                .clock(self.clock.clone())
                .build()
        };
        let pools: Result<Vec<_>, _> = (0..workers.div_ceil(PER_POOL)).map(|_| ProxyPool::new(config()?)).collect();
        Ok(pools?.into_iter().map(Client::Ours).collect())
    }

    /// sqlx's pools, as many.
    pub(crate) fn sqlx_clients(&self, workers: usize, client: impl Fn(PgPool) -> Client) -> Vec<Client> {
        let options = PgConnectOptions::new_without_pgpass()
            .host(self.proxy.host())
            .port(self.proxy.port())
            .username(PASSWORD_USER)
            .password(PASSWORD)
            .database(DATABASE)
            .ssl_mode(PgSslMode::VerifyFull)
            .ssl_root_cert_from_pem(self.proxy.ca_pem().as_bytes().to_vec())
            .disable_statement_logging();
        let pool = || {
            let pool = PgPoolOptions::new().max_connections(PER_POOL as u32).acquire_timeout(DEADLINE);
            pool.connect_lazy_with(options.clone())
        };
        (0..workers.div_ceil(PER_POOL)).map(|_| client(pool())).collect()
    }

    /// Everything as it should be: completes when nothing of a client is left anywhere.
    pub(crate) async fn settle(&self) {
        self.proxy.clear_faults();
        self.proxy.resume_answering();
        self.proxy.accept_connections().await;
        self.proxy.set_connection_rate_limit(None);
        self.proxy.set_iam_rate_limit(None);
        self.lead_to_the_primary(Existing::Move);
        self.proxy.cut_all().await;
        let nobody = "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'app'";
        self.pair.primary().wait_until(nobody).await;
    }

    /// Kills one of the primary's processes that serves a client, as the kernel does when memory is short; false where
    /// there is none.
    pub(crate) async fn kill_a_process(&self) -> Outcome<bool> {
        let mut superuser = self.pair.primary().connect().await?;
        let any = "SELECT pid FROM pg_stat_activity WHERE usename = 'app' ORDER BY random() LIMIT 1";
        let pid: Option<i32> = sqlx::query_scalar(any).fetch_optional(&mut superuser).await?;
        let pid = pid.and_then(Pid::from_raw);
        // One that has ended meanwhile is none.
        Ok(pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok()))
    }

    pub(crate) fn lead_to_the_primary(&self, existing: Existing) {
        self.proxy.set_backend(backend(self.pair.primary()), existing);
    }

    pub(crate) fn lead_to_the_standby(&self, existing: Existing) {
        self.proxy.set_backend(backend(self.pair.standby()), existing);
    }
}

fn backend(server: &Postgres) -> Backend {
    Backend::new(server.address()).login(USER, "")
}

impl<'s> Run<'s> {
    pub(crate) fn new(stage: &'s Stage, workers: usize, plan: &Plan) -> Self {
        Run {
            stage,
            watch: Watch::new(&stage.proxy, workers),
            windows: Mutex::default(),
            done: AtomicBool::new(false),
            global_done: AtomicU64::new(0),
            global_all: plan.global.len() as u64,
            local: Mutex::new(plan.local.clone()),
            local_all: plan.local.len() as u64,
            local_struck: AtomicU64::new(0),
            logins_injected: AtomicU64::new(0),
        }
    }

    /// The next fault for one connection, if it is time: they are spread over the run.
    pub(crate) fn next_local(&self) -> Option<Local> {
        let mut local = lock(&self.local);
        let taken = self.local_all - local.len() as u64;
        let due = self.local_all * (self.global_done.load(Ordering::Relaxed) + 1) / (self.global_all + 1);
        if taken < due { local.pop_front() } else { None }
    }

    /// One that met nobody.
    pub(crate) fn put_back(&self, fault: Local) {
        lock(&self.local).push_front(fault);
    }

    pub(crate) fn local_left(&self) -> u64 {
        let struck = self.local_struck.load(Ordering::Relaxed) + self.logins_injected.load(Ordering::Relaxed);
        self.local_all.saturating_sub(struck)
    }

    /// Faults that have happened.
    pub(crate) fn faults(&self) -> u64 {
        self.global_done.load(Ordering::Relaxed)
            + self.local_struck.load(Ordering::Relaxed)
            + self.watch.logins_struck()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
