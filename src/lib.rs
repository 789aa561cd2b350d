//! A sqlx pool for AWS Lambda behind Amazon RDS Proxy: IAM tokens, freeze awareness, failover retry.
#![deny(missing_docs)]

pub mod clock;
#[cfg(feature = "emulator")]
pub mod emulator;
mod config;
mod error;
mod outcome;
mod secret;
mod sign;
mod socket;

pub use error::{Error, ErrorKind, PoolCounts};
pub use outcome::{Outcome, Phase};
pub use secret::Secret;
