//! What the pool needs to know of a database engine, behind one trait: nothing outside this folder names an engine.

#[cfg(feature = "postgres")]
pub(crate) mod postgres;

use std::borrow::Cow;
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use sqlx_core::Either;
use sqlx_core::arguments::Arguments;
use sqlx_core::connection::Connection;
use sqlx_core::database::Database;
use sqlx_core::describe::Describe;
use sqlx_core::error::{BoxDynError, Error as SqlxError};
use sqlx_core::executor::Execute;
use sqlx_core::sql_str::SqlStr;

use crate::config::{Access, ProxyConfig};
use crate::error::Error;
use crate::key::OutcomeKey;
use crate::options::TransactionOptions;
use crate::outcome::{Resolved, Verdict};
use crate::statement::TransactionEffect;

/// A database engine the pool works with: [`Postgres`](sqlx_postgres::Postgres).
///
/// Sealed: the pool relies on knowledge of each driver's insides.
pub trait Engine: Driver {}

/// The options a driver connects with.
pub(crate) type Options<DB> = <<DB as Database>::Connection as Connection>::Options;

/// A boxed future of a driver's answer.
pub(crate) type Answer<'c, T> = BoxFuture<'c, Result<T, SqlxError>>;

/// The stream of everything a driver's connection answers to a text.
pub(crate) type Answers<'c, DB> =
    BoxStream<'c, Result<Either<<DB as Database>::QueryResult, <DB as Database>::Row>, SqlxError>>;

/// The knowledge itself; out of reach of other crates.
pub trait Driver: Database<Arguments: Clone + Arguments + 'static, Statement: Clone> + Sync {
    /// The port an endpoint without one has.
    const DEFAULT_PORT: u16;

    /// Whether a connection whose future was dropped answers the next statement of the same holder correctly.
    const SURVIVES_DROPPED_FUTURE: bool;

    /// Everything but the password. Checks what only the engine knows to be impossible.
    fn options(config: &ProxyConfig) -> Result<Options<Self>, Error>;

    /// A copy that carries the password or token.
    fn with_password(options: &Options<Self>, password: &str) -> Options<Self>;

    /// The statement that opens a transaction, in words that a server which cannot do it refuses.
    fn begin_sql(options: TransactionOptions) -> Cow<'static, str>;

    /// The statement that commits, in words that fail when the transaction is aborted, and where it is in doubt whether
    /// one is open, when none is.
    fn commit_sql(in_doubt: bool) -> [&'static str; 2];

    /// The statement that leaves a commit marker in a transaction; it fails where the key is taken.
    fn marker_sql(table: &str, key: OutcomeKey) -> String;

    /// The statement that makes the table of the markers, unless it is there.
    fn marker_table_sql(table: &str) -> String;

    /// Deletes up to `count` of the markers drawn before `oldest`, and says how many.
    fn purge_markers<'c>(
        connection: &'c mut Self::Connection,
        table: &str,
        oldest: OutcomeKey,
        count: u32,
    ) -> Answer<'c, u64>;

    /// The same statement, which leaves a marker of itself; `None` for what is not certain to be a single write.
    fn with_marker(call: &mut Call<Self>, table: &str, key: OutcomeKey) -> Option<Call<Self>>;

    /// Why no transaction can hold a text from its beginning to its end, if that is so.
    fn unfit_for_transaction(sql: &str) -> Option<&'static str>;

    /// What a failure of a statement means that leaves a marker of itself in this table.
    fn judge_marked(error: &SqlxError, access: Access, table: &str) -> Verdict;

    /// Finds out whether the transaction with this key was committed, and if it was not, sees to it that it never will be.
    ///
    /// Waits while it is under way. Asking again gives the same answer.
    fn fence<'c>(connection: &'c mut Self::Connection, table: &str, key: OutcomeKey) -> Answer<'c, Resolved>;

    /// Ends the session that a [`fence`](Self::fence) for this key waits for, unless that is about to have committed.
    fn end_holder(connection: &mut Self::Connection, key: OutcomeKey) -> Answer<'_, ()>;

    /// The statement that makes the table of what was done once, unless it is there.
    fn once_table_sql(table: &str) -> String;

    /// The statement that takes the key for this transaction and answers a row, or none where it was committed before.
    ///
    /// Waits while another transaction holds it.
    fn once_take_sql(row: OnceRow<'_>) -> String;

    /// The statement that answers what was stored with a key, for [`once_read`](Self::once_read).
    fn once_select_sql(row: OnceRow<'_>) -> String;

    /// Reads the answer.
    fn once_read(row: &Self::Row) -> Result<Stored, SqlxError>;

    /// The one statement that stores a result with the key that this transaction has taken, and fails where it has not.
    fn once_store_sql(row: OnceRow<'_>, result: &[u8]) -> String;

    /// Deletes up to `count` of the keys older than this, and says how many.
    fn purge_once<'c>(
        connection: &'c mut Self::Connection,
        table: &str,
        older_than: Duration,
        count: u32,
    ) -> Answer<'c, u64>;

    /// What a failure to open a transaction and to take a key means.
    fn judge_once(error: &SqlxError, access: Access) -> Verdict;

    /// What a failure to find out means: that of a statement which may be repeated at will.
    fn judge_fence(error: &SqlxError) -> Verdict;

    /// Why a text must not be sent in a transaction that is to be replayed, if that is so.
    fn forbidden_in_closure(sql: &str) -> Option<&'static str>;

    /// Asks in one round trip whether the session can write and is in no transaction.
    fn probe(connection: &mut Self::Connection) -> Answer<'_, Probe>;

    /// Reads what is still to come of calls whose futures were dropped; the errors among it are nobody's any more.
    fn catch_up(connection: &mut Self::Connection) -> Answer<'_, ()>;

    /// What a failure to connect or log in means.
    fn judge_connect(error: &SqlxError) -> Verdict;

    /// What a failure of a statement means that was sent on a connection for `access`.
    fn judge_statement(error: &SqlxError, access: Access) -> Verdict;

    /// What a failure to open a transaction means.
    fn judge_begin(error: &SqlxError, access: Access) -> Verdict;

    /// What a failure to commit means.
    fn judge_commit(error: &SqlxError) -> Verdict;

    /// What a failure to roll back means: the transaction is undone either way.
    fn judge_rollback(error: &SqlxError) -> Verdict;

    /// Whether running the text, once or more often, is certain to change nothing; in doubt it is not.
    fn cannot_write(sql: &str) -> bool;

    /// What a text does to the session's transaction.
    fn transaction_effect(sql: &str) -> TransactionEffect;

    /// The driver's `Executor::fetch_many`.
    fn fetch_many(connection: &mut Self::Connection, call: Call<Self>) -> Answers<'_, Self>;

    /// The driver's `Executor::fetch_optional`.
    fn fetch_optional(connection: &mut Self::Connection, call: Call<Self>) -> Answer<'_, Option<Self::Row>>;

    /// The driver's `Executor::prepare_with`.
    fn prepare<'c>(
        connection: &'c mut Self::Connection,
        sql: SqlStr,
        parameters: &'c [Self::TypeInfo],
    ) -> Answer<'c, Self::Statement>;

    /// The driver's `Executor::describe`.
    fn describe(connection: &mut Self::Connection, sql: SqlStr) -> Answer<'_, Describe<Self>>;
}

