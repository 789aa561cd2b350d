//! Time as the crate sees it: two clocks read together, because a freeze may stop one of them.
//!
//! Everything that decides on time takes a [`Reading`] or an [`Instant`] as an argument; [`SystemClock`] is the only
//! place that asks the operating system.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

/// A sleep handed out by a [`Clock`].
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Wall and monotonic time, and a way to wait.
///
/// The pool needs both: a token's age is judged on the wall clock, because the monotonic clock of a restored snapshot
/// may not have moved; the wall clock in turn may be stepped, which the monotonic clock never is.
///
/// ```
/// use rds_proxy_pool::clock::{AdjustableClock, Clock};
/// use std::time::Duration;
///
/// let clock = AdjustableClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(20 * 60));
/// assert!(clock.now().gap_since(before).length() >= Duration::from_secs(20 * 60));
/// ```
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time of day.
    fn wall(&self) -> SystemTime;

    /// Time that only moves forward while the process is scheduled; its zero means nothing.
    fn monotonic(&self) -> Instant;

    /// Completes at the monotonic instant `at`, at once when `at` has passed.
    fn sleep_until(&self, at: Instant) -> Sleep;

    /// Both clocks, read together.
    fn now(&self) -> Reading {
        Reading { wall: self.wall(), monotonic: self.monotonic() }
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The time of day.
    pub wall: SystemTime,
    /// The monotonic clock.
    pub monotonic: Instant,
}

impl Reading {
    /// The time that has passed since `earlier`: the larger of what the two clocks say.
    ///
    /// ```
    /// use rds_proxy_pool::clock::{AdjustableClock, Clock, Gap};
    /// use std::time::Duration;
    ///
    /// let clock = AdjustableClock::new();
    /// let before = clock.now();
    /// clock.set_wall_back(Duration::from_secs(3600));
    /// assert!(matches!(clock.now().gap_since(before), Gap::WallWentBack(_)));
    /// ```
    pub fn gap_since(&self, earlier: Reading) -> Gap {
        let monotonic = self.monotonic.saturating_duration_since(earlier.monotonic);
        match self.wall.duration_since(earlier.wall) {
            Ok(wall) => Gap::Forward(wall.max(monotonic)),
            Err(_) => Gap::WallWentBack(monotonic),
        }
    }
}

/// The distance between two [`Reading`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Both clocks moved forward; the larger step.
    Forward(Duration),
    /// The wall clock was set back: nothing that was judged by it can be trusted. Holds the monotonic step.
    WallWentBack(Duration),
}

impl Gap {
    /// How long it was, as far as the clocks tell.
    pub fn length(self) -> Duration {
        match self {
            Gap::Forward(length) | Gap::WallWentBack(length) => length,
        }
    }

    /// Whether it was longer than `limit`, or of a length nobody can vouch for.
    pub fn exceeds(self, limit: Duration) -> bool {
        match self {
            Gap::Forward(length) => length > limit,
            Gap::WallWentBack(_) => true,
        }
    }
}

/// The operating system's clocks and tokio's timer.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    #[inline]
    fn monotonic(&self) -> Instant {
        Instant::now()
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        Box::pin(tokio::time::sleep_until(at.into()))
    }
}

/// The system clock plus an offset that a test moves: what a freeze, a restored snapshot or a time step looks like.
///
/// Clones share the offset. One that is [`stopped`](Self::stopped) moves only when told. Sleeps run in real time and end early when the clock is advanced past them.
///
/// ```
/// use rds_proxy_pool::clock::{AdjustableClock, Clock};
/// use std::time::Duration;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let clock = AdjustableClock::new();
/// let hour = clock.monotonic() + Duration::from_secs(3600);
/// let sleeping = clock.sleep_until(hour);
/// clock.advance(Duration::from_secs(3601));
/// sleeping.await; // returns at once
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct AdjustableClock {
    offsets: Arc<Offsets>,
}

#[derive(Debug)]
struct Offsets {
    /// Where a clock stands that does not follow the system.
    stopped: Option<Reading>,
    current: Mutex<Offset>,
    moved: watch::Sender<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Offset {
    monotonic: Duration,
    wall_ahead: Duration,
    wall_behind: Duration,
}

impl AdjustableClock {
    /// A clock that agrees with the system until it is moved.
    pub fn new() -> Self {
        Self::starting(None)
    }

    /// A clock that stands still until it is moved: what happens at the same moment does so however slow the machine is.
    ///
    /// ```
    /// use rds_proxy_pool::clock::{AdjustableClock, Clock};
    /// use std::time::Duration;
    ///
    /// let clock = AdjustableClock::stopped();
    /// let start = clock.monotonic();
    /// assert_eq!(clock.monotonic(), start);
    /// clock.advance(Duration::from_secs(1));
    /// assert_eq!(clock.monotonic() - start, Duration::from_secs(1));
    /// ```
    pub fn stopped() -> Self {
        Self::starting(Some(SystemClock.now()))
    }

    fn starting(stopped: Option<Reading>) -> Self {
        let offsets = Offsets { stopped, current: Mutex::default(), moved: watch::Sender::new(()) };
        AdjustableClock { offsets: Arc::new(offsets) }
    }

    /// Moves both clocks forward: a freeze of `by`.
    pub fn advance(&self, by: Duration) {
        self.adjust(|offset| {
            offset.monotonic += by;
            offset.wall_ahead += by;
        });
    }

    /// Moves the wall clock alone forward: a snapshot restored after `by`, its monotonic clock as it was.
    pub fn advance_wall(&self, by: Duration) {
        self.adjust(|offset| offset.wall_ahead += by);
    }

    /// Sets the wall clock back: a time step.
    pub fn set_wall_back(&self, by: Duration) {
        self.adjust(|offset| offset.wall_behind += by);
    }

    fn adjust(&self, change: impl FnOnce(&mut Offset)) {
        change(&mut self.offsets.current.lock().unwrap_or_else(PoisonError::into_inner));
        self.offsets.moved.send_replace(());
    }

    fn base(&self) -> Reading {
        self.offsets.stopped.unwrap_or_else(|| SystemClock.now())
    }

    fn offset(&self) -> Offset {
        *self.offsets.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for AdjustableClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for AdjustableClock {
    fn wall(&self) -> SystemTime {
        let offset = self.offset();
        self.base().wall + offset.wall_ahead - offset.wall_behind
    }

    fn monotonic(&self) -> Instant {
        self.base().monotonic + self.offset().monotonic
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        let clock = self.clone();
        let mut moved = self.offsets.moved.subscribe();
        Box::pin(async move {
            loop {
                moved.mark_unchanged();
                let left = at.saturating_duration_since(clock.monotonic());
                if left.is_zero() {
                    return;
                }
                // Either the time is up or the clock was moved; both are seen by looking again.
                let _ = match clock.offsets.stopped {
                    None => tokio::time::timeout(left, moved.changed()).await.is_ok(),
                    Some(_) => moved.changed().await.is_ok(),
                };
            }
        })
    }
}
