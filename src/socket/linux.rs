//! What Linux tells about a socket: the only file of this crate with `unsafe` in it.
//!
//! Everything here takes a descriptor *number* that somebody else owns. Asking the kernel about a number is safe
//! whatever it refers to by now: a closed one is an error (`EBADF`), one that is no socket too (`ENOTSOCK`), and one
//! that became another socket is told by its cookie.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use libc::{c_int, c_void, socklen_t};
use socket2::{SockRef, TcpKeepalive};

use super::hunt::{Kernel, Sample, State};
use super::{DriverSocket, Look, Transmission};

/// Whether sockets can be found here at all.
pub(super) const SUPPORTED: bool = true;

/// Idle time before the first keepalive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
/// Time between keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// Unanswered probes after which the kernel gives the peer up.
const KEEPALIVE_PROBES: u32 = 3;
/// How long sent bytes may stay unacknowledged before the kernel gives the peer up.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// The most descriptors that are looked through: half of what Lambda allows a process, of which a handler uses some dozens.
/// Measured without optimisation, each costs three microseconds, and every other connect of the process waits for it:
/// among thousands, a thousand connects at once waited for many seconds, past their deadlines.
const MOST_DESCRIPTORS: usize = 512;

/// The running kernel.
pub(super) struct System;

impl Kernel for System {
    /// About 13 microseconds with twenty descriptors open, mostly the directory. `None` where /proc is not mounted or
    /// must not be read, and in a process with more than [`MOST_DESCRIPTORS`].
    fn sockets(&mut self) -> Option<Vec<DriverSocket>> {
        if is_crowded() {
            return None;
        }
        // Of the thread and not of the process: only this shows the calling thread's table in every case.
        let descriptors = std::fs::read_dir("/proc/thread-self/fd").ok()?;
        let mut sockets = Vec::with_capacity(32);
        for (seen, entry) in descriptors.enumerate() {
            if seen == MOST_DESCRIPTORS {
                tracing::debug!("too many descriptors to find the driver's socket among them");
                return None;
            }
            // A directory cut short would make an old socket look new in the next scan.
            let name = entry.ok()?.file_name();
            let Some(fd) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            sockets.extend(cookie(fd).map(|cookie| DriverSocket { fd, cookie }));
        }
        Some(sockets)
    }

    fn is_connect_to(&mut self, socket: DriverSocket, port: u16) -> bool {
        let DriverSocket { fd, .. } = socket;
        // Multipath TCP (262) is not what the driver asks for, and UDP may use the same port number.
        read_int(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL) == Some(libc::IPPROTO_TCP)
            && is_nonblocking(fd)
            && peer_port(fd) == Some(port)
            && cookie(fd) == Some(socket.cookie)
    }

    fn sample(&mut self, socket: DriverSocket) -> Option<Sample> {
        let DriverSocket { fd, .. } = socket;
        let mut info = tcp_info(fd)?;
        let mut read = None;
        // What was received less what still waits is what was read; the two are asked for one after the other, so
        // they only fit together when nothing arrived in between.
        for _ in 0..8 {
            let waiting = bytes_waiting(fd)?;
            let again = tcp_info(fd)?;
            let quiet = again.bytes_received == info.bytes_received;
            info = again;
            if quiet {
                read = info.bytes_received.checked_sub(waiting);
                break;
            }
        }
        // Last, so that it speaks for everything above.
        (cookie(fd)? == socket.cookie).then_some(Sample { state: info.state, written: info.bytes_written, read })
    }
}

/// Whether there are too many descriptors to look through, told without looking: a new one gets the lowest free number, so
/// all below it are in use.
fn is_crowded() -> bool {
    let new = std::fs::File::open("/dev/null");
    new.is_ok_and(|new| usize::try_from(std::os::fd::AsRawFd::as_raw_fd(&new)).is_ok_and(|new| new >= MOST_DESCRIPTORS))
}

