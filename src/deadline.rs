//! When a call must have answered: three ways to say it, and what to make of a time that cannot be meant.

use std::time::{Duration, Instant, SystemTime};

use crate::clock::Reading;

/// A wall-clock deadline older than this was not meant as one: emulators send 1970.
const OLDEST: Duration = Duration::from_secs(60 * 60);
/// A deadline further ahead than this was not meant as one: an invocation lasts 15 minutes at most.
const FURTHEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The instant by which a call must have answered.
///
/// Made from the [`SystemTime`] the Lambda context holds, from an [`Instant`], or from a [`Duration`] counted from the
/// moment it is handed to [`Pool::by`](crate::Pool::by).
///
/// A time of day more than an hour ago or more than a day ahead is no deadline but a mistake (local emulators of the
/// Lambda runtime send both 1970 and dates weeks ahead); the call then behaves as if none had been given. One that has
/// just passed is a deadline that is reached: the call fails at once.
///
/// ```
/// use rds_proxy_pool::Deadline;
/// use std::time::{Duration, Instant, SystemTime};
///
/// let from_the_context: Deadline = (SystemTime::now() + Duration::from_secs(3)).into();
/// let from_an_instant: Deadline = (Instant::now() + Duration::from_secs(3)).into();
/// let from_now: Deadline = Duration::from_secs(3).into();
/// # let _ = (from_the_context, from_an_instant, from_now);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(When);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Wall(SystemTime),
    Monotonic(Instant),
    In(Duration),
}

/// What a [`Deadline`] means at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Answer by this instant.
    Until(Instant),
    /// It is reached.
    Expired,
    /// It cannot be meant: as if none were known.
    Absurd,
}

impl Deadline {
    /// Turns the deadline into an instant, once: later steps of the wall clock do not move it.
    pub(crate) fn meaning(self, now: Reading) -> Meaning {
        let at = match self.0 {
            When::Monotonic(at) => Some(at),
            When::In(length) => now.monotonic.checked_add(length),
            When::Wall(at) => match at.duration_since(now.wall) {
                Ok(ahead) if ahead > FURTHEST => None,
                Ok(ahead) => now.monotonic.checked_add(ahead),
                Err(passed) if passed.duration() > OLDEST => None,
                Err(_) => return Meaning::Expired,
            },
        };
        match at {
            Some(at) if at <= now.monotonic => Meaning::Expired,
            Some(at) => Meaning::Until(at),
            None => Meaning::Absurd,
        }
    }
}

impl From<SystemTime> for Deadline {
    fn from(at: SystemTime) -> Self {
        Deadline(When::Wall(at))
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        Deadline(When::Monotonic(at))
    }
}

impl From<Duration> for Deadline {
    fn from(length: Duration) -> Self {
        Deadline(When::In(length))
    }
}

/// What one call may spend, fixed when it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// When the call began.
    pub(crate) started: Instant,
    /// The call must have answered by then; `None` where no deadline is known.
    pub(crate) until: Option<Instant>,
    /// Waiting for a connection and opening one must be done by then.
    pub(crate) acquire_until: Instant,
}

impl Budget {
    /// A known deadline less `margin`, or `acquire_timeout` for getting a connection and no bound on the rest.
    pub(crate) fn new(now: Instant, deadline: Option<Instant>, margin: Duration, acquire_timeout: Duration) -> Self {
        let until = deadline.map(|at| at.checked_sub(margin).map_or(now, |early| early.max(now)));
        Budget { started: now, until, acquire_until: until.unwrap_or(now + acquire_timeout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    const SECOND: Duration = Duration::from_secs(1);

    fn wall(now: Reading, change: impl Fn(SystemTime) -> SystemTime) -> Meaning {
        Deadline::from(change(now.wall)).meaning(now)
    }

    #[test]
    fn unknown_expired_and_absurd_are_three_things() {
        let now = SystemClock.now();
        assert_eq!(wall(now, |t| t + SECOND), Meaning::Until(now.monotonic + SECOND));
        assert_eq!(wall(now, |t| t), Meaning::Expired);
        assert_eq!(wall(now, |t| t - SECOND), Meaning::Expired);
        assert_eq!(wall(now, |_| SystemTime::UNIX_EPOCH), Meaning::Absurd);
        assert_eq!(wall(now, |_| SystemTime::UNIX_EPOCH + Duration::from_millis(600_000)), Meaning::Absurd);
        assert_eq!(wall(now, |t| t + Duration::from_millis(1_999_999_999)), Meaning::Absurd);
        assert_eq!(Deadline::from(Duration::MAX).meaning(now), Meaning::Absurd);
        assert_eq!(Deadline::from(Duration::ZERO).meaning(now), Meaning::Expired);
    }

    #[test]
    fn the_margin_is_kept_for_the_answer() {
        let now = SystemClock.monotonic();
        let budget = Budget::new(now, Some(now + 3 * SECOND), SECOND, 9 * SECOND);
        assert_eq!(budget.until, Some(now + 2 * SECOND));
        assert_eq!(budget.acquire_until, now + 2 * SECOND);
        assert_eq!(Budget::new(now, Some(now + SECOND), 2 * SECOND, SECOND).until, Some(now));
        let open = Budget::new(now, None, SECOND, 9 * SECOND);
        assert_eq!((open.until, open.acquire_until), (None, now + 9 * SECOND));
    }
}
