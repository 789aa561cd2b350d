//! Getting a connection: wait for a place, take an idle one that can be trusted, or open one.

use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id, TryCurrentError};

use crate::attend::{Bounds, Ended, attend};
use crate::backoff::Backoff;
use crate::clock::Reading;
use crate::connect::Refused;
use crate::connection::ProxyConnection;
use crate::deadline::Budget;
use crate::engine::{Engine, Probe};
use crate::error::{Error, ErrorKind};
use crate::outcome::{Outcome, Phase, Reaction};
use crate::pool::Pool;
use crate::pool::live::{Idle, Live};
use crate::pool::slots::{Closed, Slot};
use crate::retry::latest_resume;
use crate::token::Token;

/// Says what proves a connection; asked only if one has to be proven, as the answer may need thought.
pub(crate) type FenceFor<'a> = &'a (dyn Fn() -> Fence + Sync);

/// What proves an idle connection before work that must not be lost travels on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fence {
    /// The request itself: losing it is safe to repeat.
    Request,
    /// A round trip of its own, if the connection was idle long enough to have been lost.
    Probe,
    /// The same, and even one used a moment ago is looked at: what is sent on one that the peer has closed by then is lost,
    /// and afterwards nobody can tell that it was.
    LookAndProbe,
    /// A round trip of its own in any case: another connection has just been lost, or led to a server that cannot write.
    AlwaysProbe,
}

impl<DB: Engine> Pool<DB> {
    /// A connection fit for use, within the budget. Without a gap since its last use this makes no system call, but for
    /// the look before a write and the check before a repeat.
    ///
    /// `now` spares the clocks: they were read for the budget, and nothing was awaited since. What a warm call has no
    /// use for is boxed: its future is moved, and connecting alone is tens of kilobytes.
    pub(crate) async fn checkout(
        &self,
        budget: &Budget,
        mut now: Option<Reading>,
        fence: FenceFor<'_>,
    ) -> Result<ProxyConnection<DB>, Error> {
        let runtime = Handle::try_current().map_err(outside_a_runtime)?.id();
        let slot = match self.free_slot(budget)? {
            Some(slot) => slot,
            None => {
                now = None;
                Box::pin(self.slot(budget)).await?
            }
        };
        while let Some((mut live, idle)) =
            self.shared.take_idle(runtime, now.take().unwrap_or_else(|| self.clock().now()))
        {
            let in_doubt = match idle {
                Idle::Unfit(reason) => {
                    self.shared.discarded(reason);
                    continue;
                }
                Idle::Doubtful => true,
                Idle::Suspect => fence() != Fence::Request,
                Idle::Warm => match fence() {
                    Fence::LookAndProbe if live.was_closed() => {
                        self.shared.discarded("closed by the peer");
                        continue;
                    }
                    fence => fence == Fence::AlwaysProbe,
                },
            };
            if !in_doubt || Box::pin(self.proves_itself(&mut live, budget)).await {
                return Ok(self.guard(live, slot));
            }
            self.shared.discarded("failed the check");
        }
        let live = Box::pin(self.open(budget, runtime)).await?;
        Ok(self.guard(live, slot))
    }

    fn guard(&self, live: Box<Live<DB>>, slot: Slot) -> ProxyConnection<DB> {
        ProxyConnection::new(self.clone(), live, slot)
    }

    /// A place, if one can be had without waiting.
    fn free_slot(&self, budget: &Budget) -> Result<Option<Slot>, Error> {
        if budget.acquire_until <= budget.started {
            let message = "the deadline, less the margin, had passed before the call";
            return Err(self.effort(Error::new(ErrorKind::Deadline, "deadline.unsent", message), budget, 0));
        }
        self.shared.slots.try_take().map_err(closed)
    }

    async fn slot(&self, budget: &Budget) -> Result<Slot, Error> {
        let bounds = Bounds { until: Some(budget.acquire_until), ..Bounds::default() };
        match attend(self.clock(), bounds, self.shared.slots.take()).await {
            Ended::Answer(slot) => slot.map_err(closed),
            _ => {
                let all = self.config().max_connections();
                let hint = format!(
                    "this pool's own callers hold all {all} connections: is one kept across an await, or a query run \
                     while a stream of another is open? Otherwise raise max_connections"
                );
                Err(self.out_of_time(Phase::Queue, budget, 0, None).hint_of(hint))
            }
        }
    }

