//! What faults do apart from the point where they strike: which message they take, how they repeat, how they end.

use std::time::Duration;

use super::raw::{End, Raw};
use crate::support::world::backend;
use postgres_protocol::message::frontend;
use rds_proxy_pool::emulator::{
    Closed, Delivered, Event, Existing, Fault, Injected, Kind, Message, Point, Schedule, SessionId, Strike,
};

use sqlx::{Connection, PgConnection};

use super::{DELAY, PASSWORD, Stage, USER, answer, closed, is_open, soon};

/// More than fits into the sockets between two processes.
const PLENTY: usize = 64 << 20;

pub(super) async fn logged_in(stage: &Stage) -> (Raw, SessionId) {
    let mut events = stage.proxy.events();
    let mut client = stage.client().await;
    client.send_startup(USER, &stage.database.name).await;
    answer(&mut client).await;
    client.send_login(PASSWORD).await;
    answer(&mut client).await;
    let Event::LoggedIn { session, .. } = soon(events.wait_for(|event| matches!(event, Event::LoggedIn { .. }))).await
    else {
        unreachable!("no other event was waited for")
    };
    (client, session)
}

pub(super) async fn query(client: &mut Raw, sql: &str) -> End {
    client.send(|buffer| frontend::query(sql, buffer)).await;
    soon(client.reply()).await.1
}

async fn struck_at(injected: &mut Injected) -> (Message, Point) {
    let Strike { message, point, .. } = soon(injected.struck()).await;
    (message, point)
}

#[tokio::test]
async fn who_never_answers_takes_all_that_comes_and_who_stops_reading_does_not() {
    let Some(stage) = Stage::start().await else { return };
    for kind in [Kind::NeverAnswer, Kind::StopReading] {
        let mut events = stage.proxy.events();
        let mut injected = stage.proxy.inject(Fault::new(Message::Execute, Point::BeforeRequest, kind));
        let (mut client, session) = logged_in(&stage).await;
        client.send(|buffer| frontend::query("SELECT 1", buffer)).await;
        soon(injected.struck()).await;
        let mut sent = 0;
        if kind == Kind::NeverAnswer {
            while sent < PLENTY {
                soon(client.writable()).await;
                sent += client.send_what_fits(PLENTY);
            }
            drop(client);
        } else {
            sent = client.send_what_fits(PLENTY);
            assert!(sent < PLENTY, "all of it fitted in between");
            // Behind all that no end would arrive, so this client does not say goodbye.
            client.abort();
        }
        assert_eq!(closed(&mut events, session).await, Closed::ByClient, "{kind:?} after {sent} bytes");
    }
}

#[tokio::test]
async fn a_connection_that_is_kept_silent_can_be_cut_and_moved() {
    let Some(stage) = Stage::start().await else { return };
    let backend = backend(&stage.database);
    for kind in [Kind::NeverAnswer, Kind::StopReading, Kind::Delay { least: DELAY, most: DELAY }] {
        for point in [Point::BeforeRequest, Point::BeforeReply] {
            for by_failover in [false, true] {
                let mut events = stage.proxy.events();
                let mut injected = stage.proxy.inject(Fault::new(Message::Execute, point, kind));
                let (mut client, session) = logged_in(&stage).await;
                client.send(|buffer| frontend::query("SELECT 1", buffer)).await;
                soon(injected.struck()).await;
                assert!(is_open(&stage.proxy, session));
                if by_failover {
                    stage.proxy.set_backend(backend.clone(), Existing::Move);
                    assert_eq!(closed(&mut events, session).await, Closed::BackendLost);
                } else {
                    soon(stage.proxy.cut_all()).await;
                    assert_eq!(closed(&mut events, session).await, Closed::Cut);
                }
                assert_eq!(soon(client.reply()).await.1, End::Fin);
            }
        }
    }
}

#[tokio::test]
async fn a_fault_takes_the_text_the_session_and_the_turn_it_is_for() {
    let Some(stage) = Stage::start().await else { return };
    let (mut client, session) = logged_in(&stage).await;
    let (mut other, _) = logged_in(&stage).await;
    let fault = Fault::new(Message::Execute, Point::BeforeReply, Kind::Close);
    let mut injected = stage.proxy.inject(fault.session(session).text("'this'").skip(1));
    assert_eq!(query(&mut client, "SELECT 'that'").await, End::Answered);
    assert_eq!(query(&mut client, "SELECT 'this'").await, End::Answered, "the first is let pass");
    for _ in 0..3 {
        assert_eq!(query(&mut other, "SELECT 'this'").await, End::Answered, "not this session");
    }
    assert_eq!(query(&mut client, "SELECT 'this'").await, End::Fin);
    assert_eq!(soon(injected.struck()).await.session, session);
    assert_eq!(query(&mut other, "SELECT 'this'").await, End::Answered);
}

#[tokio::test]
async fn a_fault_strikes_as_often_as_it_is_told_until_it_is_taken_away() {
    let Some(stage) = Stage::start().await else { return };
    let soon_over = Kind::Delay { least: Duration::ZERO, most: Duration::ZERO };
    let twice = Fault::new(Message::Execute, Point::BeforeReply, soon_over).times(2);
    let mut injected = stage.proxy.inject(twice);
    let strikes = || {
        let mut events = stage.proxy.all_events();
        std::iter::from_fn(|| events.try_next()).filter(|event| matches!(event, Event::Struck(_))).count()
    };
    let (mut client, _) = logged_in(&stage).await;
    for number in 1..5 {
        assert_eq!(query(&mut client, "SELECT 1").await, End::Answered);
        assert_eq!(strikes(), number.min(2));
    }
    struck_at(&mut injected).await;
    struck_at(&mut injected).await;

    for by_handle in [true, false] {
        let always = Fault::new(Message::Execute, Point::BeforeReply, Kind::Close).times(u64::MAX);
        let injected = stage.proxy.inject(always);
        let before = strikes();
        assert_eq!(query(&mut logged_in(&stage).await.0, "SELECT 1").await, End::Fin);
        assert_eq!(query(&mut logged_in(&stage).await.0, "SELECT 1").await, End::Fin);
        if by_handle {
            injected.remove();
        } else {
            stage.proxy.clear_faults();
        }
        assert_eq!(query(&mut client, "SELECT 1").await, End::Answered);
        assert_eq!(strikes() - before, 2);
    }
}

