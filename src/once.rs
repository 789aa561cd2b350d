//! Transactions that take effect once for each key, however often they are asked for.

mod key;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx_core::error::Error as SqlxError;

use crate::closure::{Manner, Tx, run};
use crate::deadline::Budget;
use crate::engine::{Engine, OnceRow, Stored};
use crate::error::{Error, ErrorKind};
use crate::outcome::{Outcome, Phase};
use crate::pool::Pool;
use crate::retry::Repeat;
use crate::transaction::Opened;

pub use key::OnceKey;

impl<DB: Engine> Pool<DB> {
    /// Runs the closure in a transaction that takes effect once for each key, across retries of the whole invocation and
    /// deliveries of the same event; who comes later gets the result of the first.
    ///
    /// The transaction begins by inserting the key into [a table of yours](crate::ProxyConfig::once_table), in the message
    /// that opens it, and ends by storing the closure's result with it as JSON, in the message that commits: the round trips
    /// are those of a plain transaction. Where the key is there already the closure is not run, and the stored result is
    /// returned; that takes two round trips. Where another transaction holds the key it is waited for.
    ///
    /// Within the deadline it is run again after failures, as [`Pool::transaction`], and after a commit whose answer was lost
    /// as well: the key tells whether it happened. No [`CommitMarkers`](crate::CommitMarkers) are needed. **The closure may
    /// run several times, and what it does outside of the database is done as often**: write to an outbox table instead, in
    /// the same transaction.
    ///
    /// An error of the closure's own rolls back, the key too, and comes back untouched: the next delivery runs it again.
    /// Return what has to be final as a value. The result must be the same after a round trip through JSON.
    ///
    /// Rows stay until [`Pool::purge_once`] deletes them, and an event that comes later than that is new.
    ///
    /// # Errors
    /// As [`Pool::transaction`], and as `E::from(sqlx::Error)`: `once.key` for a key that cannot be used; `once.missing` where
    /// the table is not there; `once.payload` where the key was used with another [payload](OnceKey::payload);
    /// `once.too_large` and `once.result` where the result cannot be stored: it is rolled back; `once.result` with outcome
    /// [`Committed`](Outcome::Committed) where the one that is stored is none of type `T`. Where the time is up while
    /// somebody else holds the key, the outcome is [`NotExecuted`](Outcome::NotExecuted). Whatever the error is, calling
    /// again with the same key is safe.
    ///
    /// # Cancel safety
    /// As [`Pool::transaction`]; call again with the same key to find out.
    ///
    /// ```no_run
    /// # async fn example(pool: rds_proxy_pool::ProxyPool, message_id: &str, body: &str) -> Result<(), sqlx::Error> {
    /// use rds_proxy_pool::OnceKey;
    ///
    /// let key = OnceKey::sqs_message("book-order", message_id).payload(body.as_bytes());
    /// let order: i64 = pool
    ///     .transaction_once(key, |mut tx| async move {
    ///         let insert = sqlx::query_scalar("INSERT INTO ordered (body) VALUES ($1) RETURNING id");
    ///         insert.bind(body).fetch_one(&mut tx).await
    ///     })
    ///     .await?;
    /// println!("it is order {order}, whichever delivery this is");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn transaction_once<T, E, F, Fut>(&self, key: OnceKey, work: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(Tx<DB>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<SqlxError>,
    {
        key.check().map_err(|error| E::from(error.into()))?;
        run(self, Once { key: &key, table: self.config().once_table() }, work).await
    }

    /// The statement that makes the table of [`Pool::transaction_once`].
    ///
    /// For your migrations. The pool's user needs SELECT, INSERT, UPDATE and DELETE on it, nothing more.
    ///
    /// ```
    /// use rds_proxy_pool::{ProxyConfig, ProxyPool};
    ///
    /// let config = ProxyConfig::builder().endpoint("localhost").user("app").password("app").database("app");
    /// let pool = ProxyPool::new(config.once_table("ops.done").build()?)?;
    /// assert!(pool.once_table_sql().starts_with("CREATE TABLE IF NOT EXISTS ops.done (scope text"));
    /// # Ok::<(), rds_proxy_pool::Error>(())
    /// ```
    pub fn once_table_sql(&self) -> String {
        DB::once_table_sql(self.config().once_table())
    }
}

/// One that takes its key first.
struct Once<'k> {
    key: &'k OnceKey,
    table: &'k str,
}

impl Once<'_> {
    fn row(&self) -> OnceRow<'_> {
        let Once { key, table } = self;
        OnceRow { table, scope: key.scope(), key: key.key(), payload_hash: key.payload_hash() }
    }
}

impl<DB: Engine, T: Serialize + DeserializeOwned> Manner<DB, T> for Once<'_> {
    type Done = Stored;

    fn repeat(&self) -> Repeat {
        // Whatever became of the last attempt, the next one finds its key or takes it.
        Repeat::Harmless
    }

    async fn open(&self, pool: &Pool<DB>, budget: &Budget) -> Result<Opened<DB, Stored>, Error> {
        let opened = pool.open_once(self.row(), budget).await;
        opened.map_err(|error| match error.phase() {
            Some(Phase::Begin) if error.kind() == ErrorKind::Deadline => {
                error.hint_of("another transaction may hold the key: call again with the same key later")
            }
            _ => error,
        })
    }

    fn found(&self, stored: Stored) -> Result<T, Error> {
        let payloads = stored.payload_hash.as_deref().zip(self.key.payload_hash());
        if payloads.is_some_and(|(stored, ours)| stored != ours) {
            let message = "the key was used with another payload";
            let error = Error::new(ErrorKind::Usage, "once.payload", message).phase_of(Phase::Begin);
            return Err(error.outcome_of(Outcome::NotExecuted));
        }
        serde_json::from_slice(&stored.result.unwrap_or_default()).map_err(|error| {
            let message = "it was done before, and the result that is stored cannot be read";
            result_error(message, error).phase_of(Phase::Begin).outcome_of(Outcome::Committed)
        })
    }

    fn before_commit(&self, value: &T) -> Result<Option<String>, Error> {
        let result = serde_json::to_vec(value).map_err(|error| {
            result_error("the result of the closure cannot be stored", error).phase_of(Phase::Commit)
        })?;
        let (bytes, most) = (result.len(), self.key.most_bytes());
        if bytes > most {
            let message = format!("the result of the closure has {bytes} bytes, more than {most}");
            let error = Error::new(ErrorKind::Usage, "once.too_large", message).phase_of(Phase::Commit);
            return Err(error.hint_of("return what names it, or allow more with OnceKey::max_result_bytes"));
        }
        Ok(Some(DB::once_store_sql(self.row(), &result)))
    }
}

fn result_error(message: &str, error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Usage, "once.result", message).caused_by(error)
}
