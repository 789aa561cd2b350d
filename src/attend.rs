//! Waits for the driver's answer, no longer than allowed, and tells a silent peer from a slow one.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use tokio::task::unconstrained;

use crate::clock::Clock;
use crate::socket::{DriverSocket, is_black_hole};

/// How often the kernel is asked whether the peer still acknowledges.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A timer this late did not fire in time because the process was frozen.
const OVERSLEPT: Duration = Duration::from_millis(500);
/// After a freeze: time for the runtime to deliver what arrived meanwhile.
const CATCH_UP: Duration = Duration::from_millis(20);

/// How a wait ended.
#[derive(Debug)]
pub(crate) enum Ended<T> {
    /// With the driver's answer.
    Answer(T),
    /// Out of time; the future was dropped.
    TimedOut,
    /// The kernel says that nothing reaches the peer any more; the future was dropped.
    Unreachable,
}

/// What bounds a wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    /// The last instant, whatever happens.
    pub(crate) until: Option<Instant>,
    /// The longest wait, counted anew when the timer elapsed across a freeze.
    pub(crate) patience: Option<Duration>,
    /// The socket to ask about a silent peer: set while the first answer after a gap is awaited.
    pub(crate) watch: Option<DriverSocket>,
}

impl From<Option<Instant>> for Bounds {
    fn from(until: Option<Instant>) -> Self {
        Bounds { until, ..Bounds::default() }
    }
}

impl Bounds {
    /// Whether the last instant has passed already.
    pub(crate) fn is_over(&self, clock: &dyn Clock) -> bool {
        self.until.is_some_and(|until| until <= clock.monotonic())
    }
}

/// Polls `answer` to its end within `bounds`.
///
/// A timer that fires late says nothing about the peer: what arrived during a freeze is delivered first, and the same
/// future is polled on.
pub(crate) async fn attend<T>(clock: &dyn Clock, bounds: Bounds, answer: impl Future<Output = T>) -> Ended<T> {
    let at_send = bounds.watch.and_then(|socket| Some((socket, socket.transmission()?)));
    if bounds.until.is_none() && bounds.patience.is_none() && at_send.is_none() {
        return Ended::Answer(answer.await);
    }
    let mut answer = pin!(answer);
    let limit_from = |now: Instant| {
        let patience = bounds.patience.and_then(|patience| now.checked_add(patience));
        [bounds.until, patience].into_iter().flatten().min()
    };
    let mut limit = limit_from(clock.monotonic());
    let mut caught_up = false;
    loop {
        let look = at_send.map(|_| clock.monotonic() + LOOK_EVERY);
        let Some(wake) = [limit, look].into_iter().flatten().min() else {
            return Ended::Answer(answer.await);
        };
        // An answer that always has more to read uses up what tokio lets a task do at a time, and the timer needs none.
        let timer = unconstrained(clock.sleep_until(wake));
        if let Either::Left((answer, _)) = select(answer.as_mut(), timer).await {
            return Ended::Answer(answer);
        }
        let now = clock.monotonic();
        if now.saturating_duration_since(wake) > OVERSLEPT {
            let fresh = limit_from(now).map(|limit| limit.max(now + CATCH_UP));
            if fresh > limit && !caught_up {
                (limit, caught_up) = (fresh, bounds.patience.is_none());
                continue;
            }
        }
        if let Some((socket, at_send)) = &at_send
            && socket.transmission().is_some_and(|now| is_black_hole(at_send, &now))
        {
            return Ended::Unreachable;
        }
        if limit.is_some_and(|limit| now >= limit) {
            return Ended::TimedOut;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::consume_budget;

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn an_answer_that_always_has_more_to_read_does_not_hide_the_timer() {
        let start = SystemClock.monotonic();
        let endless = async {
            while SystemClock.monotonic() < start + Duration::from_secs(2) {
                consume_budget().await
            }
        };
        let bounds = Bounds::from(Some(start + Duration::from_millis(20)));
        assert!(matches!(attend(&SystemClock, bounds, endless).await, Ended::TimedOut));
    }
}
