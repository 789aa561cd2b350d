use super::*;

#[test]
fn the_lists_are_sorted() {
    for list in [PURE, NO_FUNCTION, BETWEEN_OPERANDS, WRITES] {
        assert!(list.is_sorted());
    }
}

#[test]
fn plain_reads_cannot_write() {
    for sql in [
        "SELECT 1",
        "select now()::text",
        "SELECT NOW() AS current_time",
        "SELECT a, count(*) FROM t JOIN u USING (id) WHERE b = $1 GROUP BY a HAVING count(*) > 2 ORDER BY 1 LIMIT 3;",
        "WITH x AS (SELECT * FROM t) SELECT * FROM x UNION ALL SELECT * FROM y",
        "VALUES (1, 'a'), (2, 'b')",
        "SHOW transaction_read_only",
        "SELECT data->>'name' FROM t WHERE data @> '{\"a\": 1}'",
        "SELECT row_number() OVER (PARTITION BY a ORDER BY b) FROM t",
        "SELECT * FROM generate_series(1, 10) AS g(n), LATERAL (SELECT n) AS l",
        "SELECT extract(epoch FROM now()), substring(name FROM 1 FOR 2), trim(name) FROM t",
        "SELECT EXISTS (SELECT 1 FROM t WHERE id = ANY($1))",
        "SELECT CASE WHEN a IS NULL THEN 0 ELSE a END FROM t",
        "/* note */ SELECT 1 -- tail",
    ] {
        assert!(cannot_write(sql), "{sql}");
    }
}

#[test]
fn a_data_modifying_cte_may_write() {
    assert!(!cannot_write("WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone"));
    assert!(!cannot_write("WITH a AS (WITH b AS (INSERT INTO t VALUES (1) RETURNING *) TABLE b) SELECT * FROM a"));
    assert!(!cannot_write(
        "SELECT * FROM t WHERE id IN (WITH x AS (UPDATE t SET a = 1 RETURNING id) SELECT id FROM x)"
    ));
}

#[test]
fn select_into_may_write() {
    assert!(!cannot_write("SELECT * INTO copy FROM t"));
    assert!(!cannot_write("SELECT 1 UNION SELECT 2 INTO copy"));
}

#[test]
fn a_locking_read_may_write() {
    for clause in ["FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE SKIP LOCKED", "FOR KEY SHARE"] {
        assert!(!cannot_write(&format!("SELECT * FROM t {clause}")), "{clause}");
        assert!(!cannot_write(&format!("SELECT * FROM (SELECT * FROM t {clause}) x")), "{clause}");
    }
}

#[test]
fn several_statements_and_blocks_may_write() {
    for sql in ["SELECT 1; COMMIT; SELECT 2", "SELECT 1; SELECT 2", "CALL p()", "DO $$ BEGIN END $$", "", ";"] {
        assert!(!cannot_write(sql), "{sql}");
    }
}

#[test]
fn functions_that_are_not_known_to_be_pure_may_write() {
    for call in [
        "nextval('s')",
        "setval('s', 1)",
        "set_config('a', 'b', false)",
        "pg_notify('a', 'b')",
        "pg_advisory_lock(1)",
        "pg_try_advisory_xact_lock(1)",
        "pg_logical_emit_message(true, 'a', 'b')",
        "lo_create(0)",
        "dblink('x', 'y')",
        "txid_current()",
        "pg_terminate_backend(1)",
        "app.lower('X')",
        "\"Lower\"('X')",
        "my_function(1)",
    ] {
        assert!(!cannot_write(&format!("SELECT {call}")), "{call}");
        assert!(!cannot_write(&format!("SELECT 1 FROM t WHERE a = coalesce({call}::text, '')")), "{call}");
        assert!(!cannot_write(&format!("SELECT * FROM {call}")), "{call}");
        assert!(!cannot_write(&format!("SELECT 1 ORDER BY {call}")), "{call}");
        assert!(!cannot_write(&format!("SELECT sum(1) FILTER (WHERE {call} IS NULL) FROM t")), "{call}");
        assert!(!cannot_write(&format!("VALUES ({call})")), "{call}");
    }
}

#[test]
fn everything_else_may_write() {
    for sql in [
        "INSERT INTO t VALUES (1)",
        "EXPLAIN ANALYZE DELETE FROM t",
        "SET x = 1",
        "BEGIN",
        "COPY t TO STDOUT",
        "CREATE TABLE t (a int)",
        "SELECT 1 OPERATOR(app.+) 2",
        "not sql at all",
    ] {
        assert!(!cannot_write(sql), "{sql}");
    }
    assert!(!cannot_write(&format!("SELECT '{}'", "x".repeat(LONGEST_READ))), "longer than is read");
    let deep = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(cannot_write(&deep), "no depth is too deep");
}

#[test]
fn words_of_the_grammar_that_are_called_as_functions_may_write() {
    for sql in [
        "SELECT join('a')",
        "SELECT 1, filter(2)",
        "SELECT over(1)",
        "SELECT like('a', 'b')",
        "SELECT by(1)",
        "SELECT materialized(1)",
        "SELECT a AND overlaps(1)",
        "SELECT s.now()",
        "SELECT \"Now\"()",
        "SELECT \"select\"(1)",
        "SELECT now/**/(), nextval -- the name goes on\n ('s')",
        "SELECT U&\"\\006eextval\"('s')",
    ] {
        assert!(!cannot_write(sql), "{sql}");
    }
    for sql in [
        "SELECT * FROM a JOIN (SELECT 1) b ON (true) LEFT JOIN (c CROSS JOIN d) ON true",
        "SELECT count(*) FILTER (WHERE a) OVER (PARTITION BY b), a LIKE ('x'), b NOT LIKE (c) FROM t",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM t",
        "WITH x(a) AS MATERIALIZED (SELECT 1), y AS NOT MATERIALIZED (SELECT 2) SELECT * FROM x, y",
        "WITH RECURSIVE r(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r",
        "(SELECT 1) UNION (SELECT 2) ORDER BY 1",
        "SELECT a::numeric(10, 2), CAST(b AS varchar(3)), c[1:2], \"now\"() FROM t WHERE (a, b) IN ((1, 2)) GROUP BY (a)",
    ] {
        assert!(cannot_write(sql), "{sql}");
    }
}

#[test]
fn a_literal_that_ends_elsewhere_under_another_setting_may_write() {
    // With `standard_conforming_strings` off the first quote behind the backslash does not end it.
    assert!(!cannot_write(r"SELECT 'a\''; DELETE FROM t; --'"));
    assert!(!cannot_write(r"SELECT 'a\'"));
    assert!(cannot_write(r"SELECT E'a\'', 'b'"));
}