/// Sets what the driver does not: no delay for small writes, and an end to waiting for a peer that is gone.
///
/// To be called from within a poll of the future that owns the socket.
pub(super) fn tune(socket: DriverSocket) {
    let tuned = with_socket(socket, |socket| {
        // First, because it also sends at once what is being held back.
        socket.set_tcp_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
    });
    if let Some(Err(error)) = tuned {
        tracing::debug!(%error, "socket options not set");
    }
}

/// Makes a connect that is under way fail with `ECONNRESET`.
///
/// To be called from within a poll of the future that owns the socket.
pub(super) fn give_up(socket: DriverSocket) {
    // An error means that it is no longer connecting.
    let _ = with_socket(socket, |socket| socket.shutdown(std::net::Shutdown::Both));
}

/// See [`DriverSocket::look`].
pub(super) fn look(socket: DriverSocket) -> Look {
    let DriverSocket { fd, .. } = socket;
    let mut poll = libc::pollfd { fd, events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
    loop {
        // SAFETY: one `pollfd`, alive and exclusively ours during the call; with a timeout of zero it returns at once.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        if ready >= 0 {
            break;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            // Only a lack of kernel memory is left: nothing is known, so let the connection be asked.
            return Look::Unread;
        }
    }
    // After the poll, so that it speaks for it.
    if cookie(fd) != Some(socket.cookie) {
        return Look::Gone;
    }
    let events = poll.revents;
    if events & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
        return Look::Closed;
    }
    if events & libc::POLLIN != 0 { Look::Unread } else { Look::Healthy }
}

/// See [`DriverSocket::transmission`].
pub(super) fn transmission(socket: DriverSocket) -> Option<Transmission> {
    let info = tcp_info(socket.fd)?;
    (cookie(socket.fd)? == socket.cookie).then_some(info.transmission)
}

/// See [`DriverSocket::local_addr`].
#[cfg(test)]
pub(super) fn local_addr(socket: DriverSocket) -> Option<std::net::SocketAddr> {
    with_socket(socket, |socket| socket.local_addr())?.ok()?.as_socket()
}

/// Makes a listener drop every answer to its SYN-ACK that carries no data, for ten seconds.
#[cfg(test)]
pub(super) fn defer_accept(listener: &socket2::Socket) -> io::Result<()> {
    let seconds: c_int = 10;
    let length = socklen_t::try_from(size_of::<c_int>()).map_err(io::Error::other)?;
    let (fd, value) = (std::os::fd::AsRawFd::as_raw_fd(listener), (&raw const seconds).cast::<c_void>());
    // SAFETY: the kernel reads `length` bytes from `seconds`, which has as many and outlives the call.
    let failed = unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, value, length) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Calls `f` with the socket when it is still the one meant.
