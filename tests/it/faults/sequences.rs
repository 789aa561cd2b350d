//! Faults among other things: several requests under way, refused logins, COPY, a failover or a silence at the same moment.

use std::io::Result;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use rds_proxy_pool::emulator::{
    ClientMessage, Closed, Delivered, Event, Existing, Fault, Kind, Message, Point, Schedule, Strike,
};
use sqlx::{Connection, PgConnection};

use super::kinds::{logged_in, query};
use super::raw::{End, Raw};
use super::{DELAY, PASSWORD, Stage, USER, answer, closed, is_open, soon};
use crate::support::process::POLL;
use crate::support::world::backend;

/// A fault that changes nothing but is seen.
const SEEN: Kind = Kind::Delay { least: Duration::ZERO, most: Duration::ZERO };

fn execute(point: Point, kind: Kind) -> Fault {
    Fault::new(Message::Execute, point, kind)
}

/// Texts of statements, each a request, sent together.
async fn send_queries(client: &mut Raw, texts: &[&str]) {
    client.send(|buffer| texts.iter().try_for_each(|sql| frontend::query(sql, buffer))).await;
}

/// Prepares and runs a statement, without a Sync.
fn run_prepared(sql: &str, buffer: &mut BytesMut) -> Result<()> {
    frontend::parse("", sql, [], buffer)?;
    let none: [(); 0] = [];
    let bound = frontend::bind("", "", [], none, |_, _| Ok(IsNull::Yes), [], buffer);
    bound.unwrap_or_else(|_| unreachable!("there are no values"));
    frontend::execute("", 0, buffer)
}

#[tokio::test]
async fn the_answers_to_requests_before_the_struck_one_reach_the_client() {
    let Some(stage) = Stage::start().await else { return };
    for point in [Point::BeforeReply, Point::MidReply] {
        let mut injected = stage.proxy.inject(execute(point, Kind::Close).text("'this'"));
        let (mut client, _) = logged_in(&stage).await;
        send_queries(&mut client, &["SELECT 'that'", "SELECT 'this'"]).await;
        let whole = answer(&mut client).await.bytes;
        let (seen, end) = soon(client.reply()).await;
        let half = if point == Point::MidReply { whole / 2 } else { 0 };
        assert_eq!((seen.bytes, end), (half, End::Fin), "{point:?}");
        assert_eq!(soon(injected.struck()).await.delivered, Delivered::Answered);
    }
}

#[tokio::test]
async fn an_answer_is_struck_when_it_is_there_whatever_else_has_been_asked_for() {
    let Some(stage) = Stage::start().await else { return };
    let mut injected = stage.proxy.inject(execute(Point::BeforeReply, Kind::Close));
    let (mut client, _) = logged_in(&stage).await;
    send_queries(&mut client, &["SELECT 1", "SELECT pg_sleep(3600)"]).await;
    soon(injected.struck()).await;
    assert_eq!(soon(client.reply()).await.1, End::Fin);
}

#[tokio::test]
async fn each_request_meets_its_own_fault_while_others_are_under_way() {
    let Some(stage) = Stage::start().await else { return };
    let mut all = stage.proxy.inject(execute(Point::BeforeReply, SEEN).times(u64::MAX));
    let (mut client, _) = logged_in(&stage).await;
    for _ in 0..20 {
        send_queries(&mut client, &["SELECT 1", "SELECT 2", "SELECT 3"]).await;
        for _ in 0..3 {
            answer(&mut client).await;
            soon(all.struck()).await;
        }
    }
    all.remove();

    // Those that come meanwhile are counted.
    let skipping = execute(Point::BeforeReply, Kind::Close).text("'counted'").skip(1);
    let (_first, mut third) = (stage.proxy.inject(execute(Point::BeforeReply, SEEN)), stage.proxy.inject(skipping));
    send_queries(&mut client, &["SELECT 1", "SELECT 'counted'", "SELECT 'counted'"]).await;
    assert_eq!(soon(client.reply()).await.1, End::Answered);
    assert_eq!(soon(client.reply()).await.1, End::Answered);
    assert_eq!(soon(client.reply()).await.1, End::Fin);
    soon(third.struck()).await;
}

