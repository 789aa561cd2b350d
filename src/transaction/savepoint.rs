//! Parts of a transaction that can be undone by themselves.

use std::fmt;

use sqlx_core::error::Error as SqlxError;

use super::{ProxyTransaction, simple};
use crate::connection::Failure;
use crate::engine::Engine;
use crate::error::Error;
use crate::outcome::{Outcome, Phase, Verdict};

/// A part of a transaction that can be undone by itself: ended by [`release`](Savepoint::release) or
/// [`rollback`](Savepoint::rollback).
///
/// Dropped without either it is undone before the next statement of the transaction, or its commit. `&mut savepoint` is an
/// sqlx `Executor`.
///
/// ```no_run
/// # async fn example(pool: rds_proxy_pool::ProxyPool) -> Result<(), Box<dyn std::error::Error>> {
/// let mut transaction = pool.begin().await?;
/// let mut savepoint = transaction.savepoint().await?;
/// match sqlx::query("INSERT INTO tag (name) VALUES ('new')").execute(&mut savepoint).await {
///     Ok(_) => savepoint.release().await?,
///     Err(_) => savepoint.rollback().await?, // it is there already, and the transaction goes on
/// }
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a savepoint that is dropped is undone"]
pub struct Savepoint<'t, DB: Engine> {
    transaction: &'t mut ProxyTransaction<DB>,
    number: u32,
    /// What had failed in the transaction before: that is not undone with it.
    failed_before: Option<Verdict>,
    open: bool,
}

/// A savepoint that is to be undone before the next statement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dropped {
    number: u32,
    failed_before: Option<Verdict>,
    /// The server was asked to, and nobody has waited for its answer.
    asked: bool,
}

impl<DB: Engine> ProxyTransaction<DB> {
    /// Opens a part of the transaction that can be undone by itself; one round trip.
    ///
    /// # Errors
    /// As any statement of the transaction.
    ///
    /// # Cancel safety
    /// Dropping the future forbids nothing: the savepoint is never returned to.
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_, DB>, Error> {
        self.return_to_dropped().await.map_err(|failure| self.told(failure))?;
        self.savepoints += 1;
        let number = self.savepoints;
        self.step(format!("SAVEPOINT proxy_{number}")).await.map_err(|failure| self.told(failure))?;
        let failed_before = self.connection.failed();
        Ok(Savepoint { transaction: self, number, failed_before, open: true })
    }

    /// What was done since this savepoint is to be undone before the next statement.
    fn forget(&mut self, number: u32, failed_before: Option<Verdict>) {
        let dropped = Dropped { number, failed_before, asked: false };
        self.dropped = Some(self.dropped.filter(|other| other.number < number).unwrap_or(dropped));
    }

    /// Undoes what failed in a savepoint that was dropped last, so that it does not forbid the commit.
    pub(crate) async fn undo_failed(&mut self) {
        if self.dropped.is_some() && self.connection.failed().is_some_and(|verdict| verdict.keep) {
            // What fails here has failed before the commit.
            let _ = self.return_to_dropped().await;
        }
    }

    /// Undoes what was done since a savepoint that was dropped.
    pub(crate) async fn return_to_dropped(&mut self) -> Result<(), Failure> {
        let Some(mut dropped) = self.dropped else { return Ok(()) };
        let until = self.connection.pool().budget().until;
        self.connection.catch_up(until).await;
        // Who asks a second time is told that there is no such savepoint. The request was sent with the first poll, unless an
        // error was still to be read to its end: then the transaction is as aborted as before.
        if dropped.asked {
            match self.step("SELECT 1".to_owned()).await {
                Ok(()) => {}
                Err(failure) if failure.verdict().keep && failure.verdict().outcome == Outcome::NotExecuted => {
                    dropped.asked = false;
                }
                Err(failure) => return Err(failure),
            }
        }
        if !dropped.asked {
            self.dropped = Some(Dropped { asked: true, ..dropped });
            if let Err(failure) = self.step(back_to(dropped.number)).await {
                self.dropped = Some(dropped);
                return Err(failure);
            }
        }
        self.connection.returned_to_savepoint(dropped.failed_before);
        self.dropped = None;
        Ok(())
    }

    pub(super) async fn step(&mut self, sql: String) -> Result<(), Failure> {
        let budget = self.connection.pool().budget();
        let access = self.connection.pool().config().access();
        self.connection.catch_up(budget.until).await;
        let judge = |error: &SqlxError| DB::judge_statement(error, access);
        self.connection.drive(budget.until, judge, |live| simple::<DB>(live, sql)).await
    }

    pub(super) fn told(&self, failure: Failure) -> Error {
        let pool = self.connection.pool();
        pool.effort(failure.into_error(Phase::Statement), &pool.budget(), 1)
    }
}

/// Back to the savepoint, and without it.
fn back_to(number: u32) -> String {
    format!("ROLLBACK TO SAVEPOINT proxy_{number}; RELEASE SAVEPOINT proxy_{number}")
}

impl<DB: Engine> Savepoint<'_, DB> {
    /// Keeps what was done since; it is undone only with the whole transaction now. One round trip.
    ///
    /// # Errors
    /// As any statement of the transaction: where one had failed since, it cannot be kept.
    ///
    /// # Cancel safety
    /// Dropping the future undoes what was done since, before the next statement; where the server has kept it by then, that
    /// statement fails and the transaction cannot be committed.
    pub async fn release(mut self) -> Result<(), Error> {
        self.transaction.return_to_dropped().await.map_err(|failure| self.transaction.told(failure))?;
        let release = format!("RELEASE SAVEPOINT proxy_{}", self.number);
        self.transaction.step(release).await.map_err(|failure| self.transaction.told(failure))?;
        self.open = false;
        Ok(())
    }

    /// Undoes what was done since, errors included. One round trip.
    ///
    /// # Errors
    /// As any statement of the transaction.
    ///
    /// # Cancel safety
    /// Dropping the future has the same effect, before the next statement.
    pub async fn rollback(mut self) -> Result<(), Error> {
        self.open = false;
        self.transaction.forget(self.number, self.failed_before);
        self.transaction.return_to_dropped().await.map_err(|failure| self.transaction.told(failure))
    }

    /// Opens one within this one.
    ///
    /// # Errors
    /// As [`ProxyTransaction::savepoint`].
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_, DB>, Error> {
        self.transaction.savepoint().await
    }

    pub(crate) fn transaction(&mut self) -> &mut ProxyTransaction<DB> {
        self.transaction
    }
}

impl<DB: Engine> Drop for Savepoint<'_, DB> {
    fn drop(&mut self) {
        if self.open {
            self.transaction.forget(self.number, self.failed_before);
        }
    }
}

impl<DB: Engine> fmt::Debug for Savepoint<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Savepoint").field("number", &self.number).field("open", &self.open).finish_non_exhaustive()
    }
}
