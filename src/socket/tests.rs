//! The search among real sockets, and what is made of what the kernel says.

mod black_hole;
mod crowd;
mod find;
mod look;
mod polls;
mod reasoning;
mod silence;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs};

use super::*;
use crate::clock::SystemClock;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A server that answers each byte it gets, on threads of its own.
#[derive(Clone, Copy)]
struct Echo {
    address: SocketAddr,
}

impl Echo {
    fn start() -> Echo {
        Echo::start_at((LOCAL, 0).into()).unwrap()
    }

    fn start_at(address: SocketAddr) -> io::Result<Echo> {
        let listener = StdListener::bind(address)?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || answer(stream));
            }
        });
        Ok(Echo { address })
    }

    fn port(self) -> u16 {
        self.address.port()
    }

    async fn watched(self) -> Connected<TcpStream, io::Error> {
        watched(driver(self.address), &self.address.ip().to_string(), self.port()).await
    }
}

fn answer(mut stream: StdStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
}

/// What a driver does: connect, ask, wait for the answer, and again.
async fn driver(addresses: impl ToSocketAddrs) -> io::Result<TcpStream> {
    converse(TcpStream::connect(addresses).await?).await
}

async fn converse(mut stream: TcpStream) -> io::Result<TcpStream> {
    for question in [b"1", b"2"] {
        stream.write_all(question).await?;
        stream.read_exact(&mut [0]).await?;
    }
    Ok(stream)
}

async fn watched<F>(connect: F, host: &str, port: u16) -> Connected<TcpStream, io::Error>
where
    F: Future<Output = io::Result<TcpStream>>,
{
    let target = Target { host, port, syn_limit: Duration::from_millis(100) };
    connect_watched(connect, target, &SystemClock, &ConnectProgress::default()).await
}

/// A connection, what was found of it, and its other end.
async fn connected_pair() -> (TcpStream, DriverSocket, StdStream) {
    let listener = StdListener::bind((LOCAL, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for _ in 0..2 {
            let mut byte = [0];
            stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).unwrap();
        }
        stream
    });
    let connected = watched(driver(address), "127.0.0.1", address.port()).await;
    (connected.output.unwrap(), connected.socket.unwrap(), accepting.join().unwrap())
}

/// Whether `socket` is the very one under `stream`.
fn is_of(socket: DriverSocket, stream: &TcpStream) -> bool {
    socket.fd == stream.as_raw_fd() && socket.local_addr() == stream.local_addr().ok()
}

#[track_caller]
fn assert_found(connected: Connected<TcpStream, io::Error>) -> TcpStream {
    let stream = connected.output.unwrap();
    assert!(is_of(connected.socket.expect("the socket is found"), &stream));
    stream
}
