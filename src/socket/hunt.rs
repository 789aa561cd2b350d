//! Which of the sockets that appear is the driver's: the reasoning, apart from the kernel and the clock.
//!
//! Other connects of this process, to the same port, on other threads, run while ours does. Taking one of their sockets
//! for ours would tune, and later read the health of, a stranger; so a socket counts only after proof, and where proof
//! does not come none counts. What can be relied on:
//!
//! 1. Our future acts only while we poll it, and we poll it only when it was woken (see [`super::watch`]). So our
//!    socket is created, written and read inside our polls and never between them.
//! 2. A host given as an address is connected to in the first poll, one given as a name in the second, when the
//!    resolver has answered. From that poll on, as long as the future is pending, **our socket is one of the suspects**:
//!    those that were not there before the poll, are there after it, and connect to our port.
//! 3. A further one can only be ours when an earlier suspect has disappeared in that same poll: that address failed and
//!    the next is being tried.
//! 4. A suspect that was written or read between our polls is a stranger's.
//!
//! So the last suspect left is ours. That it was also seen both written *and* read in our polls is required on top,
//! against the case in which an assumption above no longer holds for some later driver. A name resolved so fast that the
//! first poll connects breaks assumption 2 in part; suspects of the first poll therefore never exclude those of the
//! second, and none is chosen before it.

use std::collections::HashSet;
use std::time::Instant;

use super::DriverSocket;

/// What the kernel can be asked.
pub(super) trait Kernel {
    /// Every socket of this process. `None` when that cannot be found out.
    fn sockets(&mut self) -> Option<Vec<DriverSocket>>;

    /// Whether `socket` is a non-blocking TCP socket connected, or connecting, to `port`.
    fn is_connect_to(&mut self, socket: DriverSocket, port: u16) -> bool;

    /// What has gone through `socket`. `None` when it is gone.
    fn sample(&mut self, socket: DriverSocket) -> Option<Sample>;
}

/// The state of a connection, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "elsewhere nothing can be seen"))]
pub(super) enum State {
    SynSent,
    Established,
    /// Closing, closed, failed.
    Other,
}

/// What has gone through a socket so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) state: State,
    /// Bytes the owner has written.
    pub(super) written: u64,
    /// Bytes the owner has read; `None` when too much arrives to tell.
    pub(super) read: Option<u64>,
}

/// A socket that may be ours.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    socket: DriverSocket,
    appeared: Instant,
    established: Option<Instant>,
    last: Sample,
    /// Written during one of our polls.
    wrote: bool,
    /// Read during one of our polls.
    read: bool,
}

impl Suspect {
    fn new(socket: DriverSocket, sample: Sample, now: Instant) -> Self {
        let nothing = Sample { state: State::SynSent, written: 0, read: Some(0) };
        let mut suspect =
            Suspect { socket, appeared: now, established: None, last: nothing, wrote: false, read: false };
        suspect.note_own(sample, now);
        suspect
    }

    /// Takes note of what happened during our poll.
    fn note_own(&mut self, sample: Sample, now: Instant) {
        let (wrote, read) = self.acted(sample);
        self.wrote |= wrote;
        self.read |= read;
        self.note(sample, now);
    }

    fn note(&mut self, sample: Sample, now: Instant) {
        if sample.state == State::Established {
            self.established.get_or_insert(now);
        }
        self.last = sample;
    }

    /// Whether the owner wrote and read since the last sample.
    fn acted(&self, now: Sample) -> (bool, bool) {
        // The counters of a connection that does not stand say nothing: a FIN counts as a received byte that nobody
        // reads, and giving up a connect moves the sequence number as if bytes had been written. Such a socket is
        // not struck off for it and not chosen either.
        let open = now.state == State::Established;
        let read = matches!((self.last.read, now.read), (Some(before), Some(after)) if after > before);
        (now.written > self.last.written && open, read && open)
    }
}

/// The search for one connect's socket.
#[derive(Debug)]
pub(super) struct Hunt {
    port: u16,
    /// The poll, counted from one, from which on our socket is among the suspects.
    creating_poll: u32,
    /// Polls that have begun.
    polls: u32,
    /// Polls that have ended.
    ended: u32,
    suspects: Vec<Suspect>,
    /// Whether the poll that made the present suspects made only one, and ours for certain.
    sole: bool,
    /// The sockets there were before this poll; absent when no new one can be ours.
    before: Option<HashSet<u64>>,
    /// Nothing more can be found out.
    over: bool,
    /// When the first suspect appeared: the end of name resolution.
    first_seen: Option<Instant>,
}

