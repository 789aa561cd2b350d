//! What a look at an idle connection shows.

use socket2::SockRef;

use super::*;

/// Looks until it shows something else than `before`: packets take a moment even on one machine.
async fn look_after(before: Look, socket: DriverSocket) -> Look {
    while socket.look() == before {
        tokio::task::yield_now().await;
    }
    socket.look()
}

#[tokio::test]
async fn a_connection_that_nobody_touches_is_healthy() {
    let (_stream, socket, _peer) = connected_pair().await;
    assert_eq!(socket.look(), Look::Healthy);
}

#[tokio::test]
async fn bytes_that_wait_are_unread_until_they_are_read() {
    let (mut stream, socket, mut peer) = connected_pair().await;
    peer.write_all(b"!").unwrap();
    assert_eq!(look_after(Look::Healthy, socket).await, Look::Unread);
    stream.read_exact(&mut [0]).await.unwrap();
    assert_eq!(socket.look(), Look::Healthy);
}

#[tokio::test]
async fn a_peer_that_said_goodbye_has_closed_even_with_bytes_unread() {
    let (_stream, socket, mut peer) = connected_pair().await;
    peer.write_all(b"a farewell").unwrap();
    assert_eq!(look_after(Look::Healthy, socket).await, Look::Unread);
    drop(peer);
    assert_eq!(look_after(Look::Unread, socket).await, Look::Closed);
}

#[tokio::test]
async fn a_fin_and_a_reset_are_both_seen() {
    for reset in [false, true] {
        let (_stream, socket, peer) = connected_pair().await;
        if reset {
            SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(peer);
        assert_eq!(look_after(Look::Healthy, socket).await, Look::Closed, "reset: {reset}");
    }
}

#[tokio::test]
async fn a_connection_that_closed_its_descriptor_is_gone() {
    let (stream, socket, _peer) = connected_pair().await;
    drop(stream);
    assert_eq!(socket.look(), Look::Gone);
    assert_eq!(socket.transmission(), None);
    assert_eq!(socket.local_addr(), None);
}

/// Opens things until one gets the number of the descriptor that `closed` had. Other tests may be quicker to take it;
/// then another connection is closed.
async fn reusing<T: AsRawFd>(open: impl Fn() -> T) -> (DriverSocket, T) {
    loop {
        let (stream, closed, _peer) = connected_pair().await;
        drop(stream);
        // Numbers below it may be free; the lowest is handed out first.
        let mut below = Vec::new();
        while below.len() < 100 {
            let opened = open();
            if opened.as_raw_fd() == closed.fd {
                return (closed, opened);
            }
            below.push(opened);
        }
    }
}

#[tokio::test]
async fn a_stranger_under_the_number_of_a_closed_connection_is_neither_read_nor_changed() {
    let echo = Echo::start();
    let (closed, mut stranger) = reusing(|| StdStream::connect(echo.address).unwrap()).await;
    assert_eq!(closed.look(), Look::Gone);
    assert_eq!(closed.transmission(), None);
    assert_eq!(closed.local_addr(), None);
    sys::tune(closed);
    assert!(!stranger.nodelay().unwrap());
    sys::give_up(closed);
    stranger.write_all(b"?").and_then(|()| stranger.read_exact(&mut [0])).expect("not shut down");
}

#[tokio::test]
async fn a_file_under_the_number_of_a_closed_connection_is_gone() {
    let (closed, _file) = reusing(|| std::fs::File::open("/dev/null").unwrap()).await;
    assert_eq!(closed.look(), Look::Gone);
    assert_eq!(closed.transmission(), None);
}
