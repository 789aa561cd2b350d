//! A thousand environments lose their connections at the same moment and all want them back: first with this crate's
//! pool, then with `sqlx::Pool`, each behind a local RDS Proxy that limits logins, with a real PostgreSQL behind it.
//!
//! Run it with `cargo run --release --example fleet`. Flags: `--pools N` (1000), `--outages N` (3), `--seed S` (1; it
//! draws how long the proxy is away), `--json` (one line instead of the table). It fails if a bar is not met: all of this
//! crate's pools are served after each outage, the connect rate peaks at half of `sqlx::Pool`'s or less, and stays within
//! the proxy's limit after the first second. Peaks are those of all outages: the pools of `sqlx` keep step with each
//! other, and whether the proxy returns just before their next step or in the middle of it is chance. It needs
//! PostgreSQL's server binaries (Debian: `apt-get install postgresql`).

#[path = "fleet/report.rs"]
mod report;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "fleet/traffic.rs"]
mod traffic;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use rds_proxy_pool::emulator::{AccessKey, Backend, Builder, RdsProxyEmulator};
use rds_proxy_pool::{ProxyConfig, ProxyPool};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sqlx::PgPool;

use report::{Numbers, Storm, Storms};
use support::servers::Postgres;
use traffic::Recorder;

const USER: &str = "app";
const KEY: &str = "ASIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// How long each environment can wait for its answer.
const DEADLINE: Duration = Duration::from_secs(15);
/// The proxy lets a fifth of the fleet in each second: 200 of 1,000, which is what a database without a proxy takes of
/// logins by IAM. A limit that lets the whole fleet in at once would test nothing.
const SHARE_PER_SECOND: usize = 5;
/// Pools that recover without a fleet around them, and how many outages they see.
const ALONE: (usize, u64) = (3, 25);
/// Theirs: Lambda's default timeout.
const ALONE_DEADLINE: Duration = Duration::from_secs(3);
/// The proxy is away for as many milliseconds: the part of a failover in which it refuses.
const OUTAGE: (u64, u64) = (1000, 3000);
/// And for as many, for those whose deadline is Lambda's default timeout.
const OUTAGE_ALONE: (u64, u64) = (100, 1000);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What is asked for.
struct Flags {
    pools: usize,
    outages: usize,
    seed: u64,
    json: bool,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be started");
    let done = Flags::read().and_then(|flags| Ok((runtime.block_on(run(&flags))?, flags.json)));
    match done {
        Ok((numbers, json)) => {
            if json {
                println!("{}", numbers.to_json());
            } else {
                numbers.print_table();
            }
            if numbers.holds_the_bars() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("fleet: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Flags {
    fn read() -> Outcome<Flags> {
        let mut flags = Flags { pools: 1000, outages: 3, seed: 1, json: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || arguments.next().unwrap_or_default().parse::<u32>();
            match argument.as_str() {
                "--pools" => flags.pools = (number()? as usize).max(SHARE_PER_SECOND),
                "--outages" => flags.outages = (number()? as usize).max(1),
                "--seed" => flags.seed = number()?.into(),
                "--json" => flags.json = true,
                other => return Err(format!("{other}: not one of --pools N, --outages N, --seed S, --json").into()),
            }
        }
        Ok(flags)
    }
}

async fn run(flags: &Flags) -> Outcome<Numbers> {
    let pools = affordable(flags.pools)?;
    let server = Postgres::try_start().await?;
    server.execute("ALTER SYSTEM SET max_connections = 4000").await;
    server.stop_fast().await;
    server.start_again().await;
    let mut random = fastrand::Rng::with_seed(flags.seed);
    let outages: Vec<_> = (0..flags.outages).map(|_| Duration::from_millis(random.u64(OUTAGE.0..=OUTAGE.1))).collect();
    let per_second = (pools / SHARE_PER_SECOND) as u32;
    let (mut ours, mut plain) = (Storms::default(), Storms::default());
    for outage in &outages {
        ours.add(storm(&server, per_second, pools, *outage, Client::ours).await?);
        plain.add(storm(&server, per_second, pools, *outage, Client::plain).await?);
    }
    let alone = recover_alone(&server).await?;
    Ok(Numbers { pools, seed: flags.seed, outages, per_second, deadline: DEADLINE, ours, plain, alone })
}

/// As many pools as this process may have sockets for; each has one at either end of the proxy and one at the database.
fn affordable(pools: usize) -> Outcome<usize> {
    const EACH: u64 = 4;
    const OTHERS: u64 = 200;
    let wanted = pools as u64 * EACH + OTHERS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < wanted) {
        let raised = maximum.map_or(wanted, |maximum| maximum.min(wanted));
        setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum })?;
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let affordable = pools.min(usize::try_from(allowed.saturating_sub(OTHERS) / EACH)?);
    if affordable < pools {
        eprintln!("fleet: {allowed} files may be open: enough for {affordable} pools, not for {pools}");
    }
    Ok(affordable)
}

/// An environment.
enum Client {
    Ours(ProxyPool),
    Plain(PgPool),
}

impl Client {
    async fn ours(config: ProxyConfig) -> Outcome<Client> {
        Ok(Client::Ours(ProxyPool::new(config)?))
    }

