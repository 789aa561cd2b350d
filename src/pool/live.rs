//! A connection and what is known of its health.

use std::mem;
use std::time::{Duration, Instant};

use sqlx_core::connection::Connection;
use sqlx_core::error::Error as SqlxError;
use tokio::runtime;

use crate::attend::{Bounds, Ended, attend};
use crate::clock::{Clock, Gap, Reading};
use crate::engine::{Answer, Engine, Probe};
use crate::outcome::{Outcome, Verdict};
use crate::pool::slots::Open;
use crate::socket::{DriverSocket, Look};
use crate::statement::TransactionEffect;

/// An open connection. Dropping it closes the socket.
pub(crate) struct Live<DB: Engine> {
    connection: DB::Connection,
    socket: Option<DriverSocket>,
    runtime: runtime::Id,
    /// The end of its life, on either clock.
    expires: Reading,
    last_used: Reading,
    condition: Condition,
    _open: Open,
}

/// What happened on a connection since it was last known to be as good as new.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Condition {
    /// A driver future is being polled, or was dropped while it was.
    in_flight: bool,
    /// It must not be used by anyone else.
    spoiled: bool,
    /// A statement opened a transaction and none has ended it.
    in_transaction: bool,
    ours: Ours,
    /// The driver's connection was handed out: only the server can tell what state it is in.
    lent: bool,
    /// It was idle for long enough to have been lost, and has not answered since.
    unproven: bool,
    /// Something may have travelled on it since it was last put aside.
    used: bool,
}

/// What is known of a transaction that was opened by us, not by a statement of the user's.
#[derive(Clone, Copy, Debug, Default)]
struct Ours {
    /// It is open, and we have not begun to end it.
    begun: bool,
    /// The first failure in it that nothing has undone.
    failed: Option<Verdict>,
    /// A statement was sent that ends the transaction that was open.
    ended: bool,
    /// A text was sent that may have ended it.
    may_have_ended: bool,
    /// It was said to be undone, as it will be with its connection.
    given_up: bool,
}

/// Why a statement has no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The driver returned an error.
    Driver(SqlxError),
    /// The deadline had passed before anything was sent.
    Unsent,
    /// The deadline came first.
    TimedOut,
    /// The kernel gave up on the peer.
    Unreachable,
}

/// What can be said of an idle connection without asking the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// Used a moment ago.
    Warm,
    /// Idle for long enough to have been lost, with no sign of it.
    Suspect,
    /// Something about it only the server can vouch for.
    Doubtful,
    /// Past its age, closed by the peer, or not ours any more.
    Unfit(&'static str),
}

/// The limits a connection is measured by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) validate_after: Duration,
    pub(crate) idle_limit: Duration,
}

/// A driver call under way.
pub(crate) struct Begun<'c, T> {
    bounds: Bounds,
    answer: Answer<'c, T>,
}

impl Condition {
    /// Runs to its end what was begun. If this future is dropped the connection will not be used by anyone else.
    pub(crate) async fn finish<T>(&mut self, clock: &dyn Clock, begun: Option<Begun<'_, T>>) -> Result<T, Trouble> {
        let Begun { bounds, answer } = begun.ok_or(Trouble::Unsent)?;
        let answer = self.ended(attend(clock, bounds, answer).await)?;
        self.finished();
        Ok(answer)
    }

    /// The driver's stream of answers came to its end.
    pub(crate) fn finished(&mut self) {
        self.in_flight = false;
    }

    /// A text counts as having done what it may do from the moment it is sent: a COMMIT that fails has ended the
    /// transaction as well, and one whose answer nobody waits for is done all the same.
    pub(crate) fn note_sent(&mut self, effect: TransactionEffect) {
        match effect {
            TransactionEffect::None | TransactionEffect::ReturnsToSavepoint => {}
            TransactionEffect::Opens => self.in_transaction = true,
            TransactionEffect::Ends => self.ours.ended = true,
            TransactionEffect::MayEnd => self.ours.may_have_ended = true,
            TransactionEffect::Unsure => (self.spoiled, self.ours.may_have_ended) = (true, true),
        }
    }

