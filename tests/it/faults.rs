//! Every fault the emulator can be told to make, at every point of the protocol, byte by byte; and faults as the pool and
//! the driver meet them.

use std::time::{Duration, Instant};

use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;
use rds_proxy_pool::clock::AdjustableClock;
use rds_proxy_pool::emulator::{
    ClientMessage, Closed, Delivered, Event, Events, Fault, Kind, Message, Point, RdsProxyEmulator, Strike,
};
use sqlx::{Connection, PgConnection};

use crate::support::process::POLL;
use crate::support::servers::{Database, Postgres};
use crate::support::world::backend;
use raw::{End, Raw, Seen};

mod driver;
mod kinds;
mod raw;
mod sequences;

const USER: &str = "by_password";
const PASSWORD: &str = "right";
const PATIENCE: Duration = Duration::from_secs(30);
/// Shorter than a login may take.
const DELAY: Duration = Duration::from_secs(30);
const PIECE: usize = 16;
const PAUSE: Duration = Duration::from_millis(1);

/// All that can be done to a connection that has logged in.
pub(crate) const KINDS: [Kind; 9] = [
    Kind::Close,
    Kind::Reset,
    Kind::AdminShutdown,
    Kind::CrashShutdown,
    Kind::CannotConnectNow,
    Kind::StopReading,
    Kind::NeverAnswer,
    Kind::Delay { least: DELAY, most: DELAY },
    Kind::Drip { bytes: PIECE, every: PAUSE },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Read,
    Write,
    Transaction,
}

impl Work {
    const ALL: [Work; 3] = [Work::Read, Work::Write, Work::Transaction];

    /// What its client sends, each followed by a reply.
    fn steps(self) -> &'static [Message] {
        use Message::{Begin, Commit, Execute, Login, Parse, Startup};
        match self {
            Work::Read | Work::Write => &[Startup, Login, Parse, Execute],
            Work::Transaction => &[Startup, Login, Begin, Parse, Execute, Commit],
        }
    }

    /// The last message received in full when a fault strikes at this point.
    fn received(self, message: Message, point: Point) -> Option<ClientMessage> {
        let within = matches!(point, Point::BeforeRequest | Point::MidRequest | Point::BeforeSync);
        Some(match (message, point) {
            (Message::Startup, _) if within => return None,
            (Message::Startup, _) => ClientMessage::Startup,
            (Message::Login, _) if within => ClientMessage::SaslInitialResponse,
            (Message::Login, _) => ClientMessage::Password,
            (Message::Parse, Point::BeforeSync) => ClientMessage::Describe,
            (Message::Parse, _) if within && self == Work::Transaction => ClientMessage::Query,
            (Message::Parse | Message::Begin, _) if within => ClientMessage::Password,
            (Message::Execute, Point::BeforeSync) => ClientMessage::Execute,
            (Message::Execute, _) if within => ClientMessage::Bind,
            (Message::Parse | Message::Execute, _) => ClientMessage::Sync,
            (Message::Commit, _) if within => ClientMessage::Sync,
            _ => ClientMessage::Query,
        })
    }
}

fn delivered(message: Message, point: Point) -> Delivered {
    match (message, point) {
        (Message::Startup | Message::Login, _) | (_, Point::BeforeRequest) => Delivered::Nothing,
        (Message::Parse | Message::Execute, Point::BeforeSync) => Delivered::AllButSync,
        (_, Point::MidRequest | Point::BeforeSync) => Delivered::Half,
        _ => Delivered::Answered,
    }
}

/// What ends the connection, and the SQLSTATE the client is told; `None` where it goes on.
fn end_of(kind: Kind) -> Option<(End, Option<&'static str>)> {
    match kind {
        Kind::Close => Some((End::Fin, None)),
        Kind::Reset => Some((End::Rst, None)),
        Kind::AdminShutdown => Some((End::Fin, Some("57P01"))),
        Kind::CrashShutdown => Some((End::Fin, Some("57P02"))),
        Kind::CannotConnectNow => Some((End::Fin, Some("57P03"))),
        _ => None,
    }
}

