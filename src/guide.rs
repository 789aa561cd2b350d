//! Pages to read before production.

/// What is promised about commits, on which kind of database, and what you set for it.
#[doc = include_str!("guide/commits.md")]
pub mod commits {}
