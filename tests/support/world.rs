//! A database, an emulator in front of it, one clock for emulator and pool, and a configuration that fits.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, future};
use rds_proxy_pool::clock::{AdjustableClock, Clock};
use rds_proxy_pool::emulator::{AccessKey, Backend, Event, Existing, RdsProxyEmulator};
use rds_proxy_pool::{ProxyConfig, ProxyConfigBuilder, ProxyPool};
use sqlx::{Connection, PgConnection};
use tokio::sync::OnceCell;

use super::process::POLL;
use super::servers::{Database, Pair, Postgres, Replication};

const USER: &str = "app";
const KEY: &str = "ASIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const SESSION_TOKEN: &str = "a-session-token/with+signs=";

/// Everything a test of the pool needs; each has a database and an emulator of its own.
#[derive(Debug)]
pub struct World {
    pub clock: AdjustableClock,
    proxy: RdsProxyEmulator,
    database: Database,
    standby: Option<Backend>,
    keys: Keys,
}

/// Credentials that change while they are in use.
#[derive(Clone, Debug, Default)]
pub struct Keys(Arc<Mutex<u32>>);

impl Keys {
    fn current(&self) -> Credentials {
        let generation = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Credentials::new(KEY, format!("{SECRET}{generation}"), Some(SESSION_TOKEN.to_owned()), None, "test")
    }
}

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Ok(self.current()))
    }
}

impl World {
    /// A user who logs in with the password of [`set_password`](Self::set_password).
    pub const PASSWORD_USER: &str = "by_password";

    /// `None` when there is no PostgreSQL.
    pub async fn start() -> Option<World> {
        let database = Postgres::shared().await?;
        Some(Self::before(database, None))
    }

    /// In front of a primary whose standby shows every commit; `None` when there is no PostgreSQL to start.
    pub async fn start_with_standby() -> Option<World> {
        static PAIR: OnceCell<Option<Pair>> = OnceCell::const_new();
        let pair = PAIR.get_or_init(|| Postgres::start_pair(Replication::Synchronous)).await.as_ref()?;
        let database = pair.primary().database().await;
        let standby = Backend::new(pair.standby().address()).login(USER, "");
        pair.wait_replicated().await;
        Some(Self::before(database, Some(standby)))
    }

    /// In front of a server of the test's own.
    pub async fn in_front_of(server: &Postgres) -> World {
        Self::before(server.database().await, None)
    }

    fn before(database: Database, standby: Option<Backend>) -> World {
        let clock = AdjustableClock::new();
        let (key, secret, session) = Self::keys();
        let key = AccessKey::new(key, secret).session_token(session.unwrap_or_default());
        let proxy = RdsProxyEmulator::builder(backend(&database))
            .iam_user(USER)
            .access_key(key)
            .clock(clock.clone())
            .start()
            .expect("the emulator starts");
        World { clock, proxy, database, standby, keys: Keys::default() }
    }

    /// Access key, secret key and session token the emulator accepts.
    pub fn keys() -> (&'static str, &'static str, Option<String>) {
        (KEY, SECRET, Some(SESSION_TOKEN.to_owned()))
    }

    /// The right access key with a wrong secret.
    pub fn wrong_credentials() -> Credentials {
        let (key, _, session) = Self::keys();
        Credentials::new(key, "a-wrong-secret-key", session, None, "test")
    }

    /// A configuration that logs in; to be changed by the test.
    pub fn config(&self) -> ProxyConfigBuilder {
        let (key, secret, session) = Self::keys();
        ProxyConfig::builder()
            .endpoint(format!("localhost:{}", self.proxy.port()))
            .user(USER)
            .database(self.database.name.clone())
            .region("us-east-1")
            .credentials_provider(Credentials::new(key, secret, session, None, "test"))
            .ca_pem(self.proxy.ca_pem().as_bytes().to_vec())
            // Several tests share the machine: what is not about time must not fail by it.
            .acquire_timeout(Duration::from_secs(20))
            .connect_timeout(Duration::from_secs(20))
            .clock(self.clock.clone())
    }

    pub fn pool(&self) -> ProxyPool {
        ProxyPool::new(self.config().build().expect("the configuration is right")).expect("the pool can be made")
    }

    pub fn proxy(&self) -> &RdsProxyEmulator {
        &self.proxy
    }

    pub fn ca_pem(&self) -> &str {
        self.proxy.ca_pem()
    }

    pub fn port(&self) -> u16 {
        self.proxy.port()
    }

    pub fn round_trips(&self) -> u64 {
        self.proxy.counts().round_trips
    }

    pub fn logins_refused(&self) -> u64 {
        self.proxy.counts().logins_refused
    }

    pub fn connections_accepted(&self) -> u64 {
        self.proxy.counts().connections
    }

    /// The texts of all statements sent so far.
    pub fn statements(&self) -> Vec<String> {
        let mut events = self.proxy.all_events();
        let mut statements = Vec::new();
        while let Some(event) = events.try_next() {
            if let Event::Statement { sql, .. } = event {
                statements.push(sql);
            }
        }
        statements
    }

