//! Who may hold a connection: first come, first served, and never more than allowed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, TryAcquireError, watch};

/// The pool's places. Waiters are served in the order they came.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Semaphore,
    waiting: AtomicUsize,
}

/// Leave to hold one connection; gives its place back when dropped, in a panic or a cancelled future too.
#[derive(Debug)]
#[must_use = "a slot that is dropped is free again"]
pub(crate) struct Slot {
    slots: Arc<Slots>,
}

/// The pool takes no more calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closed;

impl Slots {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Slots { free: Semaphore::new(count), waiting: AtomicUsize::new(0) })
    }

    /// A free place, if no one waits for it.
    pub(crate) fn try_take(self: &Arc<Self>) -> Result<Option<Slot>, Closed> {
        match self.free.try_acquire() {
            Ok(permit) => {
                permit.forget();
                Ok(Some(Slot { slots: Arc::clone(self) }))
            }
            Err(TryAcquireError::NoPermits) => Ok(None),
            Err(TryAcquireError::Closed) => Err(Closed),
        }
    }

    /// Waits its turn for a place. A dropped wait leaves the queue.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Slot, Closed> {
        let _counted = Waiting::new(&self.waiting);
        self.free.acquire().await.map_err(|_| Closed)?.forget();
        Ok(Slot { slots: Arc::clone(self) })
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self) {
        self.free.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.free.is_closed()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.free.add_permits(1);
    }
}

struct Waiting<'s>(&'s AtomicUsize);

impl<'s> Waiting<'s> {
    fn new(count: &'s AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts connections that exist, being opened included.
#[derive(Clone, Debug)]
pub(crate) struct OpenCount(watch::Sender<usize>);

impl OpenCount {
    pub(crate) fn new() -> Self {
        OpenCount(watch::Sender::new(0))
    }

    pub(crate) fn get(&self) -> usize {
        *self.0.borrow()
    }

    pub(crate) fn one(&self) -> Open {
        self.0.send_modify(|count| *count += 1);
        Open(self.clone())
    }

    /// Completes when there is none.
    pub(crate) async fn none(&self) {
        let mut count = self.0.subscribe();
        // The sender lives in `self`, so the channel cannot close.
        let _ = count.wait_for(|count| *count == 0).await;
    }
}

/// One connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Open(OpenCount);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
