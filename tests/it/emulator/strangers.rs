//! Clients that speak no PostgreSQL, or say nothing, or do not listen.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Client, Relay, Stage, TLS_PLEASE, connected, end_of, soon};
use crate::support::process::POLL;

/// Bytes that are no PostgreSQL, and some that nearly are.
fn garbage(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = match random.u8(..6) {
        // Lengths that are too large, too small, or just a lie.
        0 => [[b'Q'].as_slice(), &u32::MAX.to_be_bytes()].concat(),
        1 => [[b'P'].as_slice(), &random.u32(..8).to_be_bytes()].concat(),
        2 => [[b'p'].as_slice(), &0x3fff_ffff_u32.to_be_bytes()].concat(),
        3 => random.u32(..).to_be_bytes().to_vec(),
        // Messages whose inside is wrong.
        4 => {
            let tag = *random.choice(b"PBEDCSQHFXdcfp").expect("there are some");
            [[tag].as_slice(), &8_u32.to_be_bytes(), &random.u32(..).to_be_bytes()].concat()
        }
        _ => Vec::new(),
    };
    bytes.extend((0..random.usize(..64)).map(|_| random.u8(..)));
    bytes
}

#[tokio::test]
async fn garbage_instead_of_a_startup_or_of_tls_harms_nobody() {
    let Some(stage) = Stage::start().await else { return };
    let mut bystander = stage.client().await;
    let mut random = fastrand::Rng::with_seed(1);
    for number in 0..200 {
        let mut raw = TcpStream::connect((Ipv4Addr::LOCALHOST, stage.proxy.port())).await.unwrap();
        if number % 2 == 1 {
            raw.write_all(&TLS_PLEASE).await.unwrap();
            assert_eq!(soon(raw.read_u8()).await.unwrap(), b'S');
        }
        // Errors mean that the emulator has had enough already.
        let _ = raw.write_all(&garbage(&mut random)).await;
        let _ = raw.shutdown().await;
        let _ = soon(raw.read_to_end(&mut Vec::new())).await;
    }
    soon(stage.proxy.counted(|counts| counts.open == 1)).await;
    assert_eq!(bystander.double(1).await.unwrap(), 2);
    stage.client().await;
}

#[tokio::test]
async fn garbage_at_any_point_of_a_session_ends_that_session_and_harms_nobody() {
    let Some(stage) = Stage::start_with(|builder| builder.requires_tls(false)).await else { return };
    let mut bystander = stage.client().await;
    let mut random = fastrand::Rng::with_seed(2);
    let mut logins = 0;
    for cut in (0..900).step_by(18) {
        let relay = Relay::start_with(stage.proxy.port(), cut, garbage(&mut random)).await;
        let client = stage.options().port(relay.port).ssl_mode(PgSslMode::Disable);
        let session = async {
            let mut connection = client.connect().await?;
            sqlx::query("SELECT 2 * $1").bind(1).execute(&mut connection).await?;
            sqlx::raw_sql("BEGIN; SELECT 1").execute(&mut connection).await?;
            loop {
                connection.ping().await?;
            }
        };
        let before = stage.proxy.counts().logins;
        let result: Result<(), sqlx::Error> = soon(session).await;
        result.expect_err("it ends");
        let end = soon(relay.upstream_end).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "after {cut} bytes: {end:?}");
        logins += stage.proxy.counts().logins - before;
    }
    assert!((10..40).contains(&logins), "some are cut before their login and some after: {logins}");
    soon(stage.proxy.counted(|counts| counts.open == 1)).await;
    assert_eq!(bystander.double(1).await.unwrap(), 2);
    stage.client().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_or_half_of_something_has_a_minute_to_log_in() {
    let Some(stage) = Stage::start().await else { return };
    let mut silent = connected(&stage.proxy).await;
    let mut halting = connected(&stage.proxy).await;
    halting.write_all(&TLS_PLEASE).await.unwrap();
    assert_eq!(soon(halting.read_u8()).await.unwrap(), b'S');
    stage.clock.advance(Duration::from_secs(45));
    stage.take_a_turn().await;
    assert_eq!(stage.proxy.counts().open, 2);
    stage.clock.advance(Duration::from_secs(15));
    assert_eq!(end_of(&mut silent).await, Ok(0));
    assert_eq!(end_of(&mut halting).await, Ok(0));
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_nobody_from_cutting_it() {
    let Some(stage) = Stage::start_with(|builder| builder.requires_tls(false)).await else { return };
    let mut observer = PgConnection::connect(&stage.database.superuser_url).await.unwrap();
    // Ever more, until not all of it fits in between: just before, the socket is full and the emulator has some left.
    for rows in (200..).step_by(20) {
        let mut client = Client::login(&stage.proxy, &stage.options().ssl_mode(PgSslMode::Disable)).await;
        let pid = client.pid().await;
        let sql = format!("SELECT repeat('x', 10240) FROM generate_series(1, {rows}); SELECT pg_sleep(20)");
        let mut read = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch(&mut client.connection);
        soon(futures::StreamExt::next(&mut read)).await.expect("there are rows").unwrap();
        let mut stuck = 0;
        loop {
            let waits = "SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE pid = $1";
            let waits = sqlx::query_scalar::<_, String>(waits).bind(pid).fetch_one(&mut observer);
            match soon(waits).await.unwrap().as_str() {
                "PgSleep" => break,
                "ClientWrite" => stuck += 1,
                _ => stuck = 0,
            }
            if stuck == 30 {
                soon(stage.proxy.cut_all()).await;
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        stage.terminate(pid).await;
        soon(stage.proxy.cut_all()).await;
    }
}
