//! Everything the crate promises, against real servers.
#[path = "../support/mod.rs"]
mod support;

mod acquire;
mod cancel;
mod clients;
mod deadline;
mod dropped;
mod emulator;
mod errors;
mod executor;
mod faults;
mod hostile;
mod lambda;
mod lost;
mod realism;
mod secrets;
mod servers;
mod thaw;
mod token;
mod transactions;
