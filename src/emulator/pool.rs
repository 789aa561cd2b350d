//! The database sessions that clients share: those nobody has, how many there may be, and who waits for one.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use socket2::Socket;
use tokio::sync::oneshot;

use super::backend::{BackendSession, prepare};
use super::metrics::{Meters, Present};
use super::postgres::Startup;
use super::prepared::{Known, Prepared};
use super::wire::{Frame, Wire};
use super::{Backend, Builder, RdsProxyEmulator, SessionId};

/// A database session with more statements than this is not used again: most are of clients that have gone.
const MOST_STATEMENTS: usize = 500;

/// Clients of one kind can use the same database sessions.
#[derive(Debug, PartialEq)]
pub(super) struct Key {
    pub(super) backend: Backend,
    pub(super) startup: Startup,
}

impl Key {
    fn is(self: &Arc<Self>, other: &Arc<Key>) -> bool {
        Arc::ptr_eq(self, other) || self == other
    }
}

/// A database session; one that counts against the limit while it lives.
pub(super) struct Database {
    pub(super) wire: Wire,
    socket: Socket,
    pub(super) key: Arc<Key>,
    /// With which the server stops what runs there.
    pub(super) cancel_key: Bytes,
    /// What the server said about itself.
    pub(super) parameters: Arc<[Frame]>,
    pub(super) statements: Known,
    /// Who has it, or had it last.
    client: SessionId,
    borrowed: Option<Present>,
    /// Counts it among those that are pinned.
    pub(super) pinned: Option<Present>,
    permit: Permit,
}

impl Database {
    pub(super) fn new(opened: BackendSession, key: Arc<Key>, client: SessionId, permit: Permit) -> Box<Self> {
        let BackendSession { mut wire, socket, key: cancel_key, parameters } = opened;
        wire.counted = Some(Present::new(&permit.pool.meters.databases));
        let (parameters, statements) = (parameters.into(), Known::default());
        let (borrowed, pinned) = (None, None);
        Box::new(Database { wire, socket, key, cancel_key, parameters, statements, client, borrowed, pinned, permit })
    }

    /// This client has it from now on.
    pub(super) fn lend(&mut self, client: SessionId) {
        self.client = client;
        self.borrowed = Some(Present::new(&self.permit.pool.meters.borrowed));
    }

    /// Whether the server is there and has said nothing unasked, which would be its last words.
    pub(super) fn is_quiet(&self) -> bool {
        let peeked = self.socket.peek(&mut [MaybeUninit::uninit()]);
        self.wire.is_empty() && peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Prepares what a client whose next message is this one may use and this session does not have.
    pub(super) async fn prepare(&mut self, client: &Prepared, message: &Frame) -> std::io::Result<()> {
        let missing = client.missing(&self.statements, message);
        if !missing.is_empty() {
            let done = prepare(&mut self.wire, missing.iter().map(|statement| &statement.parse)).await?;
            let done = missing.into_iter().zip(done).filter(|(_, is_prepared)| *is_prepared);
            done.for_each(|(statement, _)| self.statements.add(statement));
        }
        Ok(())
    }
}

/// The right to have one database session.
pub(super) struct Permit {
    pool: Arc<Pool>,
    /// How often the database had moved before.
    epoch: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut shelf = self.pool.shelf();
        shelf.open -= 1;
        let granted = self.pool.grant(&mut shelf);
        drop(shelf);
        hand_out(granted);
    }
}

/// What a client gets.
pub(super) enum Lent {
    Database(Box<Database>),
    /// It may open one.
    Permit(Permit),
}

/// What a client that wants a database session gets.
pub(super) enum Taken {
    Now(Lent),
    Later(oneshot::Receiver<Lent>),
}

struct Waiting {
    key: Arc<Key>,
    sender: oneshot::Sender<Lent>,
}

/// All database sessions.
pub(super) struct Pool {
    shelf: Mutex<Shelf>,
    pub(super) meters: Arc<Meters>,
}

struct Shelf {
    epoch: u64,
    limit: Option<usize>,
    /// Permits that exist.
    open: usize,
    /// The one given back last is at the end.
    idle: VecDeque<Box<Database>>,
    waiting: VecDeque<Waiting>,
    /// What the server has said about itself, for each kind of client.
    told: Vec<(Arc<Key>, Arc<[Frame]>)>,
}

impl Pool {
    pub(super) fn new(limit: Option<usize>, meters: Arc<Meters>) -> Arc<Self> {
        let shelf =
            Shelf { epoch: 0, limit, open: 0, idle: VecDeque::new(), waiting: VecDeque::new(), told: Vec::new() };
        Arc::new(Pool { shelf: Mutex::new(shelf), meters })
    }

