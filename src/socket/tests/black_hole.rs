//! When a peer is called dead, on numbers and on packets.

use socket2::{Domain, Socket, Type};

use super::*;

#[test]
fn only_silence_with_repetitions_of_unacknowledged_bytes_is_a_black_hole() {
    let at = |unacked, silent_ms, total_retrans| Transmission {
        unacked,
        last_ack_recv: Duration::from_millis(silent_ms),
        total_retrans,
    };
    let sent = at(1, 300_000, 7);
    for (now, dead, why) in [
        (at(1, 300_500, 9), true, "repeated twice, nothing acknowledged"),
        (at(1, 500, 9), true, "exactly at all limits"),
        (at(40, 300_500, 900), true, "far beyond all limits"),
        (at(1, 499, 9), false, "acknowledged something not long ago"),
        (at(1, 0, 900), false, "acknowledged something just now, after many repetitions"),
        (at(1, 300_500, 8), false, "repeated once: a lost packet"),
        (at(1, 300_500, 7), false, "not repeated: just sent, however old the last acknowledgement"),
        (at(0, 300_500, 9), false, "all is acknowledged: a slow answer"),
        (at(0, 0, 7), false, "an idle connection"),
        (at(1, 300_500, 2), false, "a counter that went back says nothing"),
    ] {
        assert_eq!(is_black_hole(&sent, &now), dead, "{why}");
    }
    let untouched = at(0, 0, 0);
    assert!(is_black_hole(&untouched, &at(1, 500, 2)), "repetitions are counted from the send, whatever it was");
    let wasted = at(0, 0, u32::MAX);
    assert!(!is_black_hole(&wasted, &at(1, 500, 1)), "the counter of another connection");
}

/// What the search would have found.
fn socket_of(stream: &impl AsRawFd) -> DriverSocket {
    use crate::socket::hunt::Kernel;
    let fd = stream.as_raw_fd();
    sys::System.sockets().unwrap().into_iter().find(|socket| socket.fd == fd).unwrap()
}

/// Looks every 20 ms until `is_so`, as it is no event that could be waited for.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A connection that stands on our side alone, so that whatever is sent over it vanishes; with what it takes.
///
/// The listener drops what carries no data: it does not know that a connection stands before something is sent over it.
/// By then it has no room for this one.
async fn half_connected() -> (StdStream, impl Sized) {
    const ROOM: i32 = 2;
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((LOCAL, 0)).into()).unwrap();
    sys::defer_accept(&listener).unwrap();
    listener.listen(ROOM).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let connect = || StdStream::connect(address).unwrap();
    let mut others: Vec<_> = (0..ROOM).map(|_| connect()).collect();
    for other in &mut others {
        send(other).await;
    }
    // Before the one that takes the last place, as the listener would not answer afterwards.
    let (lost, mut last) = (connect(), connect());
    send(&mut last).await;
    (lost, (listener, others, last))
}

/// Sends, and waits until the peer says that it has it.
async fn send(stream: &mut StdStream) {
    stream.write_all(b"?").unwrap();
    let socket = socket_of(stream);
    until(|| socket.transmission().unwrap().unacked == 0).await;
}

#[tokio::test]
async fn a_peer_that_no_longer_acknowledges_is_told_from_one_that_does_not_answer() {
    let (mut lost, _others) = half_connected().await;
    let (mut slow, slow_socket, _peer) = connected_pair().await;
    let lost_socket = socket_of(&lost);
    let at_send = [slow_socket, lost_socket].map(|socket| socket.transmission().unwrap());
    slow.write_all(b"?").await.unwrap();
    lost.write_all(b"?").unwrap();

    let lost_now = || lost_socket.transmission().unwrap();
    assert!(!is_black_hole(&at_send[1], &lost_now()), "just sent");
    until(|| is_black_hole(&at_send[1], &lost_now())).await;
    until(|| slow_socket.transmission().unwrap().last_ack_recv >= SILENCE).await;
    let slow_now = slow_socket.transmission().unwrap();
    assert_eq!((slow_now.unacked, slow_now.total_retrans), (0, 0));
    assert!(!is_black_hole(&at_send[0], &slow_now));
    assert_eq!(lost_socket.look(), Look::Healthy, "which is why the look alone does not do");
}
