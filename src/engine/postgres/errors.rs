//! PostgreSQL's and RDS Proxy's error codes, and what each means for the caller. Codes and texts stand here alone.
//!
//! Sources: the PostgreSQL error code appendix; "Troubleshooting for RDS Proxy" in the Amazon RDS User Guide.

use std::io;

use sqlx_core::error::Error as SqlxError;
use sqlx_postgres::{PgDatabaseError, PgSeverity};

use crate::config::Access;
use crate::outcome::{COMMIT_ENDED, ErrorKind, Outcome, Reaction, Verdict};

const fn not_sent(kind: ErrorKind, code: &'static str, reaction: Reaction) -> Verdict {
    Verdict { kind, code, outcome: Outcome::NotSent, reaction, keep: false, hint: None }
}

const fn hinted(verdict: Verdict, hint: &'static str) -> Verdict {
    Verdict { hint: Some(hint), ..verdict }
}

/// The connection is gone and with it the answer.
const LOST: Verdict = Verdict {
    kind: ErrorKind::Lost,
    code: "lost.connection",
    outcome: Outcome::Unknown,
    reaction: Reaction::Reconnect,
    keep: false,
    hint: Some("the answer was lost after the request was sent: find out what happened before repeating a write"),
};

/// There is no table for the markers.
const MARKERS_MISSING: Verdict = Verdict {
    kind: ErrorKind::Config,
    code: "markers.missing",
    outcome: Outcome::NotExecuted,
    reaction: Reaction::Surface,
    keep: false,
    hint: Some(
        "make the table with the statement of Pool::commit_marker_table_sql() and grant this user SELECT, INSERT, UPDATE \
         and DELETE on it, or turn commit markers off",
    ),
};

/// There is no table for the keys of what is done once.
const ONCE_MISSING: Verdict = Verdict {
    code: "once.missing",
    hint: Some(
        "make the table with the statement of Pool::once_table_sql() and grant this user SELECT, INSERT, UPDATE and DELETE \
         on it",
    ),
    ..MARKERS_MISSING
};

/// This process is ending the runtime the connection lives on.
const RUNTIME_GONE: Verdict = Verdict {
    kind: ErrorKind::Closed,
    code: "closed.runtime",
    outcome: Outcome::Unknown,
    reaction: Reaction::Surface,
    keep: false,
    hint: Some("the tokio runtime of this connection has ended: run the pool's calls on a runtime that lives as long"),
};

/// Everything up to the end of the login: nothing of the user's was sent.
pub(super) fn judge_connect(error: &SqlxError) -> Verdict {
    use ErrorKind::{Auth, Config, Connect, Database, Throttled};
    use Reaction::{BackOff, NewToken, Surface, Throttle};
    match error {
        SqlxError::Database(_) => match code(error).as_str() {
            "28P01" => not_sent(Auth, "auth.refused", NewToken),
            // A database without proxy answers an expired token with this code; the proxy uses it for configuration.
            "28000" if message(error).contains("PAM authentication failed") => not_sent(Auth, "auth.refused", NewToken),
            "28000" => hinted(
                not_sent(Auth, "auth.rejected", Surface),
                "the server does not accept this way of logging in: check the proxy's authentication settings, the \
                 secret attached for this user, and TLS",
            ),
            "53300" => hinted(
                not_sent(Throttled, "throttled.connections", Throttle),
                "the proxy or server is at a limit of connections or logins: fewer environments, or a larger limit",
            ),
            "57P03" => not_sent(Connect, "connect.starting", BackOff),
            "57P01" | "57P02" => not_sent(Connect, "connect.shutdown", BackOff),
            // The login took the server too long, or something between here and there broke: the next may do better.
            "57014" | "58000" | "58030" | "08001" | "08003" | "08006" | "XX000" => {
                not_sent(Connect, "connect.server", BackOff)
            }
            "08000" => hinted(
                not_sent(Throttled, "throttled.borrow", Throttle),
                "the proxy found no database connection in time: the database is failing over, or sessions pin, or its \
                 connection limit is too low",
            ),
            "0A000" => {
                hinted(not_sent(Config, "config.unsupported", Surface), "RDS Proxy refuses this connection option")
            }
            "3D000" => not_sent(Config, "config.database", Surface),
            "42501" => not_sent(Auth, "auth.permission", Surface),
            _ => not_sent(Database, "connect.server", Surface),
        },
        SqlxError::Tls(_) => {
            hinted(not_sent(Connect, "connect.tls", Surface), "the server refused TLS, which this pool always asks for")
        }
        SqlxError::Io(io) if is_runtime_gone(io) => Verdict { outcome: Outcome::NotSent, ..RUNTIME_GONE },
        SqlxError::Io(io) if is_certificate(io) => hinted(
            not_sent(Connect, "connect.certificate", Surface),
            "the server's certificate is not trusted or is for another name: check the endpoint, or name the \
             authority's file in DB_CA_FILE",
        ),
        SqlxError::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused => {
            not_sent(Connect, "connect.refused", BackOff)
        }
        SqlxError::Io(_) | SqlxError::Protocol(_) => not_sent(Connect, "connect.io", BackOff),
        _ => not_sent(Connect, "connect.other", Surface),
    }
}

