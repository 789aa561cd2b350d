//! The search among real sockets, and what is made of what the kernel says.

mod reasoning;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::clock::SystemClock;

const CALLERS: usize = 32;
const ROUNDS: usize = 25;

/// A server that answers each byte it gets, on threads of its own.
struct Echo {
    port: u16,
}

impl Echo {
    fn start() -> Echo {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || answer(stream));
            }
        });
        Echo { port }
    }

    async fn watched(&self) -> Connected<TcpStream, io::Error> {
        watched(driver(([127, 0, 0, 1], self.port).into()), self.port).await
    }
}

fn answer(mut stream: StdStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
}

/// What a driver does: connect, ask, wait for the answer, and again.
async fn driver(address: SocketAddr) -> io::Result<TcpStream> {
    converse(TcpStream::connect(address).await?).await
}

async fn converse(mut stream: TcpStream) -> io::Result<TcpStream> {
    for question in [b"1", b"2"] {
        stream.write_all(question).await?;
        stream.read_exact(&mut [0]).await?;
    }
    Ok(stream)
}

/// A connection, what was found of it, and its other end.
async fn connected_pair() -> (TcpStream, DriverSocket, StdStream) {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepting = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for _ in 0..2 {
            let mut byte = [0];
            stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).unwrap();
        }
        stream
    });
    let connected = watched(driver(([127, 0, 0, 1], port).into()), port).await;
    (connected.output.unwrap(), connected.socket.unwrap(), accepting.join().unwrap())
}

async fn watched<F>(connect: F, port: u16) -> Connected<TcpStream, io::Error>
where
    F: Future<Output = io::Result<TcpStream>>,
{
    let target = Target { host: "127.0.0.1", port, syn_limit: Duration::from_millis(100) };
    connect_watched(connect, target, &SystemClock, &ConnectProgress::default()).await
}

/// Connects to `port` and writes to it until told to stop, out of our sight.
fn strangers(port: u16, stop: &Arc<AtomicBool>, made: &Arc<AtomicUsize>) -> Vec<std::thread::JoinHandle<()>> {
    let blocking = {
        let (stop, made) = (Arc::clone(stop), Arc::clone(made));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut stream = StdStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
                stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0])).unwrap();
                made.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let asynchronous = {
        let (stop, made) = (Arc::clone(stop), Arc::clone(made));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                while !stop.load(Ordering::Relaxed) {
                    let connects = (0..4).map(|_| driver(([127, 0, 0, 1], port).into()));
                    let streams = futures_util::future::join_all(connects).await;
                    made.fetch_add(streams.into_iter().filter(|stream| stream.is_ok()).count(), Ordering::Relaxed);
                }
            });
        })
    };
    vec![blocking, asynchronous]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn among_many_connects_and_strangers_no_wrong_socket_is_ever_taken() {
    let echo = Echo::start();
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let strangers = strangers(echo.port, &stop, &made);
    let (mut found, mut wrong) = (0, 0);
    for _ in 0..ROUNDS {
        let port = echo.port;
        let callers: Vec<_> =
            (0..CALLERS).map(|_| tokio::spawn(async move { Echo { port }.watched().await })).collect();
        for caller in callers {
            let connected = caller.await.unwrap();
            let stream = connected.output.unwrap();
            if let Some(socket) = connected.socket {
                found += 1;
                wrong +=
                    usize::from(socket.fd != stream.as_raw_fd() || socket.local_addr() != stream.local_addr().ok());
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    for stranger in strangers {
        stranger.join().unwrap();
    }
    let all = CALLERS * ROUNDS;
    println!("found {found} of {all}, wrong {wrong}, beside {} strangers", made.load(Ordering::Relaxed));
    assert_eq!(wrong, 0);
    assert!(found * 10 >= all * 9, "found {found} of {all}");
    assert!(made.load(Ordering::Relaxed) > ROUNDS, "there were strangers");
}

#[tokio::test]
async fn the_driver_s_socket_is_found_and_tuned() {
    let echo = Echo::start();
    let connected = echo.watched().await;
    let stream = connected.output.unwrap();
    assert_eq!(connected.socket.map(|socket| socket.fd), Some(stream.as_raw_fd()));
    let socket = SockRef::from(&stream);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(5)));
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(5));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(1));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
    assert!(connected.times.login.is_some());
}

