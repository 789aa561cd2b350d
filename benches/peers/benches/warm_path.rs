//! A warm query and a warm acquire beside those of other pools: `cargo bench --bench warm_path` in this folder.

use std::process::ExitCode;
use std::time::Duration;

use deadpool_postgres::RecyclingMethod::{Fast, Verified};
use rds_proxy_pool::emulator::Link;

use rds_proxy_pool_peers::bench::measure::{Bar, Effort, Report, run};
use rds_proxy_pool_peers::bench::warm::{
    acquires_of_pool, options, pool, queries_of_held, queries_of_pool, queries_of_sqlx_pool, sqlx_pool,
};
use rds_proxy_pool_peers::peers::{
    acquires_of_deadpool, acquires_of_sqlx_pool, config, deadpool, queries_of_deadpool, tls, token_for,
};
use rds_proxy_pool_peers::support::world::World;

fn main() -> ExitCode {
    run(measure())
}

async fn measure() -> Report {
    let mut report = Report::default();
    let Some(world) = World::start().await else { return report };
    acquires(&mut report, &world).await;
    for microseconds in [0, 500, 2000] {
        let latency = Duration::from_micros(microseconds) / 2;
        // Without latency there is no link either: it would cost what it does not show.
        if !latency.is_zero() {
            world.proxy().set_link(Link::new().latency(latency));
        }
        // Short turns: what else the machine does falls on many of them alike.
        let calls = if latency.is_zero() { 20 } else { 4 };
        for tasks in [1, 16] {
            let what = format!("warm query, {} ms per round trip, {tasks} task(s)", 2e3 * latency.as_secs_f64());
            queries(&mut report, &what, &world, Effort { rounds: 60, calls, tasks }).await;
        }
    }
    report
}

async fn acquires(report: &mut Report, world: &World) {
    let pool = pool(world.config(), 1).await;
    let options = options(&pool).await;
    let (config, tls) = (config(&options, &token_for(&options)), tls(world.ca_pem().as_bytes()));
    let mut candidates = [
        acquires_of_pool(&pool, 1000),
        acquires_of_deadpool("deadpool Fast", &deadpool(&config, &tls, 1, Fast).await, 1000),
        acquires_of_deadpool("deadpool Verified", &deadpool(&config, &tls, 1, Verified).await, 20),
        acquires_of_sqlx_pool("sqlx::Pool", &sqlx_pool(&options, 1, true).await, 20),
        acquires_of_sqlx_pool("sqlx::Pool without test", &sqlx_pool(&options, 1, false).await, 20),
    ];
    Effort { rounds: 40, calls: 1, tasks: 1 }.measure(&mut candidates).await;
    let [ours, fast, verified, sqlx, untested] = &candidates;
    let what = "warm acquire and release";
    report.value(&format!("{what}, pool"), ours.median() * 1e3, "ns", Bar::Shown(300.0));
    report.row(what, ours, fast, Bar::Shown(1.0));
    for other in [verified, sqlx, untested] {
        report.row(what, ours, other, Bar::Held(1.0));
    }
}

async fn queries(report: &mut Report, what: &str, world: &World, effort: Effort) {
    let tasks = effort.tasks;
    let pool = pool(world.config(), tasks).await;
    let options = options(&pool).await;
    let (config, tls) = (config(&options, &token_for(&options)), tls(world.ca_pem().as_bytes()));
    let mut candidates = [
        queries_of_pool(&pool),
        queries_of_held("held connection", &options, tasks).await,
        // What one held connection differs from another is the error of this measurement.
        queries_of_held("another held connection", &options, tasks).await,
        queries_of_sqlx_pool("sqlx::Pool", &sqlx_pool(&options, tasks, true).await, tasks),
        queries_of_sqlx_pool("sqlx::Pool without test", &sqlx_pool(&options, tasks, false).await, tasks),
        queries_of_deadpool("deadpool Verified", &deadpool(&config, &tls, tasks, Verified).await),
        queries_of_deadpool("deadpool Fast", &deadpool(&config, &tls, tasks, Fast).await),
    ];
    effort.measure(&mut candidates).await;
    let [ours, held, control, sqlx, untested, verified, fast] = &candidates;
    report.row(what, ours, held, Bar::Shown(1.05));
    report.row(&format!("{what}, the error here"), control, held, Bar::None);
    report.row(what, ours, sqlx, Bar::Shown(0.5));
    for other in [untested, verified, fast] {
        report.row(what, ours, other, Bar::None);
    }
}
