//! sqlx's `Executor` for the pool, its handles, connections and transactions.

mod inside;
mod resolved;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryFutureExt, TryStreamExt, stream};
use sqlx_core::Either;
use sqlx_core::database::Database;
use sqlx_core::describe::Describe;
use sqlx_core::error::Error as SqlxError;
use sqlx_core::executor::{Execute, Executor};
use sqlx_core::sql_str::SqlStr;

use crate::clock::Reading;
use crate::connection::{Failure, ProxyConnection};
use crate::deadline::Budget;
use crate::engine::{Answer, Call, Engine};
use crate::outcome::{Outcome, Reaction, Verdict};
use crate::pool::{Fence, Pool};
use crate::retry::{Failed, Repeat, Retry};
use crate::statement::may_leave_part;

type Item<DB> = Either<<DB as Database>::QueryResult, <DB as Database>::Row>;

fn execute<DB: Engine>(connection: &mut DB::Connection, call: Call<DB>) -> Answer<'_, DB::QueryResult> {
    let results = DB::fetch_many(connection, call).try_filter_map(|item| async { Ok(item.left()) });
    Box::pin(results.try_collect())
}

fn fetch_all<DB: Engine>(connection: &mut DB::Connection, call: Call<DB>) -> Answer<'_, Vec<DB::Row>> {
    let rows = DB::fetch_many(connection, call).try_filter_map(|item| async { Ok(item.right()) });
    Box::pin(rows.try_collect())
}

fn fetch_everything<DB: Engine>(connection: &mut DB::Connection, call: Call<DB>) -> Answer<'_, Vec<Item<DB>>> {
    Box::pin(DB::fetch_many(connection, call).try_collect())
}

/// One call through the pool: how often it was tried, and when to try again.
struct Attempts<'p, DB: Engine> {
    pool: &'p Pool<DB>,
    /// The moment of the call, until something is awaited.
    now: Option<Reading>,
    budget: Budget,
    made: u32,
    /// What becomes of each attempt is found out before the next.
    resolves: bool,
    /// Another connection was of use after the last attempt: those that are idle may be like the one that was not.
    distrusts: bool,
    /// Made when it is needed: most calls do without.
    retry: Option<Box<Retry>>,
    /// The last attempt that may have written: what is reported unless a later one succeeds.
    lost: Option<Box<Failure>>,
}

impl<'p, DB: Engine> Attempts<'p, DB> {
    fn new(pool: &'p Pool<DB>) -> Self {
        let now = pool.clock().now();
        let budget = pool.budget_at(now.monotonic);
        Attempts { pool, now: Some(now), budget, made: 0, resolves: false, distrusts: false, retry: None, lost: None }
    }

    /// When a repeat does harm; there is no text where nothing is run.
    fn repeat(&self, sql: Option<&str>) -> Repeat {
        match sql {
            None => Repeat::Harmless,
            Some(sql) if self.pool.cannot_write(sql) => Repeat::Harmless,
            Some(_) if self.resolves => Repeat::IfUndone,
            Some(sql) if may_leave_part(sql) => Repeat::IfUnsent,
            Some(_) if self.pool.is_idempotent() => Repeat::Harmless,
            Some(_) => Repeat::IfUndone,
        }
    }

    async fn connection(&mut self, sql: Option<&str>) -> Result<ProxyConnection<DB>, SqlxError> {
        let budget = match self.made {
            0 => self.budget,
            // Without a deadline each attempt may wait as long as the first.
            _ if self.budget.until.is_none() => self.pool.budget(),
            _ => self.budget,
        };
        self.made += 1;
        let now = self.now.take();
        let fence = || match self.repeat(sql) {
            _ if self.distrusts => Fence::AlwaysProbe,
            Repeat::Harmless => Fence::Request,
            Repeat::IfUndone | Repeat::IfUnsent => Fence::LookAndProbe,
        };
        match self.pool.checkout(&budget, now, &fence).await {
            Ok(connection) => Ok(connection),
            Err(error) => Err(self.lost.take().map_or_else(|| error.into(), |lost| self.said(*lost))),
        }
    }

