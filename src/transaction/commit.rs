//! The end of a transaction, and what is done when its answer is lost.

use futures_util::TryStreamExt;
use sqlx_core::error::Error as SqlxError;
use sqlx_core::sql_str::{AssertSqlSafe, SqlSafeStr, SqlStr};

use super::{ProxyTransaction, simple};
use crate::attend::Bounds;
use crate::connection::Failure;
use crate::deadline::Budget;
use crate::engine::{Answer, Call, Engine};
use crate::error::{Error, ErrorKind};
use crate::key::OutcomeKey;
use crate::outcome::{COMMIT_ENDED, Outcome, Phase, Reaction, Resolved, Verdict};

/// The server has answered that it has committed.
#[derive(Debug)]
pub(crate) struct Committed {
    /// Something broke between that answer and the end of the message.
    pub(crate) connection_lost: bool,
}

/// Commits, with a statement before it in the same message if there is one; where it is in doubt whether a transaction is
/// open, only if one is. The server sends the answer to COMMIT when the commit is done, so what comes after it changes
/// nothing.
pub(crate) fn commit<DB: Engine>(
    connection: &mut DB::Connection,
    in_doubt: bool,
    before: Option<String>,
) -> Answer<'_, Committed> {
    let statements = DB::commit_sql(in_doubt);
    let commit = statements.join("; ");
    match before {
        None => send::<DB>(connection, commit, statements.len()),
        Some(before) => send::<DB>(connection, format!("{before}; {commit}"), statements.len() + 1),
    }
}

/// Sends a text whose last statement is the COMMIT.
fn send<DB: Engine>(connection: &mut DB::Connection, sql: String, statements: usize) -> Answer<'_, Committed> {
    let sql: SqlStr = AssertSqlSafe(sql).into_sql_str();
    Box::pin(async move {
        let mut answers = DB::fetch_many(connection, Call::capture(sql));
        let mut answered = 0;
        loop {
            match answers.try_next().await {
                Ok(Some(answer)) => answered += usize::from(answer.is_left()),
                Ok(None) => return Ok(Committed { connection_lost: false }),
                Err(_) if answered >= statements => return Ok(Committed { connection_lost: true }),
                Err(error) => return Err(error),
            }
        }
    })
}

/// A commit that did not succeed, as far as anybody knows.
#[derive(Debug)]
pub(crate) struct NotCommitted {
    pub(crate) error: Error,
    pub(crate) reaction: Reaction,
}

impl From<Error> for NotCommitted {
    fn from(error: Error) -> Self {
        NotCommitted { reaction: Reaction::Surface, error }
    }
}

impl<DB: Engine> ProxyTransaction<DB> {
    /// Makes everything done in the transaction permanent.
    ///
    /// A commit whose answer is lost is found out about, within the deadline, if the transaction has left a
    /// [commit marker](crate::CommitMarkers): it is then a success, or an error with outcome
    /// [`RolledBack`](crate::Outcome::RolledBack).
    ///
    /// # Errors
    /// Outcome [`RolledBack`](crate::Outcome::RolledBack) where the server refused, for a deferred constraint, a
    /// serialization failure, or because an earlier statement had failed (`commit.aborted`; plain sqlx reports success
    /// there), and where it never happened (`commit.undone`). Outcome [`Unknown`](crate::Outcome::Unknown) where the answer
    /// was lost and nothing more was found out (`commit.unknown`): it may be committed; and where a statement of yours had
    /// ended the transaction before (`commit.ended`). Outcome [`NotSent`](crate::Outcome::NotSent) where the deadline had
    /// passed before: it is undone.
    ///
    /// # Cancel safety
    /// None: dropping the future while the commit is under way leaves its outcome unknown. The connection is closed and one
    /// WARN event tells, with the key if there is one.
    pub async fn commit(self) -> Result<(), Error> {
        let budget = self.connection.pool().budget();
        self.finish(&budget, None).await.map_err(|not_committed| not_committed.error)
    }

    /// With a statement `before` the COMMIT, whose loss is found out about by running everything again.
    pub(crate) async fn finish(mut self, budget: &Budget, mut before: Option<String>) -> Result<(), NotCommitted> {
        let is_repeated = before.is_some();
        self.may_be_committed()?;
        let pool = self.connection.pool().clone();
        let split = pool.config().split_messages();
        let not_committed = |failure: Failure, phase| {
            let reaction = failure.verdict().reaction;
            NotCommitted { error: pool.effort(failure.into_error(phase), budget, 1), reaction }
        };
        self.return_to_dropped().await.map_err(|failure| not_committed(failure, Phase::Statement))?;
        if let Some(statement) = before.take_if(|_| split) {
            self.step(statement).await.map_err(|failure| not_committed(failure, Phase::Commit))?;
        }
        let in_doubt = self.connection.may_have_ended() || self.connection.is_lent();
        let key = self.key.filter(|_| !in_doubt);
        self.connection.catch_up(budget.until).await;
        let may_ask = is_repeated || key.is_some();
        let bounds = if may_ask { pool.leaving_time_to_ask(budget) } else { budget.until.into() };
        let checked = if split { self.check(bounds, in_doubt).await } else { Ok(()) };
        self.connection.ending();
        let unheard = Unheard::new(self.key);
        let result = match checked {
            Ok(()) => self.send_commit(bounds, in_doubt, before).await,
            Err(failure) => Err(failure),
        };
        let result = match result {
            Err(failure)
                if failure.verdict().outcome == Outcome::Unknown && failure.verdict().code != COMMIT_ENDED.code =>
            {
                self.connection.spoil();
                drop(self);
                let NotCommitted { error: lost, reaction } = not_committed(failure, Phase::Commit);
                match key {
                    Some(key) => pool.find_out_about(key, budget, lost.key_of(Some(key))).await,
                    None if is_repeated => {
                        let error = lost.hint_of("call it again with the same key: that finds out what became of it");
                        Err(NotCommitted { reaction: Reaction::Reconnect, error })
                    }
                    None => Err(NotCommitted { reaction, error: lost }),
                }
            }
            Err(failure) => {
                self.open = leaves_open(&failure);
                Err(not_committed(failure, Phase::Commit))
            }
            Ok(Committed { connection_lost }) => {
                if connection_lost {
                    self.connection.spoil();
                }
                self.open = false;
                Ok(())
            }
        };
        unheard.heard();
        result
    }