/// A statement that was handed to the driver on a live connection.
pub(super) fn judge_statement(error: &SqlxError, access: Access) -> Verdict {
    let server = |outcome, reaction, keep| Verdict {
        kind: ErrorKind::Database,
        code: "statement.refused",
        outcome,
        reaction,
        keep,
        hint: None,
    };
    match error {
        SqlxError::Database(_) if is_fatal(error) => match code(error).as_str() {
            // Raised only while the server waits for a command: the statement came too late.
            "57P05" | "25P03" => Verdict { outcome: Outcome::NotExecuted, hint: None, ..LOST },
            // One that says the transaction took too long may have been raised before its commit and be said after it.
            _ => LOST,
        },
        SqlxError::Database(_) => match code(error).as_str() {
            "25006" if access == Access::ReadWrite => Verdict {
                kind: ErrorKind::ReadOnly,
                code: "read_only.server",
                keep: false,
                ..server(Outcome::RolledBack, Reaction::Reconnect, false)
            },
            // The proxy had no database connection to give: it did not run the statement.
            "08000" if message(error).contains("waiting to acquire") => Verdict {
                kind: ErrorKind::Throttled,
                code: "throttled.borrow",
                ..server(Outcome::NotExecuted, Reaction::Throttle, true)
            },
            // Made by a pooler that lost its server: whether before, after or while it worked, it does not say.
            "08000" | "08003" | "08006" => server(Outcome::Unknown, Reaction::Reconnect, false),
            // Made by one that cannot follow the protocol, or says itself that it does not know.
            "08007" | "08P01" | "40003" | "XX000" => server(Outcome::Unknown, Reaction::Surface, false),
            // Undone so that another could go on: by itself it may well succeed.
            "40001" | "40P01" => server(Outcome::RolledBack, Reaction::BackOff, true),
            "25P02" => server(Outcome::NotExecuted, Reaction::Surface, true),
            // A statement that was prepared on this connection is not what the driver takes it for any more.
            _ if is_stale(error) => server(Outcome::NotExecuted, Reaction::Reconnect, false),
            _ => server(Outcome::RolledBack, Reaction::Surface, true),
        },
        SqlxError::Io(io) if is_runtime_gone(io) => RUNTIME_GONE,
        SqlxError::Io(_) => LOST,
        // Said before anything of the statement is sent.
        SqlxError::Protocol(text) if text.contains("too many arguments for query") => {
            server(Outcome::NotSent, Reaction::Surface, true)
        }
        SqlxError::Protocol(_) => Verdict { code: "lost.protocol", reaction: Reaction::Surface, ..LOST },
        // For the last the driver has asked the server, and nothing else.
        SqlxError::Encode(_) | SqlxError::InvalidArgument(_) | SqlxError::TypeNotFound { .. } => {
            server(Outcome::NotSent, Reaction::Surface, true)
        }
        SqlxError::RowNotFound => server(Outcome::Committed, Reaction::Surface, true),
        _ => server(Outcome::Unknown, Reaction::Surface, false),
    }
}

/// A statement that leaves its marker in this table: what the server says of the table is not the user's business.
pub(super) fn judge_marked(error: &SqlxError, access: Access, table: &str) -> Verdict {
    let (schema, name) = table.split_once('.').map_or((None, table), |(schema, name)| (Some(schema), name));
    let text = message(error);
    let mut words = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'));
    let is_meant = match code(error).as_str() {
        // The name is said as it stands in the statement.
        "42P01" => words.any(|word| word == table),
        "42501" => words.any(|word| word == name || Some(word) == schema),
        "42703" => words.clone().any(|word| word == name) && words.any(|word| word == "key" || word == "state"),
        _ => false,
    };
    if is_meant { MARKERS_MISSING } else { judge_statement(error, access) }
}