    /// With the same options and one connection too.
    async fn plain(config: ProxyConfig) -> Outcome<Client> {
        Ok(Client::Plain(ProxyPool::new(config)?.sqlx_pool().await?))
    }

    async fn query(&self, deadline: Duration) -> Outcome<()> {
        let query = sqlx::query_scalar::<_, i32>("SELECT 1");
        match self {
            Client::Ours(pool) => query.fetch_one(&pool.by(deadline)).await?,
            Client::Plain(pool) => tokio::time::timeout(deadline, query.fetch_one(pool)).await??,
        };
        Ok(())
    }
}

/// Warms a fleet up, takes the proxy away, and watches how the fleet comes back.
async fn storm<F: Future<Output = Outcome<Client>>>(
    server: &Postgres,
    per_second: u32,
    pools: usize,
    outage: Duration,
    make: impl Fn(ProxyConfig) -> F,
) -> Outcome<Storm> {
    let proxy = proxy(server, |builder| builder.connection_rate_limit(per_second).iam_rate_limit(per_second))?;
    let mut fleet = Vec::with_capacity(pools);
    for _ in 0..pools {
        fleet.push(Arc::new(make(config(&proxy)?).await?));
    }
    warm_up(&fleet, per_second).await?;

    let recorder = Recorder::start(&proxy)?;
    let Round { served, answers } = cut_off(&proxy, &fleet, outage, DEADLINE).await?;
    let traffic = recorder.stop()?;
    proxy.shutdown().await;
    Ok(Storm { served, answers, traffic })
}

/// In waves, so that nobody is refused.
async fn warm_up(fleet: &[Arc<Client>], per_second: u32) -> Outcome<()> {
    let mut next_wave = tokio::time::interval(Duration::from_millis(1100));
    for wave in fleet.chunks(per_second as usize) {
        next_wave.tick().await;
        futures::future::try_join_all(wave.iter().map(|client| client.query(DEADLINE))).await?;
    }
    // The last wave no longer counts against the limit.
    next_wave.reset();
    next_wave.tick().await;
    Ok(())
}

/// How an outage went.
struct Round {
    /// When the proxy took connections again.
    served: Instant,
    /// When each environment had its answer, or why it had none.
    answers: Vec<Outcome<Instant>>,
}

/// Every connection is closed, new ones are refused, and every environment wants an answer; then the proxy is back.
async fn cut_off(
    proxy: &RdsProxyEmulator,
    fleet: &[Arc<Client>],
    outage: Duration,
    deadline: Duration,
) -> Outcome<Round> {
    proxy.refuse_connections().await;
    proxy.cut_all().await;
    let queries: Vec<_> = fleet
        .iter()
        .map(|client| {
            let client = Arc::clone(client);
            tokio::spawn(async move { client.query(deadline).await.map(|()| Instant::now()) })
        })
        .collect();
    tokio::time::sleep(outage).await;
    let served = Instant::now();
    proxy.accept_connections().await;
    let mut answers = Vec::with_capacity(queries.len());
    for query in queries {
        answers.push(query.await?);
    }
    Ok(Round { served, answers })
}

/// How long a few pools take to come back that no limit holds up, over outages of every length.
async fn recover_alone(server: &Postgres) -> Outcome<Vec<Duration>> {
    let (pools, outages) = ALONE;
    let proxy = proxy(server, |builder| builder)?;
    let mut fleet = Vec::new();
    for _ in 0..pools {
        fleet.push(Arc::new(Client::ours(config(&proxy)?).await?));
    }
    let mut recovered = Vec::new();
    for number in 0..outages {
        futures::future::try_join_all(fleet.iter().map(|client| client.query(DEADLINE))).await?;
        let length = OUTAGE_ALONE.0 + (OUTAGE_ALONE.1 - OUTAGE_ALONE.0) * number / (outages - 1);
        let Round { served, answers } = cut_off(&proxy, &fleet, Duration::from_millis(length), ALONE_DEADLINE).await?;
        for answer in answers {
            recovered.push(answer?.saturating_duration_since(served));
        }
    }
    proxy.shutdown().await;
    Ok(recovered)
}

fn proxy(server: &Postgres, limits: impl FnOnce(Builder) -> Builder) -> Outcome<RdsProxyEmulator> {
    let builder = RdsProxyEmulator::builder(Backend::new(server.address()).login(USER, ""));
    // By address: a thousand names at once would keep the resolver's threads busy, and neither pool.
    Ok(limits(builder.host("127.0.0.1").iam_user(USER).access_key(AccessKey::new(KEY, SECRET))).start()?)
}

fn config(proxy: &RdsProxyEmulator) -> Outcome<ProxyConfig> {
    let config = ProxyConfig::builder()
        .endpoint(format!("{}:{}", proxy.host(), proxy.port()))
        .user(USER)
        .database("app")
        .region("us-east-1")
        .credentials_provider(Credentials::new(KEY, SECRET, None, None, "fleet"))
        .ca_pem(proxy.ca_pem().as_bytes().to_vec())
        .max_connections(1)
        .acquire_timeout(DEADLINE);
    Ok(config.build()?)
}
