//! One connect at a time, with everything that may stand beside it.

use std::net::Ipv6Addr;

use socket2::SockRef;

use super::*;

#[track_caller]
fn assert_tuned(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    assert!(socket.tcp_nodelay().unwrap());
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(5)));
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(5));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(1));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
}

#[tokio::test]
async fn the_driver_s_socket_is_found_and_tuned() {
    let connected = Echo::start().watched().await;
    assert!(connected.times.login.is_some());
    assert_tuned(&assert_found(connected));
}

#[tokio::test]
async fn a_name_is_as_good_as_an_address() {
    let echo = Echo::start();
    let connected = watched(driver(("localhost", echo.port())), "localhost", echo.port()).await;
    assert_tuned(&assert_found(connected));
}

#[tokio::test]
async fn an_address_of_ip_version_6_is_as_good_as_one_of_4() {
    let Ok(echo) = Echo::start_at((Ipv6Addr::LOCALHOST, 0).into()) else {
        return println!("this machine has no IPv6");
    };
    assert_tuned(&assert_found(echo.watched().await));
}

#[tokio::test]
async fn after_addresses_that_refuse_the_one_that_answers_is_found() {
    let echo = Echo::start();
    let at = |last| SocketAddr::from(([127, 0, 0, last], echo.port()));
    let refusing = SocketAddr::from((Ipv6Addr::LOCALHOST, echo.port()));
    let addresses = [at(2), refusing, at(3), at(1)];
    let stream = assert_found(watched(driver(&addresses[..]), "127.0.0.1", echo.port()).await);
    assert_eq!(stream.peer_addr().unwrap(), echo.address);
    assert_tuned(&stream);
}

#[tokio::test]
async fn a_socket_that_was_there_before_is_never_taken() {
    let echo = Echo::start();
    let before = driver(echo.address).await.unwrap();
    // The driver hands out a connection that it has had for long, as no driver does: then nothing is found.
    let connected = watched(converse(before), "127.0.0.1", echo.port()).await;
    assert!(!SockRef::from(&connected.output.unwrap()).tcp_nodelay().unwrap());
    assert_eq!(connected.socket, None);
}

#[tokio::test]
async fn a_stranger_opened_during_our_poll_is_not_taken_whether_it_is_silent_or_as_busy_as_ours() {
    let echo = Echo::start();
    for busy in [false, true] {
        // Within the polls of the driver's future, so that nothing tells the two apart.
        let mut kept = None;
        let connect = async {
            let both = (TcpStream::connect(echo.address), TcpStream::connect(echo.address));
            let (ours, mut stranger) = futures_util::future::try_join(both.0, both.1).await?;
            if busy {
                stranger = converse(stranger).await?;
            }
            kept = Some(stranger);
            converse(ours).await
        };
        let connected = watched(connect, "127.0.0.1", echo.port()).await;
        assert!(connected.output.is_ok());
        assert_eq!(connected.socket, None, "two that are alike");
        assert!(!SockRef::from(&kept.unwrap()).tcp_nodelay().unwrap());
    }
}

#[tokio::test]
async fn a_stranger_opened_during_our_poll_is_told_by_what_it_does_outside_of_it() {
    let echo = Echo::start();
    let (tell, told) = tokio::sync::oneshot::channel();
    let (done, waiting) = tokio::sync::oneshot::channel::<()>();
    let stranger = async {
        let mut stranger: TcpStream = told.await.unwrap();
        stranger.write_all(b"x").await.unwrap();
        done.send(()).unwrap();
        stranger
    };
    let connect = async {
        let both = (TcpStream::connect(echo.address), TcpStream::connect(echo.address));
        let (ours, stranger) = futures_util::future::try_join(both.0, both.1).await?;
        tell.send(stranger).unwrap();
        waiting.await.unwrap();
        converse(ours).await
    };
    let (connected, stranger) = tokio::join!(watched(connect, "127.0.0.1", echo.port()), stranger);
    assert_tuned(&assert_found(connected));
    assert!(!SockRef::from(&stranger).tcp_nodelay().unwrap());
}

#[tokio::test]
async fn a_datagram_socket_or_a_connect_to_another_port_is_no_suspect() {
    let (echo, other) = (Echo::start(), Echo::start());
    let connect = async {
        let datagrams = tokio::net::UdpSocket::bind((LOCAL, 0)).await?;
        datagrams.connect(echo.address).await?;
        let elsewhere = TcpStream::connect(other.address).await?;
        let ours = driver(echo.address).await;
        drop((datagrams, elsewhere));
        ours
    };
    // As a name, so that any poll may make the socket.
    assert_tuned(&assert_found(watched(connect, "localhost", echo.port()).await));
}

/// Set in the process that has the descriptors: tests beside this one shall still find their sockets.
const CHILD: &str = "RDS_PROXY_POOL_TEST_DESCRIPTORS";

#[tokio::test]
async fn among_thousands_of_descriptors_the_search_is_given_up_and_the_connection_works() {
    if std::env::var_os(CHILD).is_none() {
        let name =
            "socket::tests::find::among_thousands_of_descriptors_the_search_is_given_up_and_the_connection_works";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let ended = child.args(["--exact", name]).env(CHILD, "1").output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        return assert!(ended.status.success() && said.contains("1 passed"), "{said}");
    }
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let echo = Echo::start();
    let files: Vec<_> = (0..2100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    let connected = echo.watched().await;
    assert!(connected.output.is_ok());
    assert_eq!(connected.socket, None);
    assert_eq!(connected.times.login, None, "what was not seen is not told");
    drop(files);
    assert_found(echo.watched().await);
}
