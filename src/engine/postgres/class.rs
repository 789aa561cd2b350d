//! Which statements cannot write, decided from the words of the text; in doubt a statement may write.
//!
//! The text is read by a well-kept lexer and not by the parser that belongs to it: with its grammar of everything a
//! program that uses this crate would be a third larger, and what has to be known here are words, not trees.

use std::any::{Any, TypeId};

use sqlparser::dialect::{Dialect, PostgreSqlDialect};
use sqlparser::tokenizer::{Token, Tokenizer, Word};

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

/// Words that cannot be the name of a function unless they are quoted, and that a parenthesis may follow. In alphabetical
/// order. Source: "SQL Key Words", reserved ones and those that cannot be function or type, in the PostgreSQL manual.
#[rustfmt::skip]
const NO_FUNCTION: &[&str] = &[
    "all", "and", "any", "array", "as", "between", "bit", "case", "cast", "char", "character", "dec", "decimal",
    "distinct", "else", "except", "exists", "extract", "float", "from", "having", "in", "intersect", "interval",
    "lateral", "limit", "nchar", "not", "numeric", "offset", "on", "only", "or", "precision", "row", "select", "some",
    "symmetric", "then", "time", "timestamp", "to", "union", "using", "values", "varchar", "when", "where", "with",
];

/// Words that stand between two operands and could be a function's name elsewhere. In alphabetical order.
const BETWEEN_OPERANDS: &[&str] = &["filter", "ilike", "is", "join", "like", "over", "overlaps"];

/// Words by which a statement locks or changes something, wherever they stand. In alphabetical order.
const WRITES: &[&str] = &["delete", "insert", "into", "merge", "operator", "update"];

/// Whether running the text, once or more often, is certain to change nothing.
///
/// Views, operators, casts and row security policies with effects of their own are beyond what a text can tell, and so
/// is a function of the user's that shares a built-in one's name for other argument types, or is called like a column.
pub(super) fn cannot_write(sql: &str) -> bool {
    if sql.len() > LONGEST_READ {
        return false;
    }
    let Ok(mut tokens) = Tokenizer::new(&Lexis, sql).tokenize() else { return false };
    tokens.retain(|token| !matches!(token, Token::Whitespace(_)));
    if tokens.last() == Some(&Token::SemiColon) {
        tokens.pop();
    }
    let begins = tokens.iter().find(|token| **token != Token::LParen).and_then(word);
    let reads = begins.is_some_and(|first| ["select", "show", "table", "values", "with"].contains(&first.as_str()));
    reads && (0..tokens.len()).all(|at| changes_nothing(&tokens, at))
}

/// Whether the token is harmless where it stands.
fn changes_nothing(tokens: &[Token], at: usize) -> bool {
    let next = tokens.get(at + 1);
    match &tokens[at] {
        Token::Word(_) if next == Some(&Token::LParen) => may_precede_parenthesis(tokens, at),
        Token::Word(Word { quote_style: Some(_), .. }) => true,
        token @ Token::Word(_) => {
            let word = word(token).unwrap_or_default();
            let locks =
                || next.and_then(self::word).is_some_and(|next| ["key", "no", "share"].contains(&next.as_str()));
            WRITES.binary_search(&word.as_str()).is_err() && !(word == "for" && locks())
        }
        // With `standard_conforming_strings` off the server would see another end of it.
        Token::SingleQuotedString(text) | Token::NationalStringLiteral(text) => !text.contains('\\'),
        token => is_harmless(token),
    }
}

/// Whether the word before a parenthesis calls nothing, or nothing but a function that is known to be pure.
fn may_precede_parenthesis(tokens: &[Token], at: usize) -> bool {
    let Token::Word(Word { value, quote_style, .. }) = &tokens[at] else { return false };
    let before = at.checked_sub(1).map(|before| &tokens[before]);
    if before == Some(&Token::Period) {
        return false;
    }
    if quote_style.is_some() {
        return PURE.binary_search(&value.as_str()).is_ok();
    }
    let (name, before_word) = (value.to_ascii_lowercase(), before.and_then(word));
    let follows = |words: &[&str]| before_word.as_deref().is_some_and(|before| words.contains(&before));
    let is_in = |list: &[&str]| list.binary_search(&name.as_str()).is_ok();
    is_in(PURE)
        || is_in(NO_FUNCTION)
        || (is_in(BETWEEN_OPERANDS) && before.is_some_and(ends_operand))
        // Names that are given, with their columns, and not called.
        || (follows(&["as", "recursive", "with"]) && !is_in(WRITES))
        || (name == "by" && follows(&["group", "order", "partition"]))
        || (name == "group" && follows(&["within"]))
        || (name == "materialized" && follows(&["as", "not"]))
}

