//! A sqlx pool for AWS Lambda behind Amazon RDS Proxy: IAM tokens, freeze awareness, failover retry.
//!
//! ```no_run
//! use lambda_runtime::{Error, LambdaEvent};
//! use rds_proxy_pool::ProxyPool;
//! use serde_json::{Value, json};
//!
//! async fn handler(event: LambdaEvent<Value>) -> Result<Value, Error> {
//!     let pool = ProxyPool::get().await?.by(event.context.deadline());
//!     let now: String = sqlx::query_scalar("SELECT NOW()::text AS current_time").fetch_one(&pool).await?;
//!     Ok(json!({ "current_time": now }))
//! }
//! ```
//!
//! [`ProxyPool::get`] makes one static pool from the environment ([`ProxyConfig::from_env`]); [`Pool::by`] makes every
//! call answer before the invocation's deadline; `&ProxyPool` is an sqlx `Executor`. [`Pool::acquire`] and
//! [`Pool::begin`] hand out connections and transactions. [`Error`] says whose fault it is, what became of the work and
//! what to do.
#![deny(missing_docs)]

mod attend;
mod backoff;
pub mod clock;
mod closure;
mod config;
mod connect;
mod connection;
mod credentials;
mod deadline;
#[cfg(feature = "emulator")]
pub mod emulator;
mod engine;
mod error;
mod executor;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod global;
pub mod guide;
mod key;
mod observe;
mod once;
mod options;
mod outcome;
mod pool;
#[cfg(feature = "postgres")]
pub mod postgres;
mod retry;
mod secret;
mod sign;
mod socket;
mod statement;
mod token;
mod transaction;

pub use closure::Tx;
pub use config::{Access, Auth, CommitMarkers, Endpoint, ProxyConfig, ProxyConfigBuilder, Tls};
pub use connection::ProxyConnection;
pub use credentials::EnvironmentCredentials;
#[cfg(feature = "aws-config")]
pub use credentials::SdkCredentials;
pub use deadline::Deadline;
pub use engine::Engine;
pub use error::{Error, ErrorKind, PoolCounts};
pub use global::LazyPool;
pub use key::{NotAKey, OutcomeKey};
pub use observe::Status;
pub use once::OnceKey;
pub use options::{Isolation, TransactionOptions};
pub use outcome::{Outcome, Phase, Resolved};
pub use pool::Pool;
#[cfg(feature = "postgres")]
pub use postgres::{LazyProxyPool, ProxyPool};
pub use secret::Secret;
pub use transaction::{ProxyTransaction, Savepoint};

/// The code in the README compiles and runs as far as it can without a server.
#[cfg(all(doctest, feature = "emulator"))]
#[doc = include_str!("../README.md")]
struct Readme;