#[tokio::test]
async fn a_look_tells_healthy_unread_closed_and_gone_apart() {
    let (stream, socket, mut peer) = connected_pair().await;
    assert_eq!(socket.look(), Look::Healthy);
    peer.write_all(b"a notice").unwrap();
    while socket.look() == Look::Healthy {
        tokio::task::yield_now().await;
    }
    assert_eq!(socket.look(), Look::Unread);
    // Closing with nothing unread on the peer's side sends FIN.
    drop(peer);
    while socket.look() == Look::Unread {
        tokio::task::yield_now().await;
    }
    assert_eq!(socket.look(), Look::Closed);

    let fd = stream.as_raw_fd();
    drop(stream);
    assert_eq!(socket.look(), Look::Gone);
    // The descriptor means another socket: the lowest free number is taken again, and if another thread was faster,
    // by something else that is not ours either.
    let _other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    assert_eq!(DriverSocket { fd, ..socket }.look(), Look::Gone);
    assert!(socket.transmission().is_none());
}

#[tokio::test]
async fn a_reset_is_seen_by_the_look() {
    let (_stream, socket, peer) = connected_pair().await;
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    while socket.look() == Look::Healthy {
        tokio::task::yield_now().await;
    }
    assert_eq!(socket.look(), Look::Closed);
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_given_up_and_the_next_one_is_tried() {
    // A listener whose queue is full drops SYNs; 127.0.0.2 is another host with the same port.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let echo = Echo::start();
    full.bind(&SocketAddr::from(([127, 0, 0, 2], echo.port)).into()).unwrap();
    full.listen(0).unwrap();
    let silent = SocketAddr::from(([127, 0, 0, 2], echo.port));
    let fill = || {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let connected = filler.connect_timeout(&silent.into(), Duration::from_millis(200));
        (filler, connected.is_ok())
    };
    let mut fillers = Vec::new();
    loop {
        let (filler, connected) = fill();
        fillers.push(filler);
        if !connected {
            break;
        }
    }

    let addresses = [silent, SocketAddr::from(([127, 0, 0, 1], echo.port))];
    let connect = async { converse(TcpStream::connect(&addresses[..]).await?).await };
    let connected = watched(connect, echo.port).await;
    let stream = connected.output.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
    assert_eq!(connected.times.unanswered, 1);
    assert_eq!(connected.socket.map(|socket| socket.fd), Some(stream.as_raw_fd()));
}

#[tokio::test]
async fn a_connect_that_panics_or_is_dropped_leaves_the_next_one_undisturbed() {
    let echo = Echo::start();
    let port = echo.port;
    let panicking = tokio::spawn(watched(async { panic!("on purpose") }, port));
    assert!(panicking.await.unwrap_err().is_panic());
    for polls in 0..8 {
        let mut connecting = Box::pin(echo.watched());
        for _ in 0..polls {
            let poll = std::future::poll_fn(|context| std::task::Poll::Ready(connecting.as_mut().poll(context)));
            if poll.await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(connecting);
        let connected = echo.watched().await;
        assert_eq!(connected.socket.map(|socket| socket.fd), Some(connected.output.unwrap().as_raw_fd()));
    }
}

#[tokio::test]
async fn a_socket_that_was_there_before_is_never_taken() {
    let echo = Echo::start();
    let before = driver(([127, 0, 0, 1], echo.port).into()).await.unwrap();
    // The driver hands out a connection that it has had for long, as no driver does: then nothing is found.
    let connected = watched(converse(before), echo.port).await;
    assert!(connected.output.is_ok());
    assert_eq!(connected.socket, None);
}

#[test]
fn only_silence_with_repetitions_of_unacknowledged_bytes_is_a_black_hole() {
    let at = |unacked, silent_ms, total_retrans| Transmission {
        unacked,
        unsent: 0,
        last_ack_recv: Duration::from_millis(silent_ms),
        total_retrans,
    };
    let sent = at(1, 300_000, 7);
    for (now, dead, why) in [
        (at(1, 300_500, 9), true, "repeated twice, nothing acknowledged"),
        (at(1, 500, 9), true, "exactly at both limits"),
        (at(1, 499, 9), false, "acknowledged something not long ago"),
        (at(1, 300_500, 8), false, "repeated once: a lost packet"),
        (at(1, 300_500, 7), false, "not repeated: just sent"),
        (at(0, 300_500, 9), false, "all is acknowledged: a slow answer"),
        (at(1, 300_500, 2), false, "a counter that went back says nothing"),
    ] {
        assert_eq!(is_black_hole(&sent, &now), dead, "{why}");
    }
}
