//! The emulator's link in front of a server that is no emulator.

// The very files of the crate: what they offer to the emulator alone is not public there.
#[allow(dead_code, reason = "the emulator uses all of it")]
#[path = "../../../src/emulator/carrier.rs"]
mod carrier;
#[allow(dead_code, reason = "the emulator uses all of it")]
#[path = "../../../src/emulator/link.rs"]
mod link;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use link::{Link, Links};

/// A port that leads to `server` with this latency, until the process ends.
pub fn behind(latency: Duration, server: SocketAddr) -> u16 {
    let links = Links::new(Some(Link::new().latency(latency)));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let server = TcpStream::connect(server).expect("the server is there");
            links.join(client.expect("a client comes"), server).expect("there is room for a thread");
        }
    });
    port
}
