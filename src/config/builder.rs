//! Collects settings in any order, and checks them all at once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};

use super::markers::CommitMarkers;
use super::tuning::Tuning;
use super::{Access, ProxyConfig, Tls, env};
use crate::clock::Clock;
use crate::error::Error;
use crate::secret::Secret;

/// A setting as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Setter(&'static str),
    Variable(String),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Name::Setter(name) => name,
            Name::Variable(name) => name,
        })
    }
}

/// A value and who gave it.
#[derive(Clone, Debug)]
pub(super) struct Given<T> {
    pub(super) name: Name,
    pub(super) value: T,
}

impl<T> Given<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Given<U> {
        Given { name: self.name, value: change(self.value) }
    }
}

fn given<T>(name: &'static str, value: T) -> Option<Given<T>> {
    Some(Given { name: Name::Setter(name), value })
}

/// Certificates in PEM form; their length is all that is printed.
#[derive(Clone)]
pub(super) struct Pem(pub(super) Vec<u8>);

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({} bytes)", self.0.len())
    }
}

/// Certificates, or where they are.
#[derive(Clone, Debug)]
pub(super) enum Ca {
    Pem(Pem),
    File(PathBuf),
}

/// A provider, whose own `Debug` is not trusted with its keys.
#[derive(Clone)]
pub(super) struct Provider(pub(super) SharedCredentialsProvider);

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}

/// Settings on their way to a [`ProxyConfig`]: setters never fail, [`build`](Self::build) checks them all.
///
/// Of two calls of one setter the later counts. No secret and no certificate is in its `Debug` output.
///
/// ```
/// use rds_proxy_pool::{Access, ProxyConfig};
/// use std::time::Duration;
///
/// let config = ProxyConfig::builder()
///     .endpoint("orders-ro.endpoint.proxy-abc123.eu-west-1.rds.amazonaws.com")
///     .user("reports")
///     .database("orders")
///     .access(Access::ReadOnly)
///     .call_timeout(Duration::from_secs(20))
///     .max_idle(2)
///     .build()?;
/// assert_eq!(config.region(), Some("eu-west-1"));
/// assert_eq!(config.max_connections(), 5);
/// # Ok::<(), rds_proxy_pool::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is checked or made before `build`"]
pub struct ProxyConfigBuilder {
    /// The prefix of the environment's names, if the builder began there.
    pub(super) variables: Option<String>,
    pub(super) endpoint: Option<Given<String>>,
    pub(super) port: Option<Given<u16>>,
    pub(super) user: Option<Given<String>>,
    pub(super) database: Option<Given<String>>,
    pub(super) password: Option<Given<Secret>>,
    pub(super) iam: bool,
    pub(super) provider: Option<Provider>,
    pub(super) region: Option<Given<String>>,
    pub(super) access: Access,
    pub(super) ca: Option<Given<Ca>>,
    pub(super) application_name: Option<Given<String>>,
    pub(super) call_timeout: Option<Given<Duration>>,
    pub(super) max_idle: Option<usize>,
    pub(super) max_connections: Option<usize>,
    pub(super) tuning: Tuning,
    pub(super) markers: CommitMarkers,
    pub(super) once_table: Option<String>,
    pub(super) split_messages: bool,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) database_url: Option<Given<Secret>>,
    pub(super) weakened: Option<Given<Tls>>,
}

