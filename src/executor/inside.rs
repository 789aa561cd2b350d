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
use crate::engine::{Call, Engine};
use crate::transaction::{ProxyTransaction, Savepoint};

macro_rules! executes_inside {
    ($(#[$doc:meta])* $executor:ty, |$this:ident| $transaction:expr $(, $lifetime:lifetime)?) => {
        $(#[$doc])*
        impl<'t, $($lifetime,)? DB: Engine> Executor<'t> for &'t mut $executor {
            type Database = DB;

            fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<DB::QueryResult, SqlxError>>
            where
                't: 'e,
                E: 'q + Execute<'q, DB>,
            {
                let call = Call::capture(query);
                Box::pin(async move { let $this = self; $transaction.admit(call.text()).await?.execute(call).await })
            }

            fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Vec<DB::Row>, SqlxError>>
            where
                't: 'e,
                E: 'q + Execute<'q, DB>,
            {
                let call = Call::capture(query);
                Box::pin(async move { let $this = self; $transaction.admit(call.text()).await?.fetch_all(call).await })
            }

            fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<DB::Row>, SqlxError>>
            where
                't: 'e,
                E: 'q + Execute<'q, DB>,
            {
                let call = Call::capture(query);
                Box::pin(async move { let $this = self; $transaction.admit(call.text()).await?.fetch_optional(call).await })
            }

            fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Item<DB>, SqlxError>>
            where
                't: 'e,
                E: 'q + Execute<'q, DB>,
            {
                let call = Call::capture(query);
                Box::pin(async_stream::try_stream! {
                    let $this = self;
                    let mut answers = $transaction.admit(call.text()).await?.fetch_many(call);
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
                Box::pin(async move { let $this = self; $transaction.admit(sql.as_str()).await?.prepare_with(sql, parameters).await })
            }

            fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<DB>, SqlxError>>
            where
                't: 'e,
            {
                Box::pin(async move { let $this = self; $transaction.admit(sql.as_str()).await?.describe(sql).await })
            }
        }
    };
}

executes_inside! {
    /// Statements run inside the transaction; none is sent twice.
    ProxyTransaction<DB>, |transaction| transaction
}

executes_inside! {
    /// Statements run inside the transaction, since the savepoint; none is sent twice.
    Savepoint<'s, DB>, |savepoint| savepoint.transaction(), 's
}

executes_inside! {
    /// Statements run inside the transaction; none is sent twice within one attempt. A text that would end the transaction,
    /// or holds several statements, is refused with `transaction.refused_statement`.
    Tx<DB>, |tx| tx.transaction()
}
