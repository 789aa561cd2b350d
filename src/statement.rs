//! What a statement's text says about the session it leaves behind.

/// Longer texts are not parsed: they pin the session anyway.
pub(crate) const LONGEST_READ: usize = 16 * 1024;

/// What a text does to the session's transaction, as far as its words tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionEffect {
    /// Nothing.
    None,
    /// It opens one.
    Opens,
    /// It undoes what was done since a savepoint, errors included.
    ReturnsToSavepoint,
    /// It ends the one that is open.
    Ends,
    /// Several statements, and one of them may end the one that is open.
    MayEnd,
    /// Several statements, and one of them may open one: nobody can tell how it ends.
    Unsure,
}

/// The words that end a transaction.
const ENDINGS: [&str; 4] = ["abort", "commit", "end", "rollback"];

/// Reads the leading keyword, and in a text of several statements looks for words that open or end a transaction.
///
/// It errs to one side: a text may be called [`Unsure`](TransactionEffect::Unsure) or
/// [`MayEnd`](TransactionEffect::MayEnd) that is harmless (a function body with `BEGIN`), never the other way round. The
/// price of an error is one reconnect.
pub(crate) fn transaction_effect(sql: &str) -> TransactionEffect {
    let single = skip_blanks(sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace()));
    let mut words = single.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default();
    let is = |word: &str, other: &str| word.eq_ignore_ascii_case(other);
    if single.contains(';') {
        let opens = |word: &str| ["begin", "start", "chain"].iter().any(|opener| is(word, opener));
        let ends = |word: &str| is(word, "prepare") || ENDINGS.iter().any(|ending| is(word, ending));
        return if opens(first) || words.clone().any(opens) {
            TransactionEffect::Unsure
        } else if ends(first) || words.any(ends) {
            TransactionEffect::MayEnd
        } else {
            TransactionEffect::None
        };
    }
    if is(first, "begin") || is(first, "start") {
        TransactionEffect::Opens
    } else if ENDINGS.iter().any(|ending| is(first, ending)) {
        // What a comment says does not count.
        let mut rest = single;
        let next = |_| Some(next_word(&mut rest)).filter(|word| !word.is_empty());
        let rest: Vec<_> = (0..).map_while(next).skip(1).collect();
        let has = |wanted: &str| rest.iter().any(|word| is(word, wanted));
        if has("prepared") {
            TransactionEffect::None
        } else if has("to") {
            TransactionEffect::ReturnsToSavepoint
        } else if has("chain") && !has("no") {
            TransactionEffect::Unsure
        } else {
            TransactionEffect::Ends
        }
    } else if is(first, "prepare") && words.next().is_some_and(|second| is(second, "transaction")) {
        // It is the session's no more.
        TransactionEffect::Ends
    } else {
        TransactionEffect::None
    }
}

/// Whether an error may leave part of the text's effects behind: it holds several statements, or one that commits inside
/// itself. A semicolon in a literal counts as well; in doubt the text is not sent again.
pub(crate) fn may_leave_part(sql: &str) -> bool {
    let single = skip_blanks(sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace()));
    let mut words = single.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    let first = words.next().unwrap_or_default();
    let commits_inside =
        ["call", "do", "vacuum", "reindex", "cluster", "refresh", "create", "drop", "alter", "explain"];
    single.contains(';')
        || commits_inside.iter().any(|word| first.eq_ignore_ascii_case(word))
        || words.any(|word| word.eq_ignore_ascii_case("concurrently"))
}

/// The word that comes next, behind blanks and comments; empty where something else comes.
pub(crate) fn next_word<'a>(rest: &mut &'a str) -> &'a str {
    let sql = skip_blanks(rest);
    let end = sql.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(sql.len());
    let (word, after) = sql.split_at(end);
    *rest = after;
    word
}

/// The text after leading white space, comments and empty statements.
pub(crate) fn skip_blanks(mut sql: &str) -> &str {
    loop {
        sql = sql.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        if let Some(rest) = sql.strip_prefix("--") {
            sql = rest.find(['\n', '\r']).map_or("", |end| &rest[end..]);
        } else if let Some(rest) = sql.strip_prefix("/*") {
            sql = after_comment(rest);
        } else {
            return sql;
        }
    }
}

/// The text after a block comment, which may hold others.
fn after_comment(mut rest: &str) -> &str {
    let mut depth = 1;
    while depth > 0 {
        let Some(next) = rest.find(['*', '/']) else { return "" };
        rest = &rest[next..];
        if let Some(after) = rest.strip_prefix("*/") {
            (depth, rest) = (depth - 1, after);
        } else if let Some(after) = rest.strip_prefix("/*") {
            (depth, rest) = (depth + 1, after);
        } else {
            rest = &rest[1..];
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use TransactionEffect::{Ends, MayEnd, None, Opens, ReturnsToSavepoint, Unsure};

    #[test]
    fn the_leading_keyword_decides_for_a_single_statement() {
        for (sql, effect) in [
            ("SELECT 1", None),
            ("", None),
            ("begin", Opens),
            (" -- note\n /* a /* nested */ b */ BEGIN READ WRITE ;", Opens),
            ("start transaction", Opens),
            ("START TRANSACTION;", Opens),
            ("COMMIT", Ends),
            ("end;", Ends),
            ("rollback", Ends),
            ("ROLLBACK TO SAVEPOINT a", ReturnsToSavepoint),
            ("rollback to a", ReturnsToSavepoint),
            ("commit and no chain", Ends),
            ("COMMIT AND CHAIN", Unsure),
            ("COMMIT /* from here to there, prepared */", Ends),
            ("end -- up to here", Ends),
            ("rollback /* , */ work to a", ReturnsToSavepoint),
            ("COMMIT/**/AND/**/CHAIN", Unsure),
            ("ROLLBACK PREPARED 'x'", None),
            ("PREPARE TRANSACTION 'x'", Ends),
            ("PREPARE x AS SELECT 1", None),
            ("abort", Ends),
            ("SAVEPOINT begin", None),
            ("/* unended", None),
            ("-- a note ends with the line, however that ends\rBEGIN", Opens),
        ] {
            assert_eq!(transaction_effect(sql), effect, "{sql}");
        }
    }

    #[test]
    fn only_a_single_plain_statement_leaves_nothing_of_itself() {
        for whole in ["SELECT 1", "insert into t values (1);", " /* ; */ UPDATE t SET a = 1"] {
            assert!(!may_leave_part(whole), "{whole}");
        }
        for part in [
            "INSERT INTO t VALUES (1); COMMIT; SELECT 1",
            "call p()",
            "DO $$ BEGIN END $$",
            "VACUUM t",
            "-- note\rCALL p()",
        ] {
            assert!(may_leave_part(part), "{part}");
        }
    }

    #[test]
    fn several_statements_that_may_open_a_transaction_are_unsure() {
        assert_eq!(transaction_effect("BEGIN; INSERT INTO t VALUES (1)"), Unsure);
        assert_eq!(transaction_effect("SELECT 1; begin"), Unsure);
        assert_eq!(transaction_effect("SELECT 1; SELECT 2;"), None);
        assert_eq!(transaction_effect(";;BEGIN"), Opens);
        assert_eq!(transaction_effect("INSERT INTO t VALUES (1); ROLLBACK"), MayEnd);
        assert_eq!(transaction_effect("COMMIT /* ; */"), MayEnd);
        assert_eq!(transaction_effect("SELECT 1; PREPARE TRANSACTION 'x'"), MayEnd);
    }
}
