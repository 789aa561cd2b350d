use super::*;

mod oracle;

const SEVERAL: &str = "several statements in one text";

#[test]
fn what_opens_or_ends_a_transaction_is_forbidden() {
    for (sql, rule) in [
        ("COMMIT", "COMMIT"),
        ("commit work and chain;", "COMMIT"),
        ("COMMIT PREPARED 'x'", "COMMIT PREPARED"),
        ("/* a /* b */ */ -- c\r\n ;; End ", "END"),
        ("END TRANSACTION", "END"),
        ("abort", "ABORT"),
        ("ROLLBACK", "ROLLBACK of the whole transaction"),
        ("rollback work", "ROLLBACK of the whole transaction"),
        ("ROLLBACK AND CHAIN", "ROLLBACK of the whole transaction"),
        ("ROLLBACK -- TO a\n", "ROLLBACK of the whole transaction"),
        ("ROLLBACK /* TO a */", "ROLLBACK of the whole transaction"),
        ("ROLLBACK \"to\" a", "ROLLBACK of the whole transaction"),
        ("ROLLBACK PREPARED 'x'", "ROLLBACK PREPARED"),
        ("BEGIN", "BEGIN"),
        ("begin isolation level serializable", "BEGIN"),
        ("START/**/TRANSACTION READ ONLY", "START TRANSACTION"),
        ("PREPARE--\nTRANSACTION 'x'", "PREPARE TRANSACTION"),
    ] {
        assert_eq!(forbidden_in_closure(sql), Some(rule), "{sql}");
    }
}

#[test]
fn a_text_that_may_be_several_statements_is_forbidden() {
    for sql in [
        "SELECT 1; SELECT 2",
        "INSERT INTO t VALUES (1); COMMIT",
        "SELECT 1;COMMIT;",
        ";SELECT 1;;COMMIT -- end",
        "SELECT ';'; COMMIT",
        "SELECT $$;$$; COMMIT",
        "SELECT '\\'; COMMIT; --'",
        "SELECT 'a\\''; COMMIT; --'",
        "SELECT E'Á\\'; COMMIT; --'",
        "SELECT $\u{a0}$ ' $\u{a0}$; COMMIT; --'",
        "SELECT 'unended; COMMIT",
        "SELECT 1; /* unended",
        "ROLLBACK TO a; COMMIT",
        "SAVEPOINT a; ROLLBACK TO a",
        "SELECT 1); COMMIT",
        "BEGIN ATOMIC; SELECT 1; END",
        "CREATE TABLE x (begin atomic); SELECT 1; END",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; COMMIT",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; SELECT 1; END",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS case; END; COMMIT; SELECT CASE WHEN a THEN 1 END",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1; SELECT 1 begin atomic; END",
        "CREATE PROCEDURE p() BEGIN ATOMIC END; COMMIT; END",
        "CREATE PROCEDURE p() BEGIN ATOMIC COMMIT; END",
    ] {
        let rule = forbidden_in_closure(sql);
        assert!(rule == Some(SEVERAL) || sql.starts_with("BEGIN") && rule == Some("BEGIN"), "{rule:?}: {sql}");
    }
}

#[test]
fn one_statement_that_leaves_the_transaction_open_is_not_forbidden() {
    for sql in [
        "",
        ";",
        " ; -- nothing",
        "SELECT 1",
        "SELECT 1;",
        "SELECT 1 ; ; -- a; b\n /* c; d */ ;",
        "SELECT ';', \";\", $$;$$, $a$ ; $a$, E'\\';' -- ;",
        "/* ; COMMIT */ SELECT 1",
        "INSERT INTO t VALUES ('COMMIT; ROLLBACK')",
        "UPDATE t SET \"end\" = 1 WHERE a = ';'",
        "SAVEPOINT a",
        "RELEASE SAVEPOINT a;",
        "ROLLBACK TO a",
        "rollback to savepoint a;",
        "ROLLBACK /* COMMIT */ WORK TO SAVEPOINT a",
        "ROLLBACK TRANSACTION TO a",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "PREPARE x AS SELECT 1",
        "CALL p()",
        "DO $$ BEGIN PERFORM 1; END $$",
        "CREATE RULE r AS ON INSERT TO t DO ALSO (INSERT INTO u VALUES (1); DELETE FROM v)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1; END $$",
        "CREATE FUNCTION f(a int) RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END",
        "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1 AS \"end\"; SELECT 2 AS end; END;",
        "create procedure p() begin atomic insert into t values (1); end",
        "CREATE PROCEDURE p() BEGIN ATOMIC END",
    ] {
        assert_eq!(forbidden_in_closure(sql), None, "{sql}");
    }
}

#[test]
fn a_rollback_to_a_savepoint_is_told_from_others() {
    for sql in ["ROLLBACK TO a", "/**/ rollback--\nwork to savepoint a;", "Rollback Transaction To \"a\""] {
        assert!(is_rollback_to_savepoint(sql), "{sql}");
    }
    for sql in [
        "ROLLBACK",
        "ROLLBACK -- TO a",
        "ROLLBACK WORK",
        "SAVEPOINT a",
        "RELEASE a",
        "SELECT 1",
        "",
        "ROLLBACK PREPARED 'to'",
    ] {
        assert!(!is_rollback_to_savepoint(sql), "{sql}");
    }
}
