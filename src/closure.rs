//! Transactions as closures, which are run again where that is proven safe.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx_core::error::Error as SqlxError;

use crate::deadline::Budget;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::key::OutcomeKey;
use crate::options::TransactionOptions;
use crate::outcome::{Outcome, Phase, Reaction, Verdict};
use crate::pool::Pool;
use crate::retry::{Failed, Repeat};
use crate::transaction::{NotCommitted, Opened, ProxyTransaction, Savepoint};

/// The transaction that a closure works in; it ends with the closure.
///
/// It is given by value, so that closures that borrow what is around them can be spawned; dropped, at the latest with the
/// end of the closure, it gives the transaction back to be committed. It has neither `commit` nor `rollback`: a closure
/// that returns `Ok` is committed, one that returns `Err` is rolled back. `&mut tx` is an sqlx `Executor`.
///
/// See [`Pool::transaction`](crate::Pool::transaction).
pub struct Tx<DB: Engine> {
    transaction: Option<Box<ProxyTransaction<DB>>>,
    home: Arc<Home<DB>>,
}

/// Where a transaction waits for its end once the closure is done with it.
struct Home<DB: Engine> {
    transaction: Mutex<Option<Box<ProxyTransaction<DB>>>>,
    lent: AtomicBool,
}

const HELD: &str = "a Tx holds its transaction until it is dropped";