    /// Only after an answer is it certain that no transaction is open.
    pub(crate) fn note_answered(&mut self, effect: TransactionEffect) {
        match effect {
            TransactionEffect::Ends => self.in_transaction = false,
            // The server takes no savepoint after a failure of its own. One it was not told of may be older than this.
            TransactionEffect::ReturnsToSavepoint => {
                self.ours.failed = self.ours.failed.filter(|failed| failed.outcome == Outcome::NotSent);
            }
            _ => {}
        }
    }

    /// What failed since a savepoint is undone; this had failed before.
    pub(crate) fn returned_to_savepoint(&mut self, before: Option<Verdict>) {
        self.ours.failed = before;
    }

    pub(crate) fn heed(&mut self, verdict: &Verdict) {
        self.spoiled |= !verdict.keep;
        self.ours.failed = self.ours.failed.or(Some(*verdict));
    }

    /// The transaction is said to be undone: from now on it must not be committed.
    pub(crate) fn give_up(&mut self) {
        self.ours.given_up = true;
    }

    /// Whether nothing of a statement can stay if this connection is closed now: it is in a transaction of which nobody has
    /// sent the end.
    pub(crate) fn ends_undone(&self) -> bool {
        let Ours { begun, ended, may_have_ended, .. } = self.ours;
        begun && !(ended || may_have_ended || self.lent)
    }

    /// Sorts out how a wait for the driver ended; a future that was not dropped leaves nothing in flight.
    pub(crate) fn ended<T>(&mut self, ended: Ended<Result<T, SqlxError>>) -> Result<T, Trouble> {
        match ended {
            Ended::Answer(Ok(answer)) => {
                self.unproven = false;
                Ok(answer)
            }
            Ended::Answer(Err(error)) => {
                self.in_flight = false;
                Err(Trouble::Driver(error))
            }
            Ended::TimedOut => Err(Trouble::TimedOut),
            Ended::Unreachable => Err(Trouble::Unreachable),
        }
    }
}

impl<DB: Engine> Live<DB> {
    pub(crate) fn new(
        connection: DB::Connection,
        runtime: runtime::Id,
        socket: Option<DriverSocket>,
        opened: Reading,
        lifetime: Duration,
        open: Open,
    ) -> Self {
        let condition = Condition::default();
        let expires = Reading { wall: opened.wall + lifetime, monotonic: opened.monotonic + lifetime };
        Live { connection, socket, runtime, expires, last_used: opened, condition, _open: open }
    }

    /// Whether it may go back among the idle ones. A lent one may: it is asked before it is used again.
    pub(crate) fn is_reusable(&self) -> bool {
        let Condition { in_flight, spoiled, in_transaction, .. } = self.condition;
        !(in_flight || spoiled || in_transaction)
    }

    pub(crate) fn belongs_to(&self, runtime: runtime::Id) -> bool {
        self.runtime == runtime
    }

    /// Whether both live in the same runtime.
    pub(crate) fn is_neighbour_of(&self, other: &Self) -> bool {
        self.runtime == other.runtime
    }

    /// Notes when it was used last. One that nothing travelled on has been idle all along, whoever held it. What is known
    /// of a transaction is not about what comes next.
    pub(crate) fn released(&mut self, clock: &dyn Clock) {
        self.condition.ours = Ours::default();
        if mem::take(&mut self.condition.used) {
            self.last_used = clock.now();
        }
    }

    /// Judges an idle connection at `now`; the socket is looked at only when the clocks give a reason to.
    pub(crate) fn examine(&mut self, now: Reading, limits: Limits) -> Idle {
        let idle = now.gap_since(self.last_used);
        if matches!(idle, Gap::Forward(_)) && idle.exceeds(limits.idle_limit) {
            return Idle::Unfit("idle limit");
        }
        if now.wall > self.expires.wall || now.monotonic > self.expires.monotonic {
            return Idle::Unfit("maximum lifetime");
        }
        let suspect = idle.exceeds(limits.validate_after) || self.condition.unproven;
        if !suspect {
            return if self.condition.lent { Idle::Doubtful } else { Idle::Warm };
        }
        self.condition.unproven = true;
        match self.socket.map(|socket| socket.look()) {
            Some(Look::Closed) => Idle::Unfit("closed by the peer"),
            Some(Look::Gone) => Idle::Unfit("socket gone"),
            Some(Look::Unread) => Idle::Doubtful,
            Some(Look::Healthy) | None if self.condition.lent => Idle::Doubtful,
            Some(Look::Healthy) | None => Idle::Suspect,
        }
    }

