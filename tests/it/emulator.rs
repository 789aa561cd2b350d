//! The emulator itself, with the plain driver and with bare sockets in front of it.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use rds_proxy_pool::clock::AdjustableClock;
use rds_proxy_pool::emulator::{Builder, Closed, Event, Events, RdsProxyEmulator, SessionId};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::servers::{Database, Postgres};
use crate::support::world::backend;

mod failover;
mod limits;
mod link;
mod logins;
mod metrics;
mod modes;
mod network;
mod pins;
mod sharing;
mod strangers;

const USER: &str = "by_password";
const PASSWORD: &str = "right";
const IAM_USER: &str = "by_token";
const MINUTE: Duration = Duration::from_secs(60);
/// How long anything may take that needs no time; far more than it does.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing has to happen to count as nothing.
const SILENCE: Duration = Duration::from_millis(100);
const TLS_PLEASE: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// An emulator in front of a database of its own.
struct Stage {
    clock: AdjustableClock,
    database: Database,
    proxy: RdsProxyEmulator,
}

impl Stage {
    async fn start() -> Option<Stage> {
        Self::start_with(|builder| builder).await
    }

    async fn start_with(set_up: impl FnOnce(Builder) -> Builder) -> Option<Stage> {
        let database = Postgres::shared().await?;
        let clock = AdjustableClock::new();
        let builder = RdsProxyEmulator::builder(backend(&database)).clock(clock.clone());
        let builder = set_up(builder.password_user(USER, PASSWORD).iam_user(IAM_USER));
        Some(Stage { clock, database, proxy: builder.start().expect("the emulator starts") })
    }

    fn options(&self) -> PgConnectOptions {
        options(&self.proxy, &self.database.name)
    }

    async fn refusal(&self, options: PgConnectOptions) -> (String, String) {
        let error = soon(options.connect()).await.expect_err("the login is refused");
        let error = error.as_database_error().unwrap_or_else(|| panic!("not from the proxy: {error}"));
        (error.code().expect("every refusal has a code").into_owned(), error.message().to_owned())
    }

    async fn client(&self) -> Client {
        Client::login(&self.proxy, &self.options()).await
    }

    /// The emulator has done everything that it was given to do before: it serves this client in turn.
    async fn take_a_turn(&self) {
        let Client { connection, session, mut events } = self.client().await;
        soon(connection.close()).await.expect("nothing is wrong");
        assert_eq!(ended(&mut events, session).await, Closed::ByClient);
    }

    /// Ends the server process of an idle or busy client.
    async fn terminate(&self, pid: i32) {
        let mut connection = PgConnection::connect(&self.database.superuser_url).await.expect("the server is there");
        let terminate = sqlx::query("SELECT pg_terminate_backend($1, 10000)").bind(pid);
        terminate.execute(&mut connection).await.expect("a superuser may");
    }
}

fn options(proxy: &RdsProxyEmulator, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("localhost")
        .port(proxy.port())
        .username(USER)
        .password(PASSWORD)
        .database(database)
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert_from_pem(proxy.ca_pem().as_bytes().to_vec())
        .disable_statement_logging()
}

/// A client that is logged in.
struct Client {
    connection: PgConnection,
    session: SessionId,
    /// From its login on.
    events: Events,
}

impl Client {
    async fn login(proxy: &RdsProxyEmulator, options: &PgConnectOptions) -> Client {
        let mut events = proxy.events();
        let connection = soon(options.connect()).await.expect("the login succeeds");
        let Event::LoggedIn { session, .. } =
            soon(events.wait_for(|event| matches!(event, Event::LoggedIn { .. }))).await
        else {
            unreachable!("no other event was waited for")
        };
        Client { connection, session, events }
    }

    /// Two round trips for a new text, one for a known one.
    async fn double(&mut self, number: i32) -> Result<i32, sqlx::Error> {
        soon(sqlx::query_scalar("SELECT 2 * $1").bind(number).fetch_one(&mut self.connection)).await
    }

