//! Faults as the driver and the pool meet them, over TLS and with a token.

use std::error::Error;

use rds_proxy_pool::emulator::{ClientMessage, Delivered, Fault, Kind, Message, Point};
use sqlx::{ConnectOptions, Connection};

use super::soon;
use crate::support::world::World;

#[tokio::test]
async fn a_wrong_certificate_ends_the_handshake_and_names_what_is_wrong() {
    let Some(world) = World::start().await else { return };
    let options = world.pool().sqlx_pool().await.unwrap().connect_options();
    for (kind, wrong) in [(Kind::UnknownIssuer, "UnknownIssuer"), (Kind::OtherHost, "not valid for name")] {
        // Whatever the work would have been, it does not come to it.
        for point in Point::ALL {
            let mut injected = world.proxy().inject(Fault::new(Message::Startup, point, kind));
            let error = soon(options.connect()).await.expect_err("that is not the proxy");
            let mut told = vec![error.to_string()];
            let mut cause = error.source();
            while let Some(error) = cause {
                told.push(error.to_string());
                cause = error.source();
            }
            assert!(told.iter().any(|text| text.contains(wrong)), "{kind:?}: {told:?}");
            let strike = soon(injected.struck()).await;
            assert_eq!((strike.kind, strike.received), (kind, Some(ClientMessage::SslRequest)));
        }
        let logins = world.proxy().counts().logins;
        soon(options.connect()).await.expect("the next one sees the right certificate").close().await.unwrap();
        assert_eq!(world.proxy().counts().logins, logins + 1, "nobody logged in meanwhile");
    }
}

#[tokio::test]
async fn a_certificate_fault_meets_nothing_but_tls() {
    let Some(world) = World::start().await else { return };
    for message in Message::ALL.into_iter().filter(|message| *message != Message::Startup) {
        world.proxy().inject(Fault::new(message, Point::BeforeRequest, Kind::UnknownIssuer).times(u64::MAX));
    }
    let pool = world.pool();
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn points_of_an_encrypted_login_with_a_token_are_told_apart() {
    let Some(world) = World::start().await else { return };
    let options = world.pool().sqlx_pool().await.unwrap().connect_options();
    for (message, before, after) in [
        (Message::Startup, Some(ClientMessage::SslRequest), ClientMessage::Startup),
        (Message::Login, Some(ClientMessage::Startup), ClientMessage::Password),
    ] {
        for point in Point::ALL {
            let received = match point {
                // The very first byte: not even TLS has been asked for.
                Point::BeforeRequest if message == Message::Startup => None,
                Point::BeforeReply | Point::MidReply => Some(after),
                _ => before,
            };
            let mut injected = world.proxy().inject(Fault::new(message, point, Kind::Close));
            soon(options.connect()).await.expect_err("it is closed");
            let strike = soon(injected.struck()).await;
            assert_eq!((strike.received, strike.delivered), (received, Delivered::Nothing), "{message:?} {point:?}");
        }
    }
    soon(options.connect()).await.expect("all is well again");
}

#[tokio::test]
async fn a_commit_the_pool_sees_fail_is_done_or_not_as_the_emulator_says() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    sqlx::query("CREATE TABLE t (n int)").execute(&pool).await.unwrap();
    for (n, point) in (0_i32..).zip(Point::ALL) {
        let mut injected = world.proxy().inject(Fault::new(Message::Commit, point, Kind::Reset));
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("INSERT INTO t VALUES ($1)").bind(n).execute(&mut transaction).await.unwrap();
        soon(transaction.commit()).await.expect_err("the answer is lost");
        let strike = soon(injected.struck()).await;
        // The row of a session that has just ended is there or will never be.
        world.only_open(0).await;
        let query = sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT FROM t WHERE n = $1)").bind(n);
        let done = soon(query.fetch_one(&pool)).await.unwrap();
        assert_eq!(done, strike.delivered == Delivered::Answered, "{point:?}");
    }
}