impl ProxyConfigBuilder {
    /// The proxy's or database's `host`, `host:port` or `[v6]:port`; required unless there is a
    /// [`database_url`](Self::database_url).
    ///
    /// A trailing dot is dropped. Both this and a `database_url` set by code are a conflict; a `DATABASE_URL` from the
    /// environment gives way.
    ///
    /// ```
    /// use rds_proxy_pool::ProxyConfig;
    ///
    /// let config = ProxyConfig::builder().user("app").password("app").database("app");
    /// let error = config.clone().endpoint("postgres://localhost").build().unwrap_err();
    /// assert_eq!(error.code(), "config.invalid");
    /// let error = config.endpoint("localhost").database_url("postgres://localhost").build().unwrap_err();
    /// assert_eq!(error.code(), "config.conflict");
    /// ```
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = given("endpoint", endpoint.into());
        self
    }

    /// The port; 1 to 65535, by default the endpoint's, else the engine's (PostgreSQL: 5432).
    ///
    /// ```
    /// use rds_proxy_pool::ProxyConfig;
    ///
    /// let config = ProxyConfig::builder().endpoint("localhost:5433").user("app").password("app").database("app");
    /// assert_eq!(config.clone().build()?.endpoint().port(), Some(5433));
    /// assert_eq!(config.port(5434).build().unwrap_err().code(), "config.conflict");
    /// # Ok::<(), rds_proxy_pool::Error>(())
    /// ```
    pub fn port(mut self, port: u16) -> Self {
        self.port = given("port", port);
        self
    }

    /// The database user; required, not empty.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = given("user", user.into());
        self
    }

    /// The database's name; required, not empty.
    pub fn database(mut self, database: impl Into<String>) -> Self {
        self.database = given("database", database.into());
        self
    }

    /// Logs in with this password instead of by IAM; not empty. It and [`iam`](Self::iam) undo each other.
    pub fn password(mut self, password: impl Into<Secret>) -> Self {
        self.password = given("password", password.into());
        self.iam = false;
        self
    }

    /// Logs in by IAM, whatever password was set before or is in the URL; the default where there is neither.
    ///
    /// ```
    /// use rds_proxy_pool::{Auth, ProxyConfig};
    ///
    /// let url = ProxyConfig::builder().database_url("postgres://app@localhost/app").region("eu-west-1");
    /// assert_eq!(url.clone().build().unwrap_err().code(), "config.missing"); // a password
    /// assert!(matches!(url.iam().build()?.auth(), Auth::Iam));
    /// # Ok::<(), rds_proxy_pool::Error>(())
    /// ```
    pub fn iam(mut self) -> Self {
        self.password = None;
        self.iam = true;
        self
    }

    /// Where AWS credentials for IAM tokens come from; by default
    /// [`EnvironmentCredentials`](crate::EnvironmentCredentials). Not used with a password.
    pub fn credentials_provider(mut self, provider: impl ProvideCredentials + 'static) -> Self {
        self.provider = Some(Provider(SharedCredentialsProvider::new(provider)));
        self
    }

    /// The region tokens are signed for, instead of the one in the endpoint's name or in `AWS_REGION`.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = given("region", region.into());
        self
    }

    /// What the endpoint lets one do; default [`Access::ReadWrite`].
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Certificates in PEM form, **added** to the built-in roots; at least one. Replaces a [`ca_file`](Self::ca_file).
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = given("ca_pem", Ca::Pem(Pem(pem.into())));
        self
    }

    /// A PEM file whose certificates are **added** to the built-in roots, read at [`build`](Self::build).
    ///
    /// ```
    /// use rds_proxy_pool::ProxyConfig;
    ///
    /// let config = ProxyConfig::builder().endpoint("localhost").user("app").password("app").database("app");
    /// let error = config.ca_file("/no/such/bundle.pem").build().unwrap_err();
    /// assert_eq!(error.code(), "config.file");
    /// assert!(error.to_string().starts_with("ca_file: cannot read \"/no/such/bundle.pem\": "));
    /// ```
    pub fn ca_file(mut self, path: impl AsRef<Path>) -> Self {
        self.ca = given("ca_file", Ca::File(path.as_ref().to_owned()));
        self
    }

    /// The name the server shows for these sessions; up to 63 bytes, by default the crate's.
    pub fn application_name(mut self, name: impl Into<String>) -> Self {
        self.application_name = given("application_name", name.into());
        self
    }

    /// The longest a call may take for which no deadline is known; 1 ms to 15 min, default none.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = given("call_timeout", limit);
        self
    }

    /// How many connections are kept when nobody uses them.
    ///
    /// Default `AWS_LAMBDA_MAX_CONCURRENCY` where that is above 1, else 1, and not more than an explicit
    /// `max_connections`; 0 to 1000.
    pub fn max_idle(mut self, count: usize) -> Self {
        self.max_idle = Some(count);
        self
    }

    /// How many connections may be open at once; at least `max_idle`.
    ///
    /// Default `max_idle` + 3, so that a query inside a row loop does not wait for itself, at most 1000; 1 to 1000.
    ///
    /// ```
    /// use rds_proxy_pool::ProxyConfig;
    ///
    /// let config = ProxyConfig::builder().endpoint("localhost").user("app").password("app").database("app");
    /// let error = config.max_idle(8).max_connections(4).build().unwrap_err();
    /// assert_eq!(error.to_string(), "max_connections: 4 is outside 8..=1000 (max_idle is 8)");
    /// ```
    pub fn max_connections(mut self, count: usize) -> Self {
        self.max_connections = Some(count);
        self
    }

    /// Whether transactions leave a row by which a lost commit is found out about; default [`CommitMarkers::off`].
    pub fn commit_markers(mut self, markers: CommitMarkers) -> Self {
        self.markers = markers;
        self
    }

    /// The table that [`Pool::transaction_once`](crate::Pool::transaction_once) keeps its keys in, `name` or `schema.name`,
    /// of lower-case letters, digits and underscores; default `rds_proxy_pool_once`.
    ///
    /// It is made with the statement of [`Pool::once_table_sql`](crate::Pool::once_table_sql).
    pub fn once_table(mut self, name: impl Into<String>) -> Self {
        self.once_table = Some(name.into());
        self
    }

    /// Sends one by one the statements that otherwise travel two in a message (`BEGIN` and the marker, the check and
    /// `COMMIT`), should what is between here and the database not bear that; default false. Each costs a round trip more.
    pub fn split_messages(mut self, split: bool) -> Self {
        self.split_messages = split;
        self
    }

    /// The clock everything is judged by; default [`SystemClock`](crate::clock::SystemClock). For tests.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// `postgres://user:password@host:port/database`, for local development; other setters override its parts.
    ///
    /// User, password and database are percent-decoded. Of parameters only `sslmode=verify-full`, `sslrootcert` and
    /// `application_name` are taken. Without a password IAM must be asked for with [`iam`](Self::iam). TLS is verified
    /// as ever, on localhost too.
    ///
    /// ```
    /// use rds_proxy_pool::ProxyConfig;
    ///
    /// let config = ProxyConfig::builder().database_url("postgres://app:s%40fe@localhost:5433/orders").build()?;
    /// assert_eq!((config.user(), config.database()), ("app", "orders"));
    ///
    /// let weaker = ProxyConfig::builder().database_url("postgres://app:safe@localhost/orders?sslmode=disable");
    /// assert_eq!(weaker.build().unwrap_err().code(), "config.unsupported");
    /// # Ok::<(), rds_proxy_pool::Error>(())
    /// ```
    pub fn database_url(mut self, url: &str) -> Self {
        self.database_url = given("database_url", Secret::from(url));
        self
    }

    /// Accepts any certificate: whoever is on the way can read and change everything. Refused together with IAM.
    ///
    /// ```
    /// use rds_proxy_pool::{ProxyConfig, Tls};
    ///
    /// let config = ProxyConfig::builder().endpoint("localhost").user("app").database("app");
    /// let config = config.danger_accept_invalid_certs();
    /// assert_eq!(config.clone().build().unwrap_err().code(), "config.conflict");
    /// assert_eq!(config.password("app").build()?.tls(), Tls::Unverified);
    /// # Ok::<(), rds_proxy_pool::Error>(())
    /// ```
    pub fn danger_accept_invalid_certs(mut self) -> Self {
        self.weakened = given("danger_accept_invalid_certs", Tls::Unverified);
        self
    }

    /// Speaks in the clear: everybody on the way can read and change everything. Refused together with IAM.
    pub fn danger_disable_tls(mut self) -> Self {
        self.weakened = given("danger_disable_tls", Tls::Disabled);
        self
    }

    /// Checks every setting and makes the configuration; reads `AWS_REGION` and `AWS_LAMBDA_MAX_CONCURRENCY` where they
    /// are needed, and the CA file.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config); the message names the setting, its value unless that may be
    /// secret, and what is allowed. Codes: `config.missing`, `config.invalid`, `config.range`, `config.conflict`,
    /// `config.file`, `config.url`, `config.unsupported`.
    pub fn build(self) -> Result<ProxyConfig, Error> {
        self.build_in(&env::process)
    }
}
