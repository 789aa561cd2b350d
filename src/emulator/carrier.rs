//! One connection on a link: what arrives at one end is let out at the other when it is due, FIN and RST in their turn.
//!
//! A thread per connection waits with the kernel's timers: those of tokio know no part of a millisecond.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use super::link::{LARGEST_CHUNK, Link, Shared};
use crate::clock::{Clock, SystemClock};

/// What a direction holds at most; then its sender has to wait, as on a network.
const CAPACITY: usize = 1 << 20;
/// How far ahead a link of limited speed takes bytes.
const AHEAD: Duration = Duration::from_millis(10);

/// What travels.
enum Parcel {
    /// Bytes, of which so many have been let out.
    Bytes(Vec<u8>, usize),
    Fin,
    Rst,
}

/// One direction.
struct Flow {
    under_way: VecDeque<(Instant, Parcel)>,
    /// Bytes under way.
    held: usize,
    /// The link is occupied until then by what it has taken.
    busy_until: Instant,
    /// Nothing arrives before that: what was sent earlier does not.
    not_before: Instant,
    /// Nothing more is taken from its source.
    taken: bool,
    /// Nothing more is let out at its end.
    delivered: bool,
    /// Its source has reset the connection: what can still be taken ends with RST.
    broken: bool,
}

/// What comes of letting out.
enum Delivery {
    /// All that is due is out.
    Done,
    /// The receiver does not take more for now.
    Blocked,
    /// The receiver has reset the connection.
    Refused,
    /// The reset has arrived.
    Reset,
}

impl Flow {
    fn new(not_before: Instant, now: Instant) -> Self {
        let under_way = VecDeque::new();
        Flow { under_way, held: 0, busy_until: now, not_before, taken: false, delivered: false, broken: false }
    }

    /// When more can be taken, if that is a matter of time.
    fn takes_at(&self) -> Option<Instant> {
        let open = !self.taken && self.held < CAPACITY;
        open.then(|| self.busy_until.checked_sub(AHEAD).unwrap_or(self.busy_until))
    }

    fn push(&mut self, parcel: Parcel, link: Link, now: Instant) {
        if let Parcel::Bytes(bytes, _) = &parcel {
            self.held += bytes.len();
            self.busy_until = self.busy_until.max(now) + link.transmission(bytes.len());
        }
        let due = self.busy_until.max(now) + link.travel();
        self.not_before = self.not_before.max(due);
        self.under_way.push_back((self.not_before, parcel));
    }

    fn end(&mut self, parcel: Parcel, link: Link, now: Instant) {
        self.taken = true;
        self.push(parcel, link, now);
    }

