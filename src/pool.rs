//! The pool: slots, idle connections, and the calls a handler makes.

mod again;
mod checkout;
mod live;
mod purge;
mod resolve;
mod resolved;
mod slots;
mod upkeep;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx_core::pool::{Pool as SqlxPool, PoolOptions};
use tokio::runtime;

use crate::attend::{Bounds, Ended, attend};
use crate::clock::{Clock, Reading};
use crate::config::{ProxyConfig, ProxyConfigBuilder};
use crate::connect::{Connected, Connector};
use crate::connection::ProxyConnection;
use crate::deadline::{Budget, Deadline, Meaning};
use crate::engine::Engine;
use crate::error::{Error, PoolCounts};
use crate::observe::{Counters, Status};
use crate::outcome::Phase;

use again::Again;
pub(crate) use checkout::Fence;
use live::Limits;
pub(crate) use live::{Condition, Idle, Live, Trouble};
pub(crate) use resolve::markers_off;
pub(crate) use slots::Slot;
use slots::{Open, OpenCount, Slots};

/// A pool of database connections that knows it lives in a Lambda environment.
///
/// It opens connections on demand, with a token that is certain to be good; it runs no background task, so nothing of it
/// is caught half done by a freeze; and it looks twice at a connection that was idle across one before it trusts it.
///
/// A clone is cheap and is the same pool. Use it through an alias: [`ProxyPool`](crate::ProxyPool) for PostgreSQL.
/// `&ProxyPool` is an sqlx `Executor`, so everything that takes one runs on it.
///
/// ```no_run
/// # async fn handler() -> Result<(), Box<dyn std::error::Error>> {
/// use rds_proxy_pool::ProxyPool;
/// use std::time::Duration;
///
/// let pool = ProxyPool::get().await?.by(Duration::from_secs(3));
/// let now: String = sqlx::query_scalar("SELECT now()::text").fetch_one(&pool).await?;
/// # Ok(())
/// # }
/// ```
pub struct Pool<DB: Engine> {
    shared: Arc<Shared<DB>>,
    scope: Scope,
}

/// What a handle adds to the pool it belongs to.
#[derive(Clone, Copy, Debug, Default)]
struct Scope {
    deadline: Option<Instant>,
    idempotent: bool,
    resolved: bool,
}

pub(crate) struct Shared<DB: Engine> {
    config: ProxyConfig,
    connector: Connector<DB>,
    slots: Arc<Slots>,
    open: OpenCount,
    // Boxed, because one is moved several times on its way out and back.
    idle: Mutex<Vec<Box<Live<DB>>>>,
    counters: Counters,
    again: Again,
    plain: Mutex<Option<SqlxPool<DB>>>,
}

