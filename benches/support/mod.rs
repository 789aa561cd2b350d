//! What the benches here and those in `peers` share.
#![allow(dead_code, reason = "every bench uses its own part of this module")]
#![allow(unreachable_pub, reason = "the module is included by path into binaries, where nothing is reachable")]

pub mod connect;
pub mod measure;
pub mod warm;
