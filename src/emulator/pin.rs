//! Statements that keep a client on its database session, told by their text.

use std::fmt;

use super::text::{Token, Tokens};

/// Longer texts pin.
const LONGEST: usize = 16_384;

/// Why a client session is pinned: it keeps its database session until it closes.
///
/// The emulator looks at texts as far as their words go, outside of quotes and comments. What a function or a `DO` block
/// does inside is not seen, neither by RDS Proxy: a setting changed there stays behind for the next client.
///
/// Source: "Avoiding pinning an RDS Proxy", for all engines and for PostgreSQL. It exempts `SET LOCAL` and
/// `set_config(…, true)` for MySQL only; here they pin. Printed in the words of RDS Proxy's log, where they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PinReason {
    /// `SET` or `RESET` of anything, or a call of `set_config`.
    Setting,
    /// `PREPARE`, `EXECUTE`, also behind `EXPLAIN`, or `DEALLOCATE`; statements prepared by the protocol do not pin. Here a
    /// text that names one of those pins when it is parsed, others when they run.
    PreparedStatement,
    /// `DISCARD`.
    Discard,
    /// A temporary table, view or sequence.
    TemporaryObject,
    /// `DECLARE` of a cursor.
    Cursor,
    /// `LISTEN`.
    Listen,
    /// `LOAD` of a library.
    Library,
    /// A call of `nextval` or `setval`; a default that calls one is not seen.
    Sequence,
    /// An advisory lock of the session; those of the transaction do not pin.
    AdvisoryLock,
    /// A text of more than 16384 bytes; values that are bound do not count.
    TextTooLong,
}

impl fmt::Display for PinReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PinReason::Setting => {
                "SQL changed session settings that the proxy doesn't track. Consider moving session configuration to the \
                 proxy's initialization query."
            }
            PinReason::PreparedStatement => "SQL prepared, ran or removed a prepared statement.",
            PinReason::Discard => "SQL discarded session state.",
            PinReason::TemporaryObject => "SQL created a temporary table, view or sequence.",
            PinReason::Cursor => "SQL declared a cursor.",
            PinReason::Listen => "SQL listened for notifications.",
            PinReason::Library => "SQL loaded a library.",
            PinReason::Sequence => "SQL called a function of a sequence.",
            PinReason::AdvisoryLock => "SQL took an advisory lock of the session.",
            PinReason::TextTooLong => "The connection ran a SQL query which exceeded the 16384 byte limit.",
        })
    }
}

impl PinReason {
    /// What running this text pins by, if it does.
    pub(super) fn of(sql: &[u8]) -> Option<PinReason> {
        if sql.len() > LONGEST {
            return Some(PinReason::TextTooLong);
        }
        let text = String::from_utf8_lossy(sql);
        let mut statement = Statement::default();
        for token in Tokens::of(&text) {
            let reason = match token {
                Token::Word(word) => {
                    statement.word(word);
                    None
                }
                Token::Other('(') => {
                    statement.depth += 1;
                    statement.call()
                }
                Token::Other(')') => {
                    statement.depth = statement.depth.saturating_sub(1);
                    statement.previous = None;
                    None
                }
                Token::Other(';') => {
                    let reason = statement.reason();
                    statement = Statement::default();
                    reason
                }
                Token::Other(_) => {
                    statement.previous = None;
                    None
                }
            };
            if reason.is_some() {
                return reason;
            }
        }
        statement.reason()
    }
}

/// A statement as far as it has been read.
#[derive(Default)]
struct Statement<'t> {
    /// Parentheses that are open.
    depth: usize,
    /// Its first words outside of them.
    words: Vec<&'t str>,
    /// The word right before, if it was one.
    previous: Option<&'t str>,
    /// `SELECT … INTO TEMP`.
    makes_temporary: bool,
}

impl<'t> Statement<'t> {
    fn word(&mut self, word: &'t str) {
        // CREATE OR REPLACE LOCAL TEMPORARY is the longest beginning that matters.
        if self.words.len() < 5 && self.depth == 0 {
            self.words.push(word);
        }
        let after_into = self.previous.is_some_and(|previous| is(previous, &["INTO"]));
        self.makes_temporary |= after_into && is(word, &["TEMP", "TEMPORARY"]) && self.begins(&["SELECT"]);
        self.previous = Some(word);
    }

    /// A parenthesis opens: behind a name it is a call.
    fn call(&mut self) -> Option<PinReason> {
        const SEQUENCES: [&str; 2] = ["nextval", "setval"];
        const LOCKS: [&str; 4] =
            ["pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared"];
        let called = self.previous.take()?;
        if is(called, &["set_config"]) {
            Some(PinReason::Setting)
        } else if is(called, &SEQUENCES) {
            Some(PinReason::Sequence)
        } else {
            is(called, &LOCKS).then_some(PinReason::AdvisoryLock)
        }
    }

    fn begins(&self, any_of: &[&str]) -> bool {
        self.words.first().is_some_and(|first| is(first, any_of))
    }

    fn reason(&self) -> Option<PinReason> {
        let mut words = self.words.iter();
        let first = words.next()?;
        let mut behind = words.skip_while(|word| is(word, &["OR", "REPLACE", "GLOBAL", "LOCAL", "ANALYZE", "VERBOSE"]));
        let next = behind.next().copied().unwrap_or_default();
        match first.to_ascii_uppercase().as_str() {
            "SET" | "RESET" => Some(PinReason::Setting),
            // The first half of a two-phase commit.
            "PREPARE" if is(next, &["TRANSACTION"]) => None,
            "PREPARE" | "EXECUTE" | "DEALLOCATE" => Some(PinReason::PreparedStatement),
            "EXPLAIN" if is(next, &["EXECUTE"]) => Some(PinReason::PreparedStatement),
            "DISCARD" => Some(PinReason::Discard),
            "CREATE" if is(next, &["TEMP", "TEMPORARY"]) => Some(PinReason::TemporaryObject),
            "DECLARE" => Some(PinReason::Cursor),
            "LISTEN" => Some(PinReason::Listen),
            "LOAD" => Some(PinReason::Library),
            _ => self.makes_temporary.then_some(PinReason::TemporaryObject),
        }
    }
}

fn is(word: &str, any_of: &[&str]) -> bool {
    any_of.iter().any(|other| word.eq_ignore_ascii_case(other))
}
