//! Where commits leave their markers.

use std::time::Duration;

use super::tuning::within;
use crate::error::Error;

const RETENTION: std::ops::RangeInclusive<Duration> = Duration::from_secs(3600)..=Duration::from_secs(30 * 24 * 3600);
const LONGEST_NAME: usize = 63;

/// Whether transactions leave a row behind by which a lost commit is found out about, and where.
///
/// With it each read-write transaction inserts one row into a table of yours, in the message that opens it: no round trip
/// more. The table is made once, by whoever makes your tables, with the statement of
/// [`Pool::commit_marker_table_sql`](crate::Pool::commit_marker_table_sql); until it exists, leave this off.
///
/// ```
/// use rds_proxy_pool::{CommitMarkers, ProxyConfig};
///
/// let config = ProxyConfig::builder().endpoint("localhost").user("app").password("app").database("app");
/// let on = config.clone().commit_markers(CommitMarkers::table("rds_proxy_pool_outcome")).build()?;
/// assert!(on.commit_markers().is_on());
/// assert!(!config.clone().build()?.commit_markers().is_on());
/// let error = config.commit_markers(CommitMarkers::table("no; such")).build().unwrap_err();
/// assert_eq!(error.code(), "config.invalid");
/// # Ok::<(), rds_proxy_pool::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitMarkers {
    table: Option<String>,
    retention: Duration,
}

impl Default for CommitMarkers {
    fn default() -> Self {
        CommitMarkers::off()
    }
}

impl CommitMarkers {
    /// None: the outcome of a commit whose answer was lost is [`Unknown`](crate::Outcome::Unknown). The default.
    pub fn off() -> Self {
        CommitMarkers { table: None, retention: Duration::from_secs(24 * 3600) }
    }

    /// In this table, `name` or `schema.name`, of lower-case letters, digits and underscores.
    ///
    /// Name the schema where sessions differ in their `search_path`: in another table of the same name a marker is not found,
    /// and what is committed is taken for undone.
    pub fn table(name: impl Into<String>) -> Self {
        CommitMarkers { table: Some(name.into()), ..CommitMarkers::off() }
    }

    /// How long markers are kept; 1 h to 30 d, default 24 h.
    ///
    /// Longer than any session lives: a key older than half of it is not asked for any more.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Whether transactions leave markers.
    pub fn is_on(&self) -> bool {
        self.table.is_some()
    }

    pub(crate) fn table_name(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// How long markers are kept.
    pub fn kept_for(&self) -> Duration {
        self.retention
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        within("commit_markers.retention", self.retention, &RETENTION)?;
        self.table.as_deref().map_or(Ok(()), |name| check_table("commit_markers", name))
    }
}

/// `config.invalid` unless the name needs no quotes in any engine.
pub(super) fn check_table(setting: &str, name: &str) -> Result<(), Error> {
    let plain = |part: &str| {
        let mut bytes = part.bytes();
        let first = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
        first && part.len() <= LONGEST_NAME && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if name.split('.').count() <= 2 && name.split('.').all(plain) {
        return Ok(());
    }
    let message = format!(
        "{setting}: {name:?} is not `table` or `schema.table` of lower-case letters, digits and underscores, up to \
         {LONGEST_NAME} each"
    );
    Err(Error::config("config.invalid", message))
}
