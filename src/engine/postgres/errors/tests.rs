//! Each row says what a server or proxy sends, and when; the driver reads it from a socket, as it does in earnest.

use std::io::ErrorKind as Io;

use futures::TryStreamExt;
use sqlx_core::connection::ConnectOptions;
use sqlx_core::sql_str::SqlSafeStr;
use sqlx_postgres::{PgConnectOptions, PgConnection, PgSslMode, Postgres};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::config::Access::{ReadOnly, ReadWrite};
use crate::transaction::{Committed, commit};
use ErrorKind as Kind;
use Outcome::{NotExecuted, NotSent, RolledBack, Unknown};
use Reaction::{BackOff, NewToken, Reconnect, Surface, Throttle};

/// Where in the conversation the rest of a row is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Instead of an answer to the startup packet.
    Connect,
    /// As the answer to a statement.
    Statement,
    Begin,
    Commit,
}
use At::{Begin, Commit, Connect, Statement};

/// What is sent.
#[derive(Clone, Copy, Debug)]
enum Sent {
    /// An ErrorResponse of this severity, and the end of the connection if it is not `ERROR`.
    Said(&'static str, &'static str, &'static str),
    /// The same after the statement's CommandComplete.
    SaidAfterDone(&'static str, &'static str, &'static str),
    /// A NoticeResponse, and the end of the connection.
    Noticed(&'static str, &'static str),
    /// Nothing and FIN, or RST.
    Nothing(Io),
    /// So many answers to statements, and FIN.
    Answered(usize),
}
use Sent::{Answered, Nothing, Noticed, Said, SaidAfterDone};

type Row = (&'static str, At, Sent, Kind, &'static str, Outcome, Reaction);

const ADMIN: &str = "terminating connection due to administrator command";
const BORROW: &str = "Timed-out waiting to acquire database connection.";

/// In the order of PostgreSQL's classes of errors; what the proxy says stands with its code.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Connecting: nothing of the user's was sent.
    ("proxy: borrow timeout at login", Connect, Said("FATAL", "08000", BORROW), Kind::Throttled, "throttled.borrow", NotSent, Throttle),
    ("server unreachable for the pooler", Connect, Said("FATAL", "08006", "x"), Kind::Connect, "connect.server", NotSent, BackOff),
    ("proxy: option not supported", Connect, Said("FATAL", "0A000", "Feature not supported: RDS Proxy currently doesn\u{2019}t support command-line options."), Kind::Config, "config.unsupported", NotSent, Surface),
    ("no pg_hba entry", Connect, Said("FATAL", "28000", "no pg_hba.conf entry for host"), Kind::Auth, "auth.rejected", NotSent, Surface),
    ("database: token expired or refused", Connect, Said("FATAL", "28000", "PAM authentication failed for user \"u\""), Kind::Auth, "auth.refused", NotSent, NewToken),
    ("proxy: no credentials for the role", Connect, Said("FATAL", "28000", "This RDS proxy has no credentials for the role u."), Kind::Auth, "auth.rejected", NotSent, Surface),
    ("proxy: TLS required", Connect, Said("FATAL", "28000", "This RDS Proxy requires TLS connections."), Kind::Auth, "auth.rejected", NotSent, Surface),
    ("password or token refused", Connect, Said("FATAL", "28P01", "The IAM authentication failed for the role u."), Kind::Auth, "auth.refused", NotSent, NewToken),
    ("no such database", Connect, Said("FATAL", "3D000", "database \"d\" does not exist"), Kind::Config, "config.database", NotSent, Surface),
    ("may not connect", Connect, Said("FATAL", "42501", "permission denied for database"), Kind::Auth, "auth.permission", NotSent, Surface),
    ("too many clients", Connect, Said("FATAL", "53300", "sorry, too many clients already"), Kind::Throttled, "throttled.connections", NotSent, Throttle),
    ("proxy: IAM rate", Connect, Said("FATAL", "53300", "The IAM authentication failed because of too many competing requests."), Kind::Throttled, "throttled.connections", NotSent, Throttle),
    ("proxy: connection rate", Connect, Said("FATAL", "53300", "Rate of connection to proxy exceeded 5."), Kind::Throttled, "throttled.connections", NotSent, Throttle),
    ("authentication timeout", Connect, Said("FATAL", "57014", "canceling authentication due to timeout"), Kind::Connect, "connect.server", NotSent, BackOff),
    ("shut down during login", Connect, Said("FATAL", "57P01", ADMIN), Kind::Connect, "connect.shutdown", NotSent, BackOff),
    ("crash of a sibling during login", Connect, Said("FATAL", "57P02", "x"), Kind::Connect, "connect.shutdown", NotSent, BackOff),
    ("starting up, shutting down, in recovery", Connect, Said("FATAL", "57P03", "the database system is starting up"), Kind::Connect, "connect.starting", NotSent, BackOff),
    ("database dropped", Connect, Said("FATAL", "57P04", "x"), Kind::Database, "connect.server", NotSent, Surface),
    ("proxy: its own error at login", Connect, Said("FATAL", "XX000", "Request returned an error: x"), Kind::Connect, "connect.server", NotSent, BackOff),
    ("closed during login", Connect, Nothing(Io::UnexpectedEof), Kind::Connect, "connect.io", NotSent, BackOff),
    ("reset during login", Connect, Nothing(Io::ConnectionReset), Kind::Connect, "connect.io", NotSent, BackOff),

    // One statement with its own commit.
    ("proxy: borrow timeout", Statement, Said("ERROR", "08000", BORROW), Kind::Throttled, "throttled.borrow", NotExecuted, Throttle),
    ("pooler lost its server, 08000", Statement, Said("ERROR", "08000", "x"), Kind::Database, "statement.refused", Unknown, Reconnect),
    ("pooler lost its server, 08003", Statement, Said("ERROR", "08003", "x"), Kind::Database, "statement.refused", Unknown, Reconnect),
    ("pooler lost its server, 08006", Statement, Said("ERROR", "08006", "x"), Kind::Database, "statement.refused", Unknown, Reconnect),
    ("resolution unknown", Statement, Said("ERROR", "08007", "x"), Kind::Database, "statement.refused", Unknown, Surface),
    ("protocol violation", Statement, Said("ERROR", "08P01", "x"), Kind::Database, "statement.refused", Unknown, Surface),
    ("cached plan must not change", Statement, Said("ERROR", "0A000", "cached plan must not change result type"), Kind::Database, "statement.refused", NotExecuted, Reconnect),
    ("feature not supported", Statement, Said("ERROR", "0A000", "x"), Kind::Database, "statement.refused", RolledBack, Surface),
    ("unique violation", Statement, Said("ERROR", "23505", "x"), Kind::Database, "statement.refused", RolledBack, Surface),
    ("deferred constraint after CommandComplete", Statement, SaidAfterDone("ERROR", "23503", "x"), Kind::Database, "statement.refused", RolledBack, Surface),
    ("read-only server", Statement, Said("ERROR", "25006", "cannot execute INSERT in a read-only transaction"), Kind::ReadOnly, "read_only.server", RolledBack, Reconnect),
    ("transaction is aborted", Statement, Said("ERROR", "25P02", "x"), Kind::Database, "statement.refused", NotExecuted, Surface),
    ("idle in transaction for too long", Statement, Said("FATAL", "25P03", "x"), Kind::Lost, "lost.connection", NotExecuted, Reconnect),
    ("transaction too long", Statement, Said("FATAL", "25P04", "x"), Kind::Lost, "lost.connection", Unknown, Reconnect),
    ("pooler lost the driver's statement", Statement, Said("ERROR", "26000", "prepared statement \"sqlx_s_1\" does not exist"), Kind::Database, "statement.refused", NotExecuted, Reconnect),
    ("the user's own statement is missing", Statement, Said("ERROR", "26000", "prepared statement \"mine\" does not exist"), Kind::Database, "statement.refused", RolledBack, Surface),
    ("pooler has the driver's statement already", Statement, Said("ERROR", "42P05", "prepared statement \"sqlx_s_1\" already exists"), Kind::Database, "statement.refused", NotExecuted, Reconnect),
    ("serialization failure", Statement, Said("ERROR", "40001", "x"), Kind::Database, "statement.refused", RolledBack, BackOff),
    ("conflict with recovery, session ended", Statement, Said("FATAL", "40001", "x"), Kind::Lost, "lost.connection", Unknown, Reconnect),
    ("integrity at commit", Statement, Said("ERROR", "40002", "x"), Kind::Database, "statement.refused", RolledBack, Surface),
    ("completion unknown", Statement, Said("ERROR", "40003", "x"), Kind::Database, "statement.refused", Unknown, Surface),
    ("deadlock", Statement, Said("ERROR", "40P01", "deadlock detected"), Kind::Database, "statement.refused", RolledBack, BackOff),
    ("disk full", Statement, Said("ERROR", "53100", "x"), Kind::Database, "statement.refused", RolledBack, Surface),
    ("out of memory", Statement, Said("ERROR", "53200", "x"), Kind::Database, "statement.refused", RolledBack, Surface),
    ("configured limit", Statement, Said("ERROR", "53400", "x"), Kind::Database, "statement.refused", RolledBack, Surface),
    ("lock not available", Statement, Said("ERROR", "55P03", "x"), Kind::Database, "statement.refused", RolledBack, Surface),
    ("cancelled or statement timeout", Statement, Said("ERROR", "57014", "x"), Kind::Database, "statement.refused", RolledBack, Surface),
    ("terminated", Statement, Said("FATAL", "57P01", ADMIN), Kind::Lost, "lost.connection", Unknown, Reconnect),
    ("terminated after CommandComplete", Statement, SaidAfterDone("FATAL", "57P01", ADMIN), Kind::Lost, "lost.connection", Unknown, Reconnect),
    ("waiting for the standby was cut short", Statement, Noticed("57P01", "canceling the wait for synchronous replication and terminating connection"), Kind::Lost, "lost.connection", Unknown, Reconnect),
    ("immediate shutdown", Statement, Noticed("57P01", "terminating connection due to immediate shutdown command"), Kind::Lost, "lost.connection", Unknown, Reconnect),
    ("crash of a sibling", Statement, Noticed("57P02", "terminating connection because of crash of another server process"), Kind::Lost, "lost.connection", Unknown, Reconnect),
    ("shutting down", Statement, Said("FATAL", "57P03", "x"), Kind::Lost, "lost.connection", Unknown, Reconnect),
    ("database dropped under the session", Statement, Said("FATAL", "57P04", "x"), Kind::Lost, "lost.connection", Unknown, Reconnect),
    ("idle session for too long", Statement, Said("FATAL", "57P05", "x"), Kind::Lost, "lost.connection", NotExecuted, Reconnect),
    ("system error", Statement, Said("ERROR", "58030", "x"), Kind::Database, "statement.refused", RolledBack, Surface),
    ("internal error, or the proxy's own", Statement, Said("ERROR", "XX000", "Unknown error."), Kind::Database, "statement.refused", Unknown, Surface),
    ("panic", Statement, Said("PANIC", "XX000", "x"), Kind::Lost, "lost.connection", Unknown, Reconnect),
    ("closed", Statement, Nothing(Io::UnexpectedEof), Kind::Lost, "lost.connection", Unknown, Reconnect),
    ("reset", Statement, Nothing(Io::ConnectionReset), Kind::Lost, "lost.connection", Unknown, Reconnect),

    // BEGIN: whatever came of it, nothing of the user's was sent.
    ("begin on a read-only server", Begin, Said("ERROR", "25006", "cannot set transaction read-write mode during recovery"), Kind::ReadOnly, "read_only.server", NotExecuted, Reconnect),
    ("begin during recovery", Begin, Said("ERROR", "0A000", "cannot set transaction read-write mode during recovery"), Kind::ReadOnly, "read_only.server", NotExecuted, Reconnect),
    ("begin: borrow timeout", Begin, Said("ERROR", "08000", BORROW), Kind::Throttled, "throttled.borrow", NotExecuted, Throttle),
    ("begin: terminated", Begin, Said("FATAL", "57P01", ADMIN), Kind::Lost, "lost.connection", NotExecuted, Reconnect),
    ("begin: closed", Begin, Nothing(Io::UnexpectedEof), Kind::Lost, "lost.connection", NotExecuted, Reconnect),

    // COMMIT: an error the server answers undoes, silence does not tell.
    ("commit: deferred constraint", Commit, Said("ERROR", "23505", "x"), Kind::Database, "commit.refused", RolledBack, Surface),
    ("commit: the transaction was ended before", Commit, Said("ERROR", "25P01", "x"), Kind::Database, "commit.ended", Unknown, Surface),
    ("commit: transaction is aborted", Commit, Said("ERROR", "25P02", "x"), Kind::Database, "commit.aborted", RolledBack, Surface),
    ("commit: idle in transaction for too long", Commit, Said("FATAL", "25P03", "x"), Kind::Lost, "commit.refused", RolledBack, Reconnect),
    ("commit: transaction too long", Commit, Said("FATAL", "25P04", "x"), Kind::Lost, "commit.unknown", Unknown, Reconnect),
    ("commit: serialization failure", Commit, Said("ERROR", "40001", "x"), Kind::Database, "commit.refused", RolledBack, BackOff),
    ("commit: completion unknown", Commit, Said("ERROR", "40003", "x"), Kind::Lost, "commit.unknown", Unknown, Reconnect),
    ("commit: resolution unknown", Commit, Said("ERROR", "08007", "x"), Kind::Lost, "commit.unknown", Unknown, Reconnect),
    ("commit: proxy's own error", Commit, Said("ERROR", "XX000", "x"), Kind::Lost, "commit.unknown", Unknown, Reconnect),
    ("commit: terminated", Commit, Said("FATAL", "57P01", ADMIN), Kind::Lost, "commit.unknown", Unknown, Reconnect),
    ("commit: waiting for the standby was cut short", Commit, Noticed("57P01", "canceling the wait for synchronous replication and terminating connection"), Kind::Lost, "commit.unknown", Unknown, Reconnect),
    ("commit: crash of a sibling", Commit, Noticed("57P02", "x"), Kind::Lost, "commit.unknown", Unknown, Reconnect),
    ("commit: closed", Commit, Nothing(Io::UnexpectedEof), Kind::Lost, "commit.unknown", Unknown, Reconnect),
    ("commit: reset", Commit, Nothing(Io::ConnectionReset), Kind::Lost, "commit.unknown", Unknown, Reconnect),
];

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("messages are short");
    [&[tag], length.to_be_bytes().as_slice(), body].concat()
}

