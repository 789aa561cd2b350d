//! Which statements cannot write, decided from the words of the text; in doubt a statement may write.

use sqlparser::tokenizer::{Token, Word};

use super::lexis::{ends_alike, is_one_of, tokens, word};
use crate::statement::LONGEST_READ;

/// Built-in functions that change nothing anywhere, in alphabetical order. A function that is not here may write.
#[rustfmt::skip]
const PURE: &[&str] = &[
    "abs", "acos", "age", "array_agg", "array_append", "array_cat", "array_length", "array_lower", "array_ndims",
    "array_position", "array_positions", "array_prepend", "array_remove", "array_replace", "array_to_json",
    "array_to_string", "array_upper", "ascii", "asin", "atan", "atan2", "avg", "bit_and", "bit_length", "bit_or",
    "bool_and", "bool_or", "btrim", "cardinality", "cbrt", "ceil", "ceiling", "char_length", "character_length", "chr",
    "clock_timestamp", "concat", "concat_ws", "corr", "cos", "cot", "count", "covar_pop", "covar_samp", "cume_dist",
    "current_database", "current_schema", "current_setting", "date_bin", "date_part", "date_trunc", "decode", "degrees",
    "dense_rank", "div", "encode", "every", "exp", "factorial", "first_value", "floor", "format", "format_type", "gcd",
    "gen_random_uuid", "generate_series", "generate_subscripts", "get_bit", "get_byte", "host", "initcap", "isfinite",
    "json_agg", "json_array_elements", "json_array_elements_text", "json_array_length", "json_build_array",
    "json_build_object", "json_each", "json_each_text", "json_extract_path", "json_extract_path_text", "json_object",
    "json_object_agg", "json_object_keys", "json_strip_nulls", "json_typeof", "jsonb_agg", "jsonb_array_elements",
    "jsonb_array_elements_text", "jsonb_array_length", "jsonb_build_array", "jsonb_build_object", "jsonb_each",
    "jsonb_each_text", "jsonb_extract_path", "jsonb_extract_path_text", "jsonb_insert", "jsonb_object",
    "jsonb_object_agg", "jsonb_object_keys", "jsonb_path_exists", "jsonb_path_match", "jsonb_path_query",
    "jsonb_path_query_array", "jsonb_path_query_first", "jsonb_pretty", "jsonb_set", "jsonb_strip_nulls",
    "jsonb_typeof", "justify_days", "justify_hours", "justify_interval", "lag", "last_value", "lcm", "lead", "left",
    "length", "ln", "log", "log10", "lower", "lower_inc", "lower_inf", "lpad", "ltrim", "make_date", "make_interval",
    "make_time", "make_timestamp", "make_timestamptz", "max", "md5", "min", "mod", "mode", "now", "nth_value", "ntile",
    "num_nonnulls", "num_nulls", "octet_length", "overlay", "percent_rank", "percentile_cont", "percentile_disc",
    "pg_backend_pid", "pg_is_in_recovery", "pg_postmaster_start_time", "pg_typeof", "phraseto_tsquery", "pi",
    "plainto_tsquery", "position", "power", "quote_ident", "quote_literal", "quote_nullable", "radians", "range_merge",
    "rank", "regexp_count", "regexp_instr", "regexp_like", "regexp_match", "regexp_matches", "regexp_replace",
    "regexp_split_to_array", "regexp_split_to_table", "regexp_substr", "repeat", "replace", "reverse", "right", "round",
    "row_number", "row_to_json", "rpad", "rtrim", "scale", "set_bit", "set_byte", "sha256", "sha512", "sign", "sin",
    "split_part", "sqrt", "starts_with", "statement_timestamp", "stddev", "stddev_pop", "stddev_samp", "string_agg",
    "string_to_array", "string_to_table", "strip", "strpos", "substr", "substring", "sum", "tan", "timeofday",
    "to_char", "to_date", "to_hex", "to_json", "to_jsonb", "to_number", "to_timestamp", "to_tsquery", "to_tsvector",
    "transaction_timestamp", "translate", "trunc", "ts_headline", "ts_rank", "ts_rank_cd", "unnest", "upper",
    "upper_inc", "upper_inf", "var_pop", "var_samp", "variance", "version", "websearch_to_tsquery", "width_bucket",
];

/// Words that cannot be the name of a function unless they are quoted, and that a parenthesis may follow. In alphabetical
/// order. Source: "SQL Key Words", reserved ones and those that cannot be function or type, in the PostgreSQL manual.
#[rustfmt::skip]
const NO_FUNCTION: &[&str] = &[
    "all", "and", "any", "array", "as", "asymmetric", "between", "bit", "case", "cast", "char", "character", "coalesce",
    "current_time", "current_timestamp", "dec", "decimal", "distinct", "else", "except", "exists", "extract", "float",
    "from", "greatest", "group", "grouping", "having", "in", "intersect", "interval", "lateral", "least", "limit",
    "localtime", "localtimestamp", "nchar", "not", "nullif", "numeric", "offset", "on", "only", "or", "precision",
    "row", "select", "some", "symmetric", "then", "time", "timestamp", "to", "trim", "union", "using", "values",
    "varchar", "variadic", "when", "where", "with",
];

