//! A connect future, polled under observation.

use std::cell::Cell;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use super::DriverSocket;
use super::hunt::Hunt;
use super::sys::{self, System};
use crate::clock::{Clock, Sleep};

/// One connect at a time is polled in this process, as long as it does not know its socket: those under observation then
/// never see each other's sockets appear.
static POLLING: Mutex<()> = Mutex::new(());

thread_local! {
    /// Whether this thread holds [`POLLING`].
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// What is connected to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// The host exactly as the driver gets it: a name or an address.
    pub(crate) host: &'a str,
    /// The port.
    pub(crate) port: u16,
    /// How long one address may leave a SYN unanswered.
    pub(crate) syn_limit: Duration,
}

/// The outcome of [`connect_watched`].
#[derive(Debug)]
pub(crate) struct Connected<T, E> {
    /// What the driver said.
    pub(crate) output: Result<T, E>,
    /// Its socket, tuned. `None` when it was not found: the connection is as good as the driver made it.
    pub(crate) socket: Option<DriverSocket>,
    /// How long it took.
    pub(crate) times: ConnectTimes,
}

/// The parts of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectPhase {
    /// The name is being resolved.
    Dns,
    /// The connection is being made.
    Tcp,
    /// TLS and login.
    Login,
}

/// How long the parts of a connect took: those that ended, and the one it is in. `None` for a part that was not reached,
/// or could not be told from the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectTimes {
    /// Name resolution.
    pub(crate) dns: Option<Duration>,
    /// From the first SYN to a connection; with all addresses tried.
    pub(crate) tcp: Option<Duration>,
    /// TLS and login.
    pub(crate) login: Option<Duration>,
    /// All of it.
    pub(crate) total: Duration,
    /// Addresses given up because they did not answer.
    pub(crate) unanswered: u32,
}

/// Where a connect is: outlives the connect, so that a caller whose patience ended can say what it was waiting for.
#[derive(Debug, Default)]
pub(crate) struct ConnectProgress(Mutex<Marks>);

#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    started: Option<Instant>,
    resolved: Option<Instant>,
    established: Option<Instant>,
    ended: Option<Instant>,
    unanswered: u32,
    /// The search ended before the connection was seen to stand: the parts cannot be told apart.
    blind: bool,
}

impl ConnectProgress {
    /// The part the connect is in, or was in when it ended. `None` when it has not begun and where sockets cannot be
    /// seen, as in a process that must not read /proc.
    pub(crate) fn phase(&self) -> Option<ConnectPhase> {
        let marks = *self.marks();
        let seen = marks.started.is_some() && marks.can_tell();
        seen.then_some(match (marks.resolved, marks.established) {
            (_, Some(_)) => ConnectPhase::Login,
            (Some(_), None) => ConnectPhase::Tcp,
            (None, None) => ConnectPhase::Dns,
        })
    }

    /// The times so far, where `now` is the present; the final ones when the connect has ended.
    pub(crate) fn times(&self, now: Instant) -> ConnectTimes {
        let marks = *self.marks();
        let Marks { started, resolved, established, ended, unanswered, .. } = marks;
        let Some(started) = started else { return ConnectTimes::default() };
        let now = ended.unwrap_or(now);
        let mut times =
            ConnectTimes { total: now.saturating_duration_since(started), unanswered, ..Default::default() };
        if marks.can_tell() {
            times.dns = Some(resolved.unwrap_or(now).saturating_duration_since(started));
            times.tcp = resolved.map(|at| established.unwrap_or(now).saturating_duration_since(at));
            times.login = established.map(|at| now.saturating_duration_since(at));
        }
        times
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observe(&self, hunt: &Hunt, literal: bool) {
        let mut marks = self.marks();
        // An address needs no resolving.
        marks.resolved = hunt.resolved().or(if literal { marks.started } else { None });
        // Kept when the search ends without result: what was seen is still the best that is known.
        if hunt.is_on() {
            marks.established = hunt.established();
        } else {
            marks.blind = marks.established.is_none();
        }
    }
}

impl Marks {
    /// Whether the parts of the connect can be told apart.
    fn can_tell(&self) -> bool {
        sys::SUPPORTED && !self.blind
    }
}

/// Drives the driver's connect future and finds, tunes and returns its socket.
///
/// `connect` must be the driver's connect and nothing around it: which of its polls creates the socket is part of the
/// evidence, see [`super::hunt`]. Dropping the returned future drops `connect`; nothing else is left behind, and
/// `progress` still tells how far it came.
pub(crate) async fn connect_watched<F, T, E>(
    connect: F,
    target: Target<'_>,
    clock: &dyn Clock,
    progress: &ConnectProgress,
) -> Connected<T, E>
where
    F: Future<Output = Result<T, E>>,
    E: Error + 'static,
{
    // The two kinds of addresses that the runtime connects to without asking the resolver.
    let literal = target.host.parse::<IpAddr>().is_ok();
    let mut watch = Watch {
        target,
        literal,
        clock,
        progress,
        hunt: Hunt::new(target.port, literal),
        found: None,
        timer: None,
        relay: Arc::new(Relay { woken: AtomicBool::new(true), outer: AtomicWaker::new() }),
    };
    *progress.marks() = Marks { started: Some(clock.monotonic()), ..Marks::default() };

    // Without a budget, tokio never makes the future yield: a poll that was not asked for would spoil the count.
    let mut connect = pin!(tokio::task::unconstrained(connect));
    let output = poll_fn(|cx| watch.poll(cx, |cx| connect.as_mut().poll(cx))).await;

    let now = clock.monotonic();
    progress.marks().ended = Some(now);
    Connected { output, socket: watch.found, times: progress.times(now) }
}

/// The state of [`connect_watched`] beside the future itself.
struct Watch<'a> {
    target: Target<'a>,
    literal: bool,
    clock: &'a dyn Clock,
    progress: &'a ConnectProgress,
    hunt: Hunt,
    found: Option<DriverSocket>,
    /// Rings when this socket's SYN has gone unanswered for long enough.
    timer: Option<(DriverSocket, Sleep)>,
    relay: Arc<Relay>,
}