fn told(tag: u8, severity: &str, code: &str, text: &str) -> Vec<u8> {
    let fields = [('S', severity), ('V', severity), ('C', code), ('M', text)];
    let fields: String = fields.iter().map(|(field, value)| format!("{field}{value}\0")).collect();
    message(tag, format!("{fields}\0").as_bytes())
}

impl Sent {
    /// The bytes, and whether the connection ends after them.
    fn bytes(self) -> (Vec<u8>, bool) {
        match self {
            Said("ERROR", code, text) => ([told(b'E', "ERROR", code, text), message(b'Z', b"I")].concat(), false),
            Said(severity, code, text) => (told(b'E', severity, code, text), true),
            SaidAfterDone(severity, code, text) => {
                let (said, ends) = Said(severity, code, text).bytes();
                ([message(b'C', b"INSERT 0 1\0"), said].concat(), ends)
            }
            Noticed(code, text) => (told(b'N', "WARNING", code, text), true),
            Nothing(_) => (Vec::new(), true),
            Answered(answers) => (message(b'C', b"SELECT 1\0").repeat(answers), true),
        }
    }
}

/// Plays the server's side of one row.
async fn play(mut client: TcpStream, at: At, sent: Sent) {
    let (bytes, ends) = sent.bytes();
    let length = client.read_u32().await.expect("a startup packet");
    client.read_exact(&mut vec![0; length as usize - 4]).await.expect("all of it");
    if at != Connect {
        let welcome = [message(b'R', &0_u32.to_be_bytes()), message(b'Z', b"I")].concat();
        client.write_all(&welcome).await.expect("the client is there");
        assert_eq!(client.read_u8().await.expect("a query"), b'Q');
        let length = client.read_u32().await.expect("its length");
        client.read_exact(&mut vec![0; length as usize - 4]).await.expect("all of it");
    }
    client.write_all(&bytes).await.expect("the client is there");
    if matches!(sent, Nothing(Io::ConnectionReset)) {
        socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).expect("it is a socket");
    } else if !ends {
        // Until the client goes.
        let _ = client.read(&mut [0; 64]).await;
    }
}

