//! The name of one attempt of a transaction, by which its outcome can be asked for.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

/// The name of one attempt of a transaction: with it [`Pool::resolve`](crate::Pool::resolve) finds out later whether it was
/// committed.
///
/// A UUID of version 7 (RFC 9562): it begins with the time, so that keys are stored in order and their age is known, and 74
/// bits of it come from the operating system's entropy, so that no two environments draw the same one, restored from a
/// snapshot or not. It is no secret.
///
/// ```
/// use rds_proxy_pool::OutcomeKey;
///
/// let key: OutcomeKey = "01936f2e-7f80-7abc-8def-0123456789ab".parse()?;
/// assert_eq!(key.to_string(), "01936f2e-7f80-7abc-8def-0123456789ab");
/// assert!("1ee9537c-9c4f-4f2e-8a3b-0123456789ab".parse::<OutcomeKey>().is_err(), "a UUID without a time");
/// # Ok::<(), rds_proxy_pool::NotAKey>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutcomeKey(Uuid);

/// The text is no [`OutcomeKey`].
///
/// ```
/// use rds_proxy_pool::OutcomeKey;
///
/// assert_eq!("x".parse::<OutcomeKey>().unwrap_err().to_string(), "not the key of a transaction: a UUID of version 7");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAKey;

impl OutcomeKey {
    /// A key nobody has had, drawn at the time `now`; an error where the operating system has no entropy.
    pub(crate) fn new(now: SystemTime) -> Result<Self, getrandom::Error> {
        let mut random = [0; 10];
        getrandom::fill(&mut random)?;
        Ok(OutcomeKey(uuid::Builder::from_unix_timestamp_millis(since_epoch_ms(now), &random).into_uuid()))
    }

    /// The key below all those drawn at `time` or later.
    pub(crate) fn lowest_at(time: SystemTime) -> Self {
        OutcomeKey(uuid::Builder::from_unix_timestamp_millis(since_epoch_ms(time), &[0; 10]).into_uuid())
    }

    /// When it was drawn, to the millisecond, by the clock of the environment that drew it.
    ///
    /// ```
    /// use rds_proxy_pool::OutcomeKey;
    /// use std::time::{Duration, UNIX_EPOCH};
    ///
    /// let key: OutcomeKey = "01936f2e-7f80-7abc-8def-0123456789ab".parse()?;
    /// assert_eq!(key.drawn_at(), UNIX_EPOCH + Duration::from_millis(0x0193_6f2e_7f80));
    /// # Ok::<(), rds_proxy_pool::NotAKey>(())
    /// ```
    pub fn drawn_at(&self) -> SystemTime {
        let (time, _) = self.0.as_u64_pair();
        SystemTime::UNIX_EPOCH + Duration::from_millis(time >> 16)
    }
}

fn since_epoch_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Display for OutcomeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for OutcomeKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        let uuid = Uuid::try_parse(text).map_err(|_| NotAKey)?;
        if uuid.get_version_num() == 7 { Ok(OutcomeKey(uuid)) } else { Err(NotAKey) }
    }
}

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the key of a transaction: a UUID of version 7")
    }
}

impl std::error::Error for NotAKey {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_in_the_order_of_their_time_and_no_two_are_the_same() {
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
        let drawn = |time| OutcomeKey::new(time).expect("there is entropy");
        let keys: BTreeSet<_> = (0..1000).map(|_| drawn(noon)).collect();
        assert_eq!(keys.len(), 1000);
        assert!(keys.iter().all(|key| key.drawn_at() == noon));
        let later = noon + Duration::from_millis(1);
        assert!(keys.last() < Some(&OutcomeKey::lowest_at(later)) && OutcomeKey::lowest_at(later) <= drawn(later));
        assert!(Some(&OutcomeKey::lowest_at(noon)) <= keys.first());
    }

    #[test]
    fn a_key_is_read_as_it_is_printed() {
        let key = OutcomeKey::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).expect("there is entropy");
        assert_eq!(key.to_string().parse(), Ok(key));
        for wrong in ["", "x", "{}", "00000000-0000-0000-0000-000000000000", "';DROP TABLE t;--"] {
            assert_eq!(wrong.parse::<OutcomeKey>(), Err(NotAKey));
        }
    }
}