impl<DB: Engine> Pool<DB> {
    /// Makes a pool of a checked configuration, without touching the network.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for what only the engine knows to be impossible, such as driver
    /// variables in the environment that RDS Proxy refuses.
    ///
    /// ```
    /// use rds_proxy_pool::{ProxyConfig, ProxyPool};
    ///
    /// # fn main() -> Result<(), rds_proxy_pool::Error> {
    /// let config = ProxyConfig::builder()
    ///     .endpoint("orders.proxy-abc123.eu-west-1.rds.amazonaws.com")
    ///     .user("orders_app")
    ///     .database("orders")
    ///     .build()?;
    /// let pool = ProxyPool::new(config)?;
    /// assert_eq!(pool.status().open, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(config: ProxyConfig) -> Result<Self, Error> {
        let shared = Shared {
            connector: Connector::new(&config)?,
            slots: Slots::new(config.max_connections()),
            open: OpenCount::new(),
            idle: Mutex::new(Vec::with_capacity(config.max_connections())),
            counters: Counters::default(),
            again: Again::new(config.max_connections()),
            plain: Mutex::new(None),
            config,
        };
        Ok(Pool { shared: Arc::new(shared), scope: Scope::default() })
    }

    /// Starts a configuration in code; hand the result to [`Pool::new`].
    pub fn builder() -> ProxyConfigBuilder {
        ProxyConfig::builder()
    }

    /// The settings the pool was made with.
    pub fn config(&self) -> &ProxyConfig {
        &self.shared.config
    }

    /// The same pool, every call of which answers before `deadline`.
    ///
    /// Waiting, connecting, checking, the statement and any retry spend from the deadline less
    /// [`ProxyConfig::margin`] (default 250 ms), which is kept for your answer. Pass the invocation's deadline as the
    /// Lambda context has it. A time that cannot be meant changes nothing, see [`Deadline`].
    ///
    /// Handles compose: `pool.by(deadline).idempotent()`.
    pub fn by(&self, deadline: impl Into<Deadline>) -> Self {
        let now = self.clock().now();
        let deadline = match deadline.into().meaning(now) {
            Meaning::Until(at) => Some(at),
            Meaning::Expired => Some(now.monotonic),
            Meaning::Absurd => {
                tracing::debug!("the deadline cannot be meant and is ignored");
                self.scope.deadline
            }
        };
        Pool { shared: Arc::clone(&self.shared), scope: Scope { deadline, ..self.scope } }
    }

    /// The same pool, whose statements may take effect twice, and late, after later statements.
    ///
    /// A statement whose answer was lost is then sent again. Reads are safe; of writes, only those that can be applied a
    /// second time at any later moment without harm.
    pub fn idempotent(&self) -> Self {
        Pool { shared: Arc::clone(&self.shared), scope: Scope { idempotent: true, ..self.scope } }
    }

    /// Waits for a usable connection, opening one if none is idle.
    ///
    /// A connection that was idle for longer than [`ProxyConfig::validate_after`] (default 1 s) is asked one question
    /// first, since a statement on it could be lost without a trace. With no gap this costs no round trip, no system call
    /// and no allocation.
    ///
    /// # Errors
    /// [`ErrorKind::Deadline`](crate::ErrorKind::Deadline) with the last failure as `source()`;
    /// [`ErrorKind::Auth`](crate::ErrorKind::Auth) if a freshly signed token is refused;
    /// [`ErrorKind::Connect`](crate::ErrorKind::Connect) where trying again is of no use;
    /// [`ErrorKind::Closed`](crate::ErrorKind::Closed) after [`Pool::close`]. The outcome is always
    /// [`NotSent`](crate::Outcome::NotSent).
    ///
    /// # Cancel safety
    /// Dropping the future frees its place; a half-open connection is closed, never pooled.
    pub async fn acquire(&self) -> Result<ProxyConnection<DB>, Error> {
        let now = self.clock().now();
        self.checkout(&self.budget_at(now.monotonic), Some(now), &|| Fence::Probe).await
    }

    /// A plain [`sqlx::Pool`](SqlxPool) for code that insists on that type, with a token good for the next 14 minutes.
    ///
    /// Call it once per invocation: each call installs a fresh token and returns the same pool. It opens connections on
    /// demand and has no reaper. What is lost, compared with this pool: connections are not checked after a freeze except
    /// by sqlx's own unbounded ping, releases ping in a spawned task that races the freeze, sockets are not tuned, no
    /// deadline is kept and nothing is retried.
    ///
    /// # Errors
    /// As [`Pool::acquire`], in the phase [`Token`](crate::Phase::Token).
    pub async fn sqlx_pool(&self) -> Result<SqlxPool<DB>, Error> {
        let budget = self.budget();
        let bounds = Bounds { until: Some(budget.acquire_until), ..Bounds::default() };
        let options = match attend(self.clock(), bounds, self.shared.connector.fresh_options(self.clock())).await {
            Ended::Answer(options) => options?,
            Ended::TimedOut | Ended::Unreachable => return Err(self.out_of_time(Phase::Token, &budget, 1, None)),
        };
        let mut plain = self.shared.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.slots.is_closed() {
            return Err(checkout::closed(slots::Closed));
        }
        if let Some(pool) = plain.as_ref().filter(|pool| !pool.is_closed()) {
            pool.set_connect_options(options);
            return Ok(pool.clone());
        }
        let pool = PoolOptions::new()
            .min_connections(0)
            .max_connections(u32::try_from(self.config().max_connections()).unwrap_or(u32::MAX))
            .acquire_timeout(self.config().acquire_timeout())
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options);
        *plain = Some(pool.clone());
        Ok(pool)
    }

    /// How many connections there are and what has happened so far; costs a lock, no round trip.
    ///
    /// ```
    /// # use rds_proxy_pool::{ProxyConfig, ProxyPool};
    /// # let config = ProxyConfig::builder().endpoint("localhost").user("u").database("d").password("p").build()?;
    /// let status = ProxyPool::new(config)?.status();
    /// assert_eq!((status.open, status.idle, status.waiting), (0, 0, 0));
    /// assert_eq!(status.max_connections, 4);
    /// # Ok::<(), rds_proxy_pool::Error>(())
    /// ```
    pub fn status(&self) -> Status {
        let counts = self.shared.counts();
        self.shared.counters.status(counts, self.config().max_connections(), self.shared.connector.tokens_signed())
    }

    pub(crate) fn budget(&self) -> Budget {
        self.budget_at(self.clock().monotonic())
    }

    /// The budget of a call that starts `now`.
    pub(crate) fn budget_at(&self, now: Instant) -> Budget {
        let config = self.config();
        match (self.scope.deadline, config.call_timeout()) {
            (None, Some(timeout)) => Budget::new(now, Some(now + timeout), Duration::ZERO, timeout),
            (deadline, _) => Budget::new(now, deadline, config.margin(), config.acquire_timeout()),
        }
    }

    /// The same pool, whose calls all spend from this budget.
    pub(crate) fn within(&self, budget: &Budget) -> Self {
        let deadline = budget.until.map(|until| until + self.config().margin());
        Pool { shared: Arc::clone(&self.shared), scope: Scope { deadline, ..self.scope } }
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.shared.config.clock()
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        self.scope.idempotent
    }

    pub(crate) fn is_resolved(&self) -> bool {
        self.scope.resolved
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    pub(crate) fn random(&self) -> fastrand::Rng {
        self.shared.random()
    }

    /// Takes a connection back. It is kept if it is fit and wanted, closed if not.
    pub(crate) fn release(&self, mut live: Box<Live<DB>>) {
        if !live.is_reusable() {
            return self.shared.discarded("its state is not known");
        }
        live.released(self.clock());
        let mut idle = self.shared.idle();
        if self.shared.slots.is_closed() {
            drop(idle);
            return self.shared.discarded("the pool is closed");
        }
        // One that no task of this runtime can use makes room.
        let full = idle.len() >= self.wanted();
        let stranger = if full { idle.iter().position(|other| !other.is_neighbour_of(&live)) } else { None };
        let surplus = match stranger.map(|at| idle.remove(at)) {
            None if full => Some(live),
            surplus => {
                idle.push(live);
                surplus
            }
        };
        drop(idle);
        if surplus.is_some() {
            self.shared.discarded("more than are kept");
        }
    }

    /// How many idle connections are of use: those to be kept, and one for each caller who waits.
    fn wanted(&self) -> usize {
        self.config().max_idle() + self.shared.slots.waiting()
    }
}

