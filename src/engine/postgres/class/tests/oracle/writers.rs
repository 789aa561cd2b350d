//! That the oracle sees what a text changes.

use super::Oracle;
use crate::engine::postgres::class::cannot_write;

/// One of each way there is to change something.
const WRITERS: &[&str] = &[
    "INSERT INTO touched (by) VALUES ('x')",
    "WITH gone AS (DELETE FROM touched RETURNING *) SELECT * FROM gone",
    "WITH a AS (TABLE t), b AS (INSERT INTO touched (by) VALUES ('x') RETURNING *) TABLE b",
    "UPDATE t SET a = a",
    "MERGE INTO t USING u ON t.id = u.id WHEN MATCHED THEN UPDATE SET a = 1",
    "SELECT * INTO other FROM t",
    "SELECT * INTO TEMP passing FROM t",
    "SELECT * FROM t FOR UPDATE",
    "SELECT * FROM t FOR NO KEY UPDATE",
    "SELECT * FROM t FOR SHARE",
    "SELECT * FROM t FOR KEY SHARE SKIP LOCKED",
    "SELECT * FROM (SELECT * FROM t FOR UPDATE) x",
    "SELECT 1; INSERT INTO touched (by) VALUES ('x'); COMMIT; SELECT 1 / 0",
    "CALL p()",
    "DO $$ BEGIN PERFORM touch('do'); END $$",
    "EXPLAIN ANALYZE INSERT INTO touched (by) VALUES ('x')",
    "EXPLAIN ANALYZE SELECT touch('x')",
    "COPY touched (by) FROM PROGRAM 'echo x'",
    "COPY (SELECT touch('x')) TO '/dev/null'",
    "COPY t TO PROGRAM 'cat > copied'",
    "CREATE TEMP TABLE passing2 (a int)",
    "BEGIN",
    "SET work_mem = '8MB'",
    "LISTEN channel",
    "PREPARE x AS SELECT 1",
    "SELECT nextval('s')",
    "SELECT setval('s', 7)",
    "SELECT pg_notify('channel', 'x')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_lock(2)",
    "SELECT set_config('my.setting', 'x', false)",
    "SELECT set_config('enable_seqscan', 'off', false)",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT pg_logical_emit_message(false, 'a', 'b')",
    "SELECT pg_switch_wal()",
    "SELECT pg_create_restore_point('a')",
    "SELECT txid_current()",
    "SELECT pg_current_xact_id()",
    "SELECT pg_stat_reset()",
    "SELECT pg_reload_conf(), pg_sleep(0.1)",
    "SELECT pg_create_physical_replication_slot('a')",
    "SELECT query_to_xml('SELECT touch(''x'')', true, true, '')",
    "SELECT query_to_xml('SELECT nextval(''s'')', true, true, '')",
    "SELECT * FROM ts_stat('SELECT to_tsvector(touch(''x'')::text)')",
    "SELECT app.lower('X')",
    "SELECT \"Lower\"('X')",
    "SELECT * FROM filter(1)",
    "SELECT * FROM ROWS FROM (over(1), f(1)) WITH ORDINALITY",
    "SELECT DISTINCT ON (a) over(1) FROM t",
    "SELECT NOT filter(true)",
    "SELECT name LIKE filter(1)::text FROM u JOIN join('a') ON true",
    "SELECT * FROM t FETCH FIRST (filter(1)::int) ROWS ONLY",
    "SELECT U&\"t!006fuch\" UESCAPE '!' ('x')",
    "SELECT app.U&\"lower\"('X')",
    "SELECT join(values) FROM (SELECT 1) x(values)",
    "SELECT \"coalesce\"(1)",
    "SELECT $\u{a0}$ ' $\u{a0}$; SELECT touch('x') --'",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query = ''",
];

#[tokio::test]
async fn the_oracle_sees_every_kind_of_change_and_none_of_it_is_called_harmless() {
    let Some(mut oracle) = Oracle::start().await else { return };
    for sql in WRITERS {
        assert!(oracle.change(sql).await.is_some(), "nothing seen of {sql}");
        assert!(!cannot_write(sql), "{sql}");
        oracle.set("").await;
    }
    for sql in ["SELECT 1", "SELECT * FROM t JOIN u USING (id)", "no SQL", "SELECT count(*) FROM pg_class"] {
        oracle.run(sql).await;
        assert_eq!(oracle.change(sql).await, None, "{sql}");
    }
}

#[tokio::test]
async fn a_text_is_read_with_the_sessions_own_settings() {
    let Some(mut oracle) = Oracle::start().await else { return };
    for (settings, sql) in [
        ("SET standard_conforming_strings = off", r"SELECT 'a\''; SELECT touch(text(1)) --'"),
        ("SET client_encoding = SJIS", r"SELECT E'Á\'; SELECT touch($$x$$) --'"),
    ] {
        oracle.set("").await;
        assert_eq!(oracle.change(sql).await, None, "{sql}");
        oracle.set(settings).await;
        assert!(oracle.change(sql).await.is_some(), "{sql}");
        assert!(!cannot_write(sql), "{sql}");
    }
}