    async fn send_commit(
        &mut self,
        bounds: Bounds,
        in_doubt: bool,
        before: Option<String>,
    ) -> Result<Committed, Failure> {
        let split = self.connection.pool().config().split_messages();
        let [_, last] = DB::commit_sql(in_doubt);
        let commit = self.connection.drive(bounds, DB::judge_commit, |live| match split {
            true => send::<DB>(live, last.to_owned(), 1),
            false => commit::<DB>(live, in_doubt, before),
        });
        commit.await
    }

    /// Asks by itself what otherwise travels with COMMIT: without its answer that is not sent.
    async fn check(&mut self, bounds: Bounds, in_doubt: bool) -> Result<(), Failure> {
        let [check, _] = DB::commit_sql(in_doubt);
        let access = self.connection.pool().config().access();
        let judge = |error: &SqlxError| match DB::judge_commit(error) {
            Verdict { code: "commit.unknown", .. } => DB::judge_statement(error, access),
            verdict => verdict,
        };
        self.connection.drive(bounds, judge, |live| simple::<DB>(live, check.to_owned())).await
    }

    /// What forbids the commit without a question.
    fn may_be_committed(&mut self) -> Result<(), Error> {
        let refused = |kind, code, message| Error::new(kind, code, message).phase_of(Phase::Commit);
        if self.torn {
            let message = "the connection was lent while a savepoint that had been dropped was still to be undone";
            let error = refused(ErrorKind::Usage, "transaction.savepoint", message).outcome_of(Outcome::Unknown);
            return Err(
                error.hint_of("end a savepoint with rollback() before lend(): what was done there would go with it")
            );
        }
        if self.connection.was_ended() {
            let Verdict { kind, code, outcome, hint, .. } = COMMIT_ENDED;
            let error = refused(kind, code, "a statement sent in the transaction had ended it already");
            return Err(error.outcome_of(outcome).hint_of(hint.unwrap_or_default()));
        }
        if self.connection.was_given_up() {
            let message = "a statement of the transaction was given up, and with it the transaction";
            return Err(refused(ErrorKind::Lost, "commit.aborted", message).outcome_of(Outcome::RolledBack));
        }
        Ok(())
    }

    /// Undoes everything done in the transaction and keeps the connection. What a COMMIT among your own statements has made
    /// permanent stays.
    ///
    /// # Errors
    /// Where the answer was lost; the server undoes the transaction all the same, as its connection is closed.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, which undoes the transaction.
    pub async fn rollback(mut self) -> Result<(), Error> {
        let budget = self.connection.pool().budget();
        self.connection.catch_up(budget.until).await;
        let sql = "ROLLBACK".to_owned();
        let rollback = self.connection.drive(budget.until, DB::judge_rollback, |live| simple::<DB>(live, sql));
        let result = rollback.await;
        self.open = result.as_ref().is_err_and(leaves_open);
        result.map_err(|failure| self.connection.pool().effort(failure.into_error(Phase::Rollback), &budget, 1))
    }
}

/// Whether the server was not asked, or has not answered; else it has ended the transaction, whatever it said.
fn leaves_open(failure: &Failure) -> bool {
    !failure.verdict().keep || failure.verdict().outcome == Outcome::NotSent
}

impl<DB: Engine> crate::pool::Pool<DB> {
    /// What is said of a commit whose answer was `lost`.
    async fn find_out_about(&self, key: OutcomeKey, budget: &Budget, lost: Error) -> Result<(), NotCommitted> {
        match self.find_out(key, budget).await {
            Ok(Resolved::Committed) => Ok(()),
            Ok(Resolved::RolledBack) => {
                let message = "the answer to the commit was lost, and the server says that it never happened";
                let error = Error::new(ErrorKind::Lost, "commit.undone", message).phase_of(Phase::Commit);
                let error = self.effort(error.outcome_of(Outcome::RolledBack).caused_by(lost), budget, 1);
                Err(NotCommitted { error, reaction: Reaction::Reconnect })
            }
            Err(unresolved) => Err(lost.hint_of(unresolved.to_string()).into()),
        }
    }
}

/// Warns when it is dropped: the future of a commit was, before the answer came.
#[derive(Debug)]
#[must_use = "it warns when it is dropped"]
pub(crate) struct Unheard(Option<OutcomeKey>);

impl Unheard {
    /// Of a commit that is about to be sent.
    pub(crate) fn new(key: Option<OutcomeKey>) -> Self {
        Unheard(key)
    }

    /// Whatever the answer was, it came, or was found out, or is certain to have been lost.
    pub(crate) fn heard(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        tracing::warn!(
            code = "commit.unknown",
            key = self.0.map(tracing::field::display),
            "the future of a commit was dropped before the server answered: its outcome is unknown"
        );
    }
}
