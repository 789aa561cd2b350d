//! Transactions that the caller ends.

use std::fmt;

use futures_util::TryStreamExt;
use sqlx_core::error::Error as SqlxError;
use sqlx_core::sql_str::{SqlSafeStr, SqlStr};

use crate::attend::Bounds;
use crate::connection::{Failure, ProxyConnection};
use crate::deadline::Budget;
use crate::engine::{Answer, Call, Engine};
use crate::error::{Error, ErrorKind};
use crate::outcome::{COMMIT_ENDED, Outcome, Phase, Reaction, Verdict};
use crate::pool::{Fence, Pool};
use crate::retry::{Failed, Repeat};

/// An open transaction: ended by [`commit`](ProxyTransaction::commit) or [`rollback`](ProxyTransaction::rollback).
///
/// Dropped without either it closes its connection, so that the server undoes it at once and no lock outlives a freeze;
/// the place in the pool is free again immediately. `&mut transaction` is an sqlx `Executor`.
///
/// ```no_run
/// # async fn example(pool: rds_proxy_pool::ProxyPool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut transaction = pool.begin().await?;
/// sqlx::query("UPDATE account SET cents = cents - $1 WHERE id = $2")
///     .bind(500_i64)
///     .bind(1_i64)
///     .execute(&mut transaction)
///     .await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a transaction that is dropped is undone"]
pub struct ProxyTransaction<DB: Engine> {
    connection: ProxyConnection<DB>,
    open: bool,
}

impl<DB: Engine> Pool<DB> {
    /// Opens a transaction: read-write, or read-only on a pool for a reader endpoint.
    ///
    /// The opening is its own check of an idle connection: nothing of yours is lost with it, so a connection that was lost
    /// or that leads to a demoted writer is replaced, and the opening repeated, within the deadline.
    ///
    /// # Errors
    /// As [`Pool::acquire`]; [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly) if every connection led to a server that
    /// cannot write. The outcome is [`NotSent`](crate::Outcome::NotSent) or
    /// [`NotExecuted`](crate::Outcome::NotExecuted).
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection the opening was sent on.
    pub async fn begin(&self) -> Result<ProxyTransaction<DB>, Error> {
        let now = self.clock().now();
        let budget = self.budget_at(now.monotonic);
        let mut now = Some(now);
        let access = self.config().access();
        let mut retry = None;
        let mut last: Option<Failure> = None;
        let mut distrusts = false;
        for made in 1.. {
            // What is idle may be like the one on which it failed.
            let fence = if distrusts { Fence::AlwaysProbe } else { Fence::Request };
            let mut connection = match self.checkout(&budget, now.take(), &|| fence).await {
                Ok(connection) => connection,
                // That the time is up says less than why an opening failed before.
                Err(error) => {
                    let last = last.filter(|_| error.kind() == ErrorKind::Deadline);
                    let told = last.map(|failure| self.effort(failure.into_error(Phase::Begin), &budget, made));
                    return Err(told.unwrap_or(error));
                }
            };
            let patience = connection.patience(&budget);
            let bounds = Bounds { until: Some(budget.acquire_until), patience, watch: None };
            let judge = |error: &SqlxError| DB::judge_begin(error, access);
            let begin = connection.drive(bounds, judge, |live| simple::<DB>(live, DB::begin_sql(access)));
            let failure = match begin.await {
                Ok(()) => {
                    connection.begun();
                    return Ok(ProxyTransaction { connection, open: true });
                }
                Err(failure) => failure,
            };
            drop(connection);
            let Verdict { kind, reaction, code, .. } = *failure.verdict();
            // A session that was silent after a gap; where the time is up, there is no next attempt.
            let reaction = if kind == ErrorKind::Deadline { Reaction::Reconnect } else { reaction };
            distrusts |= reaction == Reaction::Reconnect;
            // Nothing of the user's was sent with it.
            let failed = Failed { outcome: Outcome::NotExecuted, reaction, repeat: Repeat::Harmless, made };
            let Some(resume) = self.retry_at(&mut retry, failed, Some(budget.acquire_until)) else {
                return Err(self.effort(failure.into_error(Phase::Begin), &budget, made));
            };
            tracing::info!(attempt = made, code, "opening the transaction again");
            last = Some(failure);
            self.clock().sleep_until(resume).await;
        }
        unreachable!("the loop returns")
    }
}