#[tokio::test]
async fn a_refused_login_meets_the_faults_for_its_reply() {
    let Some(stage) = Stage::start().await else { return };
    let databases = [stage.database.name.as_str(), "there_is_none"];
    for (message, user, database, password, code) in [
        (Message::Startup, "nobody", databases[0], PASSWORD, "28000"),
        (Message::Login, USER, databases[0], "wrong", "28P01"),
        (Message::Login, USER, databases[1], PASSWORD, "3D000"),
    ] {
        for (point, kind) in [
            (Point::BeforeReply, SEEN),
            (Point::BeforeReply, Kind::Close),
            (Point::MidReply, Kind::Reset),
            (Point::BeforeReply, Kind::AdminShutdown),
        ] {
            let mut events = stage.proxy.events();
            let mut injected = stage.proxy.inject(Fault::new(message, point, kind));
            let mut client = stage.client().await;
            client.send_startup(user, database).await;
            if message == Message::Login {
                answer(&mut client).await;
                client.send_login(password).await;
            }
            let (seen, end) = soon(client.reply()).await;
            let Strike { received, delivered, session, .. } = soon(injected.struck()).await;
            let last = if message == Message::Login { ClientMessage::Password } else { ClientMessage::Startup };
            assert_eq!((received, delivered), (Some(last), Delivered::Nothing), "{message:?} {code} {kind:?}");
            let (told, how, reason) = match kind {
                SEEN => (Some(code), End::Fin, Closed::LoginFailed),
                Kind::AdminShutdown => (Some("57P01"), End::Fin, Closed::Fault),
                Kind::Close => (None, End::Fin, Closed::Fault),
                _ => (None, End::Rst, Closed::Fault),
            };
            assert_eq!((seen.code.as_deref(), end), (told, how), "{message:?} {code} {kind:?}");
            assert_eq!(seen.bytes > 0, kind != Kind::Close);
            assert_eq!(closed(&mut events, session).await, reason);
        }
    }
}

#[tokio::test]
async fn who_connects_and_says_nothing_meets_no_fault() {
    let Some(stage) = Stage::start().await else { return };
    for kind in [Kind::Close, Kind::StopReading] {
        let mut events = stage.proxy.events();
        let mut injected = stage.proxy.inject(Fault::new(Message::Startup, Point::BeforeRequest, kind));
        drop(stage.client().await);
        soon(events.wait_for(|event| matches!(event, Event::Closed { .. }))).await;
        let mut client = stage.client().await;
        client.send_startup(USER, &stage.database.name).await;
        assert_eq!(soon(injected.struck()).await.kind, kind);
    }
}

#[tokio::test]
async fn a_pause_later_than_any_clock_lasts_until_the_client_goes() {
    let Some(stage) = Stage::start().await else { return };
    let ever = Duration::MAX;
    for kind in [Kind::Delay { least: ever, most: ever }, Kind::Drip { bytes: 1, every: ever }] {
        let mut events = stage.proxy.events();
        let mut injected = stage.proxy.inject(execute(Point::BeforeReply, kind));
        let (mut client, session) = logged_in(&stage).await;
        client.send(|buffer| frontend::query("SELECT 1", buffer)).await;
        soon(injected.struck()).await;
        drop(client);
        assert_eq!(closed(&mut events, session).await, Closed::ByClient, "{kind:?}");
    }
}

#[tokio::test]
async fn a_prepared_commit_is_done_before_its_sync_and_a_write_is_not() {
    let Some(stage) = Stage::start().await else { return };
    for (n, message) in [(1, Message::Commit), (2, Message::Execute)] {
        let (mut client, _) = logged_in(&stage).await;
        let insert = format!("INSERT INTO rows VALUES ({n})");
        let mut sql = insert.as_str();
        if message == Message::Commit {
            assert_eq!(query(&mut client, "BEGIN").await, End::Answered);
            assert_eq!(query(&mut client, &insert).await, End::Answered);
            sql = "COMMIT";
        }
        let mut injected = stage.proxy.inject(Fault::new(message, Point::BeforeSync, Kind::Close));
        let encode = |buffer: &mut _| {
            run_prepared(sql, buffer)?;
            frontend::sync(buffer);
            Ok(())
        };
        client.send(encode).await;
        assert_eq!(soon(client.reply()).await.1, End::Fin);
        assert_eq!(soon(injected.struck()).await.delivered, Delivered::AllButSync);
    }
    assert_eq!(stage.rows().await, [1]);
}

