//! The statements around commit markers.
//!
//! The key stands in the text, not beside it: the texts are sent unprepared, two to a message, and who helps a waiting fence
//! finds it by its text.

use sqlx_core::error::Error as SqlxError;
use sqlx_core::executor::Executor;
use sqlx_core::raw_sql::raw_sql;
use sqlx_core::sql_str::AssertSqlSafe;
use sqlx_postgres::PgConnection;

use super::read_text;
use crate::engine::Answer;
use crate::key::OutcomeKey;
use crate::outcome::Resolved;

pub(super) fn create_table(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (key uuid PRIMARY KEY, state char(1) NOT NULL CHECK (state IN ('C', 'A')), \
         at timestamptz NOT NULL DEFAULT pg_catalog.now())"
    )
}

/// A plain INSERT: one that gives way to a conflict would commit past the tombstone of a fence.
pub(super) fn insert(table: &str, key: OutcomeKey) -> String {
    format!("INSERT INTO {table} (key, state) VALUES ('{key}', 'C')")
}

/// By the primary key, in its order: no request looks at a row this old.
pub(super) fn purge<'c>(
    connection: &'c mut PgConnection,
    table: &str,
    oldest: OutcomeKey,
    count: u32,
) -> Answer<'c, u64> {
    let old = format!("SELECT key FROM {table} WHERE key < '{oldest}' ORDER BY key LIMIT {count}");
    let sql = format!("DELETE FROM {table} WHERE key IN ({old})");
    Box::pin(async move { Ok(connection.execute(raw_sql(AssertSqlSafe(sql))).await?.rows_affected()) })
}

/// Waits for whoever holds the key; then either its row is there, or a tombstone of ours takes its place for ever.
pub(super) fn fence<'c>(connection: &'c mut PgConnection, table: &str, key: OutcomeKey) -> Answer<'c, Resolved> {
    let sql = format!(
        "INSERT INTO {table} AS marker (key, state) VALUES ('{key}', 'A') \
         ON CONFLICT (key) DO UPDATE SET state = marker.state RETURNING state"
    );
    Box::pin(async move {
        let row = connection.fetch_optional(raw_sql(AssertSqlSafe(sql))).await?.ok_or(SqlxError::RowNotFound)?;
        match read_text(&row, 0)?.as_str() {
            "C" => Ok(Resolved::Committed),
            "A" => Ok(Resolved::RolledBack),
            other => Err(SqlxError::Decode(format!("a marker of state {other:?}").into())),
        }
    })
}

/// Only who has inserted the key is waited for by its number: who has locked the table, or waits to, is not meant.
///
/// Whoever waits for a synchronous standby has committed already as far as this server is concerned, and would say so if it
/// were ended, whether the standby has it or not: it is left alone.
pub(super) fn end_holder(connection: &mut PgConnection, key: OutcomeKey) -> Answer<'_, ()> {
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(holder.pid) FROM pg_catalog.pg_stat_activity AS fence \
         CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(fence.pid)) AS blocking (pid) \
         JOIN pg_catalog.pg_stat_activity AS holder ON holder.pid = blocking.pid \
         WHERE fence.pid <> pg_catalog.pg_backend_pid() AND fence.state = 'active' AND fence.wait_event IN ('transactionid', 'spectoken') \
         AND pg_catalog.strpos(fence.query, '''{key}'', ''A''') > 0 AND holder.wait_event IS DISTINCT FROM 'SyncRep'"
    );
    Box::pin(async move { connection.execute(raw_sql(AssertSqlSafe(sql))).await.map(drop) })
}
