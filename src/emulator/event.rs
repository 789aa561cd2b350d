//! What the emulator has seen, to be looked at and waited for.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::fault::Strike;
use super::iam::TokenRefusal;
use super::limits::Limit;
use super::pin::PinReason;

/// How many events are kept for those who look later.
const KEPT: usize = 16_384;

/// One client connection, numbered from 1 in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub(super) u64);

/// Something that happened at the emulator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A client opened a TCP connection.
    Connected(SessionId),
    /// A login was refused.
    LoginRefused {
        /// Whose.
        session: SessionId,
        /// Who the client said it was, if it came to that.
        user: Option<String>,
        /// The SQLSTATE it is answered with.
        code: &'static str,
        /// Which limit it met, if it was one.
        limit: Option<Limit>,
        /// What was wrong with its token, which the client was not told.
        token: Option<TokenRefusal>,
    },
    /// A client is logged in.
    LoggedIn {
        /// Whose session it is.
        session: SessionId,
        /// The database user.
        user: String,
    },
    /// A client sent a statement for execution.
    Statement {
        /// Who.
        session: SessionId,
        /// Its text, without values.
        sql: String,
    },
    /// Everything a client had asked for is answered.
    Answered(SessionId),
    /// A client waits for a database connection, or for the init delay of one.
    Queued(SessionId),
    /// A database connection was opened for a client.
    BackendOpened {
        /// For whom.
        session: SessionId,
        /// To which server.
        address: SocketAddr,
    },
    /// A client keeps its database connection from now on, until it closes.
    Pinned {
        /// Who.
        session: SessionId,
        /// By what.
        reason: PinReason,
    },
    /// A pinned client lost its database connection while it was idle; all its requests fail from now on.
    BackendLost(SessionId),
    /// A fault has struck.
    Struck(Strike),
    /// A client session is over.
    Closed {
        /// Whose.
        session: SessionId,
        /// Who ended it.
        reason: Closed,
    },
}

/// Who ended a client session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Closed {
    /// The client said goodbye or hung up.
    ByClient,
    /// The login failed.
    LoginFailed,
    /// The client broke the protocol.
    ProtocolViolation,
    /// The idle timeout or the maximum life of a client connection.
    TimedOut,
    /// Its database connection was lost in a transaction or while a request was under way.
    BackendLost,
    /// The database moved, in a way that keeps no client.
    Failover,
    /// The test cut it.
    Cut,
    /// A fault struck it.
    Fault,
    /// The emulator was shut down.
    Shutdown,
}

/// What the emulator has counted since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// TCP connections accepted.
    pub connections: u64,
    /// Logins that succeeded.
    pub logins: u64,
    /// Logins that were refused.
    pub logins_refused: u64,
    /// Those of them that were refused by [`Limit::ConnectionRate`].
    pub refused_by_connection_rate: u64,
    /// Those of them that were refused by [`Limit::Clients`].
    pub refused_by_client_limit: u64,
    /// Those of them that were refused by [`Limit::IamRate`].
    pub refused_by_iam_rate: u64,
    /// Client sessions that exist.
    pub open: u64,
    /// Times a logged-in client sent something and then had to wait for an answer.
    pub round_trips: u64,
    /// Statements sent for execution.
    pub statements: u64,
    /// Connections opened to the database.
    pub backend_connections: u64,
    /// Client sessions that were pinned, those that are over included.
    pub pinned: u64,
}

/// Events from some moment on.
///
/// ```
/// # async fn example(proxy: &rds_proxy_pool::emulator::RdsProxyEmulator) {
/// use rds_proxy_pool::emulator::Event;
///
/// let mut events = proxy.events();
/// // … something that logs in, in another task …
/// events.wait_for(|event| matches!(event, Event::LoggedIn { .. })).await;
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Events {
    log: Arc<Log>,
    next: u64,
}

