//! PostgreSQL: the generic types under the names its users know.

use sqlx_postgres::Postgres;

use crate::global::global_pool;

/// A pool of PostgreSQL connections; see [`Pool`](crate::Pool).
pub type ProxyPool = crate::Pool<Postgres>;

/// A static pool of PostgreSQL connections; see [`LazyPool`](crate::LazyPool).
pub type LazyProxyPool = crate::LazyPool<Postgres>;

/// A PostgreSQL connection on loan; see [`ProxyConnection`](crate::ProxyConnection).
pub type ProxyConnection = crate::ProxyConnection<Postgres>;

/// An open PostgreSQL transaction; see [`ProxyTransaction`](crate::ProxyTransaction).
pub type ProxyTransaction = crate::ProxyTransaction<Postgres>;

/// A transaction within a closure; see [`Tx`](crate::Tx).
pub type Tx = crate::Tx<Postgres>;

global_pool!(Postgres);