/// Words by which a statement locks or changes something, wherever they stand. In alphabetical order.
const WRITES: &[&str] = &["delete", "insert", "into", "merge", "operator", "update"];

/// Whether running the text, once or more often, is certain to change nothing.
///
/// Views, operators, casts and row security policies with effects of their own are beyond what a text can tell, and so
/// is a function of the user's that has the name of a built-in one of any version, or is called like a column. Where
/// `search_path` begins with `pg_temp`, asking for the current schema makes it, once.
pub(super) fn cannot_write(sql: &str) -> bool {
    if sql.len() > LONGEST_READ {
        return false;
    }
    let Some(mut tokens) = tokens(sql) else { return false };
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
        token => ends_alike(token) && is_harmless(token),
    }
}

/// Whether the word before a parenthesis calls nothing, or nothing but a function that is known to be pure.
fn may_precede_parenthesis(tokens: &[Token], at: usize) -> bool {
    let Token::Word(Word { value, quote_style, .. }) = &tokens[at] else { return false };
    let name = if quote_style.is_some() { value.clone() } else { value.to_ascii_lowercase() };
    let is_in = |list: &[&str]| list.binary_search(&name.as_str()).is_ok();
    let back = |by| at.checked_sub(by).map(|place| &tokens[place]);
    let follows = |by, words: &[&str]| back(by).is_some_and(|token| is_one_of(token, words));
    if back(1) == Some(&Token::Period) {
        return false;
    }
    // A name that is given, with its columns, or a clause of the call before it.
    let calls_nothing = follows(1, &["as", "recursive", "with"]) || (at > 0 && closes_operand(tokens, at - 1));
    if quote_style.is_some() {
        return calls_nothing || is_in(PURE);
    }
    let by_the_grammar = || match name.as_str() {
        "by" => follows(1, &["group", "order", "partition"]),
        "cube" | "rollup" => follows(1, &["by"]) && follows(2, &["group"]),
        "sets" => follows(1, &["grouping"]),
        "materialized" => follows(1, &["not"]) && follows(2, &["as"]),
        "join" => {
            let inside = |words: &[&str]| tokens.get(at + 2).is_some_and(|inner| is_one_of(inner, words));
            follows(1, &["cross", "full", "inner", "left", "natural", "outer", "right"])
                || inside(&["select", "table", "with"])
                // Alone it can be a column.
                || (inside(&["values"]) && tokens.get(at + 3) == Some(&Token::LParen))
        }
        "ilike" | "like" => {
            let operand = if follows(1, &["not"]) { 2 } else { 1 };
            let begins = follows(operand + 1, &["and", "having", "on", "or", "select", "when", "where"])
                || matches!(back(operand + 1), Some(Token::Comma | Token::Period));
            let is_name = |token: &Token| {
                matches!(token, Token::Word(_)) && !word(token).is_some_and(|word| is_no_function(&word))
            };
            begins && back(operand).is_some_and(is_name)
        }
        _ => false,
    };
    !is_in(WRITES) && (is_in(PURE) || is_in(NO_FUNCTION) || calls_nothing || by_the_grammar())
}

/// Whether a parenthesis ends here behind which no expression can begin: any but that of `DISTINCT ON (...)`.
fn closes_operand(tokens: &[Token], at: usize) -> bool {
    let mut depth = 0_usize;
    for (place, token) in tokens[..=at].iter().enumerate().rev() {
        match token {
            Token::RParen => depth += 1,
            Token::LParen if depth == 1 => return !(place > 0 && is_one_of(&tokens[place - 1], &["on"])),
            Token::LParen if depth > 1 => depth -= 1,
            _ if depth == 0 => return false,
            _ => {}
        }
    }
    false
}

fn is_no_function(word: &str) -> bool {
    NO_FUNCTION.binary_search(&word).is_ok()
}

/// Literals, punctuation, and operators that PostgreSQL brings along.
fn is_harmless(token: &Token) -> bool {
    use Token as T;
    matches!(
        token,
        T::SingleQuotedString(_)
            | T::NationalStringLiteral(_)
            | T::DollarQuotedString(_)
            | T::EscapedStringLiteral(_)
            | T::HexStringLiteral(_)
            | T::SingleQuotedByteStringLiteral(_)
            | T::UnicodeStringLiteral(_)
            | T::Placeholder(_)
            | T::Number(..)
            | T::Comma
            | T::RArrow
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
            | T::ExclamationMarkDoubleTildeAsterisk
    )
}

#[cfg(test)]
pub(super) mod tests;
