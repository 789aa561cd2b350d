use super::*;

pub(in crate::engine::postgres) mod oracle;

#[test]
fn the_lists_are_sorted() {
    for list in [PURE, NO_FUNCTION, WRITES] {
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
        "SELECT like('a', 'b'), (1, 2) OVERLAPS (3, 4)",
        "SELECT concat('a', VARIADIC like(1))",
        "SELECT NOT filter(1)",
        "SELECT NOT ilike('a', 'b')",
        "SELECT * FROM t WHERE NOT ilike('a', 'b')",
        "SELECT NOT materialized(1)",
        "SELECT 'a' LIKE filter(1)",
        "SELECT 'a' LIKE 'b' ESCAPE filter(1)",
        "SELECT now() AT TIME ZONE filter(1)",
        "SELECT * FROM a JOIN filter(1) ON true",
        "SELECT * FROM a JOIN join(1) ON true",
        "SELECT * FROM t FETCH FIRST filter(1) ROWS ONLY",
        "SELECT sum(1) OVER (ROWS over(1) PRECEDING)",
        "SELECT concat(VARIADIC filter(1))",
        "SELECT 2 BETWEEN SYMMETRIC over(1) AND 3",
        "SELECT trim(LEADING filter('a') FROM 'b'), substring('abc' FROM 1 FOR over(1))",
        "SELECT DISTINCT ON (a) over(1) FROM t",
        "SELECT DISTINCT ON ((a), lower(b)) join(1) FROM t",
        "SELECT 1 ORDER BY rollup(1)",
        "SELECT join(values) FROM (SELECT 1) AS x(values)",
        "SELECT \"coalesce\"(1), \"trim\"(2), \"user\"(), \"current_date\"()",
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
        "SELECT * FROM generate_series(1, 3) g(n), (VALUES (1, 2)) AS \"v\"(\"a\", \"b\"), LATERAL (SELECT n) l(m)",
        "SELECT a, sum(b) FROM t GROUP BY ROLLUP (a) UNION SELECT a, sum(b) FROM t GROUP BY GROUPING SETS ((a), ())",
        "SELECT now() - make_interval(days => $1) FROM t WHERE name NOT ILIKE ($2 || '%') AND t.name ILIKE ('a')",
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
    assert!(cannot_write(r"SELECT '\d''', N'\\n'"));
    // With `client_encoding` SJIS the backslash belongs to the character before it.
    assert!(!cannot_write(r"SELECT E'Á\'; DELETE FROM t; --'"));
    assert!(cannot_write(r"SELECT E'a\'', 'b', 'Á'"));
}

#[test]
fn what_the_server_cuts_into_other_words_may_write() {
    for sql in [
        // A tag is any letter for the server, and any character above ASCII is one.
        "SELECT $\u{a0}$ ' $\u{a0}$; DELETE FROM t --'",
        "SELECT $a\u{a0}$ ' $a\u{a0}$; DELETE FROM t --'",
        // A tag does not begin with a digit.
        "SELECT $1$ , $1$",
        // Older servers end the number before the letter.
        "SELECT $1into t",
        "SELECT 1Linto t",
        "SELECT 0x1g",
        // The name of a function, and nothing between it and its parenthesis.
        "SELECT U&\"!006eextval\" UESCAPE '!' ('s')",
        // The schema's, although no dot stands before the last part of its name.
        "SELECT app.U&\"lower\"('X')",
        "SELECT X'\\', 'a'",
        "SELECT b\"01a\"",
    ] {
        assert!(!cannot_write(sql), "{sql}");
    }
    assert!(cannot_write("SELECT $1, $$a$$, $tag$ ' $tag$, X'1f', B'01', U&'\\0061', 1e5, .5 FROM t1"));
}
