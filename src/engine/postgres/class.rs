//! Which statements cannot write, decided from the parsed text; in doubt a statement may write.

use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, Expr, Function, Ident, ObjectName, ObjectNamePart, Query, Select, SetExpr, Statement, TableFactor,
    UnaryOperator, Visit, Visitor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use crate::statement::LONGEST_READ;

/// Built-in functions that change nothing anywhere, in alphabetical order. A function that is not here may write.
#[rustfmt::skip]
const PURE: &[&str] = &[
    "abs", "acos", "age", "array_agg", "array_append", "array_cat", "array_length", "array_lower", "array_ndims",
    "array_position", "array_positions", "array_prepend", "array_remove", "array_replace", "array_to_json",
    "array_to_string", "array_upper", "ascii", "asin", "atan", "atan2", "avg", "bit_and", "bit_length", "bit_or",
    "bool_and", "bool_or", "btrim", "cardinality", "cbrt", "ceil", "ceiling", "char_length", "character_length", "chr",
    "clock_timestamp", "coalesce", "concat", "concat_ws", "corr", "cos", "cot", "count", "covar_pop", "covar_samp",
    "cume_dist", "current_catalog", "current_database", "current_date", "current_role", "current_schema",
    "current_setting", "current_time", "current_timestamp", "current_user", "date_bin", "date_part", "date_trunc",
    "decode", "degrees", "dense_rank", "div", "encode", "every", "exp", "factorial", "first_value", "floor", "format",
    "format_type", "gcd", "gen_random_uuid", "generate_series", "generate_subscripts", "get_bit", "get_byte",
    "greatest", "grouping", "host", "initcap", "isfinite", "json_agg", "json_array_elements",
    "json_array_elements_text", "json_array_length", "json_build_array", "json_build_object", "json_each",
    "json_each_text", "json_extract_path", "json_extract_path_text", "json_object", "json_object_agg",
    "json_object_keys", "json_strip_nulls", "json_typeof", "jsonb_agg", "jsonb_array_elements",
    "jsonb_array_elements_text", "jsonb_array_length", "jsonb_build_array", "jsonb_build_object", "jsonb_each",
    "jsonb_each_text", "jsonb_extract_path", "jsonb_extract_path_text", "jsonb_insert", "jsonb_object",
    "jsonb_object_agg", "jsonb_object_keys", "jsonb_path_exists", "jsonb_path_match", "jsonb_path_query",
    "jsonb_path_query_array", "jsonb_path_query_first", "jsonb_pretty", "jsonb_set", "jsonb_strip_nulls",
    "jsonb_typeof", "justify_days", "justify_hours", "justify_interval", "lag", "last_value", "lcm", "lead", "least",
    "left", "length", "ln", "localtime", "localtimestamp", "log", "log10", "lower", "lower_inc", "lower_inf", "lpad",
    "ltrim", "make_date", "make_interval", "make_time", "make_timestamp", "make_timestamptz", "max", "md5", "min",
    "mod", "mode", "now", "nth_value", "ntile", "nullif", "num_nonnulls", "num_nulls", "octet_length", "overlay",
    "percent_rank", "percentile_cont", "percentile_disc", "pg_backend_pid", "pg_is_in_recovery",
    "pg_postmaster_start_time", "pg_typeof", "phraseto_tsquery", "pi", "plainto_tsquery", "position", "power",
    "quote_ident", "quote_literal", "quote_nullable", "radians", "range_merge", "rank", "regexp_count", "regexp_instr",
    "regexp_like", "regexp_match", "regexp_matches", "regexp_replace", "regexp_split_to_array",
    "regexp_split_to_table", "regexp_substr", "repeat", "replace", "reverse", "right", "round", "row_number",
    "row_to_json", "rpad", "rtrim", "scale", "session_user", "set_bit", "set_byte", "sha256", "sha512", "sign", "sin",
    "split_part", "sqrt", "starts_with", "statement_timestamp", "stddev", "stddev_pop", "stddev_samp", "string_agg",
    "string_to_array", "string_to_table", "strip", "strpos", "substr", "substring", "sum", "tan", "timeofday", "to_char",
    "to_date", "to_hex", "to_json", "to_jsonb", "to_number", "to_timestamp", "to_tsquery", "to_tsvector",
    "transaction_timestamp", "translate", "trim", "trunc", "ts_headline", "ts_rank", "ts_rank_cd", "unnest", "upper",
    "upper_inc", "upper_inf", "user", "var_pop", "var_samp", "variance", "version", "websearch_to_tsquery",
    "width_bucket",
];

