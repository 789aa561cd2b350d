//! Deletes what is older than anybody asks for.

use std::time::{Duration, SystemTime};

use sqlx_core::error::Error as SqlxError;

use crate::engine::{Answer, Engine};
use crate::error::{Error, ErrorKind};
use crate::key::OutcomeKey;
use crate::outcome::{Outcome, Phase};
use crate::pool::{Pool, markers_off};

/// So many rows are deleted by one statement: few enough to hold nobody up.
const BATCH: u32 = 1000;

impl<DB: Engine> Pool<DB> {
    /// Deletes the [commit markers](crate::CommitMarkers) that are older than they are kept for, and says how many there
    /// were.
    ///
    /// In batches of 1000 by primary key, until none is left or the deadline is reached. For a scheduled job, not for a
    /// request.
    ///
    /// # Errors
    /// `markers.off` on a pool without commit markers; what the server said where it could not delete. What was deleted
    /// before stays deleted.
    ///
    /// # Cancel safety
    /// Whole batches have been deleted.
    ///
    /// ```no_run
    /// # async fn example(pool: rds_proxy_pool::ProxyPool) -> Result<(), rds_proxy_pool::Error> {
    /// use std::time::Duration;
    ///
    /// println!("{} markers deleted", pool.by(Duration::from_secs(60)).purge_commit_markers().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn purge_commit_markers(&self) -> Result<u64, Error> {
        let markers = self.config().commit_markers();
        let table = markers.table_name().ok_or_else(markers_off)?;
        let now = self.clock().now();
        let oldest = now.wall.checked_sub(markers.kept_for()).unwrap_or(SystemTime::UNIX_EPOCH);
        let oldest = OutcomeKey::lowest_at(oldest);
        self.purge(|connection| DB::purge_markers(connection, table, oldest, BATCH)).await
    }

    /// Deletes the keys of [`Pool::transaction_once`] that are older than this, and says how many there were. **What is
    /// delivered again after that takes effect again.**
    ///
    /// Keep them longer than the latest delivery you expect: an asynchronous invocation is retried for up to 6 hours, and
    /// again when its failure is redriven; a message stays in SQS for up to 14 days, and as long again in a dead-letter
    /// queue; a stream keeps records for up to a year. In batches of 1000, until none is left or the deadline is reached.
    /// The age is measured by the server's clock. For a scheduled job, not for a request: each batch looks for old rows from
    /// the beginning of the table.
    ///
    /// # Errors
    /// What the server said where it could not delete. What was deleted before stays deleted.
    ///
    /// # Cancel safety
    /// Whole batches have been deleted.
    ///
    /// ```no_run
    /// # async fn example(pool: rds_proxy_pool::ProxyPool) -> Result<(), rds_proxy_pool::Error> {
    /// use std::time::Duration;
    ///
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// println!("{} keys deleted", pool.by(Duration::from_secs(60)).purge_once(30 * DAY).await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn purge_once(&self, older_than: Duration) -> Result<u64, Error> {
        let table = self.config().once_table();
        self.purge(|connection| DB::purge_once(connection, table, older_than, BATCH)).await
    }

    async fn purge(&self, delete: impl for<'c> Fn(&'c mut DB::Connection) -> Answer<'c, u64>) -> Result<u64, Error> {
        let budget = self.budget();
        let pool = self.within(&budget);
        let mut deleted = 0;
        loop {
            let batch = pool.look_up(&delete).await.map_err(could_not)?;
            deleted += batch;
            let time_is_up = budget.until.is_some_and(|until| until <= self.clock().monotonic());
            if batch < u64::from(BATCH) || time_is_up {
                return Ok(deleted);
            }
        }
    }
}

fn could_not(error: SqlxError) -> Error {
    let message = "old rows could not be deleted";
    let ours = Error::find(&error).map(|ours| (ours.kind(), ours.code(), ours.outcome()));
    let (kind, code, outcome) = ours.unwrap_or((ErrorKind::Database, "statement.refused", Outcome::RolledBack));
    Error::new(kind, code, message).phase_of(Phase::Statement).outcome_of(outcome).caused_by_driver(error)
}