/// An emulator in front of a database with one table, `rows (n int)`.
struct Stage {
    clock: AdjustableClock,
    database: Database,
    proxy: RdsProxyEmulator,
}

impl Stage {
    async fn start() -> Option<Stage> {
        let database = Postgres::shared().await?;
        let mut owner = PgConnection::connect(&database.url).await.expect("the server is there");
        sqlx::raw_sql("CREATE TABLE rows (n int)").execute(&mut owner).await.expect("the owner may");
        let clock = AdjustableClock::new();
        let proxy = RdsProxyEmulator::builder(backend(&database))
            .password_user(USER, PASSWORD)
            .requires_tls(false)
            .clock(clock.clone())
            .start()
            .expect("the emulator starts");
        Some(Stage { clock, database, proxy })
    }

    async fn client(&self) -> Raw {
        Raw::connect(self.proxy.port()).await.expect("the emulator listens")
    }

    /// Sends what belongs to a step of the work on row `n`.
    async fn send(&self, client: &mut Raw, work: Work, step: Message, n: i32) {
        let sql = match work {
            Work::Read => format!("SELECT count(*) FROM rows WHERE n = {n}"),
            _ => format!("INSERT INTO rows VALUES ({n})"),
        };
        match step {
            Message::Startup => client.send_startup(USER, &self.database.name).await,
            Message::Login => client.send_login(PASSWORD).await,
            Message::Begin => client.send(|buffer| frontend::query("BEGIN", buffer)).await,
            Message::Commit => client.send(|buffer| frontend::query("COMMIT", buffer)).await,
            Message::Parse => {
                let encode = |buffer: &mut _| {
                    frontend::parse("s", &sql, [], buffer)?;
                    frontend::describe(b'S', "s", buffer)?;
                    frontend::sync(buffer);
                    Ok(())
                };
                client.send(encode).await;
            }
            _ => {
                let encode = |buffer: &mut _| {
                    let none: [(); 0] = [];
                    let bound = frontend::bind("", "s", [], none, |_, _| Ok(IsNull::Yes), [], buffer);
                    bound.unwrap_or_else(|_| unreachable!("there are no values"));
                    frontend::execute("", 0, buffer)?;
                    frontend::sync(buffer);
                    Ok(())
                };
                client.send(encode).await;
            }
        }
    }

    /// The replies to the steps of the work when nothing goes wrong.
    async fn replies(&self, work: Work, n: i32) -> Vec<Seen> {
        let mut client = self.client().await;
        let mut replies = Vec::new();
        for step in work.steps() {
            self.send(&mut client, work, *step, n).await;
            replies.push(answer(&mut client).await);
        }
        replies
    }

