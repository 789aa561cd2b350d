//! What is done for the pool as a whole: before the first invocation, at the end of each, and at the end of all.

use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::join_all;

use tokio::runtime::Handle;

use crate::attend::{Bounds, attend};
use crate::engine::Engine;
use crate::error::Error;
use crate::pool::live::{Idle, Live};
use crate::pool::{Fence, Pool};

/// How long a goodbye to the server may take at the end of an invocation.
const GOODBYE: Duration = Duration::from_millis(100);

impl<DB: Engine> Pool<DB> {
    /// Opens a connection now, so that the first invocation finds one: for the init phase.
    ///
    /// # Errors
    /// As [`Pool::acquire`]. A failure here need not fail the init: the first call will try again.
    pub async fn warm(&self) -> Result<(), Error> {
        self.checkout(&self.budget(), &|| Fence::Probe).await.map(drop)
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
        while let Some((live, idle)) = self.shared.take_idle(runtime.id()) {
            match idle {
                Idle::Unfit(_) => leaving.push(live),
                _ if live.is_lent() => doubtful.push(live),
                _ => kept.push(live),
            }
        }
        self.shared.idle().extend(kept.into_iter().rev());
        for mut live in doubtful {
            if self.is_fit(&mut live).await {
                self.release(live);
            } else {
                leaving.push(live);
            }
        }
        for _ in &leaving {
            self.shared.discarded("at the end of the invocation");
        }
        join_all(leaving.into_iter().map(|live| self.say_goodbye(live, GOODBYE))).await;
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
        let until = self.clock().monotonic() + timeout;
        self.shared.slots.close();
        let idle = std::mem::take(&mut *self.shared.idle());
        join_all(idle.into_iter().map(|live| self.say_goodbye(live, timeout))).await;
        let bounds = Bounds { until: Some(until), ..Bounds::default() };
        let plain = self.shared.plain.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(plain) = plain {
            attend(self.clock(), bounds, plain.close()).await;
        }
        attend(self.clock(), bounds, self.shared.open.none()).await;
        self.shared.open.get() == 0
    }

    async fn say_goodbye(&self, live: Live<DB>, patience: Duration) {
        let bounds = Bounds { patience: Some(patience), ..Bounds::default() };
        attend(self.clock(), bounds, live.close()).await;
    }
}
