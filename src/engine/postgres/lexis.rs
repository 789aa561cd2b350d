//! The words of a text, as PostgreSQL cuts it.
//!
//! The text is read by a well-kept lexer and not by the parser that belongs to it: with its grammar of everything a
//! program that uses this crate would be a third larger, and what has to be known here are words, not trees.

use std::any::{Any, TypeId};

use sqlparser::dialect::{Dialect, PostgreSqlDialect};
use sqlparser::tokenizer::{Token, Tokenizer, Word};

/// The words of a text without the blanks between them, or `None` where a server may see others.
pub(super) fn tokens(sql: &str) -> Option<Vec<Token>> {
    let mut tokens = Tokenizer::new(&Lexis, sql).tokenize().ok()?;
    if (0..tokens.len()).any(|at| is_cut_otherwise(&tokens[at..])) {
        return None;
    }
    tokens.retain(|token| !matches!(token, Token::Whitespace(_)));
    Some(tokens)
}

/// Whether a server may see other words here than the lexer does.
fn is_cut_otherwise(tokens: &[Token]) -> bool {
    match tokens {
        // Servers disagree where the number ends.
        [Token::Number(..) | Token::Placeholder(_) | Token::HexStringLiteral(_), Token::Word(_), ..] => true,
        // `U&"name"`, which is one name, and with escapes another than it seems.
        [Token::Word(Word { quote_style: None, .. }), Token::Ampersand, Token::Word(Word { quote_style, .. }), ..] => {
            quote_style.is_some() && is_one_of(&tokens[0], &["u"])
        }
        _ => false,
    }
}

/// Whether the token ends where the lexer sees its end, however a session is set.
pub(super) fn ends_alike(token: &Token) -> bool {
    use Token as T;
    match token {
        // With `standard_conforming_strings` off a backslash before a quote would give it another end.
        T::SingleQuotedString(text) | T::NationalStringLiteral(text) => !text.contains("\\'") && !text.ends_with('\\'),
        // All else with a dollar is a quoted string for some server.
        T::Placeholder(name) => name.len() > 1 && name[1..].bytes().all(|digit| digit.is_ascii_digit()),
        T::DollarQuotedString(string) => {
            !string.tag.as_ref().is_some_and(|tag| tag.starts_with(|first: char| first.is_numeric()))
        }
        // In some client encodings a backslash is the second half of the character before it.
        T::EscapedStringLiteral(text) => text.is_ascii(),
        // The lexer knows escapes here, the server does not.
        T::HexStringLiteral(digits) => digits.bytes().all(|digit| digit.is_ascii_hexdigit() || digit == b'_'),
        T::SingleQuotedByteStringLiteral(bits) => bits.bytes().all(|bit| matches!(bit, b'0' | b'1')),
        T::DoubleQuotedByteStringLiteral(_) => false,
        T::Number(_, long) => !long,
        _ => true,
    }
}

/// The tokens between the empty statements a text may begin and end with.
pub(super) fn without_outer_semicolons(tokens: &[Token]) -> &[Token] {
    let is_word = |token: &Token| *token != Token::SemiColon;
    let begin = tokens.iter().position(is_word).unwrap_or(tokens.len());
    let end = tokens.iter().rposition(is_word).map_or(begin, |last| last + 1);
    &tokens[begin..end]
}

/// Whether it is one of these unquoted words, which are in lower case.
pub(super) fn is_one_of(token: &Token, words: &[&str]) -> bool {
    word(token).is_some_and(|word| words.contains(&word.as_str()))
}

/// An unquoted word, in lower case.
pub(super) fn word(token: &Token) -> Option<String> {
    match token {
        Token::Word(Word { value, quote_style: None, .. }) => Some(value.to_ascii_lowercase()),
        _ => None,
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