    /// Takes what has been sent, a chunk at most; whether there may be more.
    fn take(&mut self, mut from: &TcpStream, buffer: &mut [u8], link: Link, now: Instant) -> bool {
        match from.read(&mut buffer[..link.chunk()]) {
            Ok(0) if self.broken => self.end(Parcel::Rst, link, now),
            Ok(0) => self.end(Parcel::Fin, link, now),
            Ok(length) => {
                self.push(Parcel::Bytes(buffer[..length].to_vec(), 0), link, now);
                return true;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.end(Parcel::Rst, link, now),
        }
        false
    }

    /// Lets out what is due.
    fn deliver(&mut self, mut to: &TcpStream, is_due: impl Fn(Instant) -> bool) -> Delivery {
        while let Some((due, parcel)) = self.under_way.front_mut() {
            if !is_due(*due) {
                return Delivery::Done;
            }
            match parcel {
                Parcel::Bytes(bytes, out) => match to.write(&bytes[*out..]) {
                    Ok(length) => {
                        *out += length;
                        self.held -= length;
                        if *out < bytes.len() {
                            continue;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Delivery::Blocked,
                    Err(_) => return Delivery::Refused,
                },
                Parcel::Fin => {
                    // An error means that it has been reset, which its own direction will tell.
                    let _ = to.shutdown(Shutdown::Write);
                    self.delivered = true;
                }
                Parcel::Rst => return Delivery::Reset,
            }
            self.under_way.pop_front();
        }
        Delivery::Done
    }

    /// Its receiver has gone.
    fn discard(&mut self) {
        self.under_way.clear();
        self.held = 0;
        self.delivered = true;
    }
}

/// One connection on a link: the thread's own.
pub(super) struct Carrier<'s> {
    shared: &'s Shared,
    ends: [TcpStream; 2],
    /// From the end of the same number to the other one.
    flows: [Flow; 2],
    /// The end does not take more for now.
    blocked: [bool; 2],
    /// The end was reset; whether it has something to say before is seen by reading.
    hung_up: [bool; 2],
}

impl<'s> Carrier<'s> {
    pub(super) fn new(shared: &'s Shared, ends: [TcpStream; 2]) -> Self {
        let now = SystemClock.monotonic();
        // The kernel has opened the connection at once. On a network a client waits for a round trip before it sends.
        let flows = [Flow::new(now + shared.link().opening(), now), Flow::new(now, now)];
        Carrier { shared, ends, flows, blocked: [false; 2], hung_up: [false; 2] }
    }

    /// Passes on until both directions have ended or one end was reset.
    pub(super) fn run(mut self) {
        // Without slack the kernel ends a wait when asked to. Where it cannot be set, waits are as exact as they are.
        #[cfg(target_os = "linux")]
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let mut buffer = vec![0; LARGEST_CHUNK];
        loop {
            let stopping = self.shared.is_stopping();
            if stopping {
                self.take_all(&mut buffer);
            }
            let now = SystemClock.monotonic();
            if self.deliver(now, stopping).is_break() || stopping {
                return;
            }
            if self.flows.iter().all(|flow| flow.delivered) {
                return;
            }
            let Some(ready) = self.wait(now) else { return };
            let link = self.shared.link();
            let now = SystemClock.monotonic();
            for side in [0, 1] {
                self.react(side, ready[side], &mut buffer, link, now);
            }
        }
    }

    /// What was sent before the end still arrives.
    fn take_all(&mut self, buffer: &mut [u8]) {
        let now = SystemClock.monotonic();
        for (flow, end) in self.flows.iter_mut().zip(&self.ends) {
            while flow.takes_at().is_some() && flow.take(end, buffer, Link::new(), now) {}
        }
    }

    fn deliver(&mut self, now: Instant, at_once: bool) -> ControlFlow<()> {
        for side in [0, 1] {
            let to = 1 - side;
            let delivery = self.flows[side].deliver(&self.ends[to], |due| at_once || due <= now);
            self.blocked[to] = matches!(delivery, Delivery::Blocked);
            match delivery {
                Delivery::Done | Delivery::Blocked => {}
                Delivery::Refused => self.lose(to, now),
                Delivery::Reset => {
                    // The close that follows resets; an error means that the client was faster.
                    let _ = SockRef::from(&self.ends[to]).set_linger(Some(Duration::ZERO));
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// An end has reset the connection: nothing can be let out there, and the other end will know.
    fn lose(&mut self, side: usize, now: Instant) {
        self.flows[1 - side].discard();
        self.flows[side].broken = true;
        if self.flows[side].taken {
            self.flows[side].end(Parcel::Rst, self.shared.link(), now);
        }
    }

    /// Waits until something can be done; what each end is ready for.
    fn wait(&mut self, now: Instant) -> Option<[PollFlags; 2]> {
        let alarm = self.shared.alarm()?;
        let mut wake_at = None;
        let mut at = |instant: Instant| wake_at = Some(wake_at.map_or(instant, |first: Instant| first.min(instant)));
        let mut wanted = [PollFlags::empty(); 2];
        for side in [0, 1] {
            match self.flows[side].takes_at() {
                Some(takes_at) if takes_at <= now => wanted[side] |= PollFlags::IN,
                Some(takes_at) => at(takes_at),
                None => {}
            }
            if self.blocked[side] {
                wanted[side] |= PollFlags::OUT;
            } else if let Some((due, _)) = self.flows[1 - side].under_way.front() {
                at(*due);
            }
        }
        let mut polled = vec![PollFd::new(alarm, PollFlags::IN)];
        // An end that is asked for nothing still tells that it was reset, over and over: once is enough.
        let is_asked = |side: &usize| {
            let over = self.flows[*side].taken && self.flows[1 - *side].delivered;
            !wanted[*side].is_empty() || !(over || self.hung_up[*side])
        };
        let sides: Vec<usize> = [0, 1].into_iter().filter(is_asked).collect();
        polled.extend(sides.iter().map(|side| PollFd::new(&self.ends[*side], wanted[*side])));
        let timeout = wake_at.map(|at| {
            let left = at.saturating_duration_since(now);
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        let mut ready = [PollFlags::empty(); 2];
        if poll(&mut polled, timeout.as_ref()).is_ok() {
            for (side, polled) in sides.iter().zip(&polled[1..]) {
                ready[*side] = polled.revents();
            }
        }
        Some(ready)
    }

    fn react(&mut self, side: usize, ready: PollFlags, buffer: &mut [u8], link: Link, now: Instant) {
        let hung_up = ready.intersects(PollFlags::HUP | PollFlags::ERR);
        self.hung_up[side] |= hung_up;
        let flow = &mut self.flows[side];
        if flow.taken {
            if hung_up && !self.flows[1 - side].delivered {
                // It closed, and then refused what was sent to it.
                self.lose(side, now);
            }
        } else if (ready.contains(PollFlags::IN) || hung_up) && flow.takes_at().is_some_and(|at| at <= now) {
            flow.take(&self.ends[side], buffer, link, now);
        }
    }
}