    /// A database session for this client: the one it had last, another one of its kind, or a new one.
    pub(super) fn take(self: &Arc<Self>, key: &Arc<Key>, client: SessionId) -> Taken {
        let mut shelf = self.shelf();
        let fits = |database: &Database| database.key.is(key);
        let own = shelf.idle.iter().rposition(|database| database.client == client && fits(database));
        let at = own.or_else(|| shelf.idle.iter().rposition(|database| fits(database)));
        if let Some(database) = at.and_then(|at| shelf.idle.remove(at)) {
            return Taken::Now(Lent::Database(database));
        }
        if !shelf.is_full() {
            return Taken::Now(Lent::Permit(self.permit(&mut shelf)));
        }
        let (sender, receiver) = oneshot::channel();
        shelf.waiting.retain(|waiting| !waiting.sender.is_closed());
        shelf.waiting.push_back(Waiting { key: Arc::clone(key), sender });
        // One of another kind that nobody has makes room.
        let other = shelf.idle.pop_front();
        drop(shelf);
        drop(other);
        Taken::Later(receiver)
    }

    /// Takes back a database session with nothing under way.
    pub(super) fn give_back(&self, mut database: Box<Database>) {
        database.borrowed = None;
        let mut shelf = self.shelf();
        let is_usable = database.permit.epoch == shelf.epoch
            && database.statements.len() <= MOST_STATEMENTS
            && shelf.limit.is_none_or(|limit| shelf.open <= limit);
        if !is_usable {
            drop(shelf);
            drop(database);
            return;
        }
        shelf.waiting.retain(|waiting| !waiting.sender.is_closed());
        match shelf.waiting.front() {
            None => shelf.idle.push_back(database),
            Some(first) if first.key.is(&database.key) => {
                let first = shelf.waiting.pop_front();
                drop(shelf);
                hand_out(first.map(|first| (first.sender, Lent::Database(database))).into_iter().collect());
            }
            Some(_) => {
                drop(shelf);
                // Its end makes room.
                drop(database);
            }
        }
    }

    /// The database has moved: what leads to the old one is not used again.
    pub(super) fn clear(&self) {
        let mut shelf = self.shelf();
        shelf.epoch += 1;
        shelf.told.clear();
        let old = std::mem::take(&mut shelf.idle);
        drop(shelf);
        drop(old);
    }

    /// What the server says about itself to clients of this kind, once one has been there.
    pub(super) fn told(&self, key: &Arc<Key>) -> Option<Arc<[Frame]>> {
        self.shelf().told.iter().find(|(other, _)| other.is(key)).map(|(_, told)| Arc::clone(told))
    }

    pub(super) fn tell(&self, key: &Arc<Key>, parameters: &Arc<[Frame]>) {
        let mut shelf = self.shelf();
        if !shelf.told.iter().any(|(other, _)| other.is(key)) {
            shelf.told.push((Arc::clone(key), Arc::clone(parameters)));
        }
    }

    pub(super) fn limit(&self) -> Option<usize> {
        self.shelf().limit
    }

    fn set_limit(self: &Arc<Self>, limit: Option<usize>) {
        let mut shelf = self.shelf();
        shelf.limit = limit;
        let over = limit.map_or(0, |limit| shelf.open.saturating_sub(limit)).min(shelf.idle.len());
        let closed: Vec<_> = shelf.idle.drain(..over).collect();
        let granted = self.grant(&mut shelf);
        drop(shelf);
        drop(closed);
        hand_out(granted);
    }

    fn permit(self: &Arc<Self>, shelf: &mut Shelf) -> Permit {
        shelf.open += 1;
        Permit { pool: Arc::clone(self), epoch: shelf.epoch }
    }

    /// Permits for those who wait, as many as there is room for. To be handed out when the lock is free.
    fn grant(self: &Arc<Self>, shelf: &mut Shelf) -> Vec<(oneshot::Sender<Lent>, Lent)> {
        let mut granted = Vec::new();
        while !shelf.is_full()
            && let Some(Waiting { sender, .. }) = shelf.waiting.pop_front()
        {
            if !sender.is_closed() {
                granted.push((sender, Lent::Permit(self.permit(shelf))));
            }
        }
        granted
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.open >= limit)
    }
}

/// What a client does not take any more ends here, which makes room for the next one.
fn hand_out(granted: Vec<(oneshot::Sender<Lent>, Lent)>) {
    granted.into_iter().for_each(|(sender, lent)| drop(sender.send(lent)));
}

impl Builder {
    /// At most this many database sessions at a time; who needs one more waits in order of arrival, up to the
    /// [borrow timeout](Self::connection_borrow_timeout). No limit by default.
    ///
    /// One of another user, database or startup packet that nobody has is closed to make room. Source:
    /// `MaxConnectionsPercent` in the RDS API, which is a part of the database's own limit.
    pub fn database_connection_limit(mut self, limit: usize) -> Self {
        self.database_connections = Some(limit);
        self
    }
}

impl RdsProxyEmulator {
    /// Changes [`database_connection_limit`](Builder::database_connection_limit): at once where there are too few, and as
    /// database sessions are given back where there are too many.
    pub fn set_database_connection_limit(&self, limit: Option<usize>) {
        self.proxy.pool.set_limit(limit);
    }
}
