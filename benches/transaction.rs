//! What a commit marker costs a transaction without a fault, as a ratio in one run: `cargo bench --bench transaction`.
//!
//! A transaction of two statements through the pool with markers, the same without them, and on a connection of plain sqlx;
//! with no latency, and with half a millisecond of it per round trip, as between a function and its proxy.

#[path = "support/mod.rs"]
mod bench;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bench::measure::{Bar, Candidate, Effort, Report, run};
use bench::warm::{options, pool};
use rds_proxy_pool::emulator::Link;
use rds_proxy_pool::{CommitMarkers, ProxyPool};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use support::world::World;
use tokio::sync::Mutex;

const EFFORT: Effort = Effort { rounds: 60, calls: 5, tasks: 1 };
const FIRST: &str = "UPDATE account SET cents = cents - 1 WHERE id = $1";
const SECOND: &str = "INSERT INTO entry (account) VALUES ($1)";
const TABLES: &str = "CREATE TABLE account (id bigint PRIMARY KEY, cents bigint NOT NULL); \
                      INSERT INTO account VALUES (1, 0); CREATE TABLE entry (account bigint NOT NULL)";

fn main() -> ExitCode {
    run(measure())
}

async fn measure() -> Report {
    let mut report = Report::default();
    let Some(world) = World::start().await else { return report };
    let owner = pool(world.config(), 1).await;
    sqlx::raw_sql(TABLES).execute(&owner).await.expect("the tables are new");
    for one_way_us in [0, 250] {
        // Those who connect from now on.
        world.proxy().set_link(Link::new().latency(Duration::from_micros(one_way_us)));
        let marked = pool(world.config().commit_markers(CommitMarkers::table("outcome")), 1).await;
        let plain = pool(world.config(), 1).await;
        let markers = marked.commit_marker_table_sql().expect("markers are on");
        sqlx::raw_sql(AssertSqlSafe(markers)).execute(&owner).await.expect("it is new, or there");

        let (with, without) = (round_trips(&world, &marked).await, round_trips(&world, &plain).await);
        let values = format!("with markers {with}, without {without}");
        report.ratio("round trips of a transaction", &values, with as f64 / without as f64, Bar::Held(1.0));

        let options = options(&plain).await;
        let mut candidates = [
            transactions_of("with markers", &marked),
            transactions_of("without", &plain),
            transactions_of_held("held connection", &options).await,
        ];
        EFFORT.measure(&mut candidates).await;
        let [with, without, held] = &candidates;
        let bar = if one_way_us > 0 { Bar::Shown(1.1) } else { Bar::None };
        let name = format!("transaction at {} us per round trip", 2 * one_way_us);
        report.row(&name, with, without, bar);
        report.row(&name, without, held, Bar::None);
    }
    report
}

/// Of a transaction whose statements are prepared.
async fn round_trips(world: &World, pool: &ProxyPool) -> u64 {
    transaction(pool).await;
    let before = world.round_trips();
    transaction(pool).await;
    world.round_trips() - before
}

async fn transaction(pool: &ProxyPool) {
    let work = pool.transaction(|mut tx| async move {
        sqlx::query(FIRST).bind(1_i64).execute(&mut tx).await?;
        sqlx::query(SECOND).bind(1_i64).execute(&mut tx).await
    });
    work.await.expect("nobody is in the way");
}

fn transactions_of(name: &str, pool: &ProxyPool) -> Candidate {
    let pool = pool.clone();
    Candidate::new(name, move |_| {
        let pool = pool.clone();
        async move {
            let started = Instant::now();
            transaction(&pool).await;
            started.elapsed()
        }
    })
}

async fn transactions_of_held(name: &str, options: &PgConnectOptions) -> Candidate {
    let held = Rc::new(Mutex::new(options.connect().await.expect("sqlx connects")));
    Candidate::new(name, move |_| {
        let held = Rc::clone(&held);
        async move {
            let mut connection = held.lock().await;
            let started = Instant::now();
            let mut transaction = connection.begin().await.expect("it begins");
            sqlx::query(FIRST).bind(1_i64).execute(&mut *transaction).await.expect("it runs");
            sqlx::query(SECOND).bind(1_i64).execute(&mut *transaction).await.expect("it runs");
            transaction.commit().await.expect("it commits");
            started.elapsed()
        }
    })
}
