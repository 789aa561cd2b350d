//! The limits of the proxy. Each can be changed while it runs, also for those who wait for it at that moment.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::postgres::Refusal;
use super::{Builder, RdsProxyEmulator};
use crate::clock::Clock;

/// Rates are counted over this.
const SECOND: Duration = Duration::from_secs(1);

/// A limit that logins are refused by, with 53300.
///
/// They are checked in the order given here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Connections in a second, checked when a client has sent its startup packet.
    ConnectionRate,
    /// Clients at the same time, checked right after the rate: who is refused here has used up some of the rate.
    Clients,
    /// Tokens in a second, checked when a token has arrived and before anybody looks into it.
    IamRate,
}

/// Where every limit is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) clients: Option<usize>,
    pub(super) connection_rate: Option<u32>,
    pub(super) iam_rate: Option<u32>,
    pub(super) idle_client_timeout: Duration,
    pub(super) client_life: Duration,
    pub(super) borrow_timeout: Duration,
    pub(super) init_delay: Duration,
}

impl Default for Limits {
    /// As RDS Proxy has them, where that is known.
    fn default() -> Self {
        Limits {
            clients: None,
            connection_rate: None,
            iam_rate: None,
            idle_client_timeout: Duration::from_secs(30 * 60),
            client_life: Duration::from_secs(24 * 60 * 60),
            borrow_timeout: Duration::from_secs(120),
            init_delay: Duration::ZERO,
        }
    }
}

/// The limits and what counts against them.
pub(super) struct Gate {
    limits: watch::Sender<Limits>,
    connections: Mutex<Window>,
    tokens: Mutex<Window>,
    clients: Arc<AtomicUsize>,
}

