use super::*;

mod server;

const MARKER: &str = "rds_proxy_pool_marker AS (INSERT INTO \"m\" (key, state) VALUES";

#[test]
fn the_marker_comes_first_and_the_text_stays_as_it_is() {
    for (sql, arguments, marked) in [
        ("INSERT INTO t VALUES (1)", 0, "WITH {} ($1::text::uuid, 'C')) INSERT INTO t VALUES (1)"),
        (
            " -- a\n/* b */ update t SET a = $1; -- c",
            2,
            " -- a\n/* b */ WITH {} ($3::text::uuid, 'C')) update t SET a = $1; -- c",
        ),
        (";DELETE FROM t;", 0, ";WITH {} ($1::text::uuid, 'C')) DELETE FROM t;"),
        ("with x AS (SELECT $1) DELETE FROM t", 1, "with {} ($2::text::uuid, 'C')), x AS (SELECT $1) DELETE FROM t"),
        ("WITH\"x\"AS (SELECT 1)DELETE FROM t", 0, "WITH {} ($1::text::uuid, 'C')),\"x\"AS (SELECT 1)DELETE FROM t"),
        (
            "WITH /* a */ Recursive--\nr(n) AS (SELECT 1), s AS NOT MATERIALIZED (SELECT (2)) UPDATE t SET a = 1",
            0,
            "WITH /* a */ Recursive {} ($1::text::uuid, 'C')),--\nr(n) AS (SELECT 1), s AS NOT MATERIALIZED (SELECT (2)) UPDATE t SET a = 1",
        ),
        (
            "WITH recursive AS (SELECT 1) DELETE FROM t",
            0,
            "WITH {} ($1::text::uuid, 'C')), recursive AS (SELECT 1) DELETE FROM t",
        ),
        (
            "WITH recursive(a) AS (SELECT 1) DELETE FROM t",
            0,
            "WITH {} ($1::text::uuid, 'C')), recursive(a) AS (SELECT 1) DELETE FROM t",
        ),
    ] {
        assert_eq!(with_marker(sql, arguments, "\"m\"").as_deref(), Some(&*marked.replace("{}", MARKER)), "{sql}");
    }
}

#[test]
fn the_marker_has_a_name_that_the_text_does_not_mention() {
    for (sql, table, name) in [
        ("DELETE FROM RDS_proxy_pool_marker", "m", "rds_proxy_pool_marker_ AS"),
        ("DELETE FROM rds_proxy_pool_marker_ AS x", "m", "rds_proxy_pool_marker__ AS"),
        ("DELETE FROM t", "\"rds_proxy_pool_marker\"", "rds_proxy_pool_marker_ AS"),
    ] {
        let marked = with_marker(sql, 0, table).unwrap();
        assert!(marked.starts_with(&format!("WITH {name}")), "{marked}");
    }
}

#[test]
fn what_is_not_certain_to_be_a_single_write_gets_no_marker() {
    for sql in [
        "",
        ";",
        "SELECT 1",
        "SELECT * FROM t FOR UPDATE",
        "TABLE t",
        "VALUES (1)",
        "INSERT INTO t VALUES (1); DELETE FROM t",
        "CALL p()",
        "DO $$ BEGIN DELETE FROM t; END $$",
        "EXPLAIN ANALYZE DELETE FROM t",
        "COPY t FROM STDIN",
        "TRUNCATE t",
        "CREATE TABLE x AS SELECT 1",
        "PREPARE x AS DELETE FROM t",
        "BEGIN",
        "(DELETE FROM t)",
        "\"delete\" FROM t",
        "U&\"delete\" FROM t",
        "INSERT INTO t VALUES ('unended)",
        "INSERT INTO t VALUES ('a\\'')",
        "INSERT INTO t VALUES ($3)",
        "INSERT INTO t VALUES ($0)",
        "INSERT INTO t VALUES ($99999999999999999999)",
        "INSERT INTO t VALUES ($a$1)",
        "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
        "WITH x AS (DELETE FROM t RETURNING *) TABLE x",
        "WITH x AS (SELECT 1) (SELECT 1)",
        "WITH insert AS (SELECT 1) SELECT * FROM insert",
        "WITH delete AS (SELECT 1), update (a) AS (SELECT 1) SELECT * FROM update",
        "WITH x AS (SELECT 1), DELETE FROM t",
        "WITH x AS (SELECT 1 DELETE FROM t",
        "WITH x DELETE FROM t",
        "WITH DELETE FROM t",
        "WITH RECURSIVE",
        "WITH",
    ] {
        assert_eq!(with_marker(sql, 2, "m"), None, "{sql}");
    }
    assert_eq!(with_marker("DELETE FROM t", MOST_PARAMETERS, "m"), None);
    assert!(with_marker("DELETE FROM t", MOST_PARAMETERS - 1, "m").is_some());
}
