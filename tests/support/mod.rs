//! What tests, benches and examples start: servers and the Lambda harness.
//!
//! Each of them includes this directory with `#[path]` and uses a part of it.
#![allow(dead_code, reason = "every test binary, bench and example uses its own part of this module")]
#![allow(unreachable_pub, reason = "the module is included by path into binaries, where nothing is reachable")]

pub mod lambda;
pub mod process;
pub mod servers;
pub mod tools;
pub mod world;
