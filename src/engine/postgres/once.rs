//! The statements around the keys of what is done once.
//!
//! Keys come from outside, and what is sent here is sent unprepared: whatever a session's settings are, nothing in them is
//! read as SQL.

use std::fmt::Write;
use std::time::Duration;

use sqlx_core::error::{BoxDynError, Error as SqlxError};
use sqlx_core::executor::Executor;
use sqlx_core::raw_sql::raw_sql;
use sqlx_core::row::Row;
use sqlx_core::sql_str::AssertSqlSafe;
use sqlx_core::value::ValueRef;
use sqlx_postgres::{PgConnection, PgRow};

use crate::engine::{Answer, OnceRow, Stored};

/// Ages beyond it are no times the server knows.
const OLDEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) fn create_table(table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (scope text COLLATE \"C\" NOT NULL, key text COLLATE \"C\" NOT NULL, \
         payload_hash bytea, result bytea, created_at timestamptz NOT NULL DEFAULT pg_catalog.now(), \
         PRIMARY KEY (scope, key))"
    )
}

/// Waits for whoever holds the key, and answers a row unless that one has committed.
pub(super) fn insert(row: OnceRow<'_>) -> String {
    let OnceRow { table, scope, key, payload_hash } = row;
    let hash = payload_hash.map_or_else(|| "NULL".to_owned(), bytes);
    let (scope, key) = (text(scope), text(key));
    format!(
        "INSERT INTO {table} (scope, key, payload_hash) VALUES ({scope}, {key}, {hash}) ON CONFLICT DO NOTHING RETURNING 1"
    )
}

pub(super) fn select(row: OnceRow<'_>) -> String {
    format!(
        "SELECT pg_catalog.encode(payload_hash, 'hex'), pg_catalog.encode(result, 'hex') FROM {}{}",
        row.table,
        wherever(row)
    )
}

pub(super) fn read(row: &PgRow) -> Result<Stored, SqlxError> {
    let column = |at| {
        let value = row.try_get_raw(at)?;
        if value.is_null() {
            return Ok(None);
        }
        value.as_str().and_then(unhex).map(Some).map_err(SqlxError::Decode)
    };
    Ok(Stored { payload_hash: column(0)?, result: column(1)? })
}

/// Fails unless the row is there: what has no key any more must not be committed.
pub(super) fn store(row: OnceRow<'_>, result: &[u8]) -> String {
    let (table, result) = (row.table, bytes(result));
    format!(
        "WITH stored AS (UPDATE {table} SET result = {result}{} RETURNING 1) SELECT CASE pg_catalog.count(*) WHEN 1 THEN 1 \
         ELSE pg_catalog.concat('rows with the key: ', pg_catalog.count(*))::int END FROM stored",
        wherever(row)
    )
}

pub(super) fn purge<'c>(
    connection: &'c mut PgConnection,
    table: &str,
    older_than: Duration,
    count: u32,
) -> Answer<'c, u64> {
    let age = older_than.min(OLDEST).as_secs();
    let old = format!(
        "SELECT scope, key FROM {table} WHERE created_at < pg_catalog.now() - interval '{age} seconds' LIMIT {count}"
    );
    let sql = format!("DELETE FROM {table} WHERE (scope, key) IN ({old})");
    Box::pin(async move { Ok(connection.execute(raw_sql(AssertSqlSafe(sql))).await?.rows_affected()) })
}

fn wherever(OnceRow { scope, key, .. }: OnceRow<'_>) -> String {
    format!(" WHERE scope = {} AND key = {}", text(scope), text(key))
}

/// Readable where nothing in it could mean anything to whatever reads it.
fn text(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" -_.,:;/=+@#".contains(&byte);
    if text.bytes().all(plain) {
        format!("'{text}'")
    } else {
        format!("pg_catalog.convert_from({}, 'UTF8')", bytes(text.as_bytes()))
    }
}

fn bytes(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(2 * bytes.len() + 32);
    hex.push_str("pg_catalog.decode('");
    for byte in bytes {
        write!(hex, "{byte:02x}").expect("a String takes everything");
    }
    hex.push_str("', 'hex')");
    hex
}

fn unhex(text: &str) -> Result<Vec<u8>, BoxDynError> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_key_is_read_as_sql() {
        assert_eq!(text("sqs:8476a536-e9f4"), "'sqs:8476a536-e9f4'");
        for hostile in ["'", "\\", "\\'; DROP TABLE t; --", "$$", "é", "\n", "ſ'"] {
            let literal = text(hostile);
            let inner = literal.strip_prefix("pg_catalog.convert_from(pg_catalog.decode('").expect(&literal);
            let hex = inner.strip_suffix("', 'hex'), 'UTF8')").expect(&literal);
            assert!(hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{literal}");
            assert_eq!(unhex(hex).unwrap(), hostile.as_bytes());
        }
    }
}
