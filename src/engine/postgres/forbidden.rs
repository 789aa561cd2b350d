//! Which texts a transaction closure must not send: those that could end its transaction behind its back.
//!
//! What a procedure or a `DO` block commits is not among them, as the server refuses that inside an explicit transaction.

use sqlparser::tokenizer::Token;

use super::lexis::{ends_alike, is_one_of, tokens, without_outer_semicolons};
use crate::statement::{next_word, skip_blanks};

/// Words that begin a statement which opens or ends a transaction.
const CONTROL: &[&str] = &["abort", "begin", "commit", "end", "prepare", "rollback", "start"];

/// What is refused about a text inside a transaction closure, if anything is.
///
/// A text of which only the server could say how many statements it holds counts as several.
pub(super) fn forbidden_in_closure(sql: &str) -> Option<&'static str> {
    let mut rest = sql;
    let first = next_word(&mut rest);
    let second = next_word(&mut rest);
    let is = |word: &str, other: &str| word.eq_ignore_ascii_case(other);
    let rule = match CONTROL.iter().copied().find(|word| is(word, first)) {
        Some("abort") => Some("ABORT"),
        Some("begin") => Some("BEGIN"),
        Some("commit") if is(second, "prepared") => Some("COMMIT PREPARED"),
        Some("commit") => Some("COMMIT"),
        Some("end") => Some("END"),
        Some("prepare") if is(second, "transaction") => Some("PREPARE TRANSACTION"),
        Some("rollback") if is(second, "prepared") => Some("ROLLBACK PREPARED"),
        Some("rollback") if !is_rollback_to_savepoint(sql) => Some("ROLLBACK of the whole transaction"),
        Some("start") => Some("START TRANSACTION"),
        _ if ["set", "reset"].iter().any(|word| is(word, first)) && may_make_writable(sql) => {
            Some("SET TRANSACTION READ WRITE")
        }
        _ => None,
    };
    rule.or_else(|| may_be_several(sql).then_some("several statements in one text"))
}

/// What is told of a text that commits inside of itself, or refuses to run in a transaction.
///
/// What is missing here the server refuses all the same.
pub(super) fn unfit_for_transaction(sql: &str) -> Option<&'static str> {
    let mut rest = sql;
    let first = next_word(&mut rest).to_ascii_lowercase();
    let second = next_word(&mut rest).to_ascii_lowercase();
    let builds = ["alter", "create", "drop", "reindex"].contains(&&*first);
    let concurrent = || {
        let mut words = sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.any(|word| word.eq_ignore_ascii_case("concurrently"))
    };
    match (&*first, &*second) {
        ("call", _) => Some("CALL, whose procedure may commit"),
        ("do", _) => Some("DO, whose block may commit"),
        ("vacuum", _) => Some("VACUUM"),
        ("alter", "system") => Some("ALTER SYSTEM"),
        ("create" | "drop", "database" | "subscription" | "tablespace") => {
            Some("what creates or drops a database, tablespace or subscription")
        }
        ("reindex", "database" | "schema" | "system") => Some("REINDEX of more than one table"),
        ("cluster", "") => Some("CLUSTER of all tables"),
        ("discard", "all") => Some("DISCARD ALL"),
        _ if builds && concurrent() => Some("what is built CONCURRENTLY"),
        _ => None,
    }
}

/// Whether a `SET` may undo that a transaction is read-only, which the closure is run again for.
fn may_make_writable(sql: &str) -> bool {
    let Some(tokens) = tokens(sql) else { return true };
    let names = |name: &str| {
        tokens.iter().any(|token| matches!(token, Token::Word(word) if word.value.eq_ignore_ascii_case(name)))
    };
    names("transaction_read_only") || (names("transaction") && names("write"))
}

/// Whether the text, if it is a single statement, rolls back to a savepoint.
pub(super) fn is_rollback_to_savepoint(sql: &str) -> bool {
    let mut rest = sql;
    let first = next_word(&mut rest);
    let mut then = next_word(&mut rest);
    if ["transaction", "work"].iter().any(|word| then.eq_ignore_ascii_case(word)) {
        then = next_word(&mut rest);
    }
    first.eq_ignore_ascii_case("rollback") && then.eq_ignore_ascii_case("to")
}

/// Whether a semicolon may end one statement and another follow.
fn may_be_several(sql: &str) -> bool {
    // The server needs a semicolon as well, so most texts are not read at all.
    let single = skip_blanks(sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace()));
    if !single.contains(';') {
        return false;
    }
    let Some(tokens) = tokens(sql).filter(|tokens| tokens.iter().all(ends_alike)) else { return true };
    let tokens = without_outer_semicolons(&tokens);
    let routine = begins_routine(tokens);
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            // Those of a rule stand in parentheses, and no statement ends inside of them.
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            Token::SemiColon if depth == 0 => return true,
            _ if routine && depth == 0 && is_one_of(token, &["begin"]) => {
                if let Some((next, body)) = tokens[at + 1..].split_first()
                    && is_one_of(next, &["atomic"])
                {
                    return !is_whole_body(body);
                }
            }
            _ => {}
        }
    }
    false
}

/// Whether these words begin what may have a body of statements.
fn begins_routine(tokens: &[Token]) -> bool {
    let begins = |words: &[&[&str]]| {
        tokens.len() >= words.len() && tokens.iter().zip(words).all(|(token, words)| is_one_of(token, words))
    };
    let kinds: &[&str] = &["function", "procedure"];
    begins(&[&["create"], kinds]) || begins(&[&["create"], &["or"], &["replace"], kinds])
}

/// Whether what follows `BEGIN ATOMIC` is one body and nothing else.
///
/// Its `END` always stands where a statement would begin, so it is enough that the only such `END` is the last word: what
/// else can be called `end` or `case` in the body makes no difference.
fn is_whole_body(body: &[Token]) -> bool {
    let begins_statement = |at: usize| at == 0 || body[at - 1] == Token::SemiColon;
    let mut controls = (0..body.len()).filter(|at| begins_statement(*at) && is_one_of(&body[*at], CONTROL));
    controls.next().is_some_and(|at| at + 1 == body.len() && is_one_of(&body[at], &["end"]))
}

#[cfg(test)]
mod tests;
