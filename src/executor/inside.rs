//! sqlx's `Executor` for what is inside a transaction: each statement runs once, on the transaction's connection.

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::TryStreamExt;
use sqlx_core::describe::Describe;
use sqlx_core::error::Error as SqlxError;
use sqlx_core::executor::{Execute, Executor};
use sqlx_core::sql_str::SqlStr;

use super::Item;
use crate::closure::Tx;
use crate::connection::ProxyConnection;
use crate::engine::{Call, Engine};
use crate::transaction::{ProxyTransaction, Savepoint};

/// The connection for one more statement with this text, once all is as it should be before it.
trait Inside<DB: Engine>: Send {
    fn admit(&mut self, sql: &str) -> impl Future<Output = Result<&mut ProxyConnection<DB>, SqlxError>> + Send;
}

impl<DB: Engine> Inside<DB> for ProxyTransaction<DB> {
    fn admit(&mut self, _: &str) -> impl Future<Output = Result<&mut ProxyConnection<DB>, SqlxError>> {
        self.ready()
    }
}

impl<DB: Engine> Inside<DB> for Savepoint<'_, DB> {
    fn admit(&mut self, sql: &str) -> impl Future<Output = Result<&mut ProxyConnection<DB>, SqlxError>> {
        Savepoint::admit(self, sql)
    }
}

impl<DB: Engine> Inside<DB> for Tx<DB> {
    fn admit(&mut self, sql: &str) -> impl Future<Output = Result<&mut ProxyConnection<DB>, SqlxError>> {
        Tx::admit(self, sql)
    }
}

macro_rules! executes_inside {
    ($(#[$doc:meta])* $executor:ty $(, $lifetime:lifetime)?) => {
        $(#[$doc])*
        impl<'t, $($lifetime,)? DB: Engine> Executor<'t> for &'t mut $executor {
            type Database = DB;

            fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<DB::QueryResult, SqlxError>>
            where
                't: 'e,
                E: 'q + Execute<'q, DB>,
            {
                let call = Call::capture(query);
                Box::pin(async move { self.admit(call.text()).await?.execute(call).await })
            }

            fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<DB::Row>, SqlxError>>
            where
                't: 'e,
                E: 'q + Execute<'q, DB>,
            {
                let call = Call::capture(query);
                Box::pin(async move { self.admit(call.text()).await?.fetch_all(call).await })
            }

            fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<DB::Row>, SqlxError>>
            where
                't: 'e,
                E: 'q + Execute<'q, DB>,
            {
                let call = Call::capture(query);
                Box::pin(async move { self.admit(call.text()).await?.fetch_optional(call).await })
            }

            fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Item<DB>, SqlxError>>
            where
                't: 'e,
                E: 'q + Execute<'q, DB>,
            {
                let call = Call::capture(query);
                Box::pin(async_stream::try_stream! {
                    let mut answers = self.admit(call.text()).await?.fetch_many(call);
                    while let Some(answer) = answers.try_next().await? {
                        yield answer;
                    }
                })
            }

            fn prepare_with<'e>(
                self,
                sql: SqlStr,
                parameters: &'e [DB::TypeInfo],
            ) -> BoxFuture<'e, Result<DB::Statement, SqlxError>>
            where
                't: 'e,
            {
                Box::pin(async move { self.admit(sql.as_str()).await?.prepare_with(sql, parameters).await })
            }

            fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<DB>, SqlxError>>
            where
                't: 'e,
            {
                Box::pin(async move { self.admit(sql.as_str()).await?.describe(sql).await })
            }
        }
    };
}

executes_inside! {
    /// Statements run inside the transaction; none is sent twice.
    ProxyTransaction<DB>
}

executes_inside! {
    /// Statements run inside the transaction, since the savepoint; none is sent twice.
    Savepoint<'s, DB>, 's
}

executes_inside! {
    /// Statements run inside the transaction; none is sent twice within one attempt. A text that would end the transaction,
    /// or holds several statements, is refused with `transaction.refused_statement`.
    Tx<DB>
}
