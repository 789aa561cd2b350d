//! A second opinion on the emulator: the same statements through it and through PgBouncer.
//!
//! Both stand in front of the same server, speak TLS with the same client, and hand over prepared statements when a
//! session moves. They give the same answers, except where they are meant to differ:
//!
//! | what | emulator, as RDS Proxy documents it | PgBouncer |
//! |---|---|---|
//! | texts and codes of refusals | those of [`REFUSALS`] | its own |
//! | a server session that ends in a transaction | the server's own last words | 08P01 of its own |
//! | while the server is down | requests queue until the borrow timeout | they queue, and fail once a login at the server has failed |
//! | a cancel request | is not supported and ignored | is passed on |
//! | IAM tokens | verified | too long for it |
//! | a failover | follows the database | is told where the database is (PAUSE, RECONNECT) |

use std::time::{Duration, Instant};

use rds_proxy_pool::emulator::{Backend, RdsProxyEmulator};
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};

use crate::support::servers::Postgres;
use crate::support::servers::pgbouncer::PgBouncer;

/// Far more than any step takes.
const PATIENCE: Duration = Duration::from_secs(30);

const TURNS: i32 = 150;
const CONNECTS: usize = 4;
/// The emulator is built without optimisation here, PgBouncer with it.
const BAR: f64 = 5.0;

/// What the step is, what the emulator answers, and what PgBouncer answers.
type Difference = (&'static str, &'static str, &'static str);

const DIFFER: [Difference; 2] = [
    ("after it is cut", "connection closed", "08P01"),
    ("the server is killed in a transaction", "connection closed", "08P01"),
];

const REFUSALS: [Difference; 4] = [
    (
        "wrong password",
        "28P01 The password that was provided for the role by_password is wrong.",
        "08P01 SASL authentication failed",
    ),
    (
        "unknown user",
        "28000 This RDS proxy has no credentials for the role nobody. Check the credentials for this role and try again.",
        "08P01 SASL authentication failed",
    ),
    ("no TLS", "28000 This RDS Proxy requires TLS connections.", "08P01 SSL required"),
    (
        "startup option",
        "0A000 Feature not supported: RDS Proxy currently doesn\u{2019}t support command-line options.",
        "08P01 unsupported startup parameter in options: jit",
    ),
];

/// A server of its own with the two in front of it.
struct Stage {
    server: Postgres,
    emulator: RdsProxyEmulator,
    bouncer: PgBouncer,
}

impl Stage {
    async fn start() -> Option<Stage> {
        let server = Postgres::start().await?;
        let bouncer = PgBouncer::start(&server).await?;
        let emulator = RdsProxyEmulator::builder(Backend::new(server.address()).login("app", ""))
            .password_user(PgBouncer::USER, PgBouncer::PASSWORD)
            .start()
            .expect("the emulator starts");
        Some(Stage { server, emulator, bouncer })
    }

    fn emulator(&self) -> PgConnectOptions {
        options(self.emulator.port(), self.emulator.ca_pem())
    }

    fn bouncer(&self) -> PgConnectOptions {
        options(self.bouncer.port(), self.bouncer.ca_pem())
    }

    async fn play(&self, options: &PgConnectOptions) -> Vec<String> {
        Script { server: &self.server, lines: Vec::new() }.play(options).await
    }
}

fn options(port: u16, ca_pem: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("localhost")
        .port(port)
        .username(PgBouncer::USER)
        .password(PgBouncer::PASSWORD)
        .database("app")
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert_from_pem(ca_pem.as_bytes().to_vec())
        .disable_statement_logging()
}

/// What a client was answered, a line each.
struct Script<'a> {
    server: &'a Postgres,
    lines: Vec<String>,
}

