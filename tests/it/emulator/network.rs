//! The ways a network ends connections or keeps silent.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};

use rds_proxy_pool::emulator::{Closed, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Client, Relay, SILENCE, Stage, TLS_PLEASE, connected, end_of, ended, is_lost, soon};

#[tokio::test]
async fn refused_connections_are_refused_by_the_system_until_the_same_port_takes_them_again() {
    let Some(stage) = Stage::start().await else { return };
    let port = stage.proxy.port();
    let mut old = stage.client().await;
    for _ in 0..3 {
        stage.proxy.refuse_connections().await;
        let error = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(old.double(1).await.unwrap(), 2, "who is connected stays");
        stage.proxy.accept_connections().await;
        assert_eq!(stage.proxy.port(), port);
        stage.client().await;
    }
}

#[tokio::test]
async fn while_the_proxy_does_not_answer_it_accepts_and_says_nothing_and_then_it_goes_on() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    stage.proxy.stop_answering();
    let mut query = tokio::spawn(async move { client.double(2).await });
    let mut raw = connected(&stage.proxy).await;
    raw.write_all(&TLS_PLEASE).await.unwrap();
    assert!(tokio::time::timeout(SILENCE, raw.read_u8()).await.is_err());
    assert!(tokio::time::timeout(SILENCE, &mut query).await.is_err());
    stage.proxy.resume_answering();
    assert_eq!(soon(raw.read_u8()).await.unwrap(), b'S');
    assert_eq!(soon(query).await.unwrap().unwrap(), 4);
}

#[tokio::test]
async fn a_proxy_that_does_not_answer_can_be_cut_and_stopped() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    stage.proxy.stop_answering();
    let _raw = connected(&stage.proxy).await;
    soon(stage.proxy.cut_all()).await;
    assert_eq!(stage.proxy.counts().open, 0);
    assert_eq!(ended(&mut client.events, client.session).await, Closed::Cut);
    let _raw = connected(&stage.proxy).await;
    soon(stage.proxy.shutdown()).await;
}

#[tokio::test]
async fn cut_connections_end_with_fin_and_reset_ones_with_rst() {
    let Some(stage) = Stage::start().await else { return };
    for (reset, expected) in [(false, Ok(0)), (true, Err(ErrorKind::ConnectionReset))] {
        // One before its login, one logged in over TLS, one with a statement under way.
        let mut raw = connected(&stage.proxy).await;
        let relay = Relay::start(stage.proxy.port()).await;
        let mut client = Client::login(&stage.proxy, &stage.options().port(relay.port)).await;
        let busy_relay = Relay::start(stage.proxy.port()).await;
        let busy = Client::login(&stage.proxy, &stage.options().port(busy_relay.port)).await;
        let (_running, busy_session, mut busy_events) = busy.busy().await;
        if reset {
            soon(stage.proxy.reset_all()).await;
        } else {
            soon(stage.proxy.cut_all()).await;
        }
        assert_eq!(stage.proxy.counts().open, 0, "all are closed when it returns");
        assert_eq!(end_of(&mut raw).await, expected);
        assert_eq!(soon(relay.upstream_end).await.unwrap(), expected);
        assert_eq!(soon(busy_relay.upstream_end).await.unwrap(), expected);
        assert_eq!(ended(&mut client.events, client.session).await, Closed::Cut);
        assert_eq!(ended(&mut busy_events, busy_session).await, Closed::Cut);
    }
}

#[tokio::test]
async fn one_session_can_be_cut_and_the_others_stay() {
    let Some(stage) = Stage::start().await else { return };
    let (mut first, mut second) = (stage.client().await, stage.client().await);
    soon(stage.proxy.cut(first.session)).await;
    assert_eq!(stage.proxy.counts().open, 1);
    assert_eq!(ended(&mut first.events, first.session).await, Closed::Cut);
    assert!(is_lost(&first.double(1).await.unwrap_err()));
    assert_eq!(second.double(1).await.unwrap(), 2);
    // It has gone: nothing happens.
    soon(stage.proxy.cut(first.session)).await;
    assert_eq!(second.double(1).await.unwrap(), 2);
}

#[tokio::test]
async fn cutting_the_idle_ones_spares_transactions_and_statements_under_way() {
    let Some(stage) = Stage::start().await else { return };
    let (mut idle, mut open) = (stage.client().await, stage.client().await);
    let (mut busy, _, _) = stage.client().await.busy().await;
    open.run("BEGIN").await.unwrap();
    stage.proxy.cut_idle();
    assert_eq!(ended(&mut idle.events, idle.session).await, Closed::Cut);
    assert_eq!(open.double(1).await.unwrap(), 2);
    assert!(tokio::time::timeout(SILENCE, &mut busy).await.is_err(), "it is still under way");
    assert_eq!(stage.proxy.counts().open, 2);
}

#[tokio::test]
async fn shutdown_ends_every_session_and_frees_the_port_and_so_does_drop() {
    for by_drop in [false, true] {
        let Some(stage) = Stage::start().await else { return };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, stage.proxy.port()));
        let taken = std::net::TcpListener::bind(address).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        let mut raw = connected(&stage.proxy).await;
        let (mut idle, mut open) = (stage.client().await, stage.client().await);
        open.run("BEGIN").await.unwrap();
        let (running, busy_session, mut busy_events) = stage.client().await.busy().await;
        let sessions = [idle.session, open.session];

        if by_drop {
            drop(stage.proxy);
        } else {
            soon(stage.proxy.shutdown()).await;
        }
        std::net::TcpListener::bind(address).expect("the port is free");
        assert_eq!(end_of(&mut raw).await, Ok(0));
        for session in sessions {
            let mut events = idle.events.clone();
            assert_eq!(ended(&mut events, session).await, Closed::Shutdown);
        }
        assert_eq!(ended(&mut busy_events, busy_session).await, Closed::Shutdown);
        assert!(is_lost(&soon(running).await.unwrap().unwrap_err()));
        assert!(is_lost(&idle.double(1).await.unwrap_err()));
    }
}

#[tokio::test]
async fn shutdown_does_not_wait_for_work_that_queues() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    stage.proxy.clear_backend();
    let mut events = stage.proxy.events();
    let session = client.session;
    let queued = tokio::spawn(async move { client.double(1).await });
    soon(events.wait_for(|event: &Event| *event == Event::Queued(session))).await;
    soon(stage.proxy.shutdown()).await;
    assert_eq!(ended(&mut events, session).await, Closed::Shutdown);
    assert!(is_lost(&soon(queued).await.unwrap().unwrap_err()));
}