/// Counts against the limit of clients while it lives.
#[derive(Debug)]
pub(super) struct Admission(Arc<AtomicUsize>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    pub(super) fn new(limits: Limits) -> Self {
        Gate {
            limits: watch::Sender::new(limits),
            connections: Mutex::default(),
            tokens: Mutex::default(),
            clients: Arc::default(),
        }
    }

    /// Lets in a client that has sent its startup packet.
    pub(super) fn admit(&self, now: Instant) -> Result<Admission, Refusal> {
        let Limits { connection_rate, clients, .. } = *self.limits.borrow();
        lock(&self.connections).admit(connection_rate, now).map_err(Refusal::connection_rate)?;
        let before = self.clients.fetch_add(1, Ordering::Relaxed);
        let admission = Admission(Arc::clone(&self.clients));
        match clients.filter(|limit| before >= *limit) {
            Some(limit) => Err(Refusal::too_many_clients(limit)),
            None => Ok(admission),
        }
    }

    /// Lets a token be looked into.
    pub(super) fn admit_token(&self, now: Instant) -> Result<(), Refusal> {
        let limit = self.limits.borrow().iam_rate;
        lock(&self.tokens).admit(limit, now).map_err(|_| Refusal::iam_rate())
    }

    /// Completes `length` after `start`, whatever the limits say of that length by then.
    pub(super) async fn passed(&self, clock: &dyn Clock, start: Instant, length: impl Fn(&Limits) -> Duration) {
        let mut limits = self.limits.subscribe();
        loop {
            let end = start.checked_add(length(&limits.borrow_and_update()));
            let ending = async {
                match end {
                    Some(end) if end <= clock.monotonic() => {}
                    Some(end) => clock.sleep_until(end).await,
                    // Later than any clock can tell.
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // The sender lives in `self`.
                _ = limits.changed() => {}
                () = ending => return,
            }
        }
    }

    pub(super) fn limits(&self) -> Limits {
        *self.limits.borrow()
    }

    fn set(&self, change: impl FnOnce(&mut Limits)) {
        self.limits.send_modify(change);
    }
}

/// What was let in during the last second.
#[derive(Debug, Default)]
struct Window(VecDeque<Instant>);

impl Window {
    /// Lets in one more, which counts from then on, or names the limit that forbids it.
    fn admit(&mut self, limit: Option<u32>, now: Instant) -> Result<(), u32> {
        while self.0.front().is_some_and(|earlier| now.saturating_duration_since(*earlier) >= SECOND) {
            self.0.pop_front();
        }
        match limit.filter(|limit| self.0.len() >= *limit as usize) {
            Some(limit) => Err(limit),
            None => {
                self.0.push_back(now);
                Ok(())
            }
        }
    }
}

fn lock(window: &Mutex<Window>) -> MutexGuard<'_, Window> {
    window.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Limits
/// Each can be changed while the emulator runs, by the method of [`RdsProxyEmulator`] that has its name. All run by the
/// [`clock`](Self::clock).
impl Builder {
    /// At most this many clients at a time; more are refused with 53300. No limit by default.
    pub fn client_limit(mut self, limit: usize) -> Self {
        self.limits.clients = Some(limit);
        self
    }

    /// At most this many connections in a second; more are refused with 53300. No limit by default.
    ///
    /// RDS Proxy has such a limit; its number is not published. Those refused by it do not count against it.
    pub fn connection_rate_limit(mut self, per_second: u32) -> Self {
        self.limits.connection_rate = Some(per_second);
        self
    }

    /// At most this many tokens are checked in a second; logins with more are refused with 53300. No limit by default.
    ///
    /// RDS Proxy has such a limit; its number is not published. Those refused by it do not count against it.
    pub fn iam_rate_limit(mut self, per_second: u32) -> Self {
        self.limits.iam_rate = Some(per_second);
        self
    }

    /// After this long without traffic an idle client is closed: 30 minutes by default, as on RDS Proxy.
    ///
    /// An open transaction is not idle. Source: `IdleClientTimeout` in the RDS API.
    pub fn idle_client_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle_client_timeout = timeout;
        self
    }

    /// After this long a client is closed, however busy it is: 24 hours by default, and always on RDS Proxy. One that waits
    /// for a database or is held by a fault is closed after that.
    ///
    /// Source: "RDS Proxy connection considerations".
    pub fn client_life(mut self, life: Duration) -> Self {
        self.limits.client_life = life;
        self
    }

    /// How long a request waits for a database before it is refused with 08000: 120 s by default, as on RDS Proxy.
    ///
    /// Zero refuses at once whoever has no database session yet. Source: `ConnectionBorrowTimeout` in the RDS API.
    pub fn connection_borrow_timeout(mut self, timeout: Duration) -> Self {
        self.limits.borrow_timeout = timeout;
        self
    }

    /// Each new database session takes this much longer, as it does where an init query is slow: nothing by default.
    pub fn init_delay(mut self, delay: Duration) -> Self {
        self.limits.init_delay = delay;
        self
    }
}

/// # Limits
/// A change holds at once, also for clients that wait for the end of what is changed: who has waited longer than a new
/// borrow timeout is refused, who has been idle for longer than a new idle timeout is closed.
impl RdsProxyEmulator {
    /// Changes [`client_limit`](Builder::client_limit); those already connected stay.
    pub fn set_client_limit(&self, limit: Option<usize>) {
        self.proxy.gate.set(|limits| limits.clients = limit);
    }

    /// Changes [`connection_rate_limit`](Builder::connection_rate_limit). The connections of the last second count.
    pub fn set_connection_rate_limit(&self, per_second: Option<u32>) {
        self.proxy.gate.set(|limits| limits.connection_rate = per_second);
    }

    /// Changes [`iam_rate_limit`](Builder::iam_rate_limit). The tokens of the last second count.
    pub fn set_iam_rate_limit(&self, per_second: Option<u32>) {
        self.proxy.gate.set(|limits| limits.iam_rate = per_second);
    }