    /// What is said of a call whose last attempt ended with `failure`: an earlier one may have done its work.
    fn report(&mut self, failure: Failure) -> SqlxError {
        let lost = self.lost.take().filter(|_| failure.verdict().outcome != Outcome::Unknown);
        self.said(lost.map_or(failure, |lost| *lost))
    }

    fn said(&self, failure: Failure) -> SqlxError {
        failure.into_sqlx(|error| self.pool.effort(error, &self.budget, self.made))
    }

    /// Waits and returns `None` if the statement may be sent again; the error to return if not.
    async fn again(&mut self, failure: Failure, sql: Option<&str>) -> Option<SqlxError> {
        let Verdict { outcome, reaction, code, .. } = *failure.verdict();
        let failed = Failed { outcome, reaction, repeat: self.repeat(sql), made: self.made };
        self.distrusts |= reaction == Reaction::Reconnect;
        let Some(resume) = self.pool.retry_at(&mut self.retry, failed, self.budget.until) else {
            return Some(self.report(failure));
        };
        if outcome == Outcome::Unknown && sql.is_some_and(|sql| !self.pool.cannot_write(sql)) {
            self.lost = Some(Box::new(failure));
        }
        tracing::info!(attempt = self.made, code, %outcome, "sending a statement again");
        self.pool.clock().sleep_until(resume).await;
        None
    }
}

impl<DB: Engine> Pool<DB> {
    #[expect(clippy::manual_async_fn, reason = "an `async fn` holds its arguments twice, and this future is moved")]
    fn call<T>(
        &self,
        mut call: Call<DB>,
        send: impl for<'c> Fn(&'c mut DB::Connection, Call<DB>) -> Answer<'c, T>,
    ) -> impl Future<Output = Result<T, SqlxError>> {
        async move {
            if self.is_to_resolve(call.text()) {
                return Box::pin(self.call_resolved(call, send)).await;
            }
            let mut attempts = Attempts::new(self);
            loop {
                let mut connection = attempts.connection(Some(call.text())).await?;
                let until = attempts.budget.until;
                let failure = match connection.statement(until, call.attempt(), &send).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                };
                drop(connection);
                if let Some(error) = attempts.again(failure, Some(call.text())).await {
                    return Err(error);
                }
            }
        }
    }

    /// A driver call that sends no statement of the user's to be run.
    pub(crate) async fn look_up<T>(
        &self,
        send: impl for<'c> Fn(&'c mut DB::Connection) -> Answer<'c, T>,
    ) -> Result<T, SqlxError> {
        let mut attempts = Attempts::new(self);
        loop {
            let mut connection = attempts.connection(None).await?;
            let access = self.config().access();
            let judge = |error: &SqlxError| DB::judge_statement(error, access);
            let failure = match connection.drive(attempts.budget.until, judge, &send).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            drop(connection);
            if let Some(error) = attempts.again(failure, None).await {
                return Err(error);
            }
        }
    }
}

