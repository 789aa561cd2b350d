//! The slow link between client and emulator.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rds_proxy_pool::emulator::{Event, Link};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Client, PATIENCE, Stage, TLS_PLEASE, connected, end_of, ended, is_lost, soon};

const MILLISECOND: Duration = Duration::from_millis(1);

async fn stage(link: Link) -> Option<Stage> {
    Stage::start_with(|builder| builder.link(link)).await
}

impl Client {
    /// The shortest of some round trips: what the machine is otherwise doing makes them longer and not shorter.
    async fn round_trip(&mut self) -> Duration {
        let mut shortest = PATIENCE;
        for _ in 0..15 {
            let started = Instant::now();
            self.double(1).await.expect("the client is served");
            shortest = shortest.min(started.elapsed());
        }
        shortest
    }
}

#[tokio::test]
async fn a_round_trip_takes_longer_by_twice_the_latency_and_not_by_a_millisecond_more() {
    let Some(stage) = stage(Link::new()).await else { return };
    let mut client = stage.client().await;
    for latency in [MILLISECOND / 2, 2 * MILLISECOND] {
        let (mut with, mut without) = (PATIENCE, PATIENCE);
        let right = |more| more >= 2 * latency - MILLISECOND / 5 && more < 2 * latency + MILLISECOND;
        // In turns, so that a machine that is busy for a while is so for both; one that stays busy takes more turns.
        let started = Instant::now();
        while started.elapsed() < PATIENCE / 2 && !right(with.saturating_sub(without)) {
            stage.proxy.set_link(Link::new().latency(latency));
            with = with.min(client.round_trip().await);
            stage.proxy.set_link(Link::new());
            without = without.min(client.round_trip().await);
        }
        assert!(right(with.saturating_sub(without)), "{with:?} with twice {latency:?}, else {without:?}");
    }
}

#[tokio::test]
async fn a_connection_from_before_the_first_link_stays_direct_and_the_next_is_on_the_link() {
    let Some(stage) = Stage::start().await else { return };
    let mut old = stage.client().await;
    stage.proxy.set_link(Link::new().latency(10 * MILLISECOND));
    let mut new = stage.client().await;
    assert!(old.round_trip().await < 10 * MILLISECOND);
    assert!(new.round_trip().await >= 20 * MILLISECOND);
}

#[tokio::test]
async fn what_a_client_sends_at_once_waits_for_the_round_trip_that_opens_a_connection() {
    let latency = 50 * MILLISECOND;
    let Some(stage) = stage(Link::new().latency(latency)).await else { return };
    let started = Instant::now();
    let mut raw = connected(&stage.proxy).await;
    raw.write_all(&TLS_PLEASE).await.unwrap();
    assert_eq!(soon(raw.read_u8()).await.unwrap(), b'S');
    let took = started.elapsed();
    assert!(took >= 2 * 2 * latency, "two round trips in {took:?}");
}

