//! The handle whose writes have an outcome that is known.

use std::sync::Arc;

use crate::engine::Engine;
use crate::pool::{Pool, Scope};

impl<DB: Engine> Pool<DB> {
    /// The same pool, each write of which takes effect once: when its answer is lost, it is found out what became of it.
    ///
    /// A single INSERT, UPDATE or DELETE leaves a [commit marker](crate::CommitMarkers) in the same statement, at no round
    /// trip more; its arguments, its rows and the number of rows affected stay what they are. Any other statement that may
    /// write, such as MERGE or a SELECT that calls a function, is run in a transaction with a marker. What is certain not to
    /// write is sent as ever.
    ///
    /// When the answer is lost the marker is asked for, within the deadline; half of the time that is left is waited for the
    /// answer, so that there is time to ask. What is found never to have been done is sent again with a new marker, within the
    /// deadline. Rows are handed out when the write is known to be done, by streams too, which hold them all until then.
    ///
    /// Handles compose: `pool.by(deadline).resolved()`. With [`idempotent`](Pool::idempotent) as well, writes are resolved.
    ///
    /// # Errors
    /// Those of the statement are unchanged. Outcome [`Committed`](crate::Outcome::Committed) and `resolved.committed`: it is
    /// done and must not be repeated, only its rows are lost. Outcome [`RolledBack`](crate::Outcome::RolledBack) and
    /// `resolved.undone`, or `commit.undone` where it had a transaction: it was not done, and there was no time to send it
    /// again. Outcome [`Unknown`](crate::Outcome::Unknown) with an [`outcome_key`](crate::Error::outcome_key): there was no
    /// time to find out; ask later with [`Pool::resolve`]. Nothing was sent with `resolved.statement`, for a text of several
    /// statements or one that no transaction can hold, and with `markers.off`, on a pool without markers or for a reader
    /// endpoint; nothing was done with `markers.missing`.
    ///
    /// # Cancel safety
    /// Dropping the future of a write that is under way closes its connection and leaves its outcome unknown; one WARN event
    /// tells, with the key.
    ///
    /// ```no_run
    /// # async fn example(pool: rds_proxy_pool::ProxyPool, order: i64) -> Result<(), Box<dyn std::error::Error>> {
    /// use rds_proxy_pool::{Error, Outcome};
    ///
    /// let take = sqlx::query("UPDATE stock SET held = held - 1 WHERE item = $1").bind(order);
    /// match take.execute(&pool.resolved()).await {
    ///     Ok(done) => println!("{} rows", done.rows_affected()),
    ///     Err(error) if Error::find(&error).is_some_and(|ours| ours.outcome() == Outcome::Committed) => {
    ///         println!("done, and nobody knows how many rows");
    ///     }
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn resolved(&self) -> Self {
        Pool { shared: Arc::clone(&self.shared), scope: Scope { resolved: true, ..self.scope } }
    }
}
