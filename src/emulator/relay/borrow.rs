//! How a session gets a database session: it waits for one as long as the proxy lets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::backend::{Backend, Unavailable};
use super::super::event::{Closed, Event};
use super::super::pool::{Database, Key, Lent, Permit, Taken};
use super::super::postgres::{Refusal, Startup};
use super::super::prepared::Prepared;
use super::super::session::{Command, Ended};
use super::super::strike::Target;
use super::super::wire::Frame;
use super::Session;

/// Between two attempts to reach a database that is down.
const RETRY_EVERY: Duration = Duration::from_millis(10);

/// Where a client's database sessions are.
pub(super) struct Assigned {
    pub(super) startup: Startup,
    /// `None` while there is no database.
    pub(super) to: Option<Arc<Key>>,
}

impl Assigned {
    pub(super) fn new(startup: Startup, backend: Option<Backend>) -> Self {
        let mut assigned = Assigned { startup, to: None };
        assigned.set(backend);
        assigned
    }

    fn set(&mut self, backend: Option<Backend>) {
        self.to = backend.map(|backend| Arc::new(Key { backend, startup: self.startup.clone() }));
    }

    /// Does as a test tells a client that waits. A request that waits has reached no database: another one can serve it.
    pub(super) fn obey(&mut self, command: Option<Command>) -> Result<(), Ended> {
        match Command::interrupt(command)? {
            Some(Command::Move(backend)) => self.set(backend),
            Some(Command::Offer(backend)) if self.to.is_none() => self.set(Some(backend)),
            _ => {}
        }
        Ok(())
    }

    fn is(&self, other: &Option<Arc<Key>>) -> bool {
        match (&self.to, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

/// What a client wants a database session for.
struct Wish<'s> {
    target: Target<'s>,
    prepared: &'s Prepared,
    /// The first message of its request.
    message: &'s Frame,
    queued: AtomicBool,
}

impl Wish<'_> {
    /// The client has to wait.
    fn queue(&self) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.target.proxy.log.record(Event::Queued(self.target.id));
        }
    }

    /// A database session with all that the request needs.
    async fn obtain(&self, key: Option<Arc<Key>>) -> Result<Box<Database>, Unavailable> {
        let Some(key) = key else {
            self.queue();
            return std::future::pending().await;
        };
        loop {
            let lent = match self.target.proxy.pool.take(&key, self.target.id) {
                Taken::Now(lent) => lent,
                Taken::Later(lent) => {
                    self.queue();
                    let Ok(lent) = lent.await else { continue };
                    lent
                }
            };
            let mut database = match lent {
                Lent::Database(database) if database.is_quiet() => database,
                // It has died since.
                Lent::Database(_) => continue,
                Lent::Permit(permit) => self.open(&key, permit).await?,
            };
            database.lend(self.target.id);
            if database.prepare(self.prepared, self.message).await.is_ok() {
                return Ok(database);
            }
        }
    }

    async fn open(&self, key: &Arc<Key>, permit: Permit) -> Result<Box<Database>, Unavailable> {
        let Target { proxy, id: session, .. } = self.target;
        proxy.meters.database_requests.fetch_add(1, Ordering::Relaxed);
        let opened = key.backend.open(key).await.inspect_err(|_| {
            proxy.meters.database_failures.fetch_add(1, Ordering::Relaxed);
        })?;
        let database = Database::new(opened, Arc::clone(key), session, permit);
        let start = proxy.clock.monotonic();
        if !proxy.gate.limits().init_delay.is_zero() {
            self.queue();
        }
        proxy.passed(start, |limits| limits.init_delay).await;
        proxy.log.record(Event::BackendOpened { session, address: key.backend.address });
        proxy.settings().parameters = Some(database.parameters.to_vec());
        proxy.pool.tell(key, &database.parameters);
        Ok(database)
    }
}

impl Session<'_> {
    /// Gets a database session for a request that begins with this message, waiting for one as the proxy does. The inner
    /// error is for the client.
    pub(super) async fn borrow(&mut self, message: &Frame) -> Result<Result<(), Frame>, Ended> {
        if self.pin.is_some() {
            return Ok(Err(Refusal::pinned_to_nothing().frame("ERROR")));
        }
        let Session { target, prepared, assigned, commands, client, .. } = self;
        let proxy = target.proxy;
        let since = proxy.clock.monotonic();
        let wish = Wish { target: *target, prepared, message, queued: AtomicBool::new(false) };
        loop {
            let key = assigned.to.clone();
            let obtaining = wish.obtain(key.clone());
            tokio::pin!(obtaining);
            let obtained = loop {
                tokio::select! {
                    biased;
                    command = commands.recv() => {
                        assigned.obey(command)?;
                        if !assigned.is(&key) {
                            break None;
                        }
                    }
                    obtained = &mut obtaining => break Some(obtained),
                    () = client.hangs_up() => return Err(Ended::quietly(Closed::ByClient)),
                    () = proxy.passed(since, |limits| limits.borrow_timeout) => {
                        return Ok(Err(Refusal::borrow_timeout().frame("ERROR")));
                    }
                }
            };
            // One that came just before the end of the wait was meant for who waits.
            while let Ok(command) = commands.try_recv() {
                assigned.obey(Some(command))?;
            }
            match obtained.filter(|_| assigned.is(&key)) {
                Some(Ok(database)) => {
                    proxy.meters.borrowing.add(proxy.clock.monotonic().saturating_duration_since(since));
                    self.database = Some(database);
                    return Ok(Ok(()));
                }
                Some(Err(Unavailable::Refused(error))) => return Ok(Err(error)),
                Some(Err(Unavailable::ForNow)) => {}
                None => continue,
            }
            wish.queue();
            tokio::select! {
                biased;
                command = commands.recv() => assigned.obey(command)?,
                // The server's time, not the proxy's.
                () = tokio::time::sleep(RETRY_EVERY) => {}
            }
        }
    }
}
