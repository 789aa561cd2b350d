//! PostgreSQL, through `sqlx-postgres`.

mod class;
mod errors;
mod forbidden;
mod lexis;
mod marked;
mod markers;
mod once;

use std::borrow::Cow;
use std::time::Duration;

use sqlx_core::arguments::Arguments;
use sqlx_core::connection::{ConnectOptions, Connection};
use sqlx_core::describe::Describe;
use sqlx_core::error::Error as SqlxError;
use sqlx_core::executor::Executor;
use sqlx_core::row::Row;
use sqlx_core::sql_str::{AssertSqlSafe, SqlSafeStr, SqlStr};
use sqlx_core::value::ValueRef;
use sqlx_postgres::{PgConnectOptions, PgConnection, PgRow, PgSslMode, PgStatement, PgTypeInfo, Postgres};

use crate::config::{Access, ProxyConfig, Tls};
use crate::engine::{Answer, Answers, Call, Driver, Engine, OnceRow, Options, Probe, Stored};
use crate::error::Error;
use crate::key::OutcomeKey;
use crate::options::{Isolation, TransactionOptions};
use crate::outcome::{Resolved, Verdict};
use crate::statement::{TransactionEffect, transaction_effect};

/// Variables the driver reads by itself and cannot be told to forget: RDS Proxy refuses the first, and the others would
/// send a client certificate nobody configured.
const STRAY_VARIABLES: [&str; 3] = ["PGOPTIONS", "PGSSLCERT", "PGSSLKEY"];

/// One round trip: whether the session can write, and, as a statement outside a transaction starts its own, whether the
/// transaction is older than the statement. It changes nothing, so it does not pin.
const PROBE: &str = "SELECT pg_catalog.current_setting('transaction_read_only'), \
                     pg_catalog.now(), pg_catalog.statement_timestamp()";

impl Engine for Postgres {}

impl Driver for Postgres {
    const DEFAULT_PORT: u16 = 5432;

    const SURVIVES_DROPPED_FUTURE: bool = true;

    fn options(config: &ProxyConfig) -> Result<PgConnectOptions, Error> {
        config.refuse_stray_variables(&STRAY_VARIABLES)?;
        let endpoint = config.endpoint();
        let ssl_mode = match config.tls() {
            Tls::VerifyFull => PgSslMode::VerifyFull,
            Tls::Unverified => PgSslMode::Require,
            Tls::Disabled => PgSslMode::Disable,
        };
        // Every field the constructor takes from the environment is set again.
        Ok(PgConnectOptions::new_without_pgpass()
            .host(endpoint.host())
            .port(endpoint.port().unwrap_or(Self::DEFAULT_PORT))
            .username(config.user())
            .password("")
            .database(config.database())
            .ssl_mode(ssl_mode)
            .ssl_root_cert_from_pem(config.ca_pem().unwrap_or_default().to_vec())
            .application_name(config.application_name().unwrap_or("rds-proxy-pool"))
            .statement_cache_capacity(config.statement_cache_capacity())
            .disable_statement_logging())
    }

    fn with_password(options: &Options<Self>, password: &str) -> PgConnectOptions {
        options.clone().password(password)
    }