impl<DB: Engine> Shared<DB> {
    fn idle(&self) -> MutexGuard<'_, Vec<Box<Live<DB>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection used last among those this runtime may use, with a judgement; those past their age go.
    fn take_idle(&self, runtime: runtime::Id, now: Reading) -> Option<(Box<Live<DB>>, Idle)> {
        let limits = Limits { validate_after: self.config.validate_after(), idle_limit: self.config.idle_limit() };
        let mut idle = self.idle();
        let newest = idle.iter().rposition(|live| live.belongs_to(runtime));
        let Some(newest) = newest else {
            // A connection lives in the runtime that opened it. Others may want it back, unless its place is needed.
            let stranger = (self.open.get() >= self.config.max_connections()).then(|| idle.pop()).flatten();
            drop(idle);
            if stranger.is_some() {
                self.discarded("another runtime's, and its place was needed");
            }
            return None;
        };
        let mut live = idle.remove(newest);
        drop(idle);
        let judgement = live.examine(now, limits);
        Some((live, judgement))
    }

    fn connected(&self, connected: Connected<DB>, runtime: runtime::Id, open: Open, attempts: u32) -> Box<Live<DB>> {
        let now = self.config.clock().now();
        self.counters.connects.increment();
        let Connected { connection, socket, times } = connected;
        tracing::debug!(attempt = attempts, tuned = socket.is_some(), ?times, "connected");
        Box::new(Live::new(connection, runtime, socket, now, self.lifetime(), open))
    }

    /// The longest life of one connection: connections opened together do not end together.
    fn lifetime(&self) -> Duration {
        let jitter = self.config.lifetime_jitter_ratio() * self.random().f64();
        self.config.max_lifetime().mul_f64(1.0 - jitter)
    }

    fn discarded(&self, reason: &'static str) {
        self.counters.discards.increment();
        tracing::debug!(reason, "closed a connection");
    }

    fn random(&self) -> fastrand::Rng {
        fastrand::Rng::new()
    }

    fn counts(&self) -> PoolCounts {
        PoolCounts { open: self.open.get(), idle: self.idle().len(), waiting: self.slots.waiting() }
    }
}

impl<DB: Engine> Clone for Pool<DB> {
    fn clone(&self) -> Self {
        Pool { shared: Arc::clone(&self.shared), scope: self.scope }
    }
}

impl<DB: Engine> fmt::Debug for Pool<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("config", self.config()).field("counts", &self.shared.counts()).finish()
    }
}
