//! What a text of statements does to transactions, as far as its first words tell.

use super::fault::Message;

/// As faults know it: a text that commits anywhere is a commit, one that begins with the beginning of a transaction is that.
pub(super) fn message(text: &str) -> Message {
    let mut statements = statements(text).into_iter().map(first_words);
    let first = statements.next().unwrap_or_default();
    let commits = |[first, _]: &[&str; 2]| is(first, "COMMIT") || is(first, "END");
    if commits(&first) || statements.any(|words| commits(&words)) {
        Message::Commit
    } else if is(first[0], "BEGIN") || (is(first[0], "START") && is(first[1], "TRANSACTION")) {
        Message::Begin
    } else {
        Message::Execute
    }
}

fn is(word: &str, other: &str) -> bool {
    word.eq_ignore_ascii_case(other)
}

fn first_words(statement: &str) -> [&str; 2] {
    let mut words = statement.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    [words.next().unwrap_or_default(), words.next().unwrap_or_default()]
}

/// The statements between the semicolons that stand outside quotes and comments, without comments at their beginning.
fn statements(text: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut start, mut at, mut blank) = (0, 0, true);
    while let Some(next) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = quoted(rest).max(next.len_utf8());
        let is_comment = rest.starts_with("--") || rest.starts_with("/*");
        if next == ';' {
            statements.push(&text[start..at]);
            (start, blank) = (at + length, true);
        } else if blank && (is_comment || next.is_whitespace()) {
            start = at + length;
        } else {
            blank = false;
        }
        at += length;
    }
    statements.push(&text[start..]);
    statements
}

/// How long the quoted text or comment is that begins here; 0 if none does.
fn quoted(rest: &str) -> usize {
    let until = |open: usize, close: &str| rest[open..].find(close).map_or(rest.len(), |at| open + at + close.len());
    if rest.starts_with("--") {
        return until(2, "\n");
    }
    if rest.starts_with("/*") {
        return until(2, "*/");
    }
    match rest.as_bytes().first() {
        Some(b'\'') => until(1, "'"),
        Some(b'"') => until(1, "\""),
        Some(b'$') => {
            let end = rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let tag = end.and_then(|end| rest.get(..end + 2));
            match tag.filter(|tag| tag.ends_with('$') && !tag[1..].starts_with(|c: char| c.is_ascii_digit())) {
                Some(tag) => until(tag.len(), tag),
                None => 0,
            }
        }
        _ => 0,
    }
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
