//! A network between client and emulator that takes its time.
//!
//! A connection on a link is led through a pair of loopback sockets by a thread of its own, see [`carrier`](super::carrier).

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::carrier::Carrier;
use super::{Builder, RdsProxyEmulator};

/// Far more than a test waits, and no instant overflows.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// What is taken at once.
pub(super) const LARGEST_CHUNK: usize = 1 << 16;

/// A network as clients of the emulator see it: how long bytes travel, and how many at a time.
///
/// By default none of it is limited.
///
/// ```
/// use rds_proxy_pool::emulator::Link;
/// use std::time::Duration;
///
/// // Another availability zone, on a bad day.
/// let link = Link::new().latency(Duration::from_micros(500)).jitter(Duration::from_millis(2)).bytes_per_second(1 << 20);
/// assert_ne!(link, Link::new());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    latency: Duration,
    jitter: Duration,
    bytes_per_second: Option<u64>,
}

impl Link {
    /// A link without latency and limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a byte travels one way: a round trip takes twice as long. An hour at most.
    ///
    /// It is kept to some microseconds where the system's timers are that exact, as on Linux.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency.min(LONGEST);
        self
    }

    /// Up to this much is added to the latency, at random; what was sent first still arrives first. An hour at most.
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter.min(LONGEST);
        self
    }

    /// So much passes in each direction of each connection; 0 counts as 1.
    pub fn bytes_per_second(mut self, rate: u64) -> Self {
        self.bytes_per_second = Some(rate.max(1));
        self
    }

    pub(super) fn transmission(self, bytes: usize) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        // A chunk is small beside its rate: seconds at most.
        Duration::from_secs_f64(bytes as f64 / rate as f64)
    }

    /// As many bytes as it passes on in one go.
    pub(super) fn chunk(self) -> usize {
        let Some(rate) = self.bytes_per_second else { return LARGEST_CHUNK };
        usize::try_from(rate / 100).unwrap_or(LARGEST_CHUNK).clamp(1, LARGEST_CHUNK)
    }

    /// For how long a client waits until the connection is open, and then until its first byte has arrived.
    pub(super) fn opening(self) -> Duration {
        3 * self.latency
    }

    pub(super) fn travel(self) -> Duration {
        self.latency + self.jitter.mul_f64(fastrand::f64())
    }
}

/// The link that connections are opened on, and those that were.
#[derive(Clone, Debug, Default)]
pub(super) struct Links(Arc<Shared>);

#[derive(Debug, Default)]
pub(super) struct Shared {
    /// `None` as long as there has never been one.
    link: Mutex<Option<Link>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopping: AtomicBool,
    /// The second is watched by every thread and becomes readable when the first is shut down.
    alarm: OnceLock<(TcpStream, TcpStream)>,
}

impl Links {
    pub(super) fn new(link: Option<Link>) -> Self {
        let links = Self::default();
        *links.0.current() = link;
        links
    }

    pub(super) fn set(&self, link: Link) {
        *self.0.current() = Some(link);
    }

    /// What the emulator serves instead of `client`: the far end of the link, or the client itself without one.
    pub(super) fn lead(&self, client: tokio::net::TcpStream) -> io::Result<tokio::net::TcpStream> {
        if self.0.current().is_none() {
            return Ok(client);
        }
        let (near, far) = pair()?;
        self.join(client.into_std()?, near)?;
        far.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(far)
    }

    /// Passes on between the two until both have ended; the one who opened the connection comes first.
    pub(super) fn join(&self, client: TcpStream, server: TcpStream) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        if shared.alarm.get().is_none() {
            // Whoever comes second leaves the first pair in place.
            let _ = shared.alarm.set(pair()?);
        }
        // Ports tell the emulators of one process apart, and a name has 15 letters.
        let name = format!("rds-link-{}", client.local_addr()?.port());
        let ends = [client, server];
        for end in &ends {
            end.set_nonblocking(true)?;
            end.set_nodelay(true)?;
        }
        let carry = move || Carrier::new(&shared, ends).run();
        let thread = std::thread::Builder::new().name(name).stack_size(1 << 18).spawn(carry)?;
        let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(())
    }

    /// Lets out at once what is under way, ends every connection and returns when their threads have ended.
    pub(super) fn stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
        if let Some((bell, _)) = self.0.alarm.get() {
            // It is ours, connected to ourselves.
            let _ = bell.shutdown(Shutdown::Write);
        }
        let threads = std::mem::take(&mut *self.0.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // Its panic has been printed by its own hook.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The link as it is now.
    pub(super) fn link(&self) -> Link {
        self.current().unwrap_or_default()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Readable once the threads are to end; `None` before there are any.
    pub(super) fn alarm(&self) -> Option<&TcpStream> {
        self.alarm.get().map(|(_, watched)| watched)
    }

    fn current(&self) -> MutexGuard<'_, Option<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two connected sockets.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let name = near.local_addr()?;
    loop {
        // A stranger may have been faster.
        let (far, peer) = listener.accept()?;
        if peer == name {
            return Ok((near, far));
        }
    }
}

impl Builder {
    /// The network between clients and proxy; by default there is none. See [`RdsProxyEmulator::set_link`].
    pub fn link(mut self, link: Link) -> Self {
        self.link = Some(link);
        self
    }
}

impl RdsProxyEmulator {
    /// Changes the network between clients and proxy, for connections opened from now on and for those opened on a link.
    ///
    /// A connection opened before there was any link stays a direct one. [`Link::new`] takes latency and limits away. What
    /// is under way keeps its time, and nothing sent later overtakes it. Time on the network is the system's: the
    /// emulator's clock does not move it. The operating system opens connections at once, so what a client sends then
    /// is held back for the round trip that an opening takes.
    ///
    /// ```no_run
    /// # use rds_proxy_pool::emulator::{Backend, Link, RdsProxyEmulator};
    /// # use std::time::Duration;
    /// # fn main() -> std::io::Result<()> {
    /// # let database = Backend::new(([127, 0, 0, 1], 5432));
    /// let proxy = RdsProxyEmulator::builder(database).link(Link::new().latency(Duration::from_micros(500))).start()?;
    /// // Each round trip takes a millisecond longer than without, until
    /// proxy.set_link(Link::new());
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_link(&self, link: Link) {
        self.proxy.links.set(link);
    }
}