    /// One bounded round trip: the session answers, can write if it must, and is in no transaction.
    async fn proves_itself(&self, live: &mut Live<DB>, budget: &Budget) -> bool {
        let patience = Some(self.patience(budget));
        let bounds = Bounds { until: Some(budget.acquire_until), patience, watch: None };
        self.shared.counters.probes.increment();
        match live.probe(self.clock(), bounds).await {
            Some(Probe { writable, in_transaction }) => {
                !in_transaction && (writable || self.config().access().is_read_only())
            }
            None => false,
        }
    }

    /// How long a session that was idle may take to answer: a silent one must leave time to replace it.
    pub(crate) fn patience(&self, budget: &Budget) -> Duration {
        let left = budget.acquire_until.saturating_duration_since(self.clock().monotonic());
        self.config().ping_timeout().min(left / 2)
    }

    /// Opens a connection, again and again while that is useful and there is time.
    pub(super) async fn open(&self, budget: &Budget, runtime: Id) -> Result<Box<Live<DB>>, Error> {
        let open = self.shared.open.one();
        let mut attempts = 0;
        let mut refused: Option<Token> = None;
        let mut failures = Backoff::for_failures(self.shared.random());
        let mut crowd = Backoff::for_crowded_logins(self.shared.random());
        let mut last: Option<Error> = None;
        loop {
            if self.shared.slots.is_closed() {
                return Err(closed(Closed));
            }
            let now = self.clock().monotonic();
            // Where no deadline is known, one attempt is made however short the acquire timeout is.
            let least = match (budget.until, attempts) {
                (None, 0) => Duration::ZERO,
                _ => self.config().min_attempt(),
            };
            if now + least > budget.acquire_until {
                let phase = last.as_ref().and_then(Error::phase).unwrap_or(Phase::Tcp);
                return Err(self.out_of_time(phase, budget, attempts, last));
            }
            attempts += 1;
            let until = budget.acquire_until;
            let Refused { error, reaction, token } =
                match self.shared.connector.attempt(self.clock(), until, refused.as_ref()).await {
                    Ok(connected) => return Ok(self.shared.connected(connected, runtime, open, attempts)),
                    Err(refused) => refused,
                };
            self.shared.counters.connect_failures.increment();
            let left = budget.acquire_until.saturating_duration_since(self.clock().monotonic());
            let spent = attempts > 1 && left.is_zero();
            let pause = match reaction {
                _ if spent => Default::default(),
                Reaction::Surface => return Err(self.effort(error, budget, attempts)),
                Reaction::NewToken => {
                    refused = token;
                    Default::default()
                }
                Reaction::Reconnect => Default::default(),
                Reaction::BackOff => failures.next_within(left),
                Reaction::Throttle => crowd.next_within(left),
            };
            tracing::debug!(
                attempt = attempts,
                code = error.code(),
                pause_ms = pause.as_millis(),
                error = %format_args!("{error:#}"),
                "connecting failed, trying again"
            );
            last = Some(error);
            if !pause.is_zero() {
                let now = self.clock().monotonic();
                // Whatever was drawn, one more attempt is made while there is time for one.
                let latest = latest_resume(now, budget.acquire_until, self.config().min_attempt());
                let latest = latest.unwrap_or(budget.acquire_until);
                self.clock().sleep_until((now + pause).min(latest)).await;
            }
        }
    }

    /// The error for a call that ran out of time while getting a connection.
    pub(super) fn out_of_time(&self, phase: Phase, budget: &Budget, attempts: u32, last: Option<Error>) -> Error {
        let code = match phase {
            Phase::Queue => "deadline.queue",
            Phase::Token => "deadline.token",
            Phase::Dns => "deadline.dns",
            Phase::Tcp => "deadline.tcp",
            _ => "deadline.login",
        };
        let reached =
            if budget.until.is_some() { "the deadline was reached" } else { "the acquire timeout was reached" };
        let mut error = Error::new(ErrorKind::Deadline, code, reached).phase_of(phase).outcome_of(Outcome::NotSent);
        if let Some(last) = last {
            if let Some(hint) = last.hint() {
                error = error.hint_of(hint);
            }
            error = error.caused_by(last);
        }
        self.effort(error, budget, attempts)
    }

    pub(crate) fn effort(&self, error: Error, budget: &Budget, attempts: u32) -> Error {
        let now: Instant = self.clock().monotonic();
        error.effort_of(attempts, now.saturating_duration_since(budget.started), self.shared.counts())
    }
}

pub(super) fn closed(Closed: Closed) -> Error {
    Error::new(ErrorKind::Closed, "closed.pool", "the pool is closed")
}

pub(super) fn outside_a_runtime(error: TryCurrentError) -> Error {
    Error::config("config.runtime", "the pool was used outside a tokio runtime").caused_by(error)
}
