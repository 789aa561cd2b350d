//! Every setting, checked once: errors name the field, the value and the range.
//!
//! [`ProxyConfig`] is the checked result, [`ProxyConfigBuilder`] the way there, by code or from the environment.

mod build;
mod builder;
mod database_url;
mod endpoint;
mod env;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod markers;
#[cfg(test)]
mod tests;
mod tuning;

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;

pub use self::builder::ProxyConfigBuilder;
use self::builder::{Pem, Provider};
pub use self::endpoint::Endpoint;
use self::env::Environment;
pub use self::markers::CommitMarkers;
use self::tuning::Tuning;
use crate::clock::Clock;
use crate::error::Error;
use crate::secret::Secret;

/// What the endpoint lets one do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// The default: the endpoint leads to a server that can write; one that cannot is left for another.
    #[default]
    ReadWrite,
    /// A reader endpoint: no check for a writer, and transactions are read-only.
    ReadOnly,
}

impl Access {
    /// Whether nothing can be written.
    pub fn is_read_only(self) -> bool {
        self == Access::ReadOnly
    }
}

/// How the pool logs in.
#[derive(Clone, Debug)]
pub enum Auth {
    /// With a token signed from AWS credentials, made anew when it has aged.
    Iam,
    /// With a password that stays the same.
    Password(Secret),
}

/// How far the server's identity is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// The certificate chain and the host name; the default, and the only one with IAM or from the environment.
    #[default]
    VerifyFull,
    /// Encrypted, with whoever answers. See [`ProxyConfigBuilder::danger_accept_invalid_certs`].
    Unverified,
    /// In the clear. See [`ProxyConfigBuilder::danger_disable_tls`].
    Disabled,
}

/// Settings that were checked: whatever holds one of these can be used.
///
/// No secret and no certificate is in its `Debug` output.
///
/// ```
/// use rds_proxy_pool::{Auth, ProxyConfig};
/// use std::time::Duration;
///
/// let config = ProxyConfig::builder()
///     .endpoint("orders.proxy-abc123.eu-west-1.rds.amazonaws.com")
///     .user("orders_app")
///     .database("orders")
///     .build()?;
/// assert!(matches!(config.auth(), Auth::Iam)); // as there is no password
/// assert_eq!(config.region(), Some("eu-west-1")); // as the host name says
/// assert_eq!(config.acquire_timeout(), Duration::from_secs(2));
/// # Ok::<(), rds_proxy_pool::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    endpoint: Endpoint,
    user: String,
    database: String,
    auth: Auth,
    provider: Option<Provider>,
    region: Option<String>,
    access: Access,
    ca: Option<Pem>,
    tls: Tls,
    application_name: Option<String>,
    call_timeout: Option<Duration>,
    max_idle: usize,
    max_connections: usize,
    tuning: Tuning,
    markers: CommitMarkers,
    once_table: String,
    split_messages: bool,
    clock: Arc<dyn Clock>,
}

impl ProxyConfig {
    /// Every setting by code; nothing is taken from the environment but `AWS_REGION`, where the endpoint's name tells
    /// no region, and the default of [`max_idle`](ProxyConfigBuilder::max_idle).
    ///
    /// ```
    /// use rds_proxy_pool::ProxyConfig;
    ///
    /// let error = ProxyConfig::builder().endpoint("localhost").database("app").build().unwrap_err();
    /// assert_eq!(error.to_string(), "user: not set");
    /// ```
    pub fn builder() -> ProxyConfigBuilder {
        ProxyConfigBuilder::default()
    }