impl Script<'_> {
    fn told<T: std::fmt::Debug>(&mut self, step: &str, answer: Result<T, sqlx::Error>) {
        let answer = match answer {
            Ok(value) => format!("{value:?}"),
            Err(sqlx::Error::Io(_)) => "connection closed".to_owned(),
            Err(error) => match error.as_database_error() {
                Some(error) => error.code().expect("every error has a code").into_owned(),
                None => format!("{error}"),
            },
        };
        self.lines.push(format!("{step}: {answer}"));
    }

    async fn play(mut self, options: &PgConnectOptions) -> Vec<String> {
        let mut a = soon(options.connect()).await.expect("the login succeeds");
        let mut b = soon(options.connect()).await.expect("the login succeeds");
        let table = "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY)";
        self.told("a new table", run(&mut a, table).await);
        self.told("read", number(&mut a, "SELECT 41 + $1", 1).await);
        self.told("write", insert(&mut a, 1).await);
        self.told("the same again", insert(&mut a, 1).await);
        self.told("seen by the other", count(&mut b).await);

        self.told("begin", run(&mut a, "BEGIN").await);
        self.told("write in it", insert(&mut a, 2).await);
        self.told("not seen by the other", count(&mut b).await);
        self.told("commit", run(&mut a, "COMMIT").await);
        self.told("seen by the other", count(&mut b).await);
        self.told("begin, write, roll back", run(&mut a, "BEGIN; INSERT INTO t VALUES (3); ROLLBACK").await);
        self.told("no trace", count(&mut b).await);

        self.told("begin", run(&mut a, "BEGIN").await);
        self.told("write in it", insert(&mut a, 4).await);
        self.told("an error", number(&mut a, "SELECT 1 / $1", 0).await);
        self.told("after the error", count(&mut a).await);
        self.told("commit", run(&mut a, "COMMIT").await);
        self.told("no trace", count(&mut a).await);

        // The names that clients give their statements are the same; the statements are not.
        for turn in 1..=6 {
            self.told("prepared by one", number(&mut a, "SELECT 2 * $1", turn).await);
            self.told("prepared by the other", number(&mut b, "SELECT 10 + $1", turn).await);
        }
        self.server.stop_fast().await;
        self.server.start_again().await;
        self.told("prepared before the restart", number(&mut a, "SELECT 2 * $1", 7).await);
        self.told("prepared before the restart", number(&mut b, "SELECT 10 + $1", 7).await);
        self.told("write after the restart", insert(&mut b, 5).await);

        self.told("begin", run(&mut a, "BEGIN").await);
        self.told("write in it", insert(&mut a, 6).await);
        let pid: i32 = soon(sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut a)).await.expect("a number");
        let mut superuser = self.server.connect().await.expect("the server is there");
        let cut = sqlx::query_scalar::<_, bool>("SELECT pg_terminate_backend($1, 10000)").bind(pid);
        self.told("its server session is ended", soon(cut.fetch_one(&mut superuser)).await);
        self.told("cut in a transaction", insert(&mut a, 7).await);
        self.told("after it is cut", insert(&mut a, 8).await);
        self.told("no trace", count(&mut b).await);

        self.told("begin", run(&mut b, "BEGIN").await);
        self.told("write in it", insert(&mut b, 9).await);
        self.server.kill9().await;
        self.told("the server is killed in a transaction", insert(&mut b, 10).await);
        self.server.start_again().await;
        let mut c = soon(options.connect()).await.expect("the login succeeds");
        self.told("no trace", count(&mut c).await);
        self.lines
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens soon")
}

/// As text, without preparing it.
async fn run(connection: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    soon(sqlx::raw_sql(sql).execute(connection)).await.map(drop)
}

async fn number(connection: &mut PgConnection, sql: &'static str, value: i32) -> Result<i32, sqlx::Error> {
    soon(sqlx::query_scalar(sql).bind(value).fetch_one(connection)).await
}

async fn insert(connection: &mut PgConnection, id: i32) -> Result<u64, sqlx::Error> {
    let done = soon(sqlx::query("INSERT INTO t VALUES ($1)").bind(id).execute(connection)).await?;
    Ok(done.rows_affected())
}

async fn count(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    soon(sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(connection)).await
}

#[tokio::test]
async fn a_client_is_answered_as_by_pgbouncer() {
    let Some(stage) = Stage::start().await else { return };
    let emulator = stage.play(&stage.emulator()).await;
    let bouncer = stage.play(&stage.bouncer()).await;
    println!("{}", emulator.join("\n"));
    assert_eq!(emulator.len(), bouncer.len());
    let differ: Vec<_> = emulator.iter().zip(&bouncer).filter(|(one, other)| one != other).collect();
    println!("they differ in {differ:#?}");
    assert_eq!(differ.len(), DIFFER.len(), "the emulator and PgBouncer differ in {differ:#?}");
    for ((emulator, bouncer), (step, of_emulator, of_bouncer)) in differ.into_iter().zip(DIFFER) {
        assert_eq!([emulator, bouncer], [&format!("{step}: {of_emulator}"), &format!("{step}: {of_bouncer}")]);
    }
}

