//! Finding out what became of a commit: the fence.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::runtime::{Handle, Id};

use crate::attend::Bounds;
use crate::connection::Failure;
use crate::deadline::Budget;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::key::OutcomeKey;
use crate::outcome::{Outcome, Phase, Reaction, Resolved, Verdict};
use crate::pool::Pool;
use crate::pool::checkout::outside_a_runtime;
use crate::retry::{Failed, Repeat};

/// How long an old transaction is waited for before its session is ended.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where no deadline is known.
const LONGEST: Duration = Duration::from_secs(10);

impl<DB: Engine> Pool<DB> {
    /// Finds out what became of the transaction with this key: afterwards it is certain, and stays so.
    ///
    /// A transaction that is still under way is waited for, and after 2 s, or a quarter of the time left, its session is
    /// ended; one that was not committed can never be committed afterwards, wherever its COMMIT is still on its way. Ask as
    /// often as you like: the answer is the same. It takes a new connection, one more than
    /// [`max_connections`](crate::ProxyConfig::max_connections) if need be, and a second one while it ends a session. Without
    /// a known deadline it takes 10 s at most.
    ///
    /// # Errors
    /// Outcome [`Unknown`](crate::Outcome::Unknown) and the key in each: `commit.unknown` where the time was up first,
    /// `markers.off` on a pool without [`CommitMarkers`](crate::CommitMarkers), `markers.missing` where their table is not
    /// there, `markers.expired` for a key older than half of the time that markers are kept.
    ///
    /// # Cancel safety
    /// Dropping the future does no harm: what it may have left says only that the transaction was not committed.
    ///
    /// ```no_run
    /// # async fn example(pool: rds_proxy_pool::ProxyPool, error: rds_proxy_pool::Error) -> Result<(), rds_proxy_pool::Error> {
    /// use rds_proxy_pool::Resolved;
    ///
    /// if let Some(key) = error.outcome_key() {
    ///     match pool.resolve(key).await? {
    ///         Resolved::Committed => println!("it was done after all"),
    ///         Resolved::RolledBack => println!("it was not, and may be run again"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn resolve(&self, key: OutcomeKey) -> Result<Resolved, Error> {
        Box::pin(self.find_out(key, &self.budget())).await
    }

    pub(crate) async fn find_out(&self, key: OutcomeKey, budget: &Budget) -> Result<Resolved, Error> {
        let table = self.marker_table().ok_or_else(|| unknown(markers_off(), key))?;
        let now = self.clock().now();
        let age = now.wall.duration_since(key.drawn_at()).unwrap_or_default();
        if age > self.config().commit_markers().kept_for() / 2 {
            let message = "the key is so old that its marker may have been deleted";
            return Err(unknown(Error::new(ErrorKind::Usage, "markers.expired", message), key));
        }
        let runtime = Handle::try_current().map_err(|error| unknown(outside_a_runtime(error), key))?.id();
        let until = budget.until.unwrap_or(now.monotonic + LONGEST);
        let budget = Budget { until: Some(until), acquire_until: until, ..*budget };
        let mut retry = None;
        for made in 1.. {
            let failure = match self.ask(table, key, &budget, runtime).await {
                Ok(resolved) => return Ok(resolved),
                Err(Asked::NoConnection(error)) => return Err(self.unresolved(key, &budget, made, error)),
                Err(Asked::Failed(failure)) => failure,
            };
            let Verdict { kind, reaction, code, .. } = *failure.verdict();
            // Silence is not the last word of a server that another connection may reach.
            let reaction = if kind == ErrorKind::Deadline { Reaction::Reconnect } else { reaction };
            let failed = Failed { outcome: Outcome::NotExecuted, reaction, repeat: Repeat::Harmless, made };
            let Some(resume) = self.retry_at(&mut retry, failed, Some(until)) else {
                return Err(self.unresolved(key, &budget, made, failure.into_error(Phase::Fence)));
            };
            tracing::info!(attempt = made, code, %key, "asking for the outcome again");
            self.clock().sleep_until(resume).await;
        }
        unreachable!("the loop returns")
    }

    /// Asks once, on a new connection: an old one may lead to a server that is the writer no more.
    async fn ask(&self, table: &str, key: OutcomeKey, budget: &Budget, runtime: Id) -> Result<Resolved, Asked> {
        let slot = self.shared.slots.try_take().ok().flatten();
        let mut live = Box::pin(self.open(budget, runtime)).await.map_err(Asked::NoConnection)?;
        // One that is not answered is asked again on another connection: nobody is harmed by the one given up.
        let bounds = Bounds { until: budget.until, patience: Some(self.half_of_the_rest(budget)), watch: None };
        let answer = {
            let mut fence = pin!(live.drive(self.clock(), bounds, |connection| DB::fence(connection, table, key)));
            loop {
                // Before the fence gives up, so that it sees what came of it.
                let patience = PATIENCE.min(self.half_of_the_rest(budget) / 2);
                let patience = self.clock().sleep_until(self.clock().monotonic() + patience);
                match select(fence.as_mut(), patience).await {
                    Either::Left((answer, _)) => break answer,
                    Either::Right(_) => {}
                }
                let ending = pin!(self.end_holder(key, budget, runtime));
                if let Either::Left((answer, _)) = select(fence.as_mut(), ending).await {
                    break answer;
                }
            }
        };
        let failed = match answer {
            Ok(resolved) => {
                if slot.is_some() {
                    self.release(live);
                }
                return Ok(resolved);
            }
            Err(trouble) => Failure::new(trouble, DB::judge_fence, live.split().1),
        };
        self.shared.discarded("it did not answer for an outcome");
        Err(Asked::Failed(failed))
    }

    /// Ends the session the fence waits for. If that does not work, the fence goes on waiting.
    async fn end_holder(&self, key: OutcomeKey, budget: &Budget, runtime: Id) {
        tracing::warn!(%key, "ending the session of a transaction whose commit is in doubt");
        let Ok(mut live) = Box::pin(self.open(budget, runtime)).await else { return };
        let bounds = Bounds { until: budget.until, patience: Some(PATIENCE), watch: None };
        if live.drive(self.clock(), bounds, |connection| DB::end_holder(connection, key)).await.is_err() {
            tracing::debug!(%key, "the session could not be ended");
        }
    }

    /// Where it can be found out what became of a request, silence is not waited for until there is no time left to ask.
    pub(crate) fn leaving_time_to_ask(&self, budget: &Budget) -> Bounds {
        let left = budget.until.map(|until| until.saturating_duration_since(self.clock().monotonic()));
        Bounds { until: budget.until, patience: left.map(|left| left / 2), watch: None }
    }

    fn half_of_the_rest(&self, budget: &Budget) -> Duration {
        budget.acquire_until.saturating_duration_since(self.clock().monotonic()) / 2
    }

    fn unresolved(&self, key: OutcomeKey, budget: &Budget, attempts: u32, cause: Error) -> Error {
        if cause.code() == "markers.missing" {
            return unknown(self.effort(cause, budget, attempts), key);
        }
        let message = "it could not be found out in time what became of the commit";
        let error = Error::new(ErrorKind::Deadline, "commit.unknown", message).caused_by(cause);
        unknown(self.effort(error, budget, attempts), key).hint_of("ask again later with Pool::resolve and the key")
    }

    /// The statement that makes the table of the [commit markers](crate::CommitMarkers); `None` where they are off.
    ///
    /// For your migrations. The pool's user needs SELECT, INSERT, UPDATE and DELETE on it, nothing more.
    ///
    /// ```
    /// use rds_proxy_pool::{CommitMarkers, ProxyConfig, ProxyPool};
    ///
    /// let config = ProxyConfig::builder().endpoint("localhost").user("app").password("app").database("app");
    /// let pool = ProxyPool::new(config.commit_markers(CommitMarkers::table("ops.outcome")).build()?)?;
    /// let sql = pool.commit_marker_table_sql().unwrap();
    /// assert!(sql.starts_with("CREATE TABLE IF NOT EXISTS ops.outcome (key uuid PRIMARY KEY"));
    /// # Ok::<(), rds_proxy_pool::Error>(())
    /// ```
    pub fn commit_marker_table_sql(&self) -> Option<String> {
        self.config().commit_markers().table_name().map(DB::marker_table_sql)
    }

    /// Where what this pool writes leaves markers, if it does.
    pub(crate) fn marker_table(&self) -> Option<&str> {
        self.config().commit_markers().table_name().filter(|_| !self.config().access().is_read_only())
    }
}

/// Why a question has no answer.
enum Asked {
    NoConnection(Error),
    Failed(Failure),
}

pub(crate) fn markers_off() -> Error {
    Error::new(ErrorKind::Usage, "markers.off", "this pool leaves no commit markers")
}

fn unknown(error: Error, key: OutcomeKey) -> Error {
    error.phase_of(Phase::Fence).outcome_of(Outcome::Unknown).key_of(Some(key))
}