impl Watch<'_> {
    fn poll<T, E: Error + 'static>(
        &mut self,
        cx: &mut Context<'_>,
        mut connect: impl FnMut(&mut Context<'_>) -> Poll<Result<T, E>>,
    ) -> Poll<Result<T, E>> {
        self.relay.outer.register(cx.waker());
        // Whoever polls us may do so for reasons of its own; the future is polled when it was woken.
        if self.relay.woken.swap(false, Ordering::AcqRel) {
            let waker = Waker::from(Arc::clone(&self.relay));
            let output = self.observe(|| connect(&mut Context::from_waker(&waker)));
            if output.is_ready() {
                return output;
            }
        }
        self.poll_timer(cx);
        Poll::Pending
    }

    /// Polls the future between two looks.
    fn observe<T, E: Error + 'static>(&mut self, poll: impl FnOnce() -> Poll<Result<T, E>>) -> Poll<Result<T, E>> {
        let lock = if self.found.is_none() && self.hunt.is_on() { Lock::take() } else { None };
        let Some(_lock) = lock else {
            if self.found.is_none() {
                self.hunt.abandon();
                self.progress.observe(&self.hunt, self.literal);
            }
            let output = poll();
            self.note_failure(&output);
            return output;
        };
        self.hunt.before_poll(&mut System, self.clock.monotonic());
        self.progress.observe(&self.hunt, self.literal);
        self.adopt();

        let output = poll();

        if matches!(output, Poll::Ready(Err(_))) {
            // The socket is closed already; what is left among the suspects is a stranger's.
            self.hunt.abandon();
            self.note_failure(&output);
        } else if self.found.is_none() && self.hunt.is_on() {
            self.hunt.after_poll(&mut System, self.clock.monotonic());
            self.progress.observe(&self.hunt, self.literal);
            self.adopt();
        }
        output
    }

    /// Takes the socket once it is known. Only called around a poll, so that nobody can close it meanwhile.
    fn adopt(&mut self) {
        if let Some(socket) = self.hunt.found() {
            sys::tune(socket);
            self.found = Some(socket);
        }
    }

    /// An address that refuses at once leaves no socket to be seen; an error of the operating system still says that
    /// there was one, for failures of the resolver carry no such code.
    fn note_failure<T, E: Error + 'static>(&self, output: &Poll<Result<T, E>>) {
        let Poll::Ready(Err(error)) = output else { return };
        let mut marks = self.progress.marks();
        if marks.resolved.is_none() && os_error(error) {
            marks.resolved = Some(self.clock.monotonic());
        }
    }

    /// Gives up an address that does not answer, so that the driver tries the next.
    fn poll_timer(&mut self, cx: &mut Context<'_>) {
        let Some((socket, since)) = self.hunt.connecting() else {
            self.timer = None;
            return;
        };
        if self.timer.as_ref().is_none_or(|(timed, _)| *timed != socket) {
            let sleep = self.clock.sleep_until(since + self.target.syn_limit);
            self.timer = Some((socket, sleep));
        }
        let Some((_, sleep)) = &mut self.timer else { return };
        if sleep.as_mut().poll(cx).is_pending() {
            return;
        }
        self.timer = None;
        // It may have been answered while the wake-up is still on its way.
        let Some(_lock) = Lock::take() else { return };
        if self.hunt.is_still_connecting(&mut System) {
            sys::give_up(socket);
            self.progress.marks().unanswered += 1;
        }
    }
}

/// Whether an error of the operating system is at the root of `error`.
fn os_error(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error().is_some()) {
            return true;
        }
        next = error.source();
    }
    false
}

/// [`POLLING`], held.
struct Lock {
    _guard: MutexGuard<'static, ()>,
}

impl Lock {
    /// Waits for the lock. `None` when this thread holds it: something that the driver calls, a log subscriber say,
    /// connects through us in turn.
    fn take() -> Option<Lock> {
        if HELD.get() {
            return None;
        }
        // It guards no data, so that a panic under it leaves nothing half done.
        let guard = POLLING.lock().unwrap_or_else(PoisonError::into_inner);
        HELD.set(true);
        Some(Lock { _guard: guard })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        HELD.set(false);
    }
}

/// The waker given to the driver: remembers that it was called and passes the call on.
struct Relay {
    woken: AtomicBool,
    outer: AtomicWaker,
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.outer.wake();
    }
}