#[tokio::test]
async fn a_refused_login_is_told_in_the_words_of_rds_proxy_and_not_in_those_of_pgbouncer() {
    let Some(stage) = Stage::start().await else { return };
    let wrong = |options: PgConnectOptions| {
        let with = || options.clone();
        [
            with().password("wrong"),
            with().username("nobody"),
            with().ssl_mode(PgSslMode::Disable),
            with().options([("jit", "off")]),
        ]
    };
    for (((step, of_emulator, of_bouncer), emulator), bouncer) in
        REFUSALS.into_iter().zip(wrong(stage.emulator())).zip(wrong(stage.bouncer()))
    {
        assert_eq!(refusal(&emulator).await, of_emulator, "{step}");
        assert_eq!(refusal(&bouncer).await, of_bouncer, "{step}");
    }
}

async fn refusal(options: &PgConnectOptions) -> String {
    let error = soon(options.connect()).await.expect_err("the login is refused");
    let error = error.as_database_error().unwrap_or_else(|| panic!("no refusal: {error}"));
    format!("{} {}", error.code().expect("every error has a code"), error.message())
}

/// How long each of some repetitions took, of one and of the other.
struct Times {
    what: &'static str,
    emulator: Vec<Duration>,
    bouncer: Vec<Duration>,
}

impl Times {
    fn new(what: &'static str) -> Self {
        Times { what, emulator: Vec::new(), bouncer: Vec::new() }
    }

    /// Of the fastest tenth, which other work on the machine has disturbed least.
    fn ratio(&mut self) -> f64 {
        let [emulator, bouncer] = [&mut self.emulator, &mut self.bouncer].map(|times| {
            times.sort();
            [times[times.len() / 10], times[times.len() / 2]]
        });
        let ratio = emulator[0].as_secs_f64() / bouncer[0].as_secs_f64();
        println!("{}: emulator {emulator:.1?}, PgBouncer {bouncer:.1?}, ratio {ratio:.2}", self.what);
        ratio
    }
}

#[tokio::test]
async fn the_emulator_takes_not_much_longer_than_pgbouncer() {
    let Some(stage) = Stage::start().await else { return };
    let both = [stage.emulator(), stage.bouncer()];
    let mut connect = Times::new("connect");
    let mut connections = Vec::new();
    for _ in 0..CONNECTS {
        for (options, times) in both.iter().zip([&mut connect.emulator, &mut connect.bouncer]) {
            let before = Instant::now();
            connections.push(soon(options.connect()).await.expect("the login succeeds"));
            times.push(before.elapsed());
        }
    }
    connections.truncate(2);
    run(&mut connections[0], "CREATE TABLE t (id int)").await.expect("the database is the client's");

    let (mut read, mut write, mut transaction) = (Times::new("read"), Times::new("write"), Times::new("transaction"));
    // One and the other in turn, so that both meet the same disturbances.
    for turn in 0..TURNS {
        for (index, connection) in connections.iter_mut().enumerate() {
            let start = Instant::now();
            number(connection, "SELECT 2 * $1", turn).await.expect("a number");
            let has_read = Instant::now();
            insert(connection, turn).await.expect("a row");
            let has_written = Instant::now();
            run(connection, "BEGIN").await.expect("a transaction");
            insert(connection, turn).await.expect("a row");
            run(connection, "COMMIT").await.expect("its end");
            let has_committed = Instant::now();
            for (times, took) in [
                (&mut read, has_read - start),
                (&mut write, has_written - has_read),
                (&mut transaction, has_committed - has_written),
            ] {
                [&mut times.emulator, &mut times.bouncer][index].push(took);
            }
        }
    }
    println!("[fastest tenth, median] of {TURNS}, of {CONNECTS} for connect");
    for mut times in [connect, read, write, transaction] {
        let ratio = times.ratio();
        assert!(ratio <= BAR, "{}: the emulator takes {ratio:.2} times as long as PgBouncer", times.what);
    }
}
