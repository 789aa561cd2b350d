//! A connection on loan from the pool.

use std::fmt;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use sqlx_core::Either;
use sqlx_core::error::Error as SqlxError;

use crate::attend::{Bounds, attend};
use crate::deadline::Budget;
use crate::engine::{Answer, Call, Engine};
use crate::error::{Error, ErrorKind};
use crate::outcome::{Outcome, Phase, Reaction, Resolved, Verdict};
use crate::pool::{Condition, Live, Pool, Slot, Trouble};

/// A database connection that goes back to its pool when dropped.
///
/// `&mut connection` is an sqlx `Executor`. The pool takes back only what is certain to be clean: a connection on which a
/// future was dropped half way, whose transaction was not ended, or that saw an I/O, protocol or fatal error is closed.
///
/// It has no `Deref` to the driver's connection; [`lend`](ProxyConnection::lend) hands that out for code that insists.
///
/// ```no_run
/// # async fn example(pool: rds_proxy_pool::ProxyPool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut connection = pool.acquire().await?;
/// sqlx::query("UPDATE stock SET held = held + 1 WHERE id = $1").bind(7_i32).execute(&mut connection).await?;
/// # Ok(())
/// # }
/// ```
pub struct ProxyConnection<DB: Engine> {
    live: Option<Box<Live<DB>>>,
    pool: Pool<DB>,
    // After `live`, so that the connection is back before its place is.
    _slot: Slot,
}

const HELD: &str = "a guard holds its connection until it is dropped";

impl<DB: Engine> ProxyConnection<DB> {
    pub(crate) fn new(pool: Pool<DB>, live: Box<Live<DB>>, slot: Slot) -> Self {
        ProxyConnection { live: Some(live), pool, _slot: slot }
    }

