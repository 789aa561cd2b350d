//! What the proxy saw, with the time it was seen.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rds_proxy_pool::emulator::{Event, Limit, RdsProxyEmulator};
use tokio::sync::oneshot;

/// Notes what happens at the proxy, on a thread of its own, so that no client delays it.
pub(crate) struct Recorder {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Traffic>,
}

/// What happened at the proxy.
#[derive(Default)]
pub(crate) struct Traffic {
    /// When a connection came, in this order.
    pub(crate) connects: Vec<Instant>,
    pub(crate) logins: usize,
    pub(crate) refused_by_connection_rate: usize,
    pub(crate) refused_by_iam_rate: usize,
}

impl Recorder {
    pub(crate) fn start(proxy: &RdsProxyEmulator) -> io::Result<Recorder> {
        let mut events = proxy.events();
        let (stop, mut stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let note = async move {
            let mut traffic = Traffic::default();
            loop {
                tokio::select! {
                    biased;
                    event = events.next() => traffic.note(&event, Instant::now()),
                    _ = &mut stopped => return traffic,
                }
            }
        };
        let thread = std::thread::Builder::new().spawn(move || runtime.block_on(note))?;
        Ok(Recorder { stop, thread })
    }

    /// All that has happened so far.
    pub(crate) fn stop(self) -> io::Result<Traffic> {
        drop(self.stop);
        self.thread.join().map_err(|_| io::Error::other("the recorder panicked"))
    }
}

impl Traffic {
    fn note(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Connected(_) => self.connects.push(now),
            Event::LoggedIn { .. } => self.logins += 1,
            Event::LoginRefused { limit: Some(Limit::ConnectionRate), .. } => self.refused_by_connection_rate += 1,
            Event::LoginRefused { limit: Some(Limit::IamRate), .. } => self.refused_by_iam_rate += 1,
            _ => {}
        }
    }

    /// The most connections that came within any window of this length that begins at `from` or later.
    pub(crate) fn peak(&self, from: Instant, window: Duration) -> usize {
        let connects = &self.connects[self.connects.partition_point(|at| *at < from)..];
        let within = |first: usize| connects[first..].partition_point(|at| *at < connects[first] + window);
        (0..connects.len()).map(within).max().unwrap_or_default()
    }
}