/// A BEGIN: whatever came of it, the user's work was not sent.
pub(super) fn judge_begin(error: &SqlxError, access: Access) -> Verdict {
    let cannot_write = || {
        let in_recovery = code(error) == "0A000" && message(error).contains("recovery");
        access == Access::ReadWrite && (code(error) == "25006" || in_recovery)
    };
    let verdict = match error {
        SqlxError::Database(_) if cannot_write() => Verdict {
            kind: ErrorKind::ReadOnly,
            code: "read_only.server",
            reaction: Reaction::Reconnect,
            keep: false,
            hint: Some(
                "this endpoint leads to a server that cannot write; for a reader endpoint set DB_ACCESS=read-only",
            ),
            ..LOST
        },
        // BEGIN itself names no table.
        _ if is_about_the_table(error) => MARKERS_MISSING,
        _ => judge_statement(error, access),
    };
    Verdict { outcome: Outcome::NotExecuted, hint: verdict.hint.filter(|_| verdict.code != LOST.code), ..verdict }
}

/// The same with a key that is taken.
pub(super) fn judge_once(error: &SqlxError, access: Access) -> Verdict {
    match error {
        _ if is_about_the_table(error) => ONCE_MISSING,
        // The key was there a moment ago and is deleted now.
        SqlxError::RowNotFound => Verdict { reaction: Reaction::BackOff, ..judge_begin(error, access) },
        _ => judge_begin(error, access),
    }
}

/// A COMMIT, or the statement that travels before it in the same message.
pub(super) fn judge_commit(error: &SqlxError) -> Verdict {
    // A statement before has ended the transaction: how, only its sender knows.
    if code(error) == "25P01" {
        return COMMIT_ENDED;
    }
    let verdict = judge_statement(error, Access::ReadOnly);
    // What the server refused to run as well as what it undid: without its COMMIT nothing of a transaction stays.
    let refused = matches!(error, SqlxError::Database(_)) && verdict.outcome.left_nothing();
    if refused {
        let aborted = code(error) == "25P02";
        Verdict {
            code: if aborted { "commit.aborted" } else { "commit.refused" },
            outcome: Outcome::RolledBack,
            keep: verdict.keep && !aborted,
            hint: aborted.then_some("an earlier statement failed; the server undid the whole transaction"),
            ..verdict
        }
    } else {
        Verdict { code: "commit.unknown", keep: false, ..LOST }
    }
}

/// The question for a marker: nothing the server says about it now is its last word, unless the table is not what it was.
pub(super) fn judge_fence(error: &SqlxError) -> Verdict {
    if is_about_the_table(error) {
        return MARKERS_MISSING;
    }
    let verdict = judge_statement(error, Access::ReadWrite);
    let reaction = match verdict.reaction {
        Reaction::Surface | Reaction::NewToken => Reaction::BackOff,
        reaction => reaction,
    };
    Verdict { reaction, outcome: Outcome::NotExecuted, ..verdict }
}

/// Whether the table of the markers is not there, not of the form it was made in, or out of this user's reach.
fn is_about_the_table(error: &SqlxError) -> bool {
    matches!(code(error).as_str(), "42P01" | "42703" | "42501" | "42P10" | "42804" | "3F000")
}

/// A ROLLBACK: the server undoes the transaction when its connection ends, too.
pub(super) fn judge_rollback(error: &SqlxError) -> Verdict {
    let verdict = judge_statement(error, Access::ReadOnly);
    Verdict { outcome: Outcome::RolledBack, hint: None, keep: false, ..verdict }
}

fn code(error: &SqlxError) -> String {
    error.as_database_error().and_then(|error| error.code()).map(String::from).unwrap_or_default()
}

fn message(error: &SqlxError) -> &str {
    error.as_database_error().map(|error| error.message()).unwrap_or_default()
}

/// The schema changed under a prepared statement, or a pooler mixed up the driver's statements.
fn is_stale(error: &SqlxError) -> bool {
    match code(error).as_str() {
        "0A000" => message(error).contains("cached plan must not change result type"),
        "26000" | "42P05" => message(error).contains("sqlx_s_"),
        _ => false,
    }
}

fn is_fatal(error: &SqlxError) -> bool {
    let severity = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .map(PgDatabaseError::severity);
    matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic))
}

/// tokio has no other way to say so: its sockets answer that when their runtime is shut down.
fn is_runtime_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.to_string().contains("being shutdown")
}

/// rustls reports a certificate it does not accept as invalid data.
fn is_certificate(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("certificate")
}

#[cfg(test)]
mod tests;
