//! One error type: whose fault it is, whether anything was sent, and what to do next.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use sqlx_core::error::{DatabaseError, Error as SqlxError};

use crate::key::OutcomeKey;
pub use crate::outcome::ErrorKind;
use crate::outcome::{Outcome, Phase};

type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong in the pool, what became of the work, and what to do about it.
///
/// `{}` prints one line; `{:#}` the same line with every cause behind it, for log systems that take lines.
/// No form of it prints a password, a token or a key.
///
/// Through sqlx's `Executor` the error arrives inside a [`sqlx::Error`](SqlxError); [`Error::find`] gets it back.
/// Errors the server gave for your own statement are not wrapped: they stay what sqlx makes of them.
///
/// ```
/// use rds_proxy_pool::{ErrorKind, Outcome, ProxyConfig};
///
/// let error = ProxyConfig::builder().endpoint("db.example.com").user("app").build().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Config);
/// assert_eq!(error.outcome(), Outcome::NotSent);
/// assert_eq!(error.code(), "config.missing");
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    code: &'static str,
    outcome: Outcome,
    phase: Option<Phase>,
    message: String,
    hint: Option<String>,
    attempts: u32,
    waited: Duration,
    counts: Option<PoolCounts>,
    key: Option<OutcomeKey>,
    source: Option<Source>,
}

/// A driver error is kept as such, so that a delegating database error can be made of it.
enum Source {
    Driver(SqlxError),
    Other(BoxError),
}

