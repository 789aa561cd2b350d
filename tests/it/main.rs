//! Everything the crate promises, against real servers.
#[path = "../support/mod.rs"]
mod support;