    /// Every setting from the environment.
    ///
    /// | variable | meaning | default |
    /// |---|---|---|
    /// | `RDS_PROXY_ENDPOINT` | host or host:port | required, or `DATABASE_URL` |
    /// | `DB_USER`, `DB_NAME` | user and database | required |
    /// | `DB_PORT` | port; must agree with one in the endpoint | 5432 |
    /// | `DB_PASSWORD` | static password, not empty; its absence means IAM | IAM |
    /// | `DB_ACCESS` | `read-write` or `read-only` | `read-write` |
    /// | `DB_CA_FILE` | PEM file added to the built-in roots | none |
    /// | `RDS_PROXY_CALL_TIMEOUT_MS` | bound on a call without a deadline, in milliseconds; 1 to 900 000 | none |
    /// | `AWS_REGION` | signing region where the endpoint's name tells none | from the name |
    /// | `AWS_LAMBDA_MAX_CONCURRENCY` | connections kept idle | 1 |
    /// | `DATABASE_URL` | see [`ProxyConfigBuilder::database_url`]; only where `RDS_PROXY_ENDPOINT` is absent | none |
    ///
    /// Other names that begin with `RDS_PROXY_` are warned about, with the nearest one that is known. TLS cannot be
    /// weakened from here.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) naming the variable.
    ///
    /// ```standalone_crate
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # if std::env::var_os("RDS_PROXY_POOL_DOCTEST").is_none() {
    /// #     let again = std::process::Command::new(std::env::current_exe()?)
    /// #         .env_clear().env("RDS_PROXY_POOL_DOCTEST", "1")
    /// #         .env("RDS_PROXY_ENDPOINT", "orders.proxy-abc123.eu-west-1.rds.amazonaws.com:5433")
    /// #         .env("DB_USER", "app").env("DB_NAME", "orders").env("DB_ACCESS", "read-only").status()?;
    /// #     assert!(again.success());
    /// #     return Ok(());
    /// # }
    /// use rds_proxy_pool::{Access, ProxyConfig};
    ///
    /// // RDS_PROXY_ENDPOINT=orders.proxy-abc123.eu-west-1.rds.amazonaws.com:5433
    /// // DB_USER=app DB_NAME=orders DB_ACCESS=read-only
    /// let config = ProxyConfig::from_env()?;
    /// assert_eq!(config.endpoint().port(), Some(5433));
    /// assert_eq!((config.user(), config.database()), ("app", "orders"));
    /// assert_eq!(config.access(), Access::ReadOnly);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_env() -> Result<Self, Error> {
        ProxyConfig::from_env_prefix("")
    }

    /// The same with a prefix to each name, for a second proxy: `ORDERS_RDS_PROXY_ENDPOINT`, `ORDERS_DB_USER` …
    ///
    /// `AWS_REGION` and `AWS_LAMBDA_MAX_CONCURRENCY` are Lambda's own and carry no prefix.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) naming the variable with its prefix.
    ///
    /// ```
    /// use rds_proxy_pool::ProxyConfig;
    ///
    /// let error = ProxyConfig::from_env_prefix("ORDERS_").unwrap_err();
    /// assert_eq!(error.code(), "config.missing");
    /// assert_eq!(error.to_string(), "ORDERS_RDS_PROXY_ENDPOINT: not set");
    /// ```
    pub fn from_env_prefix(prefix: &str) -> Result<Self, Error> {
        ProxyConfig::builder_from_env_prefix(prefix)?.build()
    }

    /// Begins with what the environment says, for code to add to or override.
    ///
    /// What is missing is an error only at [`build`](ProxyConfigBuilder::build), and then named as a variable.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) naming a variable that cannot be read.
    ///
    /// ```
    /// use rds_proxy_pool::ProxyConfig;
    /// use std::time::Duration;
    ///
    /// let config = ProxyConfig::builder_from_env()?
    ///     .endpoint("localhost")
    ///     .user("app")
    ///     .password("app")
    ///     .database("orders")
    ///     .acquire_timeout(Duration::from_secs(1))
    ///     .build()?;
    /// assert_eq!(config.endpoint().host(), "localhost");
    /// # Ok::<(), rds_proxy_pool::Error>(())
    /// ```
    pub fn builder_from_env() -> Result<ProxyConfigBuilder, Error> {
        ProxyConfig::builder_from_env_prefix("")
    }

    /// The same with a prefix to each name, as in [`from_env_prefix`](Self::from_env_prefix).
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) naming a variable that cannot be read.
    pub fn builder_from_env_prefix(prefix: &str) -> Result<ProxyConfigBuilder, Error> {
        let environment = Environment::new(prefix, &env::process);
        environment.warn_of_strangers(std::env::vars_os().map(|(name, _)| name));
        environment.builder()
    }

    /// What is dialled, verified and signed for.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The database user; not empty.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database's name; not empty.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// How the pool logs in.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// The provider that was set, if one was; else the environment's credentials are used.
    pub fn credentials_provider(&self) -> Option<SharedCredentialsProvider> {
        self.provider.as_ref().map(|Provider(provider)| provider.clone())
    }

    /// The region tokens are signed for: set by code, else the one in the endpoint's name, else `AWS_REGION` as it was
    /// at `build`.
    ///
    /// IAM needs one: without it making a pool is `config.missing`.
    ///
    /// ```
    /// use rds_proxy_pool::ProxyConfig;
    ///
    /// let config = ProxyConfig::builder()
    ///     .endpoint("orders.proxy-abc123.eu-west-1.rds.amazonaws.com")
    ///     .user("app")
    ///     .database("orders");
    /// assert_eq!(config.clone().build()?.region(), Some("eu-west-1"));
    /// assert_eq!(config.region("us-east-1").build()?.region(), Some("us-east-1"));
    /// # Ok::<(), rds_proxy_pool::Error>(())
    /// ```
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// What the endpoint lets one do.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Certificates trusted besides the built-in roots, in PEM form.
    pub fn ca_pem(&self) -> Option<&[u8]> {
        self.ca.as_ref().map(|Pem(pem)| &pem[..])
    }

    /// How far the server's identity is checked.
    pub fn tls(&self) -> Tls {
        self.tls
    }

    /// The name the server shows for these sessions, if one was set.
    pub fn application_name(&self) -> Option<&str> {
        self.application_name.as_deref()
    }

    /// The longest a call may take for which no deadline is known; none by default.
    pub fn call_timeout(&self) -> Option<Duration> {
        self.call_timeout
    }

    /// How many connections are kept when nobody uses them.
    pub fn max_idle(&self) -> usize {
        self.max_idle
    }

    /// How many connections may be open at once.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Whether transactions leave a row by which a lost commit is found out about.
    pub fn commit_markers(&self) -> &CommitMarkers {
        &self.markers
    }

    /// The table that [`Pool::transaction_once`](crate::Pool::transaction_once) keeps its keys in.
    pub fn once_table(&self) -> &str {
        &self.once_table
    }

    /// Whether statements that could travel two in a message are sent one by one.
    pub fn split_messages(&self) -> bool {
        self.split_messages
    }

    /// The clock everything is judged by.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// `config.conflict` if the process environment holds one of `names`, which the driver would read by itself. An
    /// empty variable does no harm.
    pub(crate) fn refuse_stray_variables(&self, names: &[&str]) -> Result<(), Error> {
        env::refuse_stray(names, &env::process)
    }
}
