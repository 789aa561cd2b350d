//! The whole story on one machine: a real PostgreSQL with a standby, a local RDS Proxy with real TLS and token checks, a
//! local Lambda that freezes its function, and `lambda_handler` as the function.
//!
//! Run it with `cargo run --example quickstart`; `-- --json` prints the numbers as one line of JSON. It needs PostgreSQL's
//! server binaries (Debian: `apt-get install postgresql`), no flags and no AWS account.

#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/report.rs"]
mod report;
#[path = "../tests/support/mod.rs"]
mod support;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use rds_proxy_pool::emulator::{AccessKey, Backend, Event, Existing, RdsProxyEmulator, TokenRefusal};
use rds_proxy_pool::{ProxyConfig, ProxyPool};
use serde_json::json;

use ledger::Ledger;
use report::{Numbers, Story};
use support::lambda::LambdaFunction;
use support::lambda::example::build_example;
use support::servers::pair::Ending;
use support::servers::{Failure, Pair, Postgres, Replication};

const USER: &str = "app";
/// The same database through the same proxy, by another name, so that the proxy's log tells the two apart.
const WRITER: &str = "writer";
const KEY: &str = "ASIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const SESSION_TOKEN: &str = "a-session-token-as-lambda-has-one";
const WARM_INVOCATIONS: u32 = 100;
/// Longer than the second after which the pool looks twice at an idle connection.
const FREEZE: Duration = Duration::from_millis(1200);
/// Stands in for the 15 minutes of RDS: long enough for a login, short enough to watch it end.
const TOKEN_LIFE: Duration = Duration::from_secs(4);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let json = std::env::args().skip(1).any(|argument| argument == "--json");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be started");
    match runtime.block_on(run(!json)) {
        Ok(numbers) => {
            if json {
                println!("{}", numbers.to_json());
            } else {
                numbers.print_table();
            }
            if numbers.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("quickstart: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The database: a primary with a standby where the binaries are there, else one server.
enum Servers {
    Pair(Box<Pair>),
    One(Box<Postgres>),
}

impl Servers {
    async fn start() -> Outcome<Servers> {
        match Postgres::try_start_pair(Replication::Synchronous).await {
            Ok(pair) => Ok(Servers::Pair(Box::new(pair))),
            Err(Failure::Missing) => Ok(Servers::One(Box::new(Postgres::try_start().await?))),
            Err(failure) => Err(failure.into()),
        }
    }

    fn writer(&self) -> &Postgres {
        match self {
            Servers::Pair(pair) => pair.primary(),
            Servers::One(server) => server,
        }
    }

    /// The writer dies, and another takes over where there is one.
    async fn fail_over(&self) -> Backend {
        match self {
            Servers::Pair(pair) => {
                pair.fail_over(Ending::Kill9).await;
                backend(pair.primary())
            }
            Servers::One(server) => {
                server.kill9().await;
                server.start_again().await;
                backend(server)
            }
        }
    }
}

fn backend(server: &Postgres) -> Backend {
    Backend::new(server.address()).login(USER, "")
}

async fn run(aloud: bool) -> Outcome<Numbers> {
    let handler = build_example("lambda_handler")?;
    let mut story = Story::new(aloud);
    let servers = Servers::start().await?;
    story.tell(match servers {
        Servers::Pair(_) => "PostgreSQL is up: a primary, and a standby that shows every commit",
        Servers::One(_) => "PostgreSQL is up: one server",
    });
    let proxy = RdsProxyEmulator::builder(backend(servers.writer()))
        .iam_user(USER)
        .iam_user(WRITER)
        .access_key(AccessKey::new(KEY, SECRET).session_token(SESSION_TOKEN))
        .token_life(TOKEN_LIFE)
        .start()?;
    let authority = tempfile::NamedTempFile::new()?;
    std::fs::write(authority.path(), proxy.ca_pem())?;
    story.tell(&format!("a local RDS Proxy listens on localhost:{} with TLS and IAM login", proxy.port()));

    let mut ledger = Ledger::open(writer_pool(&proxy)?).await?;
    let mut function = function(&handler, &proxy, authority.path()).idle();
    let mut stage = Stage { story: &mut story, numbers: Numbers::default(), function: &mut function };

    let first = stage.invoke("cold start").await?;
    stage.numbers.cold_start_ms = millis(first.duration + first.init.unwrap_or_default());

    stage.warm_invocations(&proxy).await?;
    ledger.book(10).await;

    stage.freeze("frozen, and nothing happened meanwhile", async {}).await?;
    stage.freeze("frozen, and the proxy closed the connection", proxy.cut_all()).await?;
    stage.freeze("frozen, and the connection was reset", proxy.reset_all()).await?;

    let token_ends = async {
        // The token is taken at login; it ends while nobody looks.
        tokio::time::sleep(TOKEN_LIFE).await;
        proxy.cut_all().await;
    };
    stage.freeze("frozen until the token had expired and the connection was gone", token_ends).await?;

    stage.fail_over(&servers, &proxy, &mut ledger).await?;
    stage.invoke("after the failover").await?;
    ledger.book(10).await;

    let mut numbers = stage.numbers;
    let audit = ledger.audit().await?;
    numbers.errors += audit.errors;
    (numbers.lost, numbers.doubled) = (audit.lost, audit.doubled);
    count_logins(&proxy, &mut numbers);
    proxy.shutdown().await;
    Ok(numbers)
}

/// One telling of the story.
struct Stage<'s> {
    story: &'s mut Story,
    numbers: Numbers,
    function: &'s mut LambdaFunction,
}

impl Stage<'_> {
    async fn invoke(&mut self, what: &str) -> Outcome<support::lambda::Invocation> {
        let invocation = self.function.invoke(json!({})).await?;
        match invocation.value() {
            Ok(answer) => {
                let init = invocation.init.map(|init| format!(" after {:.1} ms of init", millis(init)));
                let time = answer["current_time"].as_str().unwrap_or("an answer of another kind");
                let took = format!("{:7.2} ms{}", millis(invocation.duration), init.unwrap_or_default());
                self.story.invocation(what, &took, time);
            }
            Err(error) => {
                self.numbers.errors += 1;
                self.story.failure(what, &error);
            }
        }
        Ok(invocation)
    }

    async fn warm_invocations(&mut self, proxy: &RdsProxyEmulator) -> Outcome<()> {
        let before = proxy.counts().round_trips;
        let mut durations = Vec::new();
        for number in 1..=WARM_INVOCATIONS {
            durations.push(self.invoke(&format!("warm {number}")).await?.duration);
        }
        durations.sort();
        let percentile = |percent: usize| micros(durations[(durations.len() - 1) * percent / 100]);
        (self.numbers.warm_p50_us, self.numbers.warm_p99_us) = (percentile(50), percentile(99));
        let round_trips = proxy.counts().round_trips - before;
        self.numbers.round_trips_per_query = round_trips as f64 / f64::from(WARM_INVOCATIONS);
        Ok(())
    }

    async fn freeze(&mut self, what: &str, meanwhile: impl Future<Output = ()>) -> Outcome<()> {
        // The function is stopped (SIGSTOP) between invocations; time goes by without it.
        tokio::join!(tokio::time::sleep(FREEZE), meanwhile);
        let before = self.numbers.errors;
        self.invoke(what).await?;
        self.numbers.freezes_survived += u64::from(self.numbers.errors == before);
        Ok(())
    }

    /// The writer dies while the function is invoked and a row is booked; both wait in the proxy for the next writer.
    async fn fail_over(&mut self, servers: &Servers, proxy: &RdsProxyEmulator, ledger: &mut Ledger) -> Outcome<()> {
        self.story.tell("the writer dies");
        let mut events = proxy.events();
        let started = Instant::now();
        proxy.clear_backend();
        let failing_over = async {
            events.wait_for(|event| matches!(event, Event::Queued(_))).await;
            let writer = servers.fail_over().await;
            proxy.set_backend(writer, Existing::Move);
            started.elapsed()
        };
        let invoking = async {
            self.invoke("during the failover").await?;
            Outcome::Ok(started.elapsed())
        };
        let (took, answered, ()) = tokio::join!(failing_over, invoking, ledger.book(1));
        let answered = answered?;
        self.numbers.failover_gap_ms = millis(answered);
        let text = format!(
            "another writer after {:.0} ms, the answer {:.0} ms later",
            millis(took),
            millis(answered.saturating_sub(took))
        );
        self.story.tell(&text);
        Ok(())
    }
}

fn function(handler: &Path, proxy: &RdsProxyEmulator, authority: &Path) -> support::lambda::Builder {
    LambdaFunction::builder(handler)
        .env("RDS_PROXY_ENDPOINT", format!("{}:{}", proxy.host(), proxy.port()))
        .env("DB_USER", USER)
        .env("DB_NAME", "app")
        .env("DB_CA_FILE", authority.display().to_string())
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_SESSION_TOKEN", SESSION_TOKEN)
}

fn writer_pool(proxy: &RdsProxyEmulator) -> Outcome<ProxyPool> {
    let config = ProxyConfig::builder()
        .endpoint(format!("{}:{}", proxy.host(), proxy.port()))
        .user(WRITER)
        .database("app")
        .region("us-east-1")
        .credentials_provider(Credentials::new(KEY, SECRET, Some(SESSION_TOKEN.to_owned()), None, "quickstart"))
        .ca_pem(proxy.ca_pem().as_bytes().to_vec())
        .build()?;
    Ok(ProxyPool::new(config)?)
}

/// What the proxy saw of the function's logins.
fn count_logins(proxy: &RdsProxyEmulator, numbers: &mut Numbers) {
    let mut events = proxy.all_events();
    let mut logins = 0u64;
    while let Some(event) = events.try_next() {
        match event {
            Event::LoggedIn { user, .. } if user == USER => logins += 1,
            Event::LoginRefused { user: Some(user), token: Some(TokenRefusal::Expired), .. } if user == USER => {
                numbers.token_refreshes += 1;
            }
            _ => {}
        }
    }
    numbers.reconnects = logins.saturating_sub(1);
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