    /// Whether the peer has ended it, as far as this side can see without asking.
    pub(crate) fn was_closed(&self) -> bool {
        matches!(self.socket.map(DriverSocket::look), Some(Look::Closed | Look::Gone))
    }

    /// Asks the server. `None` when it does not answer as a session fit for use would.
    pub(crate) async fn probe(&mut self, clock: &dyn Clock, bounds: Bounds) -> Option<Probe> {
        self.condition.unproven = true;
        let probe = self.drive(clock, bounds, |connection| DB::probe(connection)).await.ok()?;
        self.condition.lent = false;
        Some(probe)
    }

    /// Whether a future of its driver was dropped before its end.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.condition.in_flight
    }

    /// Reads what is still to come of futures that were dropped: an error among it would be taken for that of the next
    /// statement, which would not be sent. A connection that cannot be read from will say so to the next one as well.
    pub(crate) async fn catch_up(&mut self, clock: &dyn Clock, until: Option<Instant>) {
        let _ = self.drive(clock, until.into(), |connection| DB::catch_up(connection)).await;
    }

    /// Runs one driver call to its end. If this future is dropped the connection will not be used by anyone else.
    pub(crate) async fn drive<T>(
        &mut self,
        clock: &dyn Clock,
        bounds: Bounds,
        call: impl for<'c> FnOnce(&'c mut DB::Connection) -> Answer<'c, T>,
    ) -> Result<T, Trouble> {
        let (begun, condition) = self.begin(clock, bounds, call);
        condition.finish(clock, begun).await
    }

    /// Begins one driver call, unless its last instant has passed; [`Condition::finish`] runs it to its end.
    ///
    /// In two steps, so that the future of the second holds the driver's and not what that is made of.
    pub(crate) fn begin<T>(
        &mut self,
        clock: &dyn Clock,
        bounds: Bounds,
        call: impl for<'c> FnOnce(&'c mut DB::Connection) -> Answer<'c, T>,
    ) -> (Option<Begun<'_, T>>, &mut Condition) {
        if bounds.is_over(clock) {
            return (None, &mut self.condition);
        }
        let bounds = Bounds { watch: self.start(), ..bounds };
        let answer = call(&mut self.connection);
        (Some(Begun { bounds, answer }), &mut self.condition)
    }

    /// Notes that a driver future is about to be polled, and says which socket to watch while it is.
    pub(crate) fn start(&mut self) -> Option<DriverSocket> {
        self.condition.spoiled |= self.condition.in_flight;
        self.condition.in_flight = true;
        self.condition.used = true;
        self.socket.filter(|_| self.condition.unproven)
    }

    /// The driver's connection, and apart from it what is known of it.
    pub(crate) fn split(&mut self) -> (&mut DB::Connection, &mut Condition) {
        (&mut self.connection, &mut self.condition)
    }

    /// A transaction was opened by us, not by a statement of the user's.
    pub(crate) fn begun(&mut self) {
        self.condition.ours = Ours { begun: true, ..Ours::default() };
    }

    /// It is about to be ended by us: what fails from now on may have been done.
    pub(crate) fn ending(&mut self) {
        self.condition.ours.begun = false;
    }

    /// The first failure in the transaction that nothing has undone.
    pub(crate) fn failed(&self) -> Option<Verdict> {
        self.condition.ours.failed
    }

    /// Whether a statement of the user's has ended what was begun.
    pub(crate) fn was_ended(&self) -> bool {
        self.condition.ours.ended
    }

    /// Whether only the server can tell that.
    pub(crate) fn may_have_ended(&self) -> bool {
        self.condition.ours.may_have_ended
    }

    /// Whether it was said to be undone.
    pub(crate) fn was_given_up(&self) -> bool {
        self.condition.ours.given_up
    }

    pub(crate) fn lend(&mut self) -> &mut DB::Connection {
        self.condition.lent = true;
        self.condition.used = true;
        self.condition.spoiled |= !DB::SURVIVES_DROPPED_FUTURE;
        &mut self.connection
    }

    pub(crate) fn spoil(&mut self) {
        self.condition.spoiled = true;
    }

    pub(crate) fn is_unproven(&self) -> bool {
        self.condition.unproven
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.condition.lent
    }

    /// Says goodbye to the server before closing.
    pub(crate) async fn close(self) -> Result<(), SqlxError> {
        self.connection.close().await
    }
}
