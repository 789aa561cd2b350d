//! Polls, panics and drops.

use std::cell::Cell;
use std::task::Poll;

use super::*;

#[tokio::test]
async fn a_connect_dropped_after_any_poll_leaves_the_next_one_undisturbed() {
    let echo = Echo::start();
    for polls in 0..8 {
        let mut connecting = Box::pin(echo.watched());
        for _ in 0..polls {
            if futures_util::poll!(connecting.as_mut()).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(connecting);
        assert_found(echo.watched().await);
    }
}

#[tokio::test]
async fn a_connect_dropped_during_its_login_closes_its_socket() {
    let listener = StdListener::bind((LOCAL, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut connecting = Box::pin(watched(driver(address), "127.0.0.1", address.port()));
    assert!(futures_util::poll!(connecting.as_mut()).is_pending());
    let (mut accepted, _) = listener.accept().unwrap();
    drop(connecting);
    let mut rest = Vec::new();
    // Nothing that was left behind keeps it open.
    let _ = accepted.read_to_end(&mut rest);
}

#[tokio::test]
async fn a_panic_in_any_poll_of_a_driver_leaves_the_others_undisturbed() {
    let echo = Echo::start();
    for polls in 1..4 {
        let address = echo.address;
        let panicking = async move {
            let mut driver = Box::pin(driver(address));
            let mut left = polls;
            std::future::poll_fn(|context| {
                left -= 1;
                assert!(left > 0, "on purpose");
                driver.as_mut().poll(context)
            })
            .await
        };
        let panicking = tokio::spawn(async move { watched(panicking, "127.0.0.1", address.port()).await });
        let beside = tokio::spawn(echo.watched());
        assert!(panicking.await.unwrap_err().is_panic());
        assert_found(beside.await.unwrap());
        // On the thread that panicked and on another one.
        assert_found(echo.watched().await);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            assert_found(runtime.block_on(echo.watched()));
        })
        .join()
        .unwrap();
    }
}

#[tokio::test]
async fn a_driver_that_connects_through_us_in_turn_does_not_wait_for_itself() {
    let echo = Echo::start();
    let progress = ConnectProgress::default();
    let inner = async {
        let target = Target { host: "127.0.0.1", port: echo.port(), syn_limit: Duration::from_secs(1) };
        let connected = connect_watched(driver(echo.address), target, &SystemClock, &progress).await;
        assert_eq!(connected.socket, None, "one search at a time");
        assert_eq!((connected.times.tcp, connected.times.login), (None, None), "what was not seen is not told");
        connected.output
    };
    assert_found(watched(inner, "127.0.0.1", echo.port()).await);
    assert_eq!(progress.phase(), None);
}

#[tokio::test]
async fn the_driver_is_polled_when_it_was_woken_and_only_then() {
    let polls = Cell::new(0);
    let waker = Cell::new(None);
    let connect = std::future::poll_fn(|context| {
        polls.set(polls.get() + 1);
        waker.set(Some(context.waker().clone()));
        if polls.get() < 3 { Poll::Pending } else { Poll::Ready(Err(io::ErrorKind::Other.into())) }
    });
    let mut connecting = Box::pin(watched(connect, "127.0.0.1", 1));
    for _ in 0..5 {
        assert!(futures_util::poll!(connecting.as_mut()).is_pending());
    }
    assert_eq!(polls.get(), 1);
    waker.take().unwrap().wake();
    for _ in 0..5 {
        assert!(futures_util::poll!(connecting.as_mut()).is_pending());
    }
    assert_eq!(polls.get(), 2);
    waker.take().unwrap().wake();
    assert!(futures_util::poll!(connecting.as_mut()).is_ready());
    drop(connecting);
    // Nobody is there to be woken any more, and nothing comes of it.
    waker.take().unwrap().wake();
    assert_eq!(polls.get(), 3);
}

#[tokio::test]
async fn no_lock_is_held_between_polls() {
    let echo = Echo::start();
    let mut waiting = Box::pin(echo.watched());
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    // Would wait for ever, on another thread as on this one.
    assert_found(echo.watched().await);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_found(runtime.block_on(echo.watched()));
    })
    .join()
    .unwrap();
    assert_found(waiting.await);
}
