//! What the emulator measures, by the names CloudWatch has for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::event::Counts;
use crate::clock::Clock;

/// The CloudWatch metrics of RDS Proxy, as far as the emulator has what they measure.
///
/// Of those below, the current numbers are as of the moment they were asked for, the others count from the start of the
/// emulator, where CloudWatch has them by the minute. A latency is the average so far in microseconds, by the emulator's
/// clock, and missing until there is one. No database session of the emulator is encrypted.
///
/// | Name | What it is here |
/// |---|---|
/// | `ClientConnections` | clients that are logged in now |
/// | `ClientConnectionsTLS`, `ClientConnectionsNoTLS` | those of them with TLS and without |
/// | `ClientConnectionsInSetup` | connections that are open now and not logged in |
/// | `ClientConnectionsReceived`, `ClientConnectionsClosed` | connections that came, and that ended |
/// | `ClientConnectionsSetupSucceeded` | logins that succeeded |
/// | `ClientConnectionsSetupFailedAuth` | logins refused with a code of class 28, and TLS handshakes that failed; refusals by a limit are none of them |
/// | `DatabaseConnections` | database sessions that are open now |
/// | `DatabaseConnectionRequests` | attempts to open one |
/// | `DatabaseConnectionsSetupSucceeded`, `DatabaseConnectionsSetupFailed` | how they ended, if anybody waited for the end |
/// | `DatabaseConnectionsBorrowLatency` | from the wish for a database session until it was there |
/// | `DatabaseConnectionsCurrentlyBorrowed` | database sessions that a client has now |
/// | `DatabaseConnectionsCurrentlySessionPinned` | those of them that it keeps |
/// | `MaxDatabaseConnectionsAllowed` | the [limit](super::Builder::database_connection_limit), where there is one |
/// | `DatabaseConnectionsCurrentlyInTransaction` | database sessions in a transaction now, failed ones included |
/// | `QueryRequests` | executions asked for; several statements in one text are one |
/// | `QueryRequestsTLS`, `QueryRequestsNoTLS` | those of them over TLS and without |
/// | `QueryResponseLatency` | from the first message of a request that executes something until all of it was answered |
/// | `QueryDatabaseResponseLatency` | the part of it after the request was passed on to the database |
///
/// Source: "Monitoring RDS Proxy metrics with Amazon CloudWatch", which leaves open whether `ClientConnections` has those
/// in setup.
///
/// ```
/// # fn example(proxy: &rds_proxy_pool::emulator::RdsProxyEmulator) {
/// assert_eq!(proxy.metrics().get("ClientConnections"), Some(0.0));
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics(BTreeMap<&'static str, f64>);

impl Metrics {
    /// The value of the metric of this name, if the emulator has it.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// All there are, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().map(|(name, value)| (*name, *value))
    }
}

/// What is measured beside the events.
#[derive(Debug, Default)]
pub(super) struct Meters {
    pub(super) clients_with_tls: Arc<AtomicU64>,
    pub(super) clients_without_tls: Arc<AtomicU64>,
    failed_authentications: AtomicU64,
    pub(super) databases: Arc<AtomicU64>,
    pub(super) borrowed: Arc<AtomicU64>,
    pub(super) pinned: Arc<AtomicU64>,
    pub(super) in_transaction: Arc<AtomicU64>,
    pub(super) database_requests: AtomicU64,
    pub(super) database_failures: AtomicU64,
    queries_with_tls: AtomicU64,
    queries_without_tls: AtomicU64,
    pub(super) borrowing: Latency,
    answering: Latency,
    answering_by_database: Latency,
}

/// Adds one to a current number while it lives.
#[derive(Debug)]
pub(super) struct Present(Arc<AtomicU64>);