    fn begin_sql(options: TransactionOptions) -> Cow<'static, str> {
        let TransactionOptions { isolation, read_only, deferrable } = options;
        let access = if read_only { "BEGIN READ ONLY" } else { "BEGIN READ WRITE" };
        let level = match isolation {
            None if !deferrable => return access.into(),
            None => "",
            Some(Isolation::ReadCommitted) => " ISOLATION LEVEL READ COMMITTED",
            Some(Isolation::RepeatableRead) => " ISOLATION LEVEL REPEATABLE READ",
            Some(Isolation::Serializable) => " ISOLATION LEVEL SERIALIZABLE",
        };
        let deferrable = if deferrable { " DEFERRABLE" } else { "" };
        format!("{access}{level}{deferrable}").into()
    }

    fn marker_sql(table: &str, key: OutcomeKey) -> String {
        markers::insert(table, key)
    }

    fn marker_table_sql(table: &str) -> String {
        markers::create_table(table)
    }

    fn purge_markers<'c>(
        connection: &'c mut PgConnection,
        table: &str,
        oldest: OutcomeKey,
        count: u32,
    ) -> Answer<'c, u64> {
        markers::purge(connection, table, oldest, count)
    }

    fn with_marker(call: &mut Call<Self>, table: &str, key: OutcomeKey) -> Option<Call<Self>> {
        let mut marked = call.attempt();
        let sql = match &mut marked.arguments {
            // The driver says so before it sends anything.
            Err(_) => return Some(marked),
            Ok(None) => marked::with_literal_marker(call.text(), table, key)?,
            Ok(Some(arguments)) => {
                let sql = marked::with_marker(call.text(), arguments.len(), table)?;
                arguments.add(key.to_string()).ok()?;
                sql
            }
        };
        // What was prepared by hand is another text.
        marked.statement = None;
        marked.sql = AssertSqlSafe(sql).into_sql_str();
        Some(marked)
    }

    fn unfit_for_transaction(sql: &str) -> Option<&'static str> {
        forbidden::unfit_for_transaction(sql)
    }

    fn judge_marked(error: &SqlxError, access: Access, table: &str) -> Verdict {
        errors::judge_marked(error, access, table)
    }

    fn fence<'c>(connection: &'c mut PgConnection, table: &str, key: OutcomeKey) -> Answer<'c, Resolved> {
        markers::fence(connection, table, key)
    }

    fn end_holder(connection: &mut PgConnection, key: OutcomeKey) -> Answer<'_, ()> {
        markers::end_holder(connection, key)
    }

    fn once_table_sql(table: &str) -> String {
        once::create_table(table)
    }

    fn once_take_sql(row: OnceRow<'_>) -> String {
        once::insert(row)
    }

    fn once_select_sql(row: OnceRow<'_>) -> String {
        once::select(row)
    }

    fn once_read(row: &PgRow) -> Result<Stored, SqlxError> {
        once::read(row)
    }

    fn once_store_sql(row: OnceRow<'_>, result: &[u8]) -> String {
        once::store(row, result)
    }

    fn purge_once<'c>(
        connection: &'c mut PgConnection,
        table: &str,
        older_than: Duration,
        count: u32,
    ) -> Answer<'c, u64> {
        once::purge(connection, table, older_than, count)
    }

    fn judge_once(error: &SqlxError, access: Access) -> Verdict {
        errors::judge_once(error, access)
    }

    fn judge_fence(error: &SqlxError) -> Verdict {
        errors::judge_fence(error)
    }

    fn forbidden_in_closure(sql: &str) -> Option<&'static str> {
        forbidden::forbidden_in_closure(sql)
    }

    fn commit_sql(in_doubt: bool) -> [&'static str; 2] {
        // In an aborted transaction COMMIT alone is answered with success and rolls back, and outside of one it is as well:
        // the SELECT fails in the one, and the SAVEPOINT in both.
        [if in_doubt { "SAVEPOINT before_commit" } else { "SELECT 1" }, "COMMIT"]
    }

    fn probe(connection: &mut PgConnection) -> Answer<'_, Probe> {
        Box::pin(async move {
            let row = connection.fetch_optional(PROBE).await?.ok_or(SqlxError::RowNotFound)?;
            let text = |column| read_text(&row, column);
            Ok(Probe { writable: text(0)? == "off", in_transaction: text(1)? != text(2)? })
        })
    }

    fn catch_up(connection: &mut PgConnection) -> Answer<'_, ()> {
        Box::pin(async move {
            loop {
                match connection.ping().await {
                    // The next ping reads on behind it; a connection that it has ended says so then.
                    Err(SqlxError::Database(_)) => {}
                    ended => return ended,
                }
            }
        })
    }

    fn judge_connect(error: &SqlxError) -> Verdict {
        errors::judge_connect(error)
    }

    fn judge_statement(error: &SqlxError, access: Access) -> Verdict {
        errors::judge_statement(error, access)
    }

    fn judge_begin(error: &SqlxError, access: Access) -> Verdict {
        errors::judge_begin(error, access)
    }

    fn judge_commit(error: &SqlxError) -> Verdict {
        errors::judge_commit(error)
    }

    fn judge_rollback(error: &SqlxError) -> Verdict {
        errors::judge_rollback(error)
    }

    fn cannot_write(sql: &str) -> bool {
        class::cannot_write(sql)
    }

    fn transaction_effect(sql: &str) -> TransactionEffect {
        transaction_effect(sql)
    }

    fn fetch_many(connection: &mut PgConnection, call: Call<Self>) -> Answers<'_, Self> {
        connection.fetch_many(call)
    }

    fn fetch_optional(connection: &mut PgConnection, call: Call<Self>) -> Answer<'_, Option<PgRow>> {
        connection.fetch_optional(call)
    }

    fn prepare<'c>(
        connection: &'c mut PgConnection,
        sql: SqlStr,
        parameters: &'c [PgTypeInfo],
    ) -> Answer<'c, PgStatement> {
        connection.prepare_with(sql, parameters)
    }

    fn describe(connection: &mut PgConnection, sql: SqlStr) -> Answer<'_, Describe<Self>> {
        connection.describe(sql)
    }
}

/// A column of a text-format row as it came.
fn read_text(row: &PgRow, column: usize) -> Result<String, SqlxError> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Err(SqlxError::Decode("the probe's answer is null".into()));
    }
    Ok(value.as_str().map_err(SqlxError::Decode)?.to_owned())
}
