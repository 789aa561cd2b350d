//! A sqlx pool for AWS Lambda behind Amazon RDS Proxy: IAM tokens, freeze awareness, failover retry.
#![deny(missing_docs)]

pub mod clock;
#[cfg(feature = "emulator")]
pub mod emulator;
mod secret;
mod socket;

pub use secret::Secret;