impl Events {
    /// Waits for the next event.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub async fn next(&mut self) -> Event {
        let mut recorded = self.log.recorded.subscribe();
        loop {
            recorded.mark_unchanged();
            if let Some(event) = self.try_next() {
                return event;
            }
            // The sender lives in the log, which `self` keeps.
            let _ = recorded.changed().await;
        }
    }

    /// The next event, if it has happened already.
    pub fn try_next(&mut self) -> Option<Event> {
        let entries = self.log.entries();
        let oldest = entries.recorded - entries.kept.len() as u64;
        let at = self.next.max(oldest);
        let event = entries.kept.get(usize::try_from(at - oldest).ok()?)?.clone();
        self.next = at + 1;
        Some(event)
    }

    /// Waits for an event, passing over all others.
    ///
    /// # Cancel safety
    /// Events passed over are gone.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        loop {
            let event = self.next().await;
            if wanted(&event) {
                return event;
            }
        }
    }
}

/// Everything recorded.
#[derive(Debug)]
pub(super) struct Log {
    entries: Mutex<Entries>,
    recorded: watch::Sender<()>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Entries {
    kept: VecDeque<Event>,
    recorded: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    logins: AtomicU64,
    logins_refused: AtomicU64,
    refused_by: [AtomicU64; 3],
    closed: AtomicU64,
    round_trips: AtomicU64,
    statements: AtomicU64,
    backend_connections: AtomicU64,
    pinned: AtomicU64,
}

impl Log {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Log { entries: Mutex::default(), recorded: watch::Sender::new(()), counters: Counters::default() })
    }

    pub(super) fn record(&self, event: Event) {
        let counter = match &event {
            Event::Connected(_) => Some(&self.counters.connections),
            Event::LoginRefused { .. } => Some(&self.counters.logins_refused),
            Event::LoggedIn { .. } => Some(&self.counters.logins),
            Event::Statement { .. } => Some(&self.counters.statements),
            Event::BackendOpened { .. } => Some(&self.counters.backend_connections),
            Event::Closed { .. } => Some(&self.counters.closed),
            Event::Pinned { .. } => Some(&self.counters.pinned),
            Event::Answered(_) | Event::Queued(_) | Event::BackendLost(_) | Event::Struck(_) => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if let Event::LoginRefused { limit: Some(limit), .. } = &event {
            self.counters.refused_by[*limit as usize].fetch_add(1, Ordering::Relaxed);
        }
        let mut entries = self.entries();
        if entries.kept.len() == KEPT {
            entries.kept.pop_front();
        }
        entries.kept.push_back(event);
        entries.recorded += 1;
        drop(entries);
        self.recorded.send_replace(());
    }

    pub(super) fn round_trip(&self) {
        self.counters.round_trips.fetch_add(1, Ordering::Relaxed);
    }

    /// Events from the next one on.
    pub(super) fn from_now(self: &Arc<Self>) -> Events {
        Events { log: Arc::clone(self), next: self.entries().recorded }
    }

    /// Events from the oldest that is kept.
    pub(super) fn from_start(self: &Arc<Self>) -> Events {
        Events { log: Arc::clone(self), next: 0 }
    }

    /// Completes when `enough` says so of the counts, which are looked at after each event.
    pub(super) async fn counted(&self, mut enough: impl FnMut(Counts) -> bool) {
        let mut recorded = self.recorded.subscribe();
        loop {
            recorded.mark_unchanged();
            if enough(self.counts()) {
                return;
            }
            // The sender lives in `self`.
            let _ = recorded.changed().await;
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let Counters {
            connections,
            logins,
            logins_refused,
            refused_by,
            closed,
            round_trips,
            statements,
            backend_connections,
            pinned,
        } = &self.counters;
        let refused_by = |limit: Limit| get(&refused_by[limit as usize]);
        // Closed first: a session seen as closed has been seen as connected.
        let closed = get(closed);
        // Once: more may come meanwhile, and no more are open than have come.
        let connections = get(connections);
        Counts {
            connections,
            logins: get(logins),
            logins_refused: get(logins_refused),
            refused_by_connection_rate: refused_by(Limit::ConnectionRate),
            refused_by_client_limit: refused_by(Limit::Clients),
            refused_by_iam_rate: refused_by(Limit::IamRate),
            open: connections.saturating_sub(closed),
            round_trips: get(round_trips),
            statements: get(statements),
            backend_connections: get(backend_connections),
            pinned: get(pinned),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
