//! What the calls of a pool share about doing something again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::engine::Engine;
use crate::pool::Pool;
use crate::retry::{Failed, Retry, RetryBudget, Room};
use crate::statement::LONGEST_READ;

/// How many statements are remembered. A handler has a few dozen; one that makes up texts forgets and starts over.
const REMEMBERED: usize = 512;

/// What is known of repeats and of the statements they may repeat.
#[derive(Debug)]
pub(super) struct Again {
    budget: Mutex<RetryBudget>,
    /// Whether a text is certain to change nothing. To find out it has to be parsed.
    reads: Mutex<HashMap<Box<str>, bool>>,
}

impl Again {
    /// For a pool with as many connections.
    pub(super) fn new(connections: usize) -> Self {
        let budget = RetryBudget::for_connections(u32::try_from(connections).unwrap_or(u32::MAX));
        Again { budget: Mutex::new(budget), reads: Mutex::default() }
    }
}

impl<DB: Engine> Pool<DB> {
    /// When the next attempt begins; `None` when there is none. Counted as a retry.
    pub(crate) fn retry_at(
        &self,
        retry: &mut Option<Box<Retry>>,
        failed: Failed,
        until: Option<Instant>,
    ) -> Option<Instant> {
        let room = Room { now: self.clock().monotonic(), until, min_attempt: self.config().min_attempt() };
        let retry = retry.get_or_insert_with(|| Box::new(Retry::new(self.random(), self.random())));
        let mut budget = self.shared.again.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let at = retry.next(failed, room, &mut budget);
        if at.is_some() {
            self.counters().retries.increment();
        }
        at
    }

    /// Whether running the text, once or more often, is certain to change nothing.
    pub(crate) fn cannot_write(&self, sql: &str) -> bool {
        if sql.len() > LONGEST_READ {
            return false;
        }
        let reads = || self.shared.again.reads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = reads().get(sql) {
            return *known;
        }
        let cannot_write = DB::cannot_write(sql);
        let mut reads = reads();
        if reads.len() >= REMEMBERED {
            reads.clear();
        }
        reads.insert(sql.into(), cannot_write);
        cannot_write
    }
}