fn with_socket<T>(socket: DriverSocket, f: impl FnOnce(SockRef<'_>) -> T) -> Option<T> {
    if cookie(socket.fd)? != socket.cookie {
        return None;
    }
    // SAFETY: `borrow_raw` wants a descriptor that is not -1, which has a cookie just now, and that stays open while
    // it is borrowed. It does: the callers are inside a poll of the future, or hold the connection, that owns it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(socket.fd) };
    Some(f(SockRef::from(&borrowed)))
}

/// The parts of `TCP_INFO` that are used here.
struct TcpInfo {
    state: State,
    bytes_written: u64,
    bytes_received: u64,
    transmission: Transmission,
}

/// Reads `TCP_INFO`.
///
/// The `tcp_info` of libc is that of an old kernel and ends before the byte counters, so the answer is taken as bytes
/// and the fields from where `include/uapi/linux/tcp.h` has them; the struct only ever grew at its end. A kernel before
/// 4.19 answers less than we need: then nothing is found.
fn tcp_info(fd: c_int) -> Option<TcpInfo> {
    const STATE: usize = 0;
    const UNACKED: usize = 24;
    const LAST_ACK_RECV: usize = 56;
    const TOTAL_RETRANS: usize = 100;
    const BYTES_RECEIVED: usize = 128;
    const NOTSENT_BYTES: usize = 144;
    const BYTES_SENT: usize = 200;
    const BYTES_RETRANS: usize = 208;
    const NEEDED: usize = BYTES_RETRANS + 8;

    let mut answer = [0; 256];
    let length = read_option(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut answer)?;
    if length < NEEDED {
        return None;
    }
    let word = |at: usize| answer[at..].first_chunk().copied().map_or(0, u32::from_ne_bytes);
    let long = |at: usize| answer[at..].first_chunk().copied().map_or(0, u64::from_ne_bytes);

    // TCP_ESTABLISHED and TCP_SYN_SENT of include/net/tcp_states.h.
    let state = match answer[STATE] {
        1 => State::Established,
        2 => State::SynSent,
        _ => State::Other,
    };
    let unsent = word(NOTSENT_BYTES);
    Some(TcpInfo {
        state,
        // What the owner has written since the connection began, whether or not it could be sent.
        bytes_written: long(BYTES_SENT).wrapping_sub(long(BYTES_RETRANS)).wrapping_add(u64::from(unsent)),
        bytes_received: long(BYTES_RECEIVED),
        transmission: Transmission {
            unacked: word(UNACKED),
            last_ack_recv: Duration::from_millis(word(LAST_ACK_RECV).into()),
            total_retrans: word(TOTAL_RETRANS),
        },
    })
}

/// The number that no other socket of this machine ever has. `None` when `fd` is not an open socket.
fn cookie(fd: c_int) -> Option<u64> {
    let mut answer = [0; 8];
    (read_option(fd, libc::SOL_SOCKET, libc::SO_COOKIE, &mut answer)? == 8).then(|| u64::from_ne_bytes(answer))
}

/// The port an IP socket is connected or connecting to. `getpeername` refuses to tell before the connection stands.
fn peer_port(fd: c_int) -> Option<u16> {
    // As long as a `sockaddr_in`; the beginning of a `sockaddr_in6` is the same.
    let mut answer = [0; 16];
    if read_option(fd, libc::SOL_SOCKET, libc::SO_PEERNAME, &mut answer)? != answer.len() {
        return None;
    }
    let family = c_int::from(u16::from_ne_bytes([answer[0], answer[1]]));
    matches!(family, libc::AF_INET | libc::AF_INET6).then(|| u16::from_be_bytes([answer[2], answer[3]]))
}

fn read_int(fd: c_int, level: c_int, name: c_int) -> Option<c_int> {
    let mut answer = [0; 4];
    (read_option(fd, level, name, &mut answer)? == 4).then(|| c_int::from_ne_bytes(answer))
}

/// `getsockopt`: the length of the answer.
fn read_option(fd: c_int, level: c_int, name: c_int, answer: &mut [u8]) -> Option<usize> {
    let mut length = socklen_t::try_from(answer.len()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes to `answer`, which has as many, and the length it wrote to
    // `length`; both are exclusively ours during the call.
    let failed = unsafe { libc::getsockopt(fd, level, name, answer.as_mut_ptr().cast::<c_void>(), &raw mut length) };
    if failed == 0 { usize::try_from(length).ok() } else { None }
}

/// The driver's runtime opens its sockets so; much of what else opens sockets does not.
fn is_nonblocking(fd: c_int) -> bool {
    // SAFETY: `F_GETFL` takes no argument and touches no memory of ours.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags >= 0 && flags & libc::O_NONBLOCK != 0
}

/// Bytes received and not yet read.
fn bytes_waiting(fd: c_int) -> Option<u64> {
    let mut waiting: c_int = 0;
    // SAFETY: `FIONREAD` writes one `int` to where its argument points, which is exclusively ours during the call.
    let failed = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut waiting) };
    if failed == 0 { u64::try_from(waiting).ok() } else { None }
}