#[tokio::test]
async fn the_ends_of_a_connection_arrive_after_what_was_sent_before_them() {
    let latency = 30 * MILLISECOND;
    let Some(stage) = stage(Link::new().latency(latency)).await else { return };
    for (reset, expected) in [(false, Ok(0)), (true, Err(ErrorKind::ConnectionReset))] {
        // From the emulator.
        let mut raw = connected(&stage.proxy).await;
        raw.write_all(&TLS_PLEASE).await.unwrap();
        assert_eq!(soon(raw.read_u8()).await.unwrap(), b'S');
        let started = Instant::now();
        if reset {
            soon(stage.proxy.reset_all()).await;
        } else {
            soon(stage.proxy.cut_all()).await;
        }
        assert_eq!(end_of(&mut raw).await, expected);
        assert!(started.elapsed() >= latency, "it came at once");

        // From the client.
        let mut events = stage.proxy.events();
        let mut raw = connected(&stage.proxy).await;
        let Event::Connected(session) = soon(events.next()).await else { panic!("nobody else connects") };
        raw.write_all(&TLS_PLEASE).await.unwrap();
        assert_eq!(soon(raw.read_u8()).await.unwrap(), b'S');
        let started = Instant::now();
        if reset {
            SockRef::from(&raw).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(raw);
        ended(&mut events, session).await;
        assert!(started.elapsed() >= latency, "it came at once");
    }
}

#[tokio::test]
async fn a_client_that_goes_on_after_the_end_is_reset() {
    let Some(stage) = stage(Link::new().latency(MILLISECOND)).await else { return };
    let mut raw = connected(&stage.proxy).await;
    soon(stage.proxy.cut_all()).await;
    assert_eq!(end_of(&mut raw).await, Ok(0));
    raw.write_all(b"anybody there?").await.unwrap();
    // Its thread has passed the bytes on, was refused and told us.
    #[cfg(target_os = "linux")]
    soon(running(stage.proxy.port(), 0)).await;
    let error = loop {
        match raw.write_all(b"anybody there?").await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error.kind(),
        }
    };
    assert!(matches!(error, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
}

#[tokio::test]
async fn no_more_than_the_given_bytes_pass_in_a_second_either_way() {
    let Some(stage) = stage(Link::new()).await else { return };
    let mut client = stage.client().await;
    // Prepared before, so that what is timed is the transfer.
    let down = sqlx::query_scalar("SELECT repeat('x', $1)");
    let _: String = soon(down.bind(1).fetch_one(&mut client.connection)).await.unwrap();
    let up = sqlx::query_scalar("SELECT length($1)");
    let _: i32 = soon(up.bind("x").fetch_one(&mut client.connection)).await.unwrap();

    let (rate, size) = (1_000_000, 200_000);
    stage.proxy.set_link(Link::new().bytes_per_second(rate));
    let least = Duration::from_secs_f64(f64::from(size) / rate as f64);
    let started = Instant::now();
    let down = sqlx::query_scalar("SELECT repeat('x', $1)");
    let long: String = soon(down.bind(size).fetch_one(&mut client.connection)).await.unwrap();
    let took = started.elapsed();
    assert!(took >= least && took < 4 * least, "down in {took:?}, the link allows {least:?}");
    let started = Instant::now();
    let up = sqlx::query_scalar("SELECT length($1)");
    let length: i32 = soon(up.bind(&long).fetch_one(&mut client.connection)).await.unwrap();
    let took = started.elapsed();
    assert_eq!(length, size);
    assert!(took >= least && took < 4 * least, "up in {took:?}, the link allows {least:?}");
}

#[tokio::test]
async fn connections_do_not_wait_for_each_other() {
    let latency = 20 * MILLISECOND;
    let Some(stage) = stage(Link::new().latency(latency)).await else { return };
    let started = Instant::now();
    let asked = (0..100).map(async |_| {
        let mut raw = TcpStream::connect((Ipv4Addr::LOCALHOST, stage.proxy.port())).await.unwrap();
        raw.write_all(&TLS_PLEASE).await.unwrap();
        raw.read_u8().await.unwrap()
    });
    assert_eq!(soon(futures::future::join_all(asked)).await, [b'S'; 100]);
    let took = started.elapsed();
    assert!(took >= 4 * latency && took < 40 * latency, "{took:?} for two round trips of a hundred at once");
}

#[tokio::test]
async fn megabytes_arrive_as_they_were_sent_whatever_the_jitter() {
    let Some(stage) = stage(Link::new().latency(MILLISECOND / 2).jitter(2 * MILLISECOND)).await else { return };
    let mut client = stage.client().await;
    let sent: Vec<u8> = (0_u32..1 << 20).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let echo = sqlx::query_scalar("SELECT $1").bind(&sent).fetch_one(&mut client.connection);
    let received: Vec<u8> = soon(echo).await.unwrap();
    assert!(received == sent, "{} bytes came back, not those that were sent", received.len());
}

/// The threads that carry connections of the emulator at this port.
#[cfg(target_os = "linux")]
fn threads(port: u16) -> usize {
    let name = format!("rds-link-{port}\n");
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread may end while we look.
    tasks.flatten().filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|is| is == name)).count()
}

#[cfg(target_os = "linux")]
async fn running(port: u16, wanted: usize) {
    while threads(port) != wanted {
        tokio::time::sleep(MILLISECOND).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_thread_outlives_its_connection_or_the_emulator() {
    let Some(stage) = stage(Link::new().latency(MILLISECOND)).await else { return };
    let port = stage.proxy.port();
    let clients = [stage.client().await, stage.client().await, stage.client().await];
    let raw = connected(&stage.proxy).await;
    // A thread has its name when it has started, and is gone a little after its sockets are.
    soon(running(port, 4)).await;
    let [first, second, mut third] = clients;
    drop(first);
    soon(running(port, 3)).await;
    SockRef::from(&raw).set_linger(Some(Duration::ZERO)).unwrap();
    drop(raw);
    soon(running(port, 2)).await;
    soon(stage.proxy.cut(second.session)).await;
    drop(second);
    soon(running(port, 1)).await;
    // The third one is there still, its bytes under way for an hour.
    stage.proxy.set_link(Link::new().latency(60 * 60_000 * MILLISECOND));
    let query = tokio::spawn(async move { third.double(1).await });
    let _silent = connected(&stage.proxy).await;
    drop(stage.proxy);
    assert_eq!(threads(port), 0);
    assert!(is_lost(&soon(query).await.unwrap().unwrap_err()));
}
