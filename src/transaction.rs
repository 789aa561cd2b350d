//! Transactions that the caller ends.

mod commit;
mod savepoint;

use std::fmt;

use futures_util::TryStreamExt;
use sqlx_core::error::Error as SqlxError;
use sqlx_core::sql_str::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::attend::Bounds;
use crate::clock::Reading;
use crate::connection::{Failure, ProxyConnection};
use crate::deadline::Budget;
use crate::engine::{Answer, Call, Engine, OnceRow, Stored};
use crate::error::{Error, ErrorKind};
use crate::key::OutcomeKey;
use crate::options::TransactionOptions;
use crate::outcome::{Outcome, Phase, Reaction, Verdict};
use crate::pool::{Fence, Pool};
use crate::retry::{Failed, Repeat};

#[cfg(test)]
pub(crate) use commit::{Committed, commit};
pub(crate) use commit::{NotCommitted, Unheard};
use savepoint::Dropped;
pub use savepoint::Savepoint;

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
    /// Names its commit marker, if it has left one.
    key: Option<OutcomeKey>,
    /// How many savepoints there have been: each has a name of its own.
    savepoints: u32,
    /// The outermost of those that were dropped and are still to be returned to.
    dropped: Option<Dropped>,
    /// The connection was lent while there was one.
    torn: bool,
    in_closure: bool,
}

impl<DB: Engine> Pool<DB> {
    /// Opens a transaction: read-write, or read-only on a pool for a reader endpoint.
    ///
    /// The opening is its own check of an idle connection: nothing of yours is lost with it, so a connection that was lost
    /// or that leads to a demoted writer is replaced, and the opening repeated, within the deadline. With
    /// [`CommitMarkers`](crate::CommitMarkers) on, the opening leaves the marker in the same message.
    ///
    /// # Errors
    /// As [`Pool::acquire`]; [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly) if every connection led to a server that
    /// cannot write; `markers.missing` if there is no table for the marker. The outcome is
    /// [`NotSent`](crate::Outcome::NotSent) or [`NotExecuted`](crate::Outcome::NotExecuted).
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection the opening was sent on.
    pub async fn begin(&self) -> Result<ProxyTransaction<DB>, Error> {
        self.begin_with(TransactionOptions::new()).await
    }