    /// Hands out the driver's connection, for migrations, `COPY`, notifications and helpers that demand it.
    ///
    /// What is done with it is out of the pool's sight: no deadline is kept, and before the connection is used again the
    /// pool asks it (one round trip) whether it is in a transaction and can still write. Call
    /// [`Pool::settle`] at the end of the invocation, so that this is asked before a freeze.
    ///
    /// ```no_run
    /// # async fn example(pool: rds_proxy_pool::ProxyPool) -> Result<(), Box<dyn std::error::Error>> {
    /// use sqlx::Connection;
    ///
    /// let mut connection = pool.acquire().await?;
    /// connection.lend().ping().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn lend(&mut self) -> &mut DB::Connection {
        self.live().lend()
    }

    /// The connection itself; it is there from `new` to `drop`.
    fn live(&mut self) -> &mut Live<DB> {
        self.live.as_mut().expect(HELD)
    }

    pub(crate) fn pool(&self) -> &Pool<DB> {
        &self.pool
    }

    /// How long the first answer of this connection may take, if it was idle for long and none has come since.
    pub(crate) fn patience(&mut self, budget: &Budget) -> Option<Duration> {
        let patience = self.pool.patience(budget);
        self.live().is_unproven().then_some(patience)
    }

    /// A transaction was opened by us, not by a statement of the user's.
    pub(crate) fn begun(&mut self) {
        self.live().begun();
    }

    /// It is about to be ended by us.
    pub(crate) fn ending(&mut self) {
        self.live().ending();
    }

    /// The first failure in the transaction that nothing has undone.
    pub(crate) fn failed(&mut self) -> Option<Verdict> {
        self.live().failed()
    }

    /// What failed since the savepoint is undone; this had failed before.
    pub(crate) fn returned_to_savepoint(&mut self, before: Option<Verdict>) {
        self.live().split().1.returned_to_savepoint(before);
    }

    /// Whether the transaction was said to be undone.
    pub(crate) fn was_given_up(&mut self) -> bool {
        self.live().was_given_up()
    }

    pub(crate) fn is_lent(&mut self) -> bool {
        self.live().is_lent()
    }

    /// Whether a statement of the user's has ended what was begun.
    pub(crate) fn was_ended(&mut self) -> bool {
        self.live().was_ended()
    }

    /// Whether only the server can tell that.
    pub(crate) fn may_have_ended(&mut self) -> bool {
        self.live().may_have_ended()
    }

    /// Makes sure that this connection is closed, not pooled.
    pub(crate) fn spoil(&mut self) {
        self.live().spoil();
    }

    /// Before the next call of a holder who may have dropped the future of one.
    pub(crate) async fn catch_up(&mut self, until: Option<Instant>) {
        let live = self.live.as_mut().expect(HELD);
        if live.is_in_flight() {
            Box::pin(live.catch_up(self.pool.clock(), until)).await;
        }
    }

    /// Runs one driver call and heeds what became of it.
    pub(crate) fn drive<T>(
        &mut self,
        bounds: impl Into<Bounds>,
        judge: impl FnOnce(&SqlxError) -> Verdict,
        call: impl for<'c> FnOnce(&'c mut DB::Connection) -> Answer<'c, T>,
    ) -> impl Future<Output = Result<T, Failure>> {
        let clock = self.pool.clock();
        let live = self.live.as_mut().expect(HELD);
        let (begun, condition) = live.begin(clock, bounds.into(), call);
        async move {
            let result = condition.finish(clock, begun).await;
            result.map_err(|trouble| Failure::new(trouble, judge, condition))
        }
    }

    /// Runs one statement that gives one answer.
    pub(crate) fn statement<T>(
        &mut self,
        until: Option<Instant>,
        call: Call<DB>,
        send: impl for<'c> FnOnce(&'c mut DB::Connection, Call<DB>) -> Answer<'c, T>,
    ) -> impl Future<Output = Result<T, Failure>> {
        let access = self.pool.config().access();
        self.judged(until.into(), call, move |error| DB::judge_statement(error, access), send)
    }

    /// The same for one whose errors mean something else.
    pub(crate) fn judged<T>(
        &mut self,
        bounds: Bounds,
        call: Call<DB>,
        judge: impl FnOnce(&SqlxError) -> Verdict,
        send: impl for<'c> FnOnce(&'c mut DB::Connection, Call<DB>) -> Answer<'c, T>,
    ) -> impl Future<Output = Result<T, Failure>> {
        tracing::debug!(sql = call.text(), "sending a statement");
        let effect = DB::transaction_effect(call.text());
        let clock = self.pool.clock();
        let live = self.live.as_mut().expect(HELD);
        let (begun, condition) = live.begin(clock, bounds, |live| send(live, call));
        if begun.is_some() {
            condition.note_sent(effect);
        }
        async move {
            let result = condition.finish(clock, begun).await;
            if result.is_ok() {
                condition.note_answered(effect);
            }
            result.map_err(|trouble| Failure::new(trouble, judge, condition))
        }
    }

    /// Runs one statement and hands out everything it answers as it comes.
    pub(crate) fn stream(
        &mut self,
        until: Option<Instant>,
        call: Call<DB>,
    ) -> impl futures_core::Stream<Item = Result<Either<DB::QueryResult, DB::Row>, Failure>> + Send + '_ {
        async_stream::stream! {
            tracing::debug!(sql = call.text(), "sending a statement");
            let effect = DB::transaction_effect(call.text());
            let access = self.pool.config().access();
            self.catch_up(until).await;
            let clock = self.pool.clock();
            let live = self.live.as_mut().expect(HELD);
            let (_, condition) = live.split();
            if Bounds::from(until).is_over(clock) {
                yield Err(Failure::new(Trouble::Unsent, |error| DB::judge_statement(error, access), condition));
                return;
            }
            condition.note_sent(effect);
            let mut watch = live.start();
            let mut ended = None;
            {
                let (connection, condition) = live.split();
                let mut answers = DB::fetch_many(connection, call);
                loop {
                    let bounds = Bounds { until, patience: None, watch: watch.take() };
                    // What was read already is handed out without a wait, however slowly it is taken.
                    if bounds.is_over(clock) {
                        ended = Some(Trouble::TimedOut);
                        break;
                    }
                    match condition.ended(attend(clock, bounds, next(&mut answers)).await) {
                        Ok(Some(item)) => yield Ok(item),
                        Ok(None) => break,
                        Err(trouble) => {
                            ended = Some(trouble);
                            break;
                        }
                    }
                }
            }
            let (_, condition) = live.split();
            match ended {
                None => {
                    condition.finished();
                    condition.note_answered(effect);
                }
                Some(trouble) => {
                    yield Err(Failure::new(trouble, |error| DB::judge_statement(error, access), condition));
                }
            }
        }
    }
}

/// The next answer, an end of the stream being one.
async fn next<T>(
    answers: &mut (impl futures_core::Stream<Item = Result<T, SqlxError>> + Unpin),
) -> Result<Option<T>, SqlxError> {
    answers.next().await.transpose()
}

impl<DB: Engine> Drop for ProxyConnection<DB> {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            self.pool.release(live);
        }
    }
}

impl<DB: Engine> fmt::Debug for ProxyConnection<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyConnection").finish_non_exhaustive()
    }
}

const UNDONE: &str = "its transaction is undone with the connection: run it again from its beginning";

/// Why a statement has no answer, and what the engine makes of it.
#[derive(Debug)]
pub(crate) struct Failure {
    trouble: Trouble,
    verdict: Verdict,
}