/// The pool's connections at the moment of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PoolCounts {
    /// Connections open, in use and idle, and being opened.
    pub open: usize,
    /// Connections open and not in use.
    pub idle: usize,
    /// Calls waiting for a free connection.
    pub waiting: usize,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            code,
            outcome: Outcome::NotSent,
            phase: None,
            message: message.into(),
            hint: None,
            attempts: 0,
            waited: Duration::ZERO,
            counts: None,
            key: None,
            source: None,
        }))
    }

    /// A setting that cannot be used: `code` is `config.…`, the message names field, value and range.
    pub(crate) fn config(code: &'static str, message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Config, code, message).phase_of(Phase::Configure)
    }

    pub(crate) fn outcome_of(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    pub(crate) fn phase_of(mut self, phase: Phase) -> Self {
        self.0.phase = Some(phase);
        self
    }

    pub(crate) fn hint_of(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(crate) fn effort_of(mut self, attempts: u32, waited: Duration, counts: PoolCounts) -> Self {
        self.0.attempts = attempts;
        self.0.waited = waited;
        self.0.counts = Some(counts);
        self
    }

    pub(crate) fn key_of(mut self, key: Option<OutcomeKey>) -> Self {
        self.0.key = key;
        self
    }

    pub(crate) fn caused_by(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(Source::Other(source.into()));
        self
    }

    pub(crate) fn caused_by_driver(mut self, source: SqlxError) -> Self {
        self.0.source = Some(Source::Driver(source));
        self
    }

    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What became of the work this call was to do.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    #[doc = include_str!("error/codes.md")]
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// What to do next, where the crate can tell.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// By what the outcome can be asked for later, where it is [`Unknown`](Outcome::Unknown) and the transaction left a
    /// commit marker; see [`Pool::resolve`](crate::Pool::resolve).
    pub fn outcome_key(&self) -> Option<OutcomeKey> {
        self.0.key
    }

    /// What was under way when it failed.
    pub fn phase(&self) -> Option<Phase> {
        self.0.phase
    }

    /// How many attempts were made, the first included; 0 where nothing was attempted.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// How long the call had taken.
    pub fn waited(&self) -> Duration {
        self.0.waited
    }

    /// The pool's connections at that moment.
    pub fn counts(&self) -> Option<PoolCounts> {
        self.0.counts
    }

    /// Finds this crate's error inside a [`sqlx::Error`](SqlxError) that came through an `Executor`.
    ///
    /// Returns `None` for errors that are the driver's or the server's own.
    ///
    /// ```
    /// use rds_proxy_pool::{Error, ProxyConfig};
    ///
    /// let ours = ProxyConfig::builder().build().unwrap_err();
    /// let code = ours.code();
    /// let through_sqlx = sqlx::Error::from(ours);
    /// assert_eq!(Error::find(&through_sqlx).unwrap().code(), code);
    /// assert!(Error::find(&sqlx::Error::RowNotFound).is_none());
    /// ```
    pub fn find(error: &SqlxError) -> Option<&Error> {
        match error {
            SqlxError::Io(io) => io.get_ref()?.downcast_ref(),
            SqlxError::Database(database) => Some(&database.try_downcast_ref::<WithDatabaseError>()?.ours),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { message, phase, attempts, waited, counts, .. } = &*self.0;
        f.write_str(message)?;
        if let Some(phase) = phase.filter(|phase| *phase != Phase::Configure) {
            write!(f, " while {phase}")?;
        }
        if let Some(PoolCounts { open, idle, waiting }) = counts {
            let waited = waited.as_millis();
            write!(f, " (attempt {attempts}, waited {waited} ms; open {open}, idle {idle}, waiting {waiting})")?;
        }
        if f.alternate() {
            if let Some(hint) = &self.0.hint {
                write!(f, "; {hint}")?;
            }
            let mut cause = self.source();
            while let Some(error) = cause {
                write!(f, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, code, outcome, hint, .. } = &*self.0;
        let mut debug = f.debug_struct("Error");
        debug.field("code", code).field("kind", kind).field("outcome", outcome);
        debug.field("message", &format_args!("{self}"));
        if let Some(hint) = hint {
            debug.field("hint", hint);
        }
        if let Some(source) = self.source() {
            debug.field("source", &source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self.0.source.as_ref()? {
            Source::Driver(error) => Some(error),
            Source::Other(error) => Some(&**error),
        }
    }
}

impl From<Error> for SqlxError {
    /// Carries the error through sqlx: over a database error as that error, so that its code stays readable; else as
    /// an I/O error of a kind that fits.
    fn from(mut error: Error) -> Self {
        match error.0.source.take() {
            Some(Source::Driver(SqlxError::Database(database))) => {
                SqlxError::Database(Box::new(WithDatabaseError { ours: error, database }))
            }
            source => {
                error.0.source = source;
                let kind = match error.kind() {
                    ErrorKind::Deadline => io::ErrorKind::TimedOut,
                    ErrorKind::Lost => io::ErrorKind::ConnectionAborted,
                    ErrorKind::Connect => io::ErrorKind::NotConnected,
                    ErrorKind::Config => io::ErrorKind::InvalidInput,
                    ErrorKind::Credentials | ErrorKind::Auth => io::ErrorKind::PermissionDenied,
                    _ => io::ErrorKind::Other,
                };
                SqlxError::Io(io::Error::new(kind, error))
            }
        }
    }
}

/// The server's error with ours beside it: answers sqlx's questions with the former, [`Error::find`] with the latter.
#[derive(Debug)]
struct WithDatabaseError {
    ours: Error,
    database: Box<dyn DatabaseError>,
}

impl fmt::Display for WithDatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.ours, self.database)
    }
}

impl StdError for WithDatabaseError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.database)
    }
}

impl DatabaseError for WithDatabaseError {
    fn message(&self) -> &str {
        self.database.message()
    }

    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        self.database.code()
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }

    fn is_transient_in_connect_phase(&self) -> bool {
        self.database.is_transient_in_connect_phase()
    }

    fn constraint(&self) -> Option<&str> {
        self.database.constraint()
    }

    fn table(&self) -> Option<&str> {
        self.database.table()
    }

    fn kind(&self) -> sqlx_core::error::ErrorKind {
        self.database.kind()
    }
}
