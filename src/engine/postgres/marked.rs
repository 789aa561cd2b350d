//! A single write that leaves a marker of itself, in one statement: the marker is written exactly if the write is.
//!
//! What the text cannot tell are rules on the table that is written to. Where one makes several statements of the write,
//! the server refuses it with a with-query (0A000) and has done nothing. Where it does nothing or notifies instead, the
//! marker is dropped with the statement it replaces.

use sqlparser::tokenizer::Token;

use super::lexis::{ends_alike, is_one_of, tokens, without_outer_semicolons};
use crate::key::OutcomeKey;
use crate::statement::next_word;

/// The words a write begins with.
const WRITES: &[&str] = &["delete", "insert", "merge", "update"];

/// What the marker's with-query is called where the text has no such name.
const NAME: &str = "rds_proxy_pool_marker";

/// Parameters a statement can have.
const MOST_PARAMETERS: usize = u16::MAX as usize;

/// The statement with its marker, whose key is one more parameter behind the others and is bound as text; or `None` for
/// what is not certain to be a single write that uses no more than its arguments.
///
/// The table is an identifier fit to stand in a statement. Rows returned, rows affected and errors are those of the text
/// alone, and one more: the key is in the table already, and nothing is changed.
pub(super) fn with_marker(sql: &str, arguments: usize, table: &str) -> Option<String> {
    if arguments >= MOST_PARAMETERS {
        return None;
    }
    insert_marker(sql, arguments, table, &format!("${}::text::uuid", arguments + 1))
}

/// The same for a text that is sent without arguments: the key stands in it.
pub(super) fn with_literal_marker(sql: &str, table: &str, key: OutcomeKey) -> Option<String> {
    insert_marker(sql, 0, table, &format!("'{key}'"))
}

fn insert_marker(sql: &str, arguments: usize, table: &str, key: &str) -> Option<String> {
    let tokens = tokens(sql)?;
    let tokens = without_outer_semicolons(&tokens);
    let fits = |token: &Token| ends_alike(token) && *token != Token::SemiColon && is_bound(token, arguments);
    if !tokens.iter().all(fits) {
        return None;
    }
    let (first, others) = tokens.split_first()?;
    let marker = format!("{} AS (INSERT INTO {table} (key, state) VALUES ({key}, 'C'))", name_unlike(&[sql, table]));
    let mut rest = sql;
    let begins = next_word(&mut rest);
    if is_one_of(first, WRITES) && is_one_of(first, &[&begins.to_ascii_lowercase()]) {
        let (blanks, write) = sql.split_at(sql.len() - rest.len() - begins.len());
        return Some(format!("{blanks}WITH {marker} {write}"));
    }
    if !is_one_of(first, &["with"]) || !begins.eq_ignore_ascii_case("with") {
        return None;
    }
    let mut queries = others;
    // Before its own columns or query the word would be the name of the first one.
    if let [word, next, ..] = others
        && is_one_of(word, &["recursive"])
        && *next != Token::LParen
        && !is_one_of(next, &["as"])
    {
        queries = &others[1..];
        if !next_word(&mut rest).eq_ignore_ascii_case("recursive") {
            return None;
        }
    }
    let (with, list) = sql.split_at(sql.len() - rest.len());
    leads_to_write(queries).then(|| format!("{with} {marker},{list}"))
}

/// Whether the token is no parameter, or one that has an argument.
fn is_bound(token: &Token, arguments: usize) -> bool {
    match token {
        Token::Placeholder(name) => {
            name.get(1..).and_then(|number| number.parse().ok()).is_some_and(|number| (1..=arguments).contains(&number))
        }
        _ => true,
    }
}

/// A name that none of the texts can mean.
fn name_unlike(texts: &[&str]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| text.to_ascii_lowercase()).collect();
    let mut name = NAME.to_owned();
    while texts.iter().any(|text| text.contains(&name)) {
        name.push('_');
    }
    name
}

/// Whether with-queries, of which none has a `SEARCH` or `CYCLE` clause, lead to a write.
fn leads_to_write<'a>(mut tokens: &'a [Token]) -> bool {
    loop {
        let [Token::Word(_), rest @ ..] = tokens else { return false };
        let rest = if rest.first() == Some(&Token::LParen) { behind_parentheses(rest) } else { rest };
        let [word, rest @ ..] = rest else { return false };
        if !is_one_of(word, &["as"]) {
            return false;
        }
        let skip = |rest: &'a [Token], word: &str| match rest {
            [first, others @ ..] if is_one_of(first, &[word]) => others,
            _ => rest,
        };
        let rest = skip(skip(rest, "not"), "materialized");
        if rest.first() != Some(&Token::LParen) {
            return false;
        }
        match behind_parentheses(rest) {
            [Token::Comma, rest @ ..] => tokens = rest,
            [word, ..] => return is_one_of(word, WRITES),
            [] => return false,
        }
    }
}

/// What follows the parenthesis that these tokens begin with.
fn behind_parentheses(tokens: &[Token]) -> &[Token] {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 1 => return &tokens[at + 1..],
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    &[]
}

#[cfg(test)]
mod tests;
