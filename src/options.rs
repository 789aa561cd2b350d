//! How a transaction is opened.

/// How a transaction is opened: isolation, and what it may do.
///
/// ```
/// use rds_proxy_pool::{Isolation, TransactionOptions};
///
/// let report = TransactionOptions::new().isolation(Isolation::Serializable).read_only().deferrable();
/// assert_ne!(report, TransactionOptions::new());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it opens nothing by itself"]
pub struct TransactionOptions {
    pub(crate) isolation: Option<Isolation>,
    pub(crate) read_only: bool,
    pub(crate) deferrable: bool,
}

/// How far a transaction is kept apart from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// Each statement sees what was committed before it began.
    ReadCommitted,
    /// All statements see what was committed before the first of them.
    RepeatableRead,
    /// As if transactions ran one after the other.
    Serializable,
}

impl TransactionOptions {
    /// The server's isolation level; read-write, unless the pool is for a reader endpoint.
    pub fn new() -> Self {
        TransactionOptions::default()
    }

    /// With this isolation level.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }

    /// One that the server lets write nothing. It leaves no commit marker, and may be repeated whatever became of it.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// One that waits for a moment at which it can fail no more; only together with
    /// [`Isolation::Serializable`] and [`read_only`](Self::read_only) does that change anything (PostgreSQL).
    pub fn deferrable(mut self) -> Self {
        self.deferrable = true;
        self
    }
}