/// A connection, or the attempt at one, to a server that plays a row.
async fn connect_to(at: At, sent: Sent) -> (Result<PgConnection, SqlxError>, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let server = tokio::spawn(async move {
        let (client, _) = listener.accept().await.expect("a client comes");
        play(client, at, sent).await;
    });
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).username("u");
    (options.ssl_mode(PgSslMode::Disable).connect().await, server)
}

/// What the driver makes of a row.
async fn error_of(at: At, sent: Sent) -> SqlxError {
    let (connected, server) = connect_to(at, sent).await;
    let run = async {
        let mut connection = connected?;
        let sql = match at {
            Begin => "BEGIN READ WRITE",
            Commit => "COMMIT",
            _ => "INSERT INTO t VALUES (1)",
        };
        let statement = sqlx_core::raw_sql::raw_sql(sql.into_sql_str());
        statement.fetch_many(&mut connection).try_for_each(|_| async { Ok(()) }).await
    };
    let error = run.await.expect_err("each row ends with an error");
    server.await.expect("the server has played its part");
    error
}

#[tokio::test]
async fn an_answered_commit_is_a_commit_and_what_was_answered_before_it_is_none() {
    for answers in 0..=2 {
        let (connected, server) = connect_to(Commit, Answered(answers)).await;
        let mut connection = connected.expect("the login succeeds");
        let result = commit::<Postgres>(&mut connection, false, None).await;
        server.await.expect("the server has played its part");
        match result {
            Ok(Committed { connection_lost }) => assert!(answers == 2 && connection_lost, "{answers} answers"),
            Err(error) => {
                assert!(answers < 2, "{error}");
                assert_eq!(judge_commit(&error).outcome, Unknown);
            }
        }
    }
}