impl Hunt {
    /// A search for a connect to `port` at a host given as an address (`literal`) or as a name.
    pub(super) fn new(port: u16, literal: bool) -> Self {
        Hunt {
            port,
            creating_poll: if literal { 1 } else { 2 },
            polls: 0,
            ended: 0,
            suspects: Vec::new(),
            sole: false,
            before: None,
            over: false,
            first_seen: None,
        }
    }

    /// Whether looking further has a point.
    pub(super) fn is_on(&self) -> bool {
        !self.over
    }

    /// Gives up: a poll went unobserved.
    pub(super) fn abandon(&mut self) {
        self.over = true;
        self.suspects.clear();
        self.sole = false;
    }

    /// To be called immediately before the future is polled, under the lock.
    pub(super) fn before_poll(&mut self, kernel: &mut impl Kernel, now: Instant) {
        self.polls += 1;
        let had_suspects = !self.suspects.is_empty();
        self.suspects.retain_mut(|suspect| {
            // Ours cannot have gone while nobody polled us.
            let Some(sample) = kernel.sample(suspect.socket) else { return false };
            let stranger = suspect.acted(sample) != (false, false);
            suspect.note(sample, now);
            !stranger
        });
        // Before the poll that makes our socket, all of them may have been strangers' and gone.
        if had_suspects && self.suspects.is_empty() && self.polls > self.creating_poll {
            return self.abandon();
        }
        // Once every suspect stands, so does ours, and no other will be created. This spares most of the scans.
        let settled = self.suspects.iter().all(|suspect| suspect.last.state == State::Established);
        if !had_suspects || self.polls <= self.creating_poll || !settled {
            match kernel.sockets() {
                Some(sockets) => self.before = Some(sockets.into_iter().map(|socket| socket.cookie).collect()),
                None => self.abandon(),
            }
        }
    }

    /// To be called immediately after the future was polled, under the same lock.
    pub(super) fn after_poll(&mut self, kernel: &mut impl Kernel, now: Instant) {
        self.ended = self.polls;
        let before = self.before.take();
        let had = self.suspects.len();
        self.suspects.retain_mut(|suspect| {
            let Some(sample) = kernel.sample(suspect.socket) else { return false };
            suspect.note_own(sample, now);
            true
        });
        let gone = self.suspects.len() < had;
        if (had == 0 || gone || self.polls <= self.creating_poll)
            && let Some(before) = before
        {
            let Some(after) = kernel.sockets() else { return self.abandon() };
            for socket in after {
                // By cookie alone: the same socket under a second descriptor is not a new one.
                let old = before.contains(&socket.cookie)
                    || self.suspects.iter().any(|suspect| suspect.socket.cookie == socket.cookie);
                if !old
                    && kernel.is_connect_to(socket, self.port)
                    && let Some(sample) = kernel.sample(socket)
                {
                    self.suspects.push(Suspect::new(socket, sample, now));
                    self.first_seen.get_or_insert(now);
                }
            }
            self.sole = self.suspects.len() == 1 && self.polls >= self.creating_poll && (had == 0 || gone);
        }
        if had > 0 && self.suspects.is_empty() {
            self.abandon();
        }
    }

    /// Our socket, once that is proven.
    pub(super) fn found(&self) -> Option<DriverSocket> {
        match self.suspects[..] {
            [suspect]
                // Not in that poll itself: until it has ended ours may not be there.
                if self.ended >= self.creating_poll
                    && suspect.last.state == State::Established
                    && suspect.wrote
                    && suspect.read =>
            {
                Some(suspect.socket)
            }
            _ => None,
        }
    }

    /// The socket that waits for an answer to its SYN, and since when, provided that it is ours without any further
    /// evidence: a socket that never sent a byte can offer none.
    ///
    /// The argument: the poll that made it was one in which our socket must have been made (2 or 3 above), the future is
    /// still pending, and no other socket appeared in that poll.
    pub(super) fn connecting(&self) -> Option<(DriverSocket, Instant)> {
        match self.suspects[..] {
            [suspect] if self.sole && suspect.last.state == State::SynSent => Some((suspect.socket, suspect.appeared)),
            _ => None,
        }
    }

    /// Whether it waits still.
    pub(super) fn is_still_connecting(&mut self, kernel: &mut impl Kernel) -> bool {
        let waiting = self.connecting().and_then(|(socket, _)| kernel.sample(socket));
        waiting.is_some_and(|sample| sample.state == State::SynSent)
    }

    /// When the name was resolved, as far as can be seen.
    pub(super) fn resolved(&self) -> Option<Instant> {
        self.first_seen
    }

    /// When the connection stood: with several suspects, when the last of them did.
    pub(super) fn established(&self) -> Option<Instant> {
        self.suspects.iter().map(|suspect| suspect.established).max_by_key(|at| (at.is_none(), *at)).flatten()
    }
}
