//! What has happened, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::PoolCounts;

/// A pool's connections and counts, see [`Pool::status`](crate::Pool::status).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Connections that exist, being opened included.
    pub open: usize,
    /// Connections open and not in use.
    pub idle: usize,
    /// Calls waiting for a free connection.
    pub waiting: usize,
    /// The most connections there may be.
    pub max_connections: usize,
    /// Connections opened so far.
    pub connects: u64,
    /// Attempts to open one that failed.
    pub connect_failures: u64,
    /// Connections closed because they were lost, unfit, old, or not needed.
    pub discards: u64,
    /// Questions asked of connections that were idle for long.
    pub probes: u64,
    /// Statements and transactions sent again on another connection.
    pub retries: u64,
    /// IAM tokens signed.
    pub tokens_signed: u64,
}

/// Something counted; never reset.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One pool's counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connects: Counter,
    pub(crate) connect_failures: Counter,
    pub(crate) discards: Counter,
    pub(crate) probes: Counter,
    pub(crate) retries: Counter,
}

impl Counters {
    pub(crate) fn status(&self, counts: PoolCounts, max_connections: usize, tokens_signed: u64) -> Status {
        let PoolCounts { open, idle, waiting } = counts;
        Status {
            open,
            idle,
            waiting,
            max_connections,
            connects: self.connects.get(),
            connect_failures: self.connect_failures.get(),
            discards: self.discards.get(),
            probes: self.probes.get(),
            retries: self.retries.get(),
            tokens_signed,
        }
    }
}