    /// The same with options: isolation level, read-only, deferrable.
    ///
    /// # Errors
    /// As [`Pool::begin`].
    ///
    /// # Cancel safety
    /// As [`Pool::begin`].
    ///
    /// ```no_run
    /// # async fn example(pool: rds_proxy_pool::ProxyPool) -> Result<(), Box<dyn std::error::Error>> {
    /// use rds_proxy_pool::{Isolation, TransactionOptions};
    ///
    /// let options = TransactionOptions::new().isolation(Isolation::RepeatableRead).read_only();
    /// let mut snapshot = pool.begin_with(options).await?;
    /// let sum: i64 = sqlx::query_scalar("SELECT sum(cents)::bigint FROM account").fetch_one(&mut snapshot).await?;
    /// snapshot.rollback().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn begin_with(&self, options: TransactionOptions) -> Result<ProxyTransaction<DB>, Error> {
        let now = self.clock().now();
        self.open_transaction(options, &self.budget_at(now.monotonic), Some(now)).await
    }

    pub(crate) async fn open_transaction(
        &self,
        options: TransactionOptions,
        budget: &Budget,
        now: Option<Reading>,
    ) -> Result<ProxyTransaction<DB>, Error> {
        match self.open_with(options, None, budget, now).await? {
            Opened::Open(transaction) => Ok(transaction),
            Opened::Done(_) => unreachable!("it asked for no key"),
        }
    }

    /// One that takes this key first, unless it was committed before. No commit marker: the key is one.
    pub(crate) async fn open_once(&self, row: OnceRow<'_>, budget: &Budget) -> Result<Opened<DB, Stored>, Error> {
        self.open_with(TransactionOptions::new(), Some(row), budget, None).await
    }

    async fn open_with(
        &self,
        options: TransactionOptions,
        row: Option<OnceRow<'_>>,
        budget: &Budget,
        mut now: Option<Reading>,
    ) -> Result<Opened<DB, Stored>, Error> {
        let read_only = options.read_only || self.config().access().is_read_only();
        let begin_sql = DB::begin_sql(TransactionOptions { read_only, ..options });
        let table = self.marker_table().filter(|_| !read_only && row.is_none());
        let mut retry = None;
        // Those that are idle may be like one that was of no use.
        let mut fence = Fence::Request;
        let mut last: Option<Failure> = None;
        for made in 1.. {
            let mut connection = match self.checkout(budget, now.take(), &|| fence).await {
                Ok(connection) => connection,
                // That the time is up says less than why an opening failed before.
                Err(error) => {
                    let last = last.filter(|_| error.kind() == ErrorKind::Deadline);
                    let told = last.map(|failure| self.effort(failure.into_error(Phase::Begin), budget, made));
                    return Err(told.unwrap_or(error));
                }
            };
            let key = table.map(|_| self.draw_key()).transpose()?;
            let marker = table.zip(key).map(|(table, key)| DB::marker_sql(table, key));
            let first = marker.or_else(|| row.map(DB::once_take_sql));
            let failure = match self.send_opening(&mut connection, &begin_sql, first, row, budget).await {
                Ok(None) => {
                    connection.begun();
                    return Ok(Opened::Open(ProxyTransaction {
                        connection,
                        open: true,
                        key,
                        savepoints: 0,
                        dropped: None,
                        torn: false,
                        in_closure: false,
                    }));
                }
                Ok(Some(stored)) => return Ok(Opened::Done(stored)),
                Err(failure) => failure,
            };
            let Verdict { kind, reaction, code, .. } = *failure.verdict();
            // Of two statements the first may have succeeded, and then a transaction is open that nobody knows of. Where the
            // proxy had no database connection to give, neither did.
            let two = key.is_some() || row.is_some();
            if two && (kind != ErrorKind::Throttled || self.config().split_messages()) {
                connection.spoil();
            }
            drop(connection);
            // A session that was silent after a gap; where the time is up, there is no next attempt.
            let reaction = if kind == ErrorKind::Deadline { Reaction::Reconnect } else { reaction };
            // Nothing of the user's was sent with it.
            let failed = Failed { outcome: Outcome::NotExecuted, reaction, repeat: Repeat::Harmless, made };
            let Some(resume) = self.retry_at(&mut retry, failed, Some(budget.acquire_until)) else {
                return Err(self.effort(failure.into_error(Phase::Begin), budget, made));
            };
            if reaction == Reaction::Reconnect {
                fence = Fence::AlwaysProbe;
            }
            tracing::info!(attempt = made, code, "opening the transaction again");
            last = Some(failure);
            self.clock().sleep_until(resume).await;
        }
        unreachable!("the loop returns")
    }

    /// Answers what is stored with the key, and leaves no transaction, where the key was committed before.
    async fn send_opening(
        &self,
        connection: &mut ProxyConnection<DB>,
        begin: &str,
        first: Option<String>,
        row: Option<OnceRow<'_>>,
        budget: &Budget,
    ) -> Result<Option<Stored>, Failure> {
        let access = self.config().access();
        let judge = if row.is_some() { DB::judge_once } else { DB::judge_begin };
        let mut answer = None;
        for message in self.messages(begin, first) {
            let patience = connection.patience(budget);
            let bounds = Bounds { until: Some(budget.acquire_until), patience, watch: None };
            let judge = |error: &SqlxError| judge(error, access);
            answer = connection.drive(bounds, judge, |live| first_row::<DB>(live, message)).await?;
        }
        let Some(row) = row.filter(|_| answer.is_none()) else { return Ok(None) };
        let mut messages = self.messages(&DB::once_select_sql(row), Some("ROLLBACK".to_owned())).into_iter();
        let select = messages.next().unwrap_or_default();
        let bounds = Bounds::from(Some(budget.acquire_until));
        let judge = |error: &SqlxError| judge(error, access);
        let stored = connection.drive(bounds, judge, |live| stored::<DB>(live, select)).await?;
        for message in messages {
            connection.drive(bounds, judge, |live| simple::<DB>(live, message)).await?;
        }
        Ok(Some(stored))
    }

    /// In one message, or one by one where that is asked for.
    fn messages(&self, one: &str, other: Option<String>) -> Vec<String> {
        match other {
            None => vec![one.to_owned()],
            Some(other) if self.config().split_messages() => vec![one.to_owned(), other],
            Some(other) => vec![format!("{one}; {other}")],
        }
    }

    pub(crate) fn draw_key(&self) -> Result<OutcomeKey, Error> {
        OutcomeKey::new(self.clock().now().wall).map_err(|error| {
            let message = "the operating system gave no random bytes for the transaction's key";
            Error::new(ErrorKind::Config, "markers.entropy", message).phase_of(Phase::Begin).caused_by(error)
        })
    }
}

