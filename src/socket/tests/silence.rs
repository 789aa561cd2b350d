//! Addresses that do not answer, and where a connect is meanwhile.

use socket2::{Domain, Socket, Type};

use super::*;
use crate::clock::{AdjustableClock, Clock};

/// A listener whose queue is full, so that SYNs to it are dropped. The address is another one with the same port.
struct Silent {
    address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl Silent {
    fn beside(echo: Echo) -> Silent {
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 2], echo.port()));
        full.bind(&address.into()).unwrap();
        full.listen(0).unwrap();
        let mut sockets = vec![full];
        loop {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let answered = filler.connect_timeout(&address.into(), Duration::from_millis(200)).is_ok();
            sockets.push(filler);
            if !answered {
                return Silent { address, _sockets: sockets };
            }
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn hour_for(echo: Echo) -> Target<'static> {
    Target { host: "127.0.0.1", port: echo.port(), syn_limit: HOUR }
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_given_up_and_the_next_one_is_tried() {
    let echo = Echo::start();
    let silent = Silent::beside(echo);
    let addresses = [silent.address, silent.address, echo.address];
    let connected = watched(driver(&addresses[..]), "127.0.0.1", echo.port()).await;
    assert_eq!(connected.times.unanswered, 2);
    let stream = assert_found(connected);
    assert_eq!(stream.peer_addr().unwrap(), echo.address);
}

#[tokio::test]
async fn the_last_address_that_does_not_answer_is_an_error_of_the_driver() {
    let echo = Echo::start();
    let silent = Silent::beside(echo);
    let connected = watched(driver(silent.address), "127.0.0.1", echo.port()).await;
    assert_eq!(connected.output.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(connected.socket, None);
    assert_eq!(connected.times.unanswered, 1);
}

#[tokio::test]
async fn an_address_has_until_the_limit_on_the_pool_s_clock_and_no_longer() {
    let echo = Echo::start();
    let silent = Silent::beside(echo);
    let (clock, progress) = (AdjustableClock::new(), ConnectProgress::default());
    let addresses = [silent.address, echo.address];
    let mut connecting = Box::pin(connect_watched(driver(&addresses[..]), hour_for(echo), &clock, &progress));
    clock.advance(HOUR);
    assert!(futures_util::poll!(connecting.as_mut()).is_pending());
    assert_eq!(progress.phase(), Some(ConnectPhase::Tcp));
    clock.advance(HOUR - Duration::from_secs(60));
    for _ in 0..100 {
        assert!(futures_util::poll!(connecting.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(progress.times(clock.monotonic()).unanswered, 0);
    clock.advance(Duration::from_secs(60));
    let connected = connecting.await;
    assert_eq!(connected.times.unanswered, 1);
    assert!(connected.times.tcp.unwrap() >= HOUR);
    assert_eq!(assert_found(connected).peer_addr().unwrap(), echo.address);
}

#[tokio::test]
async fn an_address_that_answered_is_not_given_up_however_long_the_login_takes() {
    let echo = Echo::start();
    let (clock, progress) = (AdjustableClock::new(), ConnectProgress::default());
    let connect = async {
        let stream = TcpStream::connect(echo.address).await?;
        // A freeze longer than the limit, before the first byte.
        clock.advance(2 * HOUR);
        tokio::task::yield_now().await;
        converse(stream).await
    };
    let connected = connect_watched(connect, hour_for(echo), &clock, &progress).await;
    assert_eq!(connected.times.unanswered, 0);
    assert_found(connected);
    assert_eq!(progress.phase(), Some(ConnectPhase::Login));
}

#[tokio::test]
async fn beside_a_stranger_an_address_that_does_not_answer_is_left_alone() {
    let echo = Echo::start();
    let silent = Silent::beside(echo);
    let (clock, progress) = (AdjustableClock::new(), ConnectProgress::default());
    // Both wait, and nothing tells which of them is ours.
    let connect = async {
        let both = (TcpStream::connect(silent.address), TcpStream::connect(silent.address));
        futures_util::future::try_join(both.0, both.1).await.map(|(ours, _)| ours)
    };
    let mut connecting = Box::pin(connect_watched(connect, hour_for(echo), &clock, &progress));
    for _ in 0..100 {
        assert!(futures_util::poll!(connecting.as_mut()).is_pending());
        clock.advance(HOUR);
        tokio::task::yield_now().await;
    }
    assert_eq!(progress.times(clock.monotonic()).unanswered, 0);
}

#[tokio::test]
async fn a_connect_that_is_dropped_leaves_word_of_where_it_was() {
    let echo = Echo::start();
    let progress = ConnectProgress::default();
    assert_eq!(progress.phase(), None);
    let resolving = std::future::pending::<io::Result<TcpStream>>();
    let target = Target { host: "localhost", ..hour_for(echo) };
    let mut connecting = Box::pin(connect_watched(resolving, target, &SystemClock, &progress));
    assert!(futures_util::poll!(connecting.as_mut()).is_pending());
    drop(connecting);
    assert_eq!(progress.phase(), Some(ConnectPhase::Dns));

    let (started, ready) = tokio::sync::oneshot::channel();
    let login = async {
        let stream = driver(echo.address).await.unwrap();
        started.send(()).unwrap();
        std::future::pending::<()>().await;
        io::Result::Ok(stream)
    };
    let connecting = Box::pin(connect_watched(login, hour_for(echo), &SystemClock, &progress));
    futures_util::future::select(connecting, ready).await;
    assert_eq!(progress.phase(), Some(ConnectPhase::Login));
}