/// Sends a text that answers nothing of interest.
fn simple<'c, DB: Engine>(connection: &'c mut DB::Connection, sql: &'static str) -> Answer<'c, ()> {
    let sql: SqlStr = sql.into_sql_str();
    Box::pin(DB::fetch_many(connection, Call::capture(sql)).try_for_each(|_| async { Ok(()) }))
}

/// The server has answered that it has committed.
#[derive(Debug)]
pub(crate) struct Committed {
    /// Something broke between that answer and the end of the message.
    pub(crate) connection_lost: bool,
}

/// Commits; where it is in doubt whether a transaction is open, only if one is. The server sends the answer to COMMIT when the commit is done, so what comes after it changes nothing.
pub(crate) fn commit<DB: Engine>(connection: &mut DB::Connection, in_doubt: bool) -> Answer<'_, Committed> {
    let sql: SqlStr = DB::commit_sql(in_doubt).into_sql_str();
    Box::pin(async move {
        let mut answers = DB::fetch_many(connection, Call::capture(sql));
        let mut answered = 0;
        loop {
            match answers.try_next().await {
                Ok(Some(answer)) => answered += usize::from(answer.is_left()),
                Ok(None) => return Ok(Committed { connection_lost: false }),
                Err(_) if answered >= DB::COMMIT_ANSWERS => return Ok(Committed { connection_lost: true }),
                Err(error) => return Err(error),
            }
        }
    })
}

impl<DB: Engine> ProxyTransaction<DB> {
    pub(crate) fn connection(&mut self) -> &mut ProxyConnection<DB> {
        &mut self.connection
    }

    /// Makes everything done in the transaction permanent.
    ///
    /// # Errors
    /// Outcome [`RolledBack`](crate::Outcome::RolledBack) where the server refused, for a deferred constraint, a
    /// serialization failure, or because an earlier statement had failed (`commit.aborted`; plain sqlx reports success
    /// there). Outcome [`Unknown`](crate::Outcome::Unknown) where the answer was lost (`commit.unknown`): it may be
    /// committed; and where a statement of yours had ended the transaction before (`commit.ended`). Outcome
    /// [`NotSent`](crate::Outcome::NotSent) where the deadline had passed before: it is undone.
    ///
    /// # Cancel safety
    /// None: dropping the future while the commit is under way leaves its outcome unknown. The connection is closed and one
    /// WARN event tells.
    pub async fn commit(mut self) -> Result<(), Error> {
        let budget = self.connection.pool().budget();
        if self.connection.was_ended() {
            let Verdict { kind, code, outcome, hint, .. } = COMMIT_ENDED;
            let message = "a statement sent in the transaction had ended it already";
            let error = Error::new(kind, code, message).phase_of(Phase::Commit).outcome_of(outcome);
            return Err(error.hint_of(hint.unwrap_or_default()));
        }
        let in_doubt = self.connection.may_have_ended();
        self.connection.catch_up(budget.until).await;
        let unheard = Unheard;
        let result = self.connection.drive(budget.until, DB::judge_commit, |live| commit::<DB>(live, in_doubt)).await;
        std::mem::forget(unheard);
        if let Ok(Committed { connection_lost: true }) = result {
            self.connection.spoil();
        }
        self.ended(result.map(drop), Phase::Commit, &budget)
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
        let rollback = self.connection.drive(budget.until, DB::judge_rollback, |live| simple::<DB>(live, "ROLLBACK"));
        let result = rollback.await;
        self.ended(result, Phase::Rollback, &budget)
    }

    fn ended(mut self, result: Result<(), Failure>, phase: Phase, budget: &Budget) -> Result<(), Error> {
        self.open = match &result {
            Ok(()) => false,
            // The server answered and ended it, or the connection is spoiled already, or nobody asked the server.
            Err(failure) => !failure.verdict().keep || failure.verdict().outcome == Outcome::NotSent,
        };
        result.map_err(|failure| self.connection.pool().effort(failure.into_error(phase), budget, 1))
    }
}

/// Warns when it is dropped: the future of a commit was, before the answer came.
struct Unheard;

impl Drop for Unheard {
    fn drop(&mut self) {
        tracing::warn!(
            code = "commit.unknown",
            "the future of a commit was dropped before the server answered: its outcome is unknown"
        );
    }
}

impl<DB: Engine> Drop for ProxyTransaction<DB> {
    fn drop(&mut self) {
        if self.open {
            self.connection.spoil();
        }
    }
}

impl<DB: Engine> fmt::Debug for ProxyTransaction<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyTransaction").field("open", &self.open).finish_non_exhaustive()
    }
}