impl<DB: Engine> Pool<DB> {
    /// Runs the closure in a transaction and commits it; where an attempt is certain to have left nothing, the closure is run
    /// again. **It may run several times**: keep effects outside of the database out of it.
    ///
    /// It is run again, within the deadline, when its connection was lost before the commit, when the server asked for it
    /// (serialization failures, deadlocks), when the server turned out not to be the writer any more, and when a commit whose
    /// answer was lost is found out never to have happened, for which [`CommitMarkers`](crate::CommitMarkers) have to be on.
    /// What happened is judged by what the [`Tx`] saw, not by the error that the closure makes of it. Without a known deadline
    /// it is run ten times at most.
    ///
    /// An error of the closure's own rolls back and comes back untouched. A statement that failed forbids the commit, even if
    /// the closure swallows its error, unless it was undone with a [savepoint](Tx::savepoint).
    ///
    /// # Errors
    /// The closure's own. Those of this crate arrive as `E::from(sqlx::Error)`, see [`Error::find`](crate::Error::find):
    /// as [`Pool::begin`] and [`ProxyTransaction::commit`]; `transaction.failed` where the error of a statement was swallowed;
    /// `transaction.escaped` where the [`Tx`] outlives the closure: it is not committed then. A commit in doubt has outcome
    /// [`Unknown`](crate::Outcome::Unknown) and, with commit markers, an [`outcome_key`](crate::Error::outcome_key).
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, so that the server undoes everything; but while the commit is under way its
    /// outcome is unknown then, and one WARN event tells, with the key if there is one.
    ///
    /// ```no_run
    /// # async fn example(pool: rds_proxy_pool::ProxyPool, order: i64) -> Result<(), sqlx::Error> {
    /// let left: i32 = pool
    ///     .transaction(|mut tx| async move {
    ///         sqlx::query("INSERT INTO ordered (id) VALUES ($1)").bind(order).execute(&mut tx).await?;
    ///         let take = "UPDATE stock SET held = held - 1 WHERE item = 7 RETURNING held";
    ///         sqlx::query_scalar(take).fetch_one(&mut tx).await
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn transaction<T, E, F, Fut>(&self, work: F) -> Result<T, E>
    where
        F: FnMut(Tx<DB>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<SqlxError>,
    {
        self.transaction_with(TransactionOptions::new(), work).await
    }

    /// The same with options: isolation level, read-only, deferrable.
    ///
    /// A read-only transaction leaves no marker, needs none, and is run again whatever became of its end.
    ///
    /// # Errors
    /// As [`Pool::transaction`].
    ///
    /// # Cancel safety
    /// As [`Pool::transaction`].
    pub async fn transaction_with<T, E, F, Fut>(&self, options: TransactionOptions, work: F) -> Result<T, E>
    where
        F: FnMut(Tx<DB>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<SqlxError>,
    {
        let harmless = options.read_only || self.config().access().is_read_only();
        run(self, Plain { options, harmless }, work).await
    }
}

/// What sets one kind of transaction in closures apart from another.
pub(crate) trait Manner<DB: Engine, T>: Sync {
    /// What an opening finds where all is done already.
    type Done: Send;

    /// When running the closure again does harm.
    fn repeat(&self) -> Repeat;

    /// Opens a transaction for one attempt.
    fn open(
        &self,
        pool: &Pool<DB>,
        budget: &Budget,
    ) -> impl Future<Output = Result<Opened<DB, Self::Done>, Error>> + Send;

    /// What is returned where all is done already.
    fn found(&self, done: Self::Done) -> Result<T, Error>;

    /// A statement that is sent together with the COMMIT.
    fn before_commit(&self, value: &T) -> Result<Option<String>, Error>;
}

/// One whose closure is run again where nothing is left of it.
struct Plain {
    options: TransactionOptions,
    harmless: bool,
}

impl<DB: Engine, T> Manner<DB, T> for Plain {
    type Done = Infallible;

    fn repeat(&self) -> Repeat {
        if self.harmless { Repeat::Harmless } else { Repeat::IfUndone }
    }

    async fn open(&self, pool: &Pool<DB>, budget: &Budget) -> Result<Opened<DB, Infallible>, Error> {
        pool.open_transaction(self.options, budget, None).await.map(Opened::Open)
    }

    fn found(&self, done: Infallible) -> Result<T, Error> {
        match done {}
    }

    fn before_commit(&self, _: &T) -> Result<Option<String>, Error> {
        Ok(None)
    }
}

/// Runs the closure in a transaction, as often as that is safe and useful.
pub(crate) async fn run<DB, T, E, F, Fut, M>(pool: &Pool<DB>, manner: M, mut work: F) -> Result<T, E>
where
    DB: Engine,
    M: Manner<DB, T>,
    F: FnMut(Tx<DB>) -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: From<SqlxError>,
{
    // All attempts together spend from one budget. Without a deadline each may wait as long as the first.
    let mut budget = pool.budget();
    let pool = pool.within(&budget);
    let mut retry = None;
    let mut last = None;
    for made in 1.. {
        let transaction = match Box::pin(manner.open(&pool, &budget)).await {
            Ok(Opened::Open(transaction)) => transaction.in_closure(),
            Ok(Opened::Done(done)) => return manner.found(done).map_err(|error| E::from(error.into())),
            // That the time is up says less than what made it necessary to try again, and nothing else says more than that
            // an attempt may have been committed.
            Err(error) => {
                let last =
                    last.filter(|(_, outcome)| error.kind() == ErrorKind::Deadline || *outcome == Outcome::Unknown);
                return Err(last.map_or_else(|| E::from(error.into()), |(last, _)| last));
            }
        };
        let home = Arc::new(Home { transaction: Mutex::new(None), lent: AtomicBool::new(false) });
        let result = work(Tx { transaction: Some(Box::new(transaction)), home: Arc::clone(&home) }).await;
        let lent = home.lent.load(Ordering::Relaxed);
        let Some(transaction) = home.take() else { return Err(E::from(escaped(lent).into())) };
        let (error, outcome, reaction) = match Box::pin(end(transaction, lent, &manner, result, &budget)).await {
            Ok(value) => return Ok(value),
            Err(ended) => ended,
        };
        let repeat = manner.repeat();
        let repeat = if lent && repeat == Repeat::Harmless { Repeat::IfUndone } else { repeat };
        let failed = Failed { outcome, reaction, repeat, made };
        let Some(resume) = pool.retry_at(&mut retry, failed, budget.until) else { return Err(error) };
        tracing::info!(attempt = made, %outcome, "running a transaction again");
        last = Some((error, outcome));
        pool.clock().sleep_until(resume).await;
        if budget.until.is_none() {
            budget = Budget { started: budget.started, ..pool.budget() };
        }
    }
    unreachable!("the loop returns")
}

/// Ends the transaction as its closure has; with an error, says what became of it and what is useful.
async fn end<DB: Engine, T, E: From<SqlxError>>(
    mut transaction: Box<ProxyTransaction<DB>>,
    lent: bool,
    manner: &impl Manner<DB, T>,
    result: Result<T, E>,
    budget: &Budget,
) -> Result<T, (E, Outcome, Reaction)> {
    if result.is_ok() {
        transaction.undo_failed().await;
    }
    // What was lent may have been ended by its borrower, whatever became of the connection since.
    let undone = if lent { Outcome::Unknown } else { Outcome::RolledBack };
    match (result, transaction.failed()) {
        (Ok(value), None) => {
            let before = match manner.before_commit(&value) {
                Ok(before) => before,
                Err(error) => {
                    let _ = transaction.rollback().await;
                    return Err((E::from(error.outcome_of(undone).into()), undone, Reaction::Surface));
                }
            };
            match transaction.finish(budget, before).await {
                Ok(()) => Ok(value),
                Err(NotCommitted { error, reaction }) => {
                    let outcome = error.outcome();
                    Err((E::from(error.into()), outcome, reaction))
                }
            }
        }
        (Ok(_), Some(verdict)) => {
            let error = failed(&verdict);
            roll_back(*transaction, &verdict).await;
            Err((E::from(error.into()), undone, verdict.reaction))
        }
        (Err(error), Some(verdict)) => {
            roll_back(*transaction, &verdict).await;
            Err((error, undone, verdict.reaction))
        }
        (Err(error), None) => {
            // If that fails the connection is closed, which undoes it as well.
            let _ = transaction.rollback().await;
            Err((error, undone, Reaction::Surface))
        }
    }
}

/// Where the connection is still good it is kept.
async fn roll_back<DB: Engine>(transaction: ProxyTransaction<DB>, verdict: &Verdict) {
    if verdict.keep {
        let _ = transaction.rollback().await;
    }
}

fn escaped(lent: bool) -> Error {
    let message = "the closure of a transaction ended and its Tx did not: it was not committed";
    let error = Error::new(ErrorKind::Usage, "transaction.escaped", message).phase_of(Phase::Commit);
    error
        .outcome_of(if lent { Outcome::Unknown } else { Outcome::RolledBack })
        .hint_of("do not keep the Tx, or move it into a task that outlives the closure")
}

fn failed(verdict: &Verdict) -> Error {
    let message = format!("a statement had failed ({}) and its error was swallowed: not committed", verdict.code);
    let error = Error::new(ErrorKind::Usage, "transaction.failed", message).phase_of(Phase::Commit);
    error.outcome_of(Outcome::RolledBack).hint_of("return the error, or undo the statement with a savepoint")
}

impl<DB: Engine> Tx<DB> {
    pub(crate) fn transaction(&mut self) -> &mut ProxyTransaction<DB> {
        self.transaction.as_mut().expect(HELD)
    }

    /// By what the outcome of this attempt can be asked for with [`Pool::resolve`](crate::Pool::resolve); `None` where it
    /// leaves no marker. Another attempt has another key.
    pub fn outcome_key(&self) -> Option<OutcomeKey> {
        self.transaction.as_ref().and_then(|transaction| transaction.outcome_key())
    }

    /// Opens a part of the transaction that can be undone by itself; one round trip.
    ///
    /// # Errors
    /// As any statement of the transaction.
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_, DB>, Error> {
        self.transaction().savepoint().await
    }

    /// Hands out the driver's connection, for `COPY` and helpers that demand it.
    ///
    /// What is done with it is out of sight: this attempt is not run again, whatever happens, and a commit in doubt stays
    /// [`Unknown`](crate::Outcome::Unknown). Do not end the transaction here, and end savepoints before.
    pub fn lend(&mut self) -> &mut DB::Connection {
        self.home.lent.store(true, Ordering::Relaxed);
        self.transaction().lend()
    }
}

impl<DB: Engine> Home<DB> {
    fn take(&self) -> Option<Box<ProxyTransaction<DB>>> {
        self.transaction.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<DB: Engine> Drop for Tx<DB> {
    fn drop(&mut self) {
        *self.home.transaction.lock().unwrap_or_else(PoisonError::into_inner) = self.transaction.take();
    }
}

impl<DB: Engine> fmt::Debug for Tx<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("key", &self.outcome_key()).finish_non_exhaustive()
    }
}
