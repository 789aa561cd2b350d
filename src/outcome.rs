//! The words for what happened: outcome of the work, phase that failed, cause seen.

use std::fmt;

/// What became of a statement or transaction whose call returned an error.
///
/// It answers one question: is a repeat safe? [`NotSent`](Outcome::NotSent), [`NotExecuted`](Outcome::NotExecuted) and
/// [`RolledBack`](Outcome::RolledBack) left nothing behind; [`Unknown`](Outcome::Unknown) may have.
///
/// ```
/// use rds_proxy_pool::Outcome;
///
/// assert!(Outcome::NotSent.left_nothing());
/// assert!(!Outcome::Unknown.left_nothing());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// No complete request left this process, or there was no session to receive it.
    NotSent,
    /// The server answered, but refused before running it.
    NotExecuted,
    /// The statement was undone and its transaction is still open (MySQL only).
    Undone,
    /// The statement and everything before it in its transaction is undone.
    RolledBack,
    /// It may have been applied, now or later: the answer was lost.
    Unknown,
    /// It is applied, although the call returned an error.
    Committed,
}

impl Outcome {
    /// Whether the database is certain to be as if the call had not been made.
    pub fn left_nothing(self) -> bool {
        matches!(self, Outcome::NotSent | Outcome::NotExecuted | Outcome::RolledBack)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::NotSent => "not sent",
            Outcome::NotExecuted => "not executed",
            Outcome::Undone => "statement undone",
            Outcome::RolledBack => "rolled back",
            Outcome::Unknown => "unknown",
            Outcome::Committed => "committed",
        })
    }
}

/// What became of a transaction whose commit was in doubt, for good.
///
/// ```
/// use rds_proxy_pool::Resolved;
///
/// assert_ne!(Resolved::Committed, Resolved::RolledBack);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolved {
    /// It was committed.
    Committed,
    /// It was not, and never will be: it may be run again.
    RolledBack,
}

/// The part of a call that was under way when it failed.
///
/// ```
/// use rds_proxy_pool::Phase;
///
/// assert_eq!(Phase::Tcp.to_string(), "opening the TCP connection");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Reading the configuration.
    Configure,
    /// Waiting for one of the pool's connections to become free.
    Queue,
    /// Loading credentials and signing a token.
    Token,
    /// Resolving the endpoint's name.
    Dns,
    /// Opening the TCP connection.
    Tcp,
    /// TLS handshake and login.
    Login,
    /// The check of a connection that was idle.
    Fence,
    /// Opening a transaction.
    Begin,
    /// Running a statement.
    Statement,
    /// Committing a transaction.
    Commit,
    /// Rolling a transaction back.
    Rollback,
}

impl Phase {
    /// Its name in an error's [`code`](crate::Error::code) and in log fields.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Configure => "configure",
            Phase::Queue => "queue",
            Phase::Token => "token",
            Phase::Dns => "dns",
            Phase::Tcp => "tcp",
            Phase::Login => "login",
            Phase::Fence => "fence",
            Phase::Begin => "begin",
            Phase::Statement => "statement",
            Phase::Commit => "commit",
            Phase::Rollback => "rollback",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Configure => "reading the configuration",
            Phase::Queue => "waiting for a free connection",
            Phase::Token => "getting a token",
            Phase::Dns => "resolving the endpoint",
            Phase::Tcp => "opening the TCP connection",
            Phase::Login => "logging in over TLS",
            Phase::Fence => "checking an idle connection",
            Phase::Begin => "opening the transaction",
            Phase::Statement => "running the statement",
            Phase::Commit => "committing",
            Phase::Rollback => "rolling back",
        })
    }
}

/// What is useful after a failure; whether it is safe is the [`Outcome`]'s business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Another connection may do better at once.
    Reconnect,
    /// Another token may be accepted.
    NewToken,
    /// The same again after a short wait.
    BackOff,
    /// The same again after a longer wait: the server is at a limit.
    Throttle,
    /// Nothing this process can do will change it.
    Surface,
}

/// What an engine makes of a driver error: the row of its table.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// Whose fault it is.
    pub kind: ErrorKind,
    /// The stable name of the case.
    pub code: &'static str,
    /// What became of the work.
    pub outcome: Outcome,
    /// What is useful next.
    pub reaction: Reaction,
    /// Whether the connection is as good as before.
    pub keep: bool,
    /// What to do about it, where the error alone tells.
    pub hint: Option<&'static str>,
}

/// A COMMIT for a transaction that is there no more.
pub(crate) const COMMIT_ENDED: Verdict = Verdict {
    kind: ErrorKind::Database,
    code: "commit.ended",
    outcome: Outcome::Unknown,
    reaction: Reaction::Surface,
    keep: false,
    hint: Some(
        "what came before it is as that statement left it, and what came after it took effect at once: end a transaction \
         with commit() or rollback(), not with COMMIT or ROLLBACK",
    ),
};

/// Whose fault an [`Error`](crate::Error) is, and so who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is missing or wrong: mend the configuration. Nothing was sent.
    Config,
    /// AWS credentials could not be loaded or have expired: mend the role or the provider. Nothing was sent.
    Credentials,
    /// The proxy or server refused the login: mend user, policy, secret or clock.
    Auth,
    /// No connection could be made: network, name, certificate, or a server that is down.
    Connect,
    /// The deadline or the acquire timeout was reached.
    Deadline,
    /// The server is at one of its limits: fewer connections, or later.
    Throttled,
    /// The connection was lost while it was in use; see the outcome before you repeat anything.
    Lost,
    /// The server cannot write: it is a reader, or a writer that was demoted.
    ReadOnly,
    /// This crate was used in a way it cannot serve: mend the code.
    Usage,
    /// The pool was closed by this process.
    Closed,
    /// The database answered an error of its own.
    Database,
}