#[tokio::test]
async fn a_server_process_that_ends_while_its_request_drips_is_what_ended_the_session() {
    let Some(stage) = Stage::start().await else { return };
    let mut events = stage.proxy.events();
    let (mut client, session) = logged_in(&stage).await;
    let drip = Kind::Drip { bytes: 1, every: Duration::from_secs(1) };
    let mut injected = stage.proxy.inject(execute(Point::BeforeRequest, drip));
    client.send(|buffer| frontend::query("SELECT 1", buffer)).await;
    soon(injected.struck()).await;
    let mut observer = PgConnection::connect(&stage.database.superuser_url).await.expect("the server is there");
    let others = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert_eq!(sqlx::query_scalar::<_, i64>(others).fetch_one(&mut observer).await.expect("a superuser may"), 1);
    let stepping = async {
        loop {
            stage.clock.advance(Duration::from_secs(1));
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::select! {
        reason = closed(&mut events, session) => assert_eq!(reason, Closed::BackendLost),
        () = stepping => {}
    }
}

#[tokio::test]
async fn a_long_request_that_is_struck_behind_a_long_answer_is_handed_on() {
    let Some(stage) = Stage::start().await else { return };
    // Neither fits into what sockets hold.
    let long = format!("SELECT length('this{}')", "x".repeat(16 << 20));
    for kind in [SEEN, Kind::Drip { bytes: 1 << 22, every: Duration::from_millis(1) }] {
        for point in [Point::BeforeRequest, Point::MidRequest] {
            let mut injected = stage.proxy.inject(execute(point, kind).text("'this"));
            let (mut client, _) = logged_in(&stage).await;
            send_queries(&mut client, &["SELECT repeat('x', 1000) FROM generate_series(1, 16000)", &long]).await;
            answer(&mut client).await;
            answer(&mut client).await;
            soon(injected.struck()).await;
        }
    }
}

#[tokio::test]
async fn a_client_whose_sync_comes_after_the_server_waits_for_its_data_is_idle_when_it_has_copied() {
    let Some(stage) = Stage::start().await else { return };
    let (mut client, session) = logged_in(&stage).await;
    client.send(|buffer| run_prepared("COPY rows FROM STDIN", buffer)).await;
    // ParseComplete, BindComplete and CopyInResponse.
    soon(client.exactly(5 + 5 + 10)).await.expect("the server waits for data");
    let encode = |buffer: &mut BytesMut| {
        frontend::sync(buffer);
        frontend::CopyData::new(&b"7\n"[..])?.write(buffer);
        frontend::copy_done(buffer);
        frontend::sync(buffer);
        Ok(())
    };
    client.send(encode).await;
    answer(&mut client).await;
    // Only who is idle outlives a failover.
    stage.proxy.set_backend(backend(&stage.database), Existing::Move);
    assert_eq!(query(&mut client, "SELECT 1").await, End::Answered);
    assert!(is_open(&stage.proxy, session));
    assert_eq!(stage.rows().await, [7]);
}

#[tokio::test]
async fn an_emulator_that_does_not_answer_hands_on_no_answer_that_a_fault_has_kept_back() {
    let Some(stage) = Stage::start().await else { return };
    for kind in [Kind::Delay { least: DELAY, most: DELAY }, Kind::Drip { bytes: 1, every: DELAY }] {
        for point in [Point::BeforeReply, Point::MidReply] {
            let mut injected = stage.proxy.inject(execute(point, kind));
            let (mut client, _) = logged_in(&stage).await;
            client.send(|buffer| frontend::query("SELECT 1", buffer)).await;
            soon(injected.struck()).await;
            let (mut other, _) = logged_in(&stage).await;
            stage.proxy.stop_answering();
            client.quiet().await;
            stage.clock.advance(DELAY);
            other.send(|buffer| frontend::query("SELECT 1", buffer)).await;
            client.nothing_comes().await;
            stage.proxy.resume_answering();
            let stepping = async {
                loop {
                    stage.clock.advance(DELAY);
                    tokio::time::sleep(POLL).await;
                }
            };
            tokio::select! {
                answer = answer(&mut client) => drop(answer),
                () = stepping => {}
            }
            answer(&mut other).await;
        }
    }
}

#[tokio::test]
async fn what_was_refused_without_the_database_has_been_received() {
    let Some(stage) = Stage::start().await else { return };
    let (mut client, _) = logged_in(&stage).await;
    stage.proxy.clear_backend();
    stage.proxy.set_connection_borrow_timeout(Duration::ZERO);
    let encode = |buffer: &mut BytesMut| {
        run_prepared("SELECT 1", buffer)?;
        frontend::sync(buffer);
        Ok(())
    };
    client.send(encode).await;
    assert_eq!(soon(client.reply()).await.0.code.as_deref(), Some("08000"));
    stage.proxy.set_connection_borrow_timeout(Duration::from_secs(60));
    stage.proxy.set_backend(backend(&stage.database), Existing::Move);
    let mut injected = stage.proxy.inject(execute(Point::BeforeRequest, SEEN));
    assert_eq!(query(&mut client, "SELECT 1").await, End::Answered);
    assert_eq!(soon(injected.struck()).await.received, Some(ClientMessage::Sync));
}

#[tokio::test]
async fn a_switchover_does_not_hide_a_success_that_a_fault_waits_to_strike() {
    let Some(stage) = Stage::start().await else { return };
    let _injected = stage.proxy.inject(Fault::new(Message::Commit, Point::BeforeReply, Kind::Close));
    let (mut client, _) = logged_in(&stage).await;
    // The long row makes the server send what it has.
    let sql = "BEGIN; INSERT INTO rows VALUES (1); COMMIT; SELECT repeat('x', 100000); SELECT pg_sleep(3600)";
    client.send(|buffer| frontend::query(sql, buffer)).await;
    let mut observer = PgConnection::connect(&stage.database.superuser_url).await.expect("the server is there");
    let sleeps =
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    while !sqlx::query_scalar::<_, bool>(sleeps).fetch_one(&mut observer).await.expect("the server answers") {
        tokio::time::sleep(POLL).await;
    }
    // The emulator has served this one in turn, and what came before.
    logged_in(&stage).await;
    stage.proxy.set_backend(backend(&stage.database), Existing::Terminate);
    let (seen, end) = soon(client.reply()).await;
    assert_eq!((seen.code.as_deref(), end), (Some("57P01"), End::Fin));
    let done = seen.messages.iter().filter(|(tag, _)| *tag == 'C').count();
    assert!(done >= 3, "BEGIN, INSERT and COMMIT: {:?}", seen.messages);
}

#[tokio::test]
async fn an_emulator_whose_clients_are_held_by_faults_stops() {
    let Some(stage) = Stage::start().await else { return };
    let mut held = Vec::new();
    for kind in [Kind::NeverAnswer, Kind::StopReading, Kind::Delay { least: DELAY, most: DELAY }] {
        for message in [Message::Startup, Message::Login, Message::Execute] {
            for point in Point::ALL {
                let mut injected = stage.proxy.inject(Fault::new(message, point, kind));
                let mut client = stage.client().await;
                client.send_startup(USER, &stage.database.name).await;
                if message != Message::Startup {
                    answer(&mut client).await;
                    client.send_login(PASSWORD).await;
                }
                if message == Message::Execute {
                    answer(&mut client).await;
                    client.send(|buffer| frontend::query("SELECT 1", buffer)).await;
                }
                soon(injected.struck()).await;
                held.push(client);
            }
        }
    }
    assert_eq!(stage.proxy.counts().open, 45);
    soon(stage.proxy.shutdown()).await;
}

#[tokio::test]
async fn whatever_passes_slowly_and_in_pieces_happens_once_and_is_answered_as_without_that() {
    let Some(stage) = Stage::start().await else { return };
    let pipeline = |n: i32, buffer: &mut BytesMut| {
        let insert = format!("INSERT INTO rows VALUES ({n})");
        frontend::query("BEGIN", buffer)?;
        run_prepared(&insert, buffer)?;
        run_prepared("SELECT repeat('x', 3000)", buffer)?;
        frontend::sync(buffer);
        frontend::query("SAVEPOINT s", buffer)?;
        run_prepared("SELECT 1 / 0", buffer)?;
        run_prepared(&insert, buffer)?;
        frontend::sync(buffer);
        frontend::query("ROLLBACK TO s", buffer)?;
        frontend::query("COPY rows FROM STDIN", buffer)?;
        frontend::CopyData::new(format!("{n}\n").as_bytes())?.write(buffer);
        frontend::copy_done(buffer);
        frontend::query("COMMIT; SELECT 1", buffer)
    };
    let plain = answers(&stage, 0, &pipeline).await;
    let piece = Kind::Drip { bytes: 700, every: Duration::ZERO };
    let slowly = Schedule::new(1).one_in(1).kinds([SEEN, piece]);
    let mut followed = stage.proxy.follow(slowly);
    for n in 1..30 {
        assert_eq!(answers(&stage, n, &pipeline).await, plain, "of client {n}");
    }
    // Startup, Login, and six requests at least.
    for _ in 0..29 * 8 {
        soon(followed.struck()).await;
    }
    let twice: Vec<i32> = (0..30).flat_map(|n| [n, n]).collect();
    assert_eq!(stage.rows().await, twice);
}

/// The letters of all that a client is told.
async fn answers(stage: &Stage, n: i32, pipeline: impl Fn(i32, &mut BytesMut) -> Result<()>) -> String {
    let (mut client, _) = logged_in(stage).await;
    client.send(|buffer| pipeline(n, buffer)).await;
    let mut told = String::new();
    for _ in 0..7 {
        let (seen, end) = soon(client.reply()).await;
        assert_eq!(end, End::Answered);
        told.extend(seen.messages.iter().map(|(tag, _)| tag));
    }
    told
}