    /// Changes [`idle_client_timeout`](Builder::idle_client_timeout).
    pub fn set_idle_client_timeout(&self, timeout: Duration) {
        self.proxy.gate.set(|limits| limits.idle_client_timeout = timeout);
    }

    /// Changes [`client_life`](Builder::client_life).
    pub fn set_client_life(&self, life: Duration) {
        self.proxy.gate.set(|limits| limits.client_life = life);
    }

    /// Changes [`connection_borrow_timeout`](Builder::connection_borrow_timeout).
    pub fn set_connection_borrow_timeout(&self, timeout: Duration) {
        self.proxy.gate.set(|limits| limits.borrow_timeout = timeout);
    }

    /// Changes [`init_delay`](Builder::init_delay).
    pub fn set_init_delay(&self, delay: Duration) {
        self.proxy.gate.set(|limits| limits.init_delay = delay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::AdjustableClock;

    #[test]
    fn a_rate_holds_in_every_second_and_not_only_in_whole_ones() {
        let start = AdjustableClock::new().monotonic();
        let at = |millis| start + Duration::from_millis(millis);
        let mut window = Window::default();
        let admitted = [0, 600, 900, 999, 1000, 1100, 1599, 1600, 5000, 5000, 5000];
        let admitted = admitted.map(|millis| window.admit(Some(2), at(millis)).is_ok());
        assert_eq!(admitted, [true, true, false, false, true, false, false, true, true, true, false]);
    }

    #[test]
    fn what_came_before_there_was_a_limit_counts() {
        let now = AdjustableClock::new().monotonic();
        let mut window = Window::default();
        assert!((0..3).all(|_| window.admit(None, now).is_ok()));
        assert_eq!(window.admit(Some(3), now), Err(3));
    }

    #[test]
    fn with_no_connections_allowed_in_a_second_none_comes_in() {
        let start = AdjustableClock::new().monotonic();
        let mut window = Window::default();
        assert!((0..3).all(|second| window.admit(Some(0), start + second * SECOND) == Err(0)));
    }

    proptest::proptest! {
        #[test]
        fn no_second_has_more_than_its_limit_and_none_is_refused_below_it(
            limit in 1_u32..5,
            steps in proptest::collection::vec(0_u64..700, 1..60),
        ) {
            let mut now = AdjustableClock::new().monotonic();
            let (mut window, mut admitted) = (Window::default(), Vec::new());
            for step in steps {
                now += Duration::from_millis(step);
                let recent = admitted.iter().filter(|at| now - **at < SECOND).count();
                let was_admitted = window.admit(Some(limit), now).is_ok();
                proptest::prop_assert_eq!(was_admitted, recent < limit as usize);
                if was_admitted {
                    admitted.push(now);
                }
            }
        }
    }

    #[test]
    fn a_client_counts_until_its_admission_ends_and_one_refused_does_not() {
        let now = AdjustableClock::new().monotonic();
        let gate = Gate::new(Limits { clients: Some(1), ..Limits::default() });
        let first = gate.admit(now).expect("there is room for one");
        assert!(gate.admit(now).is_err() && gate.admit(now).is_err());
        drop(first);
        assert!(gate.admit(now).is_ok());
    }

    #[tokio::test]
    async fn a_wait_ends_when_its_length_is_changed_to_less_than_has_passed() {
        let clock = AdjustableClock::new();
        let gate = Gate::new(Limits { init_delay: Duration::MAX, ..Limits::default() });
        let mut waiting = Box::pin(gate.passed(&clock, clock.monotonic(), |limits| limits.init_delay));
        clock.advance(10 * SECOND);
        assert!(futures::poll!(&mut waiting).is_pending());
        gate.set(|limits| limits.init_delay = 100 * SECOND);
        assert!(futures::poll!(&mut waiting).is_pending());
        gate.set(|limits| limits.init_delay = 10 * SECOND);
        assert!(futures::poll!(&mut waiting).is_ready());
    }
}