#[tokio::test]
async fn each_row_of_the_table_is_judged_as_it_says() {
    let mut wrong = Vec::new();
    for &(name, at, sent, kind, code, outcome, reaction) in ROWS {
        let error = error_of(at, sent).await;
        let verdict = match at {
            Connect => judge_connect(&error),
            Statement => judge_statement(&error, ReadWrite),
            Begin => judge_begin(&error, ReadWrite),
            Commit => judge_commit(&error),
        };
        let found = (verdict.kind, verdict.code, verdict.outcome, verdict.reaction);
        println!("{name}: {found:?}");
        if found != (kind, code, outcome, reaction) {
            wrong.push(format!("{name}: {found:?} for {error:?}"));
        }
        // A connection that has ended, or that somebody has lost track of, is not used again.
        let answered = matches!(sent, Said("ERROR", ..) | SaidAfterDone("ERROR", ..));
        assert!(!verdict.keep || answered, "{name}");
        assert!(!verdict.keep || verdict.outcome != Unknown, "{name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_session_that_is_to_read_takes_a_read_only_error_for_the_statement_s_own() {
    let error = error_of(Statement, Said("ERROR", "25006", "cannot execute INSERT in a read-only transaction")).await;
    let verdict = judge_statement(&error, ReadOnly);
    assert_eq!((verdict.kind, verdict.reaction, verdict.keep), (Kind::Database, Surface, true));
}

#[test]
fn no_row_stands_twice() {
    let mut names: Vec<_> = ROWS.iter().map(|row| row.0).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn a_certificate_a_refused_port_and_a_runtime_that_ends_are_told_from_a_lost_connection() {
    let io = |kind, text: &str| SqlxError::Io(io::Error::new(kind, text.to_owned()));
    let connect = |error| (judge_connect(&error).code, judge_connect(&error).reaction);
    assert_eq!(
        connect(io(Io::InvalidData, "invalid peer certificate: UnknownIssuer")),
        ("connect.certificate", Surface)
    );
    assert_eq!(connect(io(Io::ConnectionRefused, "refused")), ("connect.refused", BackOff));
    // What the driver says of a connection that ends instead of an answer to its wish for TLS.
    assert_eq!(
        connect(SqlxError::Protocol("unexpected response from SSLRequest: 0x00".into())),
        ("connect.io", BackOff)
    );
    let gone = || io(Io::Other, "A Tokio 1.x context was found, but it is being shutdown.");
    assert_eq!(connect(gone()), ("closed.runtime", Surface));
    let verdict = judge_statement(&gone(), ReadWrite);
    assert_eq!((verdict.code, verdict.outcome, verdict.reaction), ("closed.runtime", Unknown, Surface));
}

#[test]
fn what_tokio_says_when_its_runtime_ends_is_recognised() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let (mut ours, _theirs) = runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        (ours.expect("connected"), theirs.expect("accepted"))
    });
    drop(runtime);
    let another = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let error = another.block_on(ours.read_u8()).expect_err("its runtime has ended");
    assert!(is_runtime_gone(&error), "{error}");
}
