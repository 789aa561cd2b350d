//! What is done for the pool as a whole: before the first invocation, at the end of each, and at the end of all.

use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::join_all;

use tokio::runtime::Handle;

use crate::attend::{Bounds, Ended, attend};
use crate::engine::Engine;
use crate::error::Error;
use crate::pool::live::{Idle, Live};
use crate::pool::{Pool, Slot};

/// How long a goodbye to the server may take at the end of an invocation.
const GOODBYE: Duration = Duration::from_millis(100);

impl<DB: Engine> Pool<DB> {
    /// Opens a connection now, so that the first invocation finds one: for the init phase.
    ///
    /// # Errors
    /// As [`Pool::acquire`]. A failure here need not fail the init: the first call will try again.
    pub async fn warm(&self) -> Result<(), Error> {
        self.acquire().await.map(drop)
    }

    /// Ends an invocation: nothing is in flight afterwards, and only connections fit for the next one are kept.
    ///
    /// A connection that was lent is asked whether it is still in a transaction, so that none is left open through a
    /// freeze; one past its age is closed. Where no connection needs attention it does nothing. Connections in use by tasks
    /// that outlive the invocation are theirs.
    ///
    /// # Cancel safety
    /// A connection that was being looked at is closed.
    pub async fn settle(&self) {
        let mut kept = Vec::new();
        let mut doubtful = Vec::new();
        let mut leaving = Vec::new();
        let Ok(runtime) = Handle::try_current() else { return };
        let wanted = self.wanted();
        while let Some((live, idle)) = self.shared.take_idle(runtime.id(), self.clock().now()) {
            match idle {
                Idle::Unfit(_) => leaving.push(live),
                _ if live.is_lent() => doubtful.push(live),
                // Kept for callers who then gave up waiting; the newest come first.
                _ if kept.len() >= wanted => leaving.push(live),
                _ => kept.push(live),
            }
        }
        self.put_back(kept);
        // While they are looked at or say goodbye they take up places, or more would be opened than there may be.
        let doubtful: Vec<_> = doubtful.into_iter().filter_map(|live| self.aside(live)).collect();
        let mut leaving: Vec<_> = leaving.into_iter().filter_map(|live| self.aside(live)).collect();
        for (mut live, slot) in doubtful {
            if self.is_fit(&mut live).await {
                self.release(live);
            } else {
                leaving.push((live, slot));
            }
        }
        for _ in &leaving {
            self.shared.discarded("at the end of the invocation");
        }
        let goodbye = |(live, slot)| async move {
            self.say_goodbye(live, GOODBYE).await;
            drop::<Slot>(slot);
        };
        join_all(leaving.into_iter().map(goodbye)).await;
    }

    /// Gives back what was taken for a look, in the order it was in. A pool that was closed meanwhile keeps nothing.
    fn put_back(&self, newest_first: Vec<Box<Live<DB>>>) {
        let mut idle = self.shared.idle();
        if !self.shared.slots.is_closed() {
            idle.extend(newest_first.into_iter().rev());
        }
    }

    /// A connection that was idle, with a place of its own; closed where none is free.
    fn aside(&self, live: Box<Live<DB>>) -> Option<(Box<Live<DB>>, Slot)> {
        let slot = self.shared.slots.try_take().ok().flatten();
        if slot.is_none() {
            self.shared.discarded("its place was needed");
        }
        slot.map(|slot| (live, slot))
    }

    async fn is_fit(&self, live: &mut Live<DB>) -> bool {
        let bounds = Bounds { until: self.budget().until, patience: Some(self.config().ping_timeout()), watch: None };
        live.probe(self.clock(), bounds).await.is_some_and(|probe| !probe.in_transaction)
    }

    /// Closes the pool for good: calls fail from now on, idle connections say goodbye, and connections in use are waited
    /// for, all within `timeout`.
    ///
    /// Lambda gives a few hundred milliseconds at the end of an environment, and only if an extension is registered; keep
    /// `timeout` below that. Returns whether every connection was closed in time; the rest close when they are released.
    ///
    /// # Cancel safety
    /// The pool stays closed; connections not yet closed are closed without a goodbye.
    pub async fn close(&self, timeout: Duration) -> bool {
        let bounds = Bounds { until: self.clock().monotonic().checked_add(timeout), ..Bounds::default() };
        self.shared.slots.close();
        let idle = std::mem::take(&mut *self.shared.idle());
        join_all(idle.into_iter().map(|live| self.say_goodbye(live, timeout))).await;
        let plain = self.shared.plain.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let plain_closed = match plain {
            Some(plain) => matches!(attend(self.clock(), bounds, plain.close()).await, Ended::Answer(())),
            None => true,
        };
        attend(self.clock(), bounds, self.shared.open.none()).await;
        plain_closed && self.shared.open.get() == 0
    }

    async fn say_goodbye(&self, live: Box<Live<DB>>, patience: Duration) {
        let bounds = Bounds { patience: Some(patience), ..Bounds::default() };
        attend(self.clock(), bounds, live.close()).await;
    }
}