/// Statements run on one of the pool's connections each.
///
/// What fails before anything was sent, and what a server provably did not run, is tried again within the deadline. A
/// stream is tried again only before its first item. What a statement leaves on the session, such as `SET` or a temporary
/// table, stays there for whoever gets it next, as with every pool. Each statement may see another session: use
/// [`Pool::acquire`] or [`Pool::begin`] where several belong together.
impl<'p, DB: Engine> Executor<'p> for &'p Pool<DB> {
    type Database = DB;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<DB::QueryResult, SqlxError>>
    where
        'p: 'e,
        E: 'q + Execute<'q, DB>,
    {
        Box::pin(self.call(Call::capture(query), execute::<DB>))
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<DB::Row>, SqlxError>>
    where
        'p: 'e,
        E: 'q + Execute<'q, DB>,
    {
        Box::pin(self.call(Call::capture(query), fetch_all::<DB>))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<DB::Row>, SqlxError>>
    where
        'p: 'e,
        E: 'q + Execute<'q, DB>,
    {
        Box::pin(self.call(Call::capture(query), DB::fetch_optional))
    }

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Item<DB>, SqlxError>>
    where
        'p: 'e,
        E: 'q + Execute<'q, DB>,
    {
        let mut call = Call::capture(query);
        if self.is_to_resolve(call.text()) {
            let answers = self.call_resolved(call, fetch_everything::<DB>);
            return Box::pin(answers.map_ok(|items| stream::iter(items.into_iter().map(Ok))).try_flatten_stream());
        }
        Box::pin(async_stream::try_stream! {
            let mut attempts = Attempts::new(self);
            loop {
                let mut connection = attempts.connection(Some(call.text())).await?;
                let mut begun = false;
                let mut failed = None;
                {
                    let mut answers = std::pin::pin!(connection.stream(attempts.budget.until, call.attempt()));
                    while let Some(answer) = answers.next().await {
                        match answer {
                            Ok(item) => {
                                begun = true;
                                yield item;
                            }
                            Err(failure) => failed = Some(failure),
                        }
                    }
                }
                drop(connection);
                let Some(failure) = failed else { break };
                if begun {
                    Err(attempts.report(failure))?;
                    break;
                }
                if let Some(error) = attempts.again(failure, Some(call.text())).await {
                    Err(error)?;
                }
            }
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [DB::TypeInfo],
    ) -> BoxFuture<'e, Result<DB::Statement, SqlxError>>
    where
        'p: 'e,
    {
        Box::pin(async move { self.look_up(|live| prepare_owned::<DB>(live, sql.clone(), parameters.to_vec())).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<DB>, SqlxError>>
    where
        'p: 'e,
    {
        Box::pin(async move { self.look_up(|live| DB::describe(live, sql.clone())).await })
    }
}

/// `prepare` with parameters of its own, so that the answer borrows the connection alone.
fn prepare_owned<DB: Engine>(
    connection: &mut DB::Connection,
    sql: SqlStr,
    parameters: Vec<DB::TypeInfo>,
) -> Answer<'_, DB::Statement> {
    Box::pin(async move { DB::prepare(connection, sql, &parameters).await })
}

/// Statements run on this connection; none is sent twice.
impl<'c, DB: Engine> Executor<'c> for &'c mut ProxyConnection<DB> {
    type Database = DB;

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<DB::QueryResult, SqlxError>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        Box::pin(self.once(Call::capture(query), execute::<DB>))
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<DB::Row>, SqlxError>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        Box::pin(self.once(Call::capture(query), fetch_all::<DB>))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<DB::Row>, SqlxError>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        Box::pin(self.once(Call::capture(query), DB::fetch_optional))
    }

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Item<DB>, SqlxError>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        let call = Call::capture(query);
        let pool = self.pool().clone();
        let budget = pool.budget();
        let finish = move |failure: Failure| failure.into_sqlx(|error| pool.effort(error, &budget, 1));
        Box::pin(self.stream(budget.until, call).map_err(finish))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [DB::TypeInfo],
    ) -> BoxFuture<'e, Result<DB::Statement, SqlxError>>
    where
        'c: 'e,
    {
        let parameters = parameters.to_vec();
        Box::pin(self.once_apart(move |live| prepare_owned::<DB>(live, sql, parameters)))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<DB>, SqlxError>>
    where
        'c: 'e,
    {
        Box::pin(self.once_apart(move |live| DB::describe(live, sql)))
    }
}

impl<DB: Engine> ProxyConnection<DB> {
    async fn once<T>(
        &mut self,
        call: Call<DB>,
        send: impl for<'c> FnOnce(&'c mut DB::Connection, Call<DB>) -> Answer<'c, T>,
    ) -> Result<T, SqlxError> {
        let budget = self.pool().budget();
        self.catch_up(budget.until).await;
        let result = self.statement(budget.until, call, send).await;
        result.map_err(|failure| failure.into_sqlx(|error| self.pool().effort(error, &budget, 1)))
    }

    async fn once_apart<T>(
        &mut self,
        send: impl for<'c> FnOnce(&'c mut DB::Connection) -> Answer<'c, T>,
    ) -> Result<T, SqlxError> {
        let budget = self.pool().budget();
        let access = self.pool().config().access();
        self.catch_up(budget.until).await;
        let result = self.drive(budget.until, |error| DB::judge_statement(error, access), send).await;
        result.map_err(|failure| failure.into_sqlx(|error| self.pool().effort(error, &budget, 1)))
    }
}
