//! The driver's socket: found, tuned and looked at.
//!
//! sqlx 0.9.0 opens its own `TcpStream`, sets no option on it and hands it to nobody. Without `TCP_NODELAY` a TLS
//! connect costs two delayed acknowledgements, about 90 ms; without the descriptor a connection that died during a
//! freeze is found out by a round trip at best and by hanging at worst. So [`connect_watched`] polls the driver's
//! connect future and sees which socket appears. The descriptor is remembered with its cookie, a number the kernel
//! gives to no second socket, and never used without comparing it.
//!
//! A socket that is not found, for whatever reason, leaves a connection that works, untuned.

mod hunt;
// The one file with `unsafe` in it.
#[cfg_attr(target_os = "linux", path = "socket/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "socket/other.rs")]
mod sys;
#[cfg(all(test, target_os = "linux"))]
mod tests;
mod watch;

use std::time::Duration;

pub(crate) use watch::{ConnectPhase, ConnectProgress, ConnectTimes, Connected, Target, connect_watched};

/// A socket that belongs to the driver: enough to look at it, not enough to keep it open.
///
/// Only whoever holds the connection may look. The descriptor is then open, because the connection owns it. A connection
/// that was dropped behind our back is noticed by the cookie; and if the descriptor were closed and reused between
/// the comparison and the look, the worst that comes of it is a wrong answer about a connection that no longer exists:
/// looking changes nothing. What does change a socket (`tune`, `give_up`) runs inside the poll of the future that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DriverSocket {
    fd: i32,
    cookie: u64,
}

/// What a look at an idle socket shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "elsewhere nothing can be seen"))]
pub(crate) enum Look {
    /// Open, and silent as an idle connection should be.
    Healthy,
    /// The peer closed or reset it, or the kernel gave the peer up.
    Closed,
    /// Open, with bytes waiting: a notice, a TLS session ticket, or the farewell of a server. Ask, do not guess.
    Unread,
    /// The descriptor means another socket or none: the connection closed it.
    Gone,
}

/// What the kernel knows about a connection's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transmission {
    /// Segments sent and not acknowledged.
    pub(crate) unacked: u32,
    /// Time since the peer last acknowledged anything.
    pub(crate) last_ack_recv: Duration,
    /// Segments sent again, over the life of the connection.
    pub(crate) total_retrans: u32,
}

impl DriverSocket {
    /// Whether the peer has closed it or sent something: three system calls at most, no round trip.
    pub(crate) fn look(self) -> Look {
        sys::look(self)
    }

    /// The packets on their way. `None` when the socket is gone.
    pub(crate) fn transmission(self) -> Option<Transmission> {
        sys::transmission(self)
    }

    /// Our end of the connection: what tells it from any other.
    #[cfg(test)]
    fn local_addr(self) -> Option<std::net::SocketAddr> {
        sys::local_addr(self)
    }
}

/// The silence from which a peer may be called dead.
const SILENCE: Duration = Duration::from_millis(500);
/// The number of repetitions from which a peer may be called dead.
const REPETITIONS: u32 = 2;

/// Whether what was sent at `at_send` disappears on its way, as it does when the peer lost its address or the path its
/// state. A peer that is merely slow acknowledges what it received, whatever it then does with it.
pub(crate) fn is_black_hole(at_send: &Transmission, now: &Transmission) -> bool {
    now.unacked > 0
        && now.last_ack_recv >= SILENCE
        && now.total_retrans.saturating_sub(at_send.total_retrans) >= REPETITIONS
}