    /// Completes when a statement with `text` in it has arrived, the first `mark` statements apart.
    pub async fn statement_seen(&self, mark: usize, text: &str) {
        let mut seen = 0;
        let wanted = |event: &Event| {
            let Event::Statement { sql, .. } = event else { return false };
            seen += 1;
            seen > mark && sql.contains(text)
        };
        self.proxy.all_events().wait_for(wanted).await;
    }

    /// Completes when the server is executing a statement of a client.
    pub async fn executing(&self) {
        self.wait_until(
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
                         AND state = 'active' AND pid <> pg_backend_pid() AND application_name <> 'the test'",
        )
        .await;
    }

    /// Completes when no client's session is in a transaction.
    pub async fn no_transaction_open(&self) {
        self.wait_until(
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() \
             AND xact_start IS NOT NULL AND pid <> pg_backend_pid() AND application_name <> 'the test'",
        )
        .await;
    }

    /// Ends a server process; completes when it has gone.
    pub async fn terminate_backend(&self, pid: i32) {
        let mut connection = self.superuser().await;
        let terminate = sqlx::query("SELECT pg_terminate_backend($1, 10000)").bind(pid);
        terminate.execute(&mut connection).await.expect("a superuser may");
    }

    /// Completes when this many client sessions exist.
    pub async fn only_open(&self, sessions: u64) {
        self.proxy.counted(|counts| counts.open == sessions).await;
    }

    pub async fn cut_all(&self) {
        self.proxy.cut_all().await;
    }

    pub async fn reset_all(&self) {
        self.proxy.reset_all().await;
    }

    /// The clients that are connected now lead to the standby; new ones to the primary.
    pub async fn demote_existing(&self) {
        let standby = self.standby.clone().expect("a world with a standby");
        self.proxy.set_backend(standby, Existing::Move);
        self.proxy.set_backend(backend(&self.database), Existing::Stay);
    }

    /// All clients, new ones too, lead to the standby, as long as nobody promotes it.
    pub fn demote(&self) {
        let standby = self.standby.clone().expect("a world with a standby");
        self.proxy.set_backend(standby, Existing::Move);
    }

    pub async fn refuse_connections(&self, refuse: bool) {
        if refuse {
            self.proxy.refuse_connections().await;
        } else {
            self.proxy.accept_connections().await;
        }
    }

    pub fn stop_answering(&self, stop: bool) {
        if stop {
            self.proxy.stop_answering();
        } else {
            self.proxy.resume_answering();
        }
    }

    /// Tokens of the usual credentials are good until then.
    pub fn expire_credentials_in(&self, life: Duration) {
        let (key, secret, session) = Self::keys();
        let key = AccessKey::new(key, secret).session_token(session.unwrap_or_default());
        self.proxy.set_access_keys([key.expires_at(self.clock.wall() + life)]);
    }

    /// Other credentials from now on: those that [`rotating`](Self::rotating) provides.
    pub fn rotate_keys(&self) {
        *self.keys.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let current = self.keys.current();
        let key = AccessKey::new(current.access_key_id(), current.secret_access_key());
        self.proxy.set_access_keys([key.session_token(current.session_token().unwrap_or_default())]);
    }

    pub fn rotating(&self) -> Keys {
        self.keys.clone()
    }

    pub fn set_password(&self, password: &str) {
        self.proxy.set_password(Self::PASSWORD_USER, password);
    }

    /// What takes the advisory lock 1 in its shared form waits until the connection returned is closed.
    pub async fn hold(&self) -> PgConnection {
        let mut connection = self.superuser().await;
        sqlx::raw_sql("SELECT pg_advisory_lock(1)").execute(&mut connection).await.expect("nobody else holds it");
        connection
    }

    /// Completes when this is so, asked by a superuser who calls itself `the test`.
    pub async fn wait_until(&self, sql: &'static str) {
        let mut connection = self.superuser().await;
        let condition = || sqlx::query_scalar::<_, bool>(sql);
        while !condition().fetch_one(&mut connection).await.expect("the server answers") {
            tokio::time::sleep(POLL).await;
        }
    }

    async fn superuser(&self) -> PgConnection {
        let separator = if self.database.superuser_url.contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}application_name=the%20test", self.database.superuser_url);
        PgConnection::connect(&url).await.expect("the server is there")
    }
}

/// The server of a database, where everybody logs in as the database's owner.
pub fn backend(database: &Database) -> Backend {
    let url = url::Url::parse(&database.url).expect("a database has a URL");
    let host = url.host_str().unwrap_or("localhost");
    let address = std::net::ToSocketAddrs::to_socket_addrs(&(host, url.port().unwrap_or(5432)));
    let address = address.expect("the server's host resolves").next().expect("to an address");
    let text = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    Backend::new(address).login(text(url.username()), text(url.password().unwrap_or_default()))
}

/// Whether the next statement runs in a transaction that is older than itself. Sent as text: the parts of a prepared
/// statement have times of their own.
pub async fn is_in_transaction(pool: &ProxyPool) -> bool {
    let question = sqlx::raw_sql("SELECT now() <> statement_timestamp()");
    let row = question.fetch_one(pool).await.expect("the server answers");
    sqlx::Row::get(&row, 0)
}