#[tokio::test]
async fn the_first_of_two_faults_for_a_message_strikes_and_the_other_waits_for_the_next() {
    let Some(stage) = Stage::start().await else { return };
    let mut first = stage.proxy.inject(Fault::new(Message::Commit, Point::BeforeReply, Kind::Close));
    let mut second = stage.proxy.inject(Fault::new(Message::Commit, Point::BeforeRequest, Kind::Close));
    for (injected, delivered) in [(&mut first, Delivered::Answered), (&mut second, Delivered::Nothing)] {
        let (mut client, _) = logged_in(&stage).await;
        assert_eq!(query(&mut client, "  begin").await, End::Answered);
        assert_eq!(query(&mut client, "end;").await, End::Fin);
        assert_eq!(soon(injected.struck()).await.delivered, delivered);
    }
}

#[tokio::test]
async fn a_late_commit_is_done_when_its_client_has_long_gone() {
    let Some(stage) = Stage::start().await else { return };
    let mut owner = PgConnection::connect(&stage.database.url).await.unwrap();
    for (expected, point) in (1..).zip([Point::BeforeRequest, Point::MidRequest, Point::BeforeReply]) {
        let late = Kind::Late { least: DELAY, most: DELAY };
        drop(stage.proxy.inject(Fault::new(Message::Commit, point, late)));
        let mut events = stage.proxy.events();
        let (mut client, session) = logged_in(&stage).await;
        assert_eq!(query(&mut client, "BEGIN; INSERT INTO rows VALUES (1)").await, End::Answered);
        assert_eq!(query(&mut client, "COMMIT").await, End::Fin);
        drop(client);
        if point != Point::BeforeReply {
            let not_yet = "SELECT count(*) FROM rows";
            assert_eq!(sqlx::query_scalar::<_, i64>(not_yet).fetch_one(&mut owner).await.unwrap(), expected - 1);
            stage.clock.advance(DELAY);
        }
        assert_eq!(closed(&mut events, session).await, Closed::Fault);
        // It waits for the end of the transaction.
        let mut after = owner.begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE rows").execute(&mut *after).await.unwrap();
        let there: i64 = sqlx::query_scalar("SELECT count(*) FROM rows").fetch_one(&mut *after).await.unwrap();
        assert_eq!(there, expected, "{point:?}");
        after.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_waits_for_the_client_is_struck_as_far_as_it_has_come() {
    let Some(stage) = Stage::start().await else { return };
    // COPY: the server waits for data, and there is no ReadyForQuery to wait for.
    let mut injected = stage.proxy.inject(Fault::new(Message::Execute, Point::BeforeReply, Kind::Close));
    let (mut client, _) = logged_in(&stage).await;
    assert_eq!(query(&mut client, "COPY rows FROM STDIN").await, End::Fin);
    assert_eq!(soon(injected.struck()).await.delivered, Delivered::Answered);
    // Flush: the server answers what it has, and a Sync comes later.
    let mut injected = stage.proxy.inject(Fault::new(Message::Parse, Point::BeforeReply, Kind::Close));
    let (mut client, _) = logged_in(&stage).await;
    let encode = |buffer: &mut _| {
        frontend::parse("", "SELECT 1", [], buffer)?;
        frontend::flush(buffer);
        Ok(())
    };
    client.send(encode).await;
    assert_eq!(soon(client.reply()).await.1, End::Fin);
    soon(injected.struck()).await;
}

/// The strikes of a schedule at sixty statements, one client after the other.
async fn strikes_of(schedule: Schedule) -> Option<Vec<Strike>> {
    let stage = Stage::start().await?;
    stage.proxy.follow(schedule);
    let mut client = None;
    for _ in 0..60 {
        let mut current = match client.take() {
            Some(current) => current,
            None => logged_in(&stage).await.0,
        };
        if query(&mut current, "SELECT 1").await == End::Answered {
            client = Some(current);
        }
    }
    let mut events = stage.proxy.all_events();
    let strikes = std::iter::from_fn(|| events.try_next()).filter_map(|event| match event {
        Event::Struck(strike) => Some(strike),
        _ => None,
    });
    Some(strikes.collect())
}

#[tokio::test]
async fn a_schedule_strikes_the_same_messages_the_same_way_for_the_same_seed() {
    let schedule = |seed| Schedule::new(seed).one_in(5).messages([Message::Execute]);
    let Some(first) = strikes_of(schedule(1)).await else { return };
    assert!((4..24).contains(&first.len()), "one in five of sixty: {}", first.len());
    assert_eq!(strikes_of(schedule(1)).await.unwrap(), first);
    assert_ne!(strikes_of(schedule(2)).await.unwrap(), first);
    assert!(first.iter().all(|strike| strike.message == Message::Execute));

    let narrow = schedule(1).points([Point::BeforeReply]).kinds([Kind::CrashShutdown]).at_most(3);
    let narrow = strikes_of(narrow).await.unwrap();
    assert_eq!(narrow.len(), 3);
    assert!(narrow.iter().all(|strike| strike.kind == Kind::CrashShutdown && strike.point == Point::BeforeReply));
}