impl Failure {
    pub(crate) fn new(trouble: Trouble, judge: impl FnOnce(&SqlxError) -> Verdict, condition: &mut Condition) -> Self {
        let verdict = match &trouble {
            Trouble::Driver(error) => judge(error),
            Trouble::Unsent => Verdict {
                kind: ErrorKind::Deadline,
                code: "deadline.unsent",
                outcome: Outcome::NotSent,
                reaction: Reaction::Surface,
                keep: true,
                hint: None,
            },
            Trouble::TimedOut => Verdict {
                kind: ErrorKind::Deadline,
                code: "deadline.statement",
                outcome: Outcome::Unknown,
                reaction: Reaction::Surface,
                keep: false,
                hint: Some("the statement may still be running: find out what became of it before repeating a write"),
            },
            Trouble::Unreachable => Verdict {
                kind: ErrorKind::Lost,
                code: "lost.silent",
                outcome: Outcome::Unknown,
                reaction: Reaction::Reconnect,
                keep: false,
                hint: Some("nothing reached the server after the gap; the connection was given up"),
            },
        };
        let verdict = if verdict.outcome == Outcome::Unknown && condition.ends_undone() {
            condition.give_up();
            Verdict { outcome: Outcome::RolledBack, keep: false, hint: Some(UNDONE), ..verdict }
        } else {
            verdict
        };
        condition.heed(&verdict);
        Failure { trouble, verdict }
    }

    pub(crate) fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The same, of a statement whose outcome was found out.
    pub(crate) fn found(mut self, resolved: Resolved) -> Self {
        let verdict = &mut self.verdict;
        match resolved {
            // An error that the server gave for it is its own business; one may be as good as another next time.
            Resolved::RolledBack
                if matches!(self.trouble, Trouble::Driver(SqlxError::Database(_)))
                    && verdict.kind != ErrorKind::Lost =>
            {
                verdict.outcome = Outcome::RolledBack;
            }
            Resolved::RolledBack => {
                let hint =
                    Some("the server says that nothing of it stays, and nothing of it will: it may be sent again");
                let (outcome, reaction) = (Outcome::RolledBack, Reaction::Reconnect);
                *verdict = Verdict { code: "resolved.undone", outcome, reaction, hint, ..*verdict };
            }
            Resolved::Committed => {
                let hint = Some("it is done, do not repeat it: read again what it would have returned");
                let (outcome, reaction) = (Outcome::Committed, Reaction::Surface);
                let kind = ErrorKind::Lost;
                *verdict = Verdict { kind, code: "resolved.committed", outcome, reaction, hint, ..*verdict };
            }
        }
        self
    }

    /// What silence means depends on what was asked; of errors the engine has said so already.
    fn verdict_in(&self, phase: Phase) -> Verdict {
        let verdict = self.verdict;
        match (&self.trouble, phase) {
            (Trouble::Driver(_), _) => verdict,
            (Trouble::TimedOut | Trouble::Unreachable, Phase::Begin) => {
                Verdict { outcome: Outcome::NotExecuted, hint: None, ..verdict }
            }
            (Trouble::TimedOut | Trouble::Unreachable, Phase::Commit) if verdict.outcome == Outcome::Unknown => {
                Verdict { code: "commit.unknown", ..verdict }
            }
            (_, Phase::Rollback) => Verdict { outcome: Outcome::RolledBack, hint: None, ..verdict },
            _ => verdict,
        }
    }

    /// Our error, whatever the cause: for calls that return it.
    pub(crate) fn into_error(self, phase: Phase) -> Error {
        let Verdict { kind, code, outcome, hint, .. } = self.verdict_in(phase);
        let message = match (kind, phase) {
            _ if outcome == Outcome::Committed => "the statement took effect, and its answer was lost",
            (ErrorKind::Deadline, _) => "the deadline was reached",
            (ErrorKind::Lost, _) => "the connection was lost",
            (ErrorKind::ReadOnly, _) => "the server cannot write",
            (ErrorKind::Throttled, _) => "the server is at a limit",
            _ => "the database refused",
        };
        let mut error = Error::new(kind, code, message).phase_of(phase).outcome_of(outcome);
        if let Some(hint) = hint {
            error = error.hint_of(hint);
        }
        match self.trouble {
            Trouble::Driver(cause) => error.caused_by_driver(cause),
            Trouble::Unsent | Trouble::TimedOut | Trouble::Unreachable => error,
        }
    }

    /// For sqlx's callers: what the server or driver said of their own statement stays as it is; ours are the errors that
    /// say more than that.
    pub(crate) fn into_sqlx(self, finish: impl FnOnce(Error) -> Error) -> SqlxError {
        let ours = self.verdict.outcome == Outcome::Unknown
            || matches!(
                self.verdict.kind,
                ErrorKind::Config | ErrorKind::Lost | ErrorKind::Throttled | ErrorKind::Deadline
            );
        match self.trouble {
            Trouble::Driver(error) if !ours => error,
            _ => finish(self.into_error(Phase::Statement)).into(),
        }
    }
}