/// Whether what follows cannot be the beginning of an expression.
fn ends_operand(token: &Token) -> bool {
    const NOT_YET: &[&str] = &["by", "distinct", "returning"];
    match token {
        Token::RParen | Token::RBracket | Token::Number(..) | Token::Placeholder(_) | Token::SingleQuotedString(_) => {
            true
        }
        Token::Word(Word { quote_style: Some(_), .. }) => true,
        token => word(token).is_some_and(|word| {
            word == "not" || !(NO_FUNCTION.binary_search(&word.as_str()).is_ok() || NOT_YET.contains(&word.as_str()))
        }),
    }
}

/// An unquoted word, in lower case.
fn word(token: &Token) -> Option<String> {
    match token {
        Token::Word(Word { value, quote_style: None, .. }) => Some(value.to_ascii_lowercase()),
        _ => None,
    }
}

/// Literals, punctuation, and operators that PostgreSQL brings along.
fn is_harmless(token: &Token) -> bool {
    use Token as T;
    match token {
        T::Placeholder(name) => name.starts_with('$'),
        T::Number(..)
        | T::EscapedStringLiteral(_)
        | T::UnicodeStringLiteral(_)
        | T::DollarQuotedString(_)
        | T::HexStringLiteral(_)
        | T::SingleQuotedByteStringLiteral(_)
        | T::Comma
        | T::LParen
        | T::RParen
        | T::LBracket
        | T::RBracket
        | T::Period
        | T::Colon
        | T::DoubleColon
        | T::Eq
        | T::Neq
        | T::Lt
        | T::Gt
        | T::LtEq
        | T::GtEq
        | T::Plus
        | T::Minus
        | T::Mul
        | T::Div
        | T::Mod
        | T::Caret
        | T::Ampersand
        | T::Pipe
        | T::Sharp
        | T::ShiftLeft
        | T::ShiftRight
        | T::StringConcat
        | T::Overlap
        | T::Arrow
        | T::LongArrow
        | T::HashArrow
        | T::HashLongArrow
        | T::HashMinus
        | T::AtArrow
        | T::ArrowAt
        | T::AtQuestion
        | T::AtAt
        | T::Question
        | T::QuestionAnd
        | T::QuestionPipe
        | T::Tilde
        | T::TildeAsterisk
        | T::ExclamationMarkTilde
        | T::ExclamationMarkTildeAsterisk
        | T::DoubleTilde
        | T::DoubleTildeAsterisk
        | T::ExclamationMarkDoubleTilde
        | T::ExclamationMarkDoubleTildeAsterisk => true,
        _ => false,
    }
}

/// How PostgreSQL cuts a text into words. The dialect itself cannot be used: it refers to the parser.
#[derive(Debug)]
struct Lexis;

impl Dialect for Lexis {
    fn dialect(&self) -> TypeId {
        PostgreSqlDialect {}.type_id()
    }

    fn is_delimited_identifier_start(&self, c: char) -> bool {
        PostgreSqlDialect {}.is_delimited_identifier_start(c)
    }

    fn is_identifier_start(&self, c: char) -> bool {
        PostgreSqlDialect {}.is_identifier_start(c)
    }

    fn is_identifier_part(&self, c: char) -> bool {
        PostgreSqlDialect {}.is_identifier_part(c)
    }

    fn is_custom_operator_part(&self, c: char) -> bool {
        PostgreSqlDialect {}.is_custom_operator_part(c)
    }

    fn supports_unicode_string_literal(&self) -> bool {
        PostgreSqlDialect {}.supports_unicode_string_literal()
    }

    fn supports_nested_comments(&self) -> bool {
        PostgreSqlDialect {}.supports_nested_comments()
    }

    fn supports_string_escape_constant(&self) -> bool {
        PostgreSqlDialect {}.supports_string_escape_constant()
    }

    fn supports_numeric_literal_underscores(&self) -> bool {
        PostgreSqlDialect {}.supports_numeric_literal_underscores()
    }

    fn supports_geometric_types(&self) -> bool {
        PostgreSqlDialect {}.supports_geometric_types()
    }
}

#[cfg(test)]
mod tests;