/// How a transaction that takes a key first is opened.
pub(crate) enum Opened<DB: Engine, D> {
    Open(ProxyTransaction<DB>),
    /// It is none: the key was committed before.
    Done(D),
}

/// Sends a text that answers nothing of interest.
fn simple<'c, DB: Engine>(connection: &'c mut DB::Connection, sql: String) -> Answer<'c, ()> {
    let sql: SqlStr = AssertSqlSafe(sql).into_sql_str();
    Box::pin(DB::fetch_many(connection, Call::capture(sql)).try_for_each(|_| async { Ok(()) }))
}

fn first_row<'c, DB: Engine>(connection: &'c mut DB::Connection, sql: String) -> Answer<'c, Option<DB::Row>> {
    let sql: SqlStr = AssertSqlSafe(sql).into_sql_str();
    let answers = DB::fetch_many(connection, Call::capture(sql));
    Box::pin(answers.try_fold(None, |first, answer| async { Ok(first.or(answer.right())) }))
}

fn stored<'c, DB: Engine>(connection: &'c mut DB::Connection, select: String) -> Answer<'c, Stored> {
    let row = first_row::<DB>(connection, select);
    Box::pin(async move { DB::once_read(&row.await?.ok_or(SqlxError::RowNotFound)?) })
}

impl<DB: Engine> ProxyTransaction<DB> {
    /// By what its outcome can be asked for with [`Pool::resolve`](crate::Pool::resolve), should its commit end in doubt;
    /// `None` where it has left no marker.
    pub fn outcome_key(&self) -> Option<OutcomeKey> {
        self.key
    }

    /// Hands out the driver's connection, for `COPY` and helpers that demand it.
    ///
    /// What is done with it is out of sight: a commit in doubt stays in doubt, marker or not, since a statement sent here may
    /// have ended the transaction. Do not end it here. End savepoints before: with one that was dropped and not yet undone,
    /// the commit fails (`transaction.savepoint`).
    pub fn lend(&mut self) -> &mut DB::Connection {
        self.torn |= self.dropped.is_some();
        self.connection.lend()
    }

    /// The first failure in it that nothing has undone.
    pub(crate) fn failed(&mut self) -> Option<Verdict> {
        self.connection.failed()
    }

    /// The same in a closure, where some texts are refused.
    pub(crate) fn in_closure(mut self) -> Self {
        self.in_closure = true;
        self
    }

    /// The connection for one more statement, unless its text may not be sent here.
    pub(crate) async fn admit(&mut self, sql: &str) -> Result<&mut ProxyConnection<DB>, SqlxError> {
        if self.in_closure {
            allow::<DB>(sql)?;
        }
        self.return_to_dropped().await.map_err(|failure| SqlxError::from(self.told(failure)))?;
        Ok(&mut self.connection)
    }
}

/// Refuses what would end the transaction behind its closure's back.
fn allow<DB: Engine>(sql: &str) -> Result<(), Error> {
    let Some(rule) = DB::forbidden_in_closure(sql) else { return Ok(()) };
    let message = format!("refused in the closure of a transaction: {rule}");
    let error = Error::new(ErrorKind::Usage, "transaction.refused_statement", message).phase_of(Phase::Statement);
    Err(error
        .hint_of("the transaction ends with its closure; return an error to undo it, and send one statement at a time"))
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
        f.debug_struct("ProxyTransaction").field("open", &self.open).field("key", &self.key).finish_non_exhaustive()
    }
}
