//! How a session gets a database session: it waits for one as long as the proxy lets it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::backend::{BackendSession, Unavailable};
use super::super::event::{Closed, Event};
use super::super::metrics::Present;
use super::super::postgres::Refusal;
use super::super::session::{Command, Ended};
use super::super::wire::Frame;
use super::Session;

/// Between two attempts to reach a database that is down.
const RETRY_EVERY: Duration = Duration::from_millis(10);

impl Session<'_> {
    /// Opens the database session, waiting for a database as the proxy does. The inner error is for the client.
    pub(super) async fn borrow(&mut self) -> Result<Result<Vec<Frame>, Frame>, Ended> {
        let since = self.target.proxy.clock.monotonic();
        let queued = AtomicBool::new(false);
        let (proxy, id) = (self.target.proxy, self.target.id);
        let queue = || {
            if !queued.swap(true, Ordering::Relaxed) {
                proxy.log.record(Event::Queued(id));
            }
        };
        loop {
            if self.assigned.is_none() {
                queue();
            }
            let opening = async {
                match &self.assigned {
                    Some(backend) => {
                        proxy.meters.database_requests.fetch_add(1, Ordering::Relaxed);
                        let mut session = backend.open(&self.startup, self.prepared.named()).await?;
                        session.wire.counted = Some(Present::new(&proxy.meters.databases));
                        let start = proxy.clock.monotonic();
                        if !proxy.gate.limits().init_delay.is_zero() {
                            queue();
                        }
                        proxy.passed(start, |limits| limits.init_delay).await;
                        Ok(session)
                    }
                    None => std::future::pending().await,
                }
            };
            let opened = tokio::select! {
                biased;
                command = self.commands.recv() => {
                    self.obey_in_queue(command)?;
                    continue;
                }
                opened = opening => opened,
                () = self.client.hangs_up() => return Err(Ended::quietly(Closed::ByClient)),
                () = proxy.passed(since, |limits| limits.borrow_timeout) => {
                    return Ok(Err(Refusal::borrow_timeout().frame("ERROR")));
                }
            };
            // One that came just before the end of the wait was meant for who waits.
            if let Ok(command) = self.commands.try_recv() {
                self.obey_in_queue(Some(command))?;
                continue;
            }
            if opened.is_err() {
                proxy.meters.database_failures.fetch_add(1, Ordering::Relaxed);
            }
            match (opened, &self.assigned) {
                (Ok(BackendSession { wire, key, parameters }), Some(backend)) => {
                    let address = backend.address;
                    self.backend = Some(wire);
                    proxy.meters.borrowing.add(proxy.clock.monotonic().saturating_duration_since(since));
                    self.cancel_key = key;
                    proxy.log.record(Event::BackendOpened { session: self.target.id, address });
                    return Ok(Ok(parameters));
                }
                (Err(Unavailable::Refused(error)), _) => return Ok(Err(error)),
                _ => {}
            }
            queue();
            tokio::select! {
                biased;
                command = self.commands.recv() => self.obey_in_queue(command)?,
                // The server's time, not the proxy's.
                () = tokio::time::sleep(RETRY_EVERY) => {}
            }
        }
    }

    /// A request that waits has reached no database: another one can serve it.
    fn obey_in_queue(&mut self, command: Option<Command>) -> Result<(), Ended> {
        match command {
            Some(Command::Move(backend)) => {
                self.assigned = backend;
                Ok(())
            }
            Some(Command::CutIfIdle) => Ok(()),
            command => self.obey(command),
        }
    }
}
