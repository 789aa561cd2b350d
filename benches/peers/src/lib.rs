//! What the benches of this package share with each other and with those of the crate; see README.md.

#[path = "../../support/mod.rs"]
pub mod bench;
pub mod far;
pub mod peers;
#[path = "../../../tests/support/mod.rs"]
pub mod support;
#[path = "../handlers/by_hand/src/token.rs"]
pub mod token;

// The emulator's link names it so.
use rds_proxy_pool::clock;
