//! Many connects at once, among strangers to the same port that do what they like.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use socket2::SockRef;

use super::*;

const CALLERS: usize = 32;
const ROUNDS: usize = 25;

/// Connects that this crate does not watch.
#[derive(Clone)]
struct Strangers {
    echo: Echo,
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    /// How many of their sockets were tuned, as ours are.
    touched: Arc<AtomicUsize>,
}

impl Strangers {
    fn go_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn leave(&self, socket: SockRef<'_>) {
        self.made.fetch_add(1, Ordering::Relaxed);
        self.touched.fetch_add(usize::from(socket.tcp_nodelay().unwrap()), Ordering::Relaxed);
    }

    fn blocking(&self) {
        while self.go_on() {
            let mut stream = StdStream::connect(self.echo.address).unwrap();
            stream.write_all(b"x").and_then(|()| stream.read_exact(&mut [0])).unwrap();
            self.leave(SockRef::from(&stream));
        }
    }

    /// Just as ours do it, several at a time.
    async fn driving(&self) {
        while self.go_on() {
            for stream in futures_util::future::join_all((0..4).map(|_| driver(self.echo.address))).await {
                self.leave(SockRef::from(&stream.unwrap()));
            }
        }
    }

    /// Connects and stays silent until a little later.
    async fn silent(&self) {
        while self.go_on() {
            let stream = TcpStream::connect(self.echo.address).await.unwrap();
            tokio::task::yield_now().await;
            self.leave(SockRef::from(&stream));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn among_many_connects_and_strangers_no_wrong_socket_is_ever_taken() {
    let echo = Echo::start();
    let strangers = Strangers { echo, stop: Arc::default(), made: Arc::default(), touched: Arc::default() };
    let on_threads = [Strangers::blocking as fn(&Strangers), |strangers| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(strangers.driving());
    }];
    let on_threads = on_threads.map(|run| {
        let strangers = strangers.clone();
        std::thread::spawn(move || run(&strangers))
    });
    // On the threads that poll ours too.
    let (driving, silent) = (strangers.clone(), strangers.clone());
    let among_ours =
        [tokio::spawn(async move { driving.driving().await }), tokio::spawn(async move { silent.silent().await })];

    let (mut found, mut wrong) = (0, 0);
    for round in 0..ROUNDS {
        let host = if round % 2 == 0 { "localhost" } else { "127.0.0.1" };
        // An address is not to be given up here, however long a crowded listener leaves it without an answer.
        let target = Target { host, port: echo.port(), syn_limit: Duration::from_secs(60) };
        let connect = move || async move {
            connect_watched(driver((host, echo.port())), target, &SystemClock, &ConnectProgress::default()).await
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(connect())).collect();
        for caller in callers {
            let connected = caller.await.unwrap();
            let stream = connected.output.unwrap();
            if let Some(socket) = connected.socket {
                found += 1;
                wrong += usize::from(!is_of(socket, &stream));
            }
        }
    }
    strangers.stop.store(true, Ordering::Relaxed);
    on_threads.into_iter().for_each(|stranger| stranger.join().unwrap());
    for stranger in among_ours {
        stranger.await.unwrap();
    }
    let all = CALLERS * ROUNDS;
    let made = strangers.made.load(Ordering::Relaxed);
    println!("found {found} of {all}, wrong {wrong}, beside {made} strangers");
    assert_eq!(wrong, 0);
    assert_eq!(strangers.touched.load(Ordering::Relaxed), 0, "strangers' sockets that were tuned");
    assert!(made > ROUNDS, "there were strangers");
    assert!(found * 100 >= all * 95, "found {found} of {all}");
}