impl Present {
    pub(super) fn new(number: &Arc<AtomicU64>) -> Self {
        number.fetch_add(1, Ordering::Relaxed);
        Present(Arc::clone(number))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long something took on average.
#[derive(Debug, Default)]
pub(super) struct Latency(Mutex<(u32, Duration)>);

impl Latency {
    pub(super) fn add(&self, length: Duration) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *sum = (sum.0.saturating_add(1), sum.1.saturating_add(length));
    }

    fn micros(&self) -> Option<f64> {
        let (samples, total) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (samples > 0).then(|| total.as_secs_f64() * 1e6 / f64::from(samples))
    }
}

impl Meters {
    /// An authentication or a TLS handshake failed.
    pub(super) fn failed(&self) {
        self.failed_authentications.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, counts: Counts, database_limit: Option<usize>) -> Metrics {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (tls, plain) = (get(&self.clients_with_tls), get(&self.clients_without_tls));
        let (queries_tls, queries_plain) = (get(&self.queries_with_tls), get(&self.queries_without_tls));
        let numbers = [
            ("ClientConnections", tls + plain),
            ("ClientConnectionsTLS", tls),
            ("ClientConnectionsNoTLS", plain),
            ("ClientConnectionsInSetup", counts.open.saturating_sub(tls + plain)),
            ("ClientConnectionsReceived", counts.connections),
            ("ClientConnectionsClosed", counts.connections - counts.open),
            ("ClientConnectionsSetupSucceeded", counts.logins),
            ("ClientConnectionsSetupFailedAuth", get(&self.failed_authentications)),
            ("DatabaseConnections", get(&self.databases)),
            ("DatabaseConnectionRequests", get(&self.database_requests)),
            ("DatabaseConnectionsSetupSucceeded", counts.backend_connections),
            ("DatabaseConnectionsSetupFailed", get(&self.database_failures)),
            ("DatabaseConnectionsCurrentlyBorrowed", get(&self.borrowed)),
            ("DatabaseConnectionsCurrentlySessionPinned", get(&self.pinned)),
            ("DatabaseConnectionsCurrentlyInTransaction", get(&self.in_transaction)),
            ("QueryRequests", queries_tls + queries_plain),
            ("QueryRequestsTLS", queries_tls),
            ("QueryRequestsNoTLS", queries_plain),
        ];
        let latencies = [
            ("DatabaseConnectionsBorrowLatency", &self.borrowing),
            ("QueryResponseLatency", &self.answering),
            ("QueryDatabaseResponseLatency", &self.answering_by_database),
        ];
        let numbers = numbers.into_iter().map(|(name, number)| (name, number as f64));
        let latencies = latencies.into_iter().filter_map(|(name, latency)| Some((name, latency.micros()?)));
        let limit = database_limit.map(|limit| ("MaxDatabaseConnectionsAllowed", limit as f64));
        Metrics(numbers.chain(latencies).chain(limit).collect())
    }
}

/// Measures one client.
pub(super) struct Meter {
    meters: Arc<Meters>,
    encrypted: bool,
    /// When the request began that is not answered yet.
    asked: Option<Instant>,
    /// When the database got it.
    passed_on: Option<Instant>,
    executes: bool,
    in_transaction: Option<Present>,
}

impl Meter {
    pub(super) fn new(meters: &Arc<Meters>, encrypted: bool) -> Self {
        let meters = Arc::clone(meters);
        Meter { meters, encrypted, asked: None, passed_on: None, executes: false, in_transaction: None }
    }

    /// The client is logged in, for as long as what is returned lives.
    pub(super) fn client(&self) -> Present {
        let Meters { clients_with_tls, clients_without_tls, .. } = &*self.meters;
        Present::new(if self.encrypted { clients_with_tls } else { clients_without_tls })
    }

    /// The client has sent a message that begins or goes on with a request.
    pub(super) fn received(&mut self, tag: u8, now: Instant) {
        self.asked.get_or_insert(now);
        if matches!(tag, b'Q' | b'E') {
            self.executes = true;
            let Meters { queries_with_tls, queries_without_tls, .. } = &*self.meters;
            let queries = if self.encrypted { queries_with_tls } else { queries_without_tls };
            queries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The database gets a message of the request.
    pub(super) fn passed_on(&mut self, clock: &dyn Clock) {
        self.passed_on.get_or_insert_with(|| clock.monotonic());
    }

    /// Everything asked for is answered.
    pub(super) fn answered(&mut self, now: Instant) {
        let (asked, passed_on) = (self.asked.take(), self.passed_on.take());
        if std::mem::take(&mut self.executes) {
            let add = |latency: &Latency, since: Instant| latency.add(now.saturating_duration_since(since));
            asked.into_iter().for_each(|asked| add(&self.meters.answering, asked));
            passed_on.into_iter().for_each(|passed_on| add(&self.meters.answering_by_database, passed_on));
        }
    }

    /// Its database session is in a transaction, or is not.
    pub(super) fn in_transaction(&mut self, is: bool) {
        match is {
            true => drop(self.in_transaction.get_or_insert_with(|| Present::new(&self.meters.in_transaction))),
            false => self.in_transaction = None,
        }
    }
}