    /// The rows there are, once all work on the database has ended.
    async fn rows(&self) -> Vec<i32> {
        soon(self.proxy.cut_all()).await;
        // The database sessions that clients share end too.
        self.proxy.clear_backend();
        let mut observer = PgConnection::connect(&self.database.superuser_url).await.expect("the server is there");
        let busy =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        while sqlx::query_scalar::<_, i64>(busy).fetch_one(&mut observer).await.expect("the server answers") > 0 {
            tokio::time::sleep(POLL).await;
        }
        let rows = sqlx::query_scalar("SELECT n FROM rows ORDER BY n").fetch_all(&mut observer).await;
        rows.expect("the server answers")
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens soon")
}

async fn answer(client: &mut Raw) -> Seen {
    let (seen, end) = soon(client.reply()).await;
    assert_eq!((end, seen.code.as_deref()), (End::Answered, None), "{seen:?}");
    seen
}

async fn closed(events: &mut Events, session: rds_proxy_pool::emulator::SessionId) -> Closed {
    loop {
        if let Event::Closed { session: whose, reason } = soon(events.next()).await
            && whose == session
        {
            return reason;
        }
    }
}

/// One fault in one piece of work; whether the work was done to its end.
async fn row(stage: &Stage, work: Work, fault: (Message, Point, Kind), reply: &Seen, n: i32) -> bool {
    let (message, point, kind) = fault;
    println!("{n}: {work:?} {message:?} {point:?} {kind:?}");
    let mut events = stage.proxy.events();
    let mut injected = stage.proxy.inject(Fault::new(message, point, kind));
    let mut client = stage.client().await;
    for step in work.steps() {
        let started = Instant::now();
        stage.send(&mut client, work, *step, n).await;
        if *step != message {
            answer(&mut client).await;
            continue;
        }
        let strike = soon(injected.struck()).await;
        let Strike { received, delivered: had, session, .. } = strike;
        assert_eq!((strike.message, strike.point, strike.kind), fault);
        assert_eq!((received, had), (work.received(message, point), delivered(message, point)));
        let messages = reply.messages.len() / 2;
        let half: usize = match (point, end_of(kind)) {
            (Point::MidReply, Some((_, Some(_)))) => reply.messages[..messages].iter().map(|(_, bytes)| bytes).sum(),
            (Point::MidReply, _) => reply.bytes / 2,
            _ => 0,
        };
        if let Some((how, code)) = end_of(kind) {
            let (mut seen, end) = soon(client.reply()).await;
            assert_eq!((end, seen.code.as_deref()), (how, code));
            if code.is_some() {
                let (tag, bytes) = seen.messages.pop().expect("the error");
                assert_eq!(tag, 'E');
                seen.bytes -= bytes;
            }
            assert_eq!(seen.bytes, half);
            assert_eq!(closed(&mut events, session).await, Closed::Fault);
            return false;
        }
        match kind {
            Kind::Delay { .. } => {
                soon(client.exactly(half)).await.expect("the connection is there");
                stage.clock.advance(DELAY);
                assert_eq!(answer(&mut client).await.bytes, reply.bytes);
            }
            Kind::Drip { .. } => {
                assert_eq!(answer(&mut client).await.bytes, reply.bytes);
                let pieces = if matches!(point, Point::BeforeReply | Point::MidReply) {
                    (reply.bytes - half) / PIECE
                } else {
                    1
                };
                let pauses = u32::try_from(pieces).expect("a reply is short");
                assert!(started.elapsed() >= PAUSE * pauses, "{:?} for {pieces} pieces", started.elapsed());
            }
            _ => {
                soon(client.exactly(half)).await.expect("the connection is there");
                assert!(is_open(&stage.proxy, session), "it stays open");
                drop(client);
                assert_eq!(closed(&mut events, session).await, Closed::ByClient);
                return false;
            }
        }
    }
    true
}

/// Whether the session has not ended.
fn is_open(proxy: &RdsProxyEmulator, session: rds_proxy_pool::emulator::SessionId) -> bool {
    let mut events = proxy.all_events();
    let mut open = true;
    while let Some(event) = events.try_next() {
        open &= !matches!(event, Event::Closed { session: whose, .. } if whose == session);
    }
    open
}

#[tokio::test]
async fn each_fault_at_each_point_of_each_piece_of_work_is_made_as_told() {
    let works = Work::ALL.map(|work| async move {
        let Some(stage) = Stage::start().await else { return 0 };
        let replies = stage.replies(work, 0).await;
        let mut expected = if work == Work::Read { vec![] } else { vec![0] };
        let mut rows = 0;
        for (message, reply) in work.steps().iter().zip(&replies) {
            for point in Point::ALL {
                for kind in KINDS {
                    rows += 1;
                    let done = row(&stage, work, (*message, point, kind), reply, rows).await;
                    // A write is done with its own Sync, a transaction with the end of its COMMIT.
                    let last = work.steps().last() == Some(message);
                    let done = done || last && delivered(*message, point) == Delivered::Answered;
                    expected.extend((done && work != Work::Read).then_some(rows));
                }
            }
        }
        assert_eq!(stage.rows().await, expected, "{work:?}");
        println!("{work:?}: {rows} faults");
        rows
    });
    let rows: i32 = futures::future::join_all(works).await.into_iter().sum();
    assert!(rows == 0 || rows == 14 * 5 * 9, "{rows}");
}