/// Whether running the text, once or more often, is certain to change nothing.
///
/// Views, operators, casts and row security policies with effects of their own are beyond what a text can tell, and so
/// is a function of the user's that shares a built-in one's name for other argument types.
pub(super) fn cannot_write(sql: &str) -> bool {
    if sql.len() > LONGEST_READ {
        return false;
    }
    let Ok(statements) = Parser::parse_sql(&PostgreSqlDialect {}, sql) else { return false };
    match statements.as_slice() {
        [Statement::Query(query)] => query.visit(&mut Reader).is_continue(),
        [Statement::ShowVariable { .. }] => true,
        _ => false,
    }
}

/// Walks a query and breaks at the first thing that may write.
struct Reader;

type Verdict = ControlFlow<()>;

fn only(pure: bool) -> Verdict {
    if pure { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

impl Visitor for Reader {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> Verdict {
        let foreign = query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty();
        only(query.locks.is_empty() && !foreign && reads(&query.body))
    }

    fn pre_visit_select(&mut self, select: &Select) -> Verdict {
        only(select.into.is_none())
    }

    fn pre_visit_statement(&mut self, _: &Statement) -> Verdict {
        only(false)
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> Verdict {
        only(match table {
            TableFactor::Table { name, args, .. } => args.is_none() || is_pure(name),
            TableFactor::Function { name, .. } => is_pure(name),
            TableFactor::Derived { .. } | TableFactor::UNNEST { .. } | TableFactor::NestedJoin { .. } => true,
            _ => false,
        })
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> Verdict {
        use Expr as E;
        only(match expression {
            E::Function(Function { name, .. }) => is_pure(name),
            E::BinaryOp { op, .. } => {
                !matches!(op, BinaryOperator::Custom(_) | BinaryOperator::PGCustomBinaryOperator(_))
            }
            E::UnaryOp { op, .. } => matches!(op, UnaryOperator::Plus | UnaryOperator::Minus | UnaryOperator::Not),
            E::Identifier(_)
            | E::CompoundIdentifier(_)
            | E::CompoundFieldAccess { .. }
            | E::IsFalse(_)
            | E::IsNotFalse(_)
            | E::IsTrue(_)
            | E::IsNotTrue(_)
            | E::IsNull(_)
            | E::IsNotNull(_)
            | E::IsUnknown(_)
            | E::IsNotUnknown(_)
            | E::IsDistinctFrom(..)
            | E::IsNotDistinctFrom(..)
            | E::InList { .. }
            | E::InSubquery { .. }
            | E::Between { .. }
            | E::Like { .. }
            | E::ILike { .. }
            | E::SimilarTo { .. }
            | E::AnyOp { .. }
            | E::AllOp { .. }
            | E::Cast { .. }
            | E::AtTimeZone { .. }
            | E::Extract { .. }
            | E::Ceil { .. }
            | E::Floor { .. }
            | E::Position { .. }
            | E::Substring { .. }
            | E::Trim { .. }
            | E::Overlay { .. }
            | E::Collate { .. }
            | E::Nested(_)
            | E::Value(_)
            | E::TypedString(_)
            | E::Case { .. }
            | E::Exists { .. }
            | E::Subquery(_)
            | E::GroupingSets(_)
            | E::Cube(_)
            | E::Rollup(_)
            | E::Tuple(_)
            | E::Array(_)
            | E::Interval(_)
            | E::Wildcard(_)
            | E::QualifiedWildcard(..) => true,
            _ => false,
        })
    }
}

fn reads(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) | SetExpr::Table(_) => true,
        SetExpr::SetOperation { left, right, .. } => reads(left) && reads(right),
        _ => false,
    }
}

/// A name without a schema that is on the list; an unquoted one in any case, a quoted one to the letter.
fn is_pure(name: &ObjectName) -> bool {
    let [ObjectNamePart::Identifier(Ident { value, quote_style, .. })] = name.0.as_slice() else { return false };
    match quote_style {
        None => PURE.binary_search(&value.to_ascii_lowercase().as_str()).is_ok(),
        Some(_) => PURE.binary_search(&value.as_str()).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(PURE.is_sorted());
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
        assert!(!cannot_write(&deep), "deeper than the parser goes");
    }
}