/// What a [`Driver::probe`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The session may write.
    pub writable: bool,
    /// A transaction is open.
    pub in_transaction: bool,
}

/// The row of something that is done once.
#[derive(Clone, Copy, Debug)]
pub struct OnceRow<'k> {
    /// The table, in letters that need no quotes.
    pub table: &'k str,
    /// What is done.
    pub scope: &'k str,
    /// For which event.
    pub key: &'k str,
    /// What with; `None` where nobody compares it.
    pub payload_hash: Option<&'k [u8]>,
}

/// What was stored with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// As in [`OnceRow`].
    pub payload_hash: Option<Vec<u8>>,
    /// The result; every commit of ours has one.
    pub result: Option<Vec<u8>>,
}

/// A statement taken out of sqlx's `Execute`, so that it can be sent more than once.
pub struct Call<DB: Database> {
    sql: SqlStr,
    arguments: Result<Option<DB::Arguments>, Option<BoxDynError>>,
    statement: Option<DB::Statement>,
    persistent: bool,
}

impl<DB: Engine> Call<DB> {
    /// Takes everything a driver would ask for, in the order the drivers ask.
    pub(crate) fn capture<'q>(mut query: impl Execute<'q, DB>) -> Self {
        let statement = query.statement().cloned();
        let arguments = query.take_arguments().map_err(Some);
        let persistent = query.persistent();
        Call { sql: query.sql(), arguments, statement, persistent }
    }

    /// The statement's text.
    pub(crate) fn text(&self) -> &str {
        self.sql.as_str()
    }

    /// A copy for one attempt. An error of encoding can be handed out only once, and needs no second attempt.
    pub(crate) fn attempt(&mut self) -> Self {
        let arguments = match &mut self.arguments {
            Ok(arguments) => Ok(arguments.clone()),
            Err(error) => Err(error.take()),
        };
        Call { sql: self.sql.clone(), arguments, statement: self.statement.clone(), persistent: self.persistent }
    }
}

impl<DB: Engine> Execute<'static, DB> for Call<DB> {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&DB::Statement> {
        self.statement.as_ref()
    }

    fn take_arguments(&mut self) -> Result<Option<DB::Arguments>, BoxDynError> {
        match &mut self.arguments {
            Ok(arguments) => Ok(arguments.take()),
            Err(error) => Err(error.take().unwrap_or_else(|| "the arguments could not be encoded".into())),
        }
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}