    async fn pid(&mut self) -> i32 {
        let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut self.connection);
        soon(pid).await.expect("the client is served")
    }

    async fn run(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        soon(sqlx::raw_sql(sql).execute(&mut self.connection)).await.map(drop)
    }

    /// A statement that runs until the connection ends, seen by the emulator.
    async fn busy(self) -> (JoinHandle<Result<(), sqlx::Error>>, SessionId, Events) {
        let Client { mut connection, session, mut events } = self;
        let running =
            tokio::spawn(async move { sqlx::raw_sql("SELECT pg_sleep(20)").execute(&mut connection).await.map(drop) });
        let is_ours = |event: &Event| matches!(event, Event::Statement { session: whose, .. } if *whose == session);
        soon(events.wait_for(is_ours)).await;
        (running, session, events)
    }
}

/// Why a session ended, when it has.
async fn ended(events: &mut Events, session: SessionId) -> Closed {
    let is_end = |event: &Event| matches!(event, Event::Closed { session: whose, .. } if *whose == session);
    let Event::Closed { reason, .. } = soon(events.wait_for(is_end)).await else {
        unreachable!("no other event was waited for")
    };
    reason
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens soon")
}

/// Whether the error is a connection that ended, as told by the system or the server behind.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        error => error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("57P01")),
    }
}

/// A bare connection that the emulator has seen.
async fn connected(proxy: &RdsProxyEmulator) -> TcpStream {
    let mut events = proxy.events();
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.expect("the emulator listens");
    soon(events.wait_for(|event| matches!(event, Event::Connected(_)))).await;
    stream
}

/// How a connection ended: 0 for FIN, an error for RST.
async fn end_of(stream: &mut TcpStream) -> Result<usize, ErrorKind> {
    soon(stream.read(&mut [0; 64])).await.map_err(|error| error.kind())
}

/// Stands between a client and the emulator and takes one client.
struct Relay {
    port: u16,
    /// How the emulator's side ended.
    upstream_end: JoinHandle<Result<usize, ErrorKind>>,
}

impl Relay {
    async fn start(upstream: u16) -> Relay {
        Self::start_with(upstream, usize::MAX, Vec::new()).await
    }

    /// Passes on this many bytes of the client's and then others instead of the rest, and the end.
    async fn start_with(upstream: u16, genuine: usize, instead: Vec<u8>) -> Relay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let upstream_end = tokio::spawn(async move {
            let (client, _) = listener.accept().await.expect("a client comes");
            let proxy = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await.expect("the emulator listens");
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_proxy, mut to_proxy) = proxy.into_split();
            let forward = tokio::spawn(async move {
                let mut genuine = (&mut from_client).take(genuine as u64);
                tokio::io::copy(&mut genuine, &mut to_proxy).await?;
                to_proxy.write_all(&instead).await?;
                to_proxy.shutdown().await
            });
            let mut buffer = [0; 4096];
            let end = loop {
                match from_proxy.read(&mut buffer).await {
                    Ok(0) => break Ok(0),
                    // A client that has gone is no reason to stop listening.
                    Ok(length) => drop(to_client.write_all(&buffer[..length]).await),
                    Err(error) => break Err(error.kind()),
                }
            };
            forward.abort();
            end
        });
        Relay { port, upstream_end }
    }
}

#[tokio::test]
async fn a_new_query_takes_two_round_trips_a_known_one_one_and_a_ping_one() {
    let Some(stage) = Stage::start().await else { return };
    let mut client = stage.client().await;
    let mut counted = stage.proxy.counts().round_trips;
    let mut trips = || {
        let before = std::mem::replace(&mut counted, stage.proxy.counts().round_trips);
        counted - before
    };
    client.double(1).await.unwrap();
    assert_eq!(trips(), 2, "the first time");
    client.double(2).await.unwrap();
    assert_eq!(trips(), 1, "the second time");
    client.connection.ping().await.unwrap();
    assert_eq!(trips(), 1, "a ping");
    client.run("SELECT 1; SELECT 2").await.unwrap();
    assert_eq!(trips(), 1, "several statements in one text");
    client.double(3).await.unwrap();
    assert_eq!(trips(), 1, "once more");
}
