//! What a text of statements does to transactions, as far as its first words tell; and the words it is made of.

use super::fault::Message;

/// As faults know it: a text that commits anywhere is a commit, one that begins with the beginning of a transaction is that.
pub(super) fn message(text: &str) -> Message {
    let mut statements = vec![Vec::new()];
    for token in Tokens::of(text) {
        match (token, statements.last_mut()) {
            (Token::Other(';'), _) => statements.push(Vec::new()),
            (Token::Word(word), Some(statement)) if statement.len() < 2 => statement.push(word),
            _ => {}
        }
    }
    let begins = |statement: &[&str], words: &[&str]| {
        statement.len() >= words.len()
            && statement.iter().zip(words).all(|(one, other)| one.eq_ignore_ascii_case(other))
    };
    if statements.iter().any(|words| begins(words, &["COMMIT"]) || begins(words, &["END"])) {
        Message::Commit
    } else if begins(&statements[0], &["BEGIN"]) || begins(&statements[0], &["START", "TRANSACTION"]) {
        Message::Begin
    } else {
        Message::Execute
    }
}

/// A part of a text that is neither space nor comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'t> {
    /// A name, a key word or a number.
    Word(&'t str),
    /// A symbol; the mark that opens it for quoted text.
    Other(char),
}

/// The parts of a text.
pub(super) struct Tokens<'t>(&'t str);

impl<'t> Tokens<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        Tokens(text)
    }
}

impl<'t> Iterator for Tokens<'t> {
    type Item = Token<'t>;

    fn next(&mut self) -> Option<Token<'t>> {
        loop {
            let rest = self.0;
            let next = rest.chars().next()?;
            let word = rest.find(|c: char| !is_in_word(c)).unwrap_or(rest.len());
            let is_comment = rest.starts_with("--") || rest.starts_with("/*");
            let (length, token) = match next {
                // A quote with escapes belongs to the letter before it.
                'e' | 'E' if word == 1 && rest[1..].starts_with('\'') => (1 + escaped(&rest[1..]), Token::Other('\'')),
                // A dollar is no part of a name that it begins.
                _ if word > 0 && next != '$' => (word, Token::Word(&rest[..word])),
                _ => (quoted(rest).max(next.len_utf8()), Token::Other(next)),
            };
            self.0 = &rest[length..];
            if !is_comment && !next.is_whitespace() {
                return Some(token);
            }
        }
    }
}

fn is_in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// How long the text is that begins with a quote and in which a backslash quotes what follows.
fn escaped(rest: &str) -> usize {
    let mut quotes = false;
    let end = rest[1..].find(|c: char| {
        let is_end = c == '\'' && !quotes;
        quotes = c == '\\' && !quotes;
        is_end
    });
    end.map_or(rest.len(), |end| end + 2)
}

/// How long the quoted text or comment is that begins here; 0 if none does.
fn quoted(rest: &str) -> usize {
    let until = |open: usize, close: &str| rest[open..].find(close).map_or(rest.len(), |at| open + at + close.len());
    if rest.starts_with("--") {
        return until(2, "\n");
    }
    if rest.starts_with("/*") {
        return comment(rest);
    }
    match rest.as_bytes().first() {
        Some(b'\'') => until(1, "'"),
        Some(b'"') => until(1, "\""),
        Some(b'$') => {
            let end = rest[1..].find(|c: char| !c.is_alphanumeric() && c != '_');
            let tag = end.and_then(|end| rest.get(..end + 2));
            match tag.filter(|tag| tag.ends_with('$') && !tag[1..].starts_with(|c: char| c.is_ascii_digit())) {
                Some(tag) => until(tag.len(), tag),
                None => 0,
            }
        }
        _ => 0,
    }
}

/// How long the comment is that begins here, with those in it.
fn comment(rest: &str) -> usize {
    let (mut depth, mut at) = (1_usize, 2);
    while let Some(close) = rest[at..].find("*/") {
        match rest[at..at + close].find("/*") {
            Some(open) => {
                depth += 1;
                at += open + 2;
            }
            None => {
                depth -= 1;
                at += close + 2;
            }
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_what_its_statements_begin_with() {
        for (text, expected) in [
            ("BEGIN", Message::Begin),
            ("  begin isolation level serializable; INSERT INTO t VALUES (1)", Message::Begin),
            ("START TRANSACTION READ WRITE", Message::Begin),
            ("START something", Message::Execute),
            ("COMMIT", Message::Commit),
            ("/* why; */ -- so\n END;", Message::Commit),
            ("SELECT 1; COMMIT", Message::Commit),
            ("BEGIN; SELECT 1; COMMIT", Message::Commit),
            ("SELECT 'a; COMMIT'", Message::Execute),
            ("SELECT \"a; COMMIT\"; SELECT 'it''s; END'", Message::Execute),
            ("DO $$ BEGIN PERFORM 1; END $$", Message::Execute),
            ("DO $b$ BEGIN PERFORM '$$'; END $b$; commit", Message::Commit),
            ("SELECT $1; COMMIT", Message::Commit),
            ("SELECT 1 -- ; COMMIT", Message::Execute),
            ("COMMITTED", Message::Execute),
            ("ROLLBACK", Message::Execute),
            ("SELECT 'never closed; COMMIT", Message::Execute),
            ("SELECT $", Message::Execute),
            ("$é; COMMIT", Message::Commit),
            ("é; COMMIT", Message::Commit),
            (";;", Message::Execute),
            ("", Message::Execute),
        ] {
            assert_eq!(message(text), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ -~é$';/*\n\"-]{0,40}") {
            let _ = message(&text);
        }
    }
}
