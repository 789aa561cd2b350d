//! One pool for the life of the environment, made on first use.

use once_cell::sync::OnceCell;

use crate::config::ProxyConfig;
use crate::engine::Engine;
use crate::error::Error;
use crate::pool::Pool;

/// A static pool that is configured when it is first asked for: for a second proxy, a reader endpoint, a tenant.
///
/// [`ProxyPool::get`](Pool::get) is one of these for the plain environment names. Asking does no network I/O; a first call
/// that failed can be repeated.
///
/// ```
/// use rds_proxy_pool::{LazyProxyPool, ProxyConfig};
///
/// static REPORTS: LazyProxyPool = LazyProxyPool::from_env_prefix("REPORTS_");
/// static LOCAL: LazyProxyPool = LazyProxyPool::new(|| {
///     ProxyConfig::builder().endpoint("localhost").user("app").password("app").database("app").build()
/// });
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// assert_eq!(REPORTS.get().await.unwrap_err().code(), "config.missing"); // REPORTS_RDS_PROXY_ENDPOINT is not set
/// assert_eq!(LOCAL.get().await.unwrap().config().user(), "app");
/// # });
/// ```
pub struct LazyPool<DB: Engine> {
    pool: OnceCell<Pool<DB>>,
    source: Source,
}

enum Source {
    Prefix(&'static str),
    Code(fn() -> Result<ProxyConfig, Error>),
}

impl<DB: Engine> LazyPool<DB> {
    /// A pool that `configure` describes when it is first asked for.
    pub const fn new(configure: fn() -> Result<ProxyConfig, Error>) -> Self {
        LazyPool { pool: OnceCell::new(), source: Source::Code(configure) }
    }

    /// A pool configured by environment names that begin with `prefix`, such as `REPORTS_RDS_PROXY_ENDPOINT`.
    pub const fn from_env_prefix(prefix: &'static str) -> Self {
        LazyPool { pool: OnceCell::new(), source: Source::Prefix(prefix) }
    }

    /// The pool; made now if this is the first call that succeeds.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) naming the setting. The next call tries again.
    pub async fn get(&self) -> Result<&Pool<DB>, Error> {
        self.pool.get_or_try_init(|| {
            let config = match self.source {
                Source::Prefix(prefix) => ProxyConfig::from_env_prefix(prefix)?,
                Source::Code(configure) => configure()?,
            };
            Pool::new(config)
        })
    }
}

/// Gives each engine its own static pool: a static cannot be generic.
macro_rules! global_pool {
    ($engine:ty) => {
        impl $crate::pool::Pool<$engine> {
            /// The environment's one pool, configured by its variables on the first call.
            ///
            /// No network I/O happens here: connections are opened when a statement needs one, or by
            /// [`Pool::warm`](crate::Pool::warm). A first call that failed can be repeated.
            ///
            /// # Errors
            /// [`ErrorKind::Config`](crate::ErrorKind::Config) naming the variable that is missing or wrong.
            ///
            /// ```no_run
            /// # async fn handler() -> Result<(), Box<dyn std::error::Error>> {
            /// let pool = rds_proxy_pool::ProxyPool::get().await?;
            /// let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(pool).await?;
            /// # Ok(())
            /// # }
            /// ```
            pub async fn get() -> Result<&'static Self, $crate::Error> {
                static POOL: $crate::global::LazyPool<$engine> = $crate::global::LazyPool::from_env_prefix("");
                POOL.get().await
            }
        }
    };
}

pub(crate) use global_pool;
