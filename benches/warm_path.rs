//! What the pool adds to a warm call, as ratios in one run: `cargo bench --bench warm_path`.

#[path = "support/mod.rs"]
mod bench;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;

use bench::measure::{Bar, Effort, Report, run};
use bench::warm::{acquires_of_pool, options, pool, queries_of_held, queries_of_pool, queries_of_sqlx_pool, sqlx_pool};
use support::world::World;

const QUERIES: Effort = Effort { rounds: 200, calls: 20, tasks: 1 };
const ACQUIRES: Effort = Effort { rounds: 100, calls: 1, tasks: 1 };

fn main() -> ExitCode {
    run(measure())
}

async fn measure() -> Report {
    let mut report = Report::default();
    let Some(world) = World::start().await else { return report };
    let pool = pool(world.config(), 1).await;
    let options = options(&pool).await;
    let mut candidates = [
        queries_of_pool(&pool),
        queries_of_held("held connection", &options, 1).await,
        // What one held connection differs from another is the error of this measurement.
        queries_of_held("another held connection", &options, 1).await,
        queries_of_sqlx_pool("sqlx::Pool", &sqlx_pool(&options, 1, true).await, 1),
    ];
    QUERIES.measure(&mut candidates).await;
    let [ours, held, control, sqlx] = &candidates;
    report.row("warm query", ours, held, Bar::Shown(1.05));
    report.row("warm query, the error here", control, held, Bar::None);
    report.row("warm query", ours, sqlx, Bar::Shown(0.5));

    let mut acquires = [acquires_of_pool(&pool, 1000)];
    ACQUIRES.measure(&mut acquires).await;
    report.value("warm acquire and release, pool", acquires[0].median() * 1e3, "ns", Bar::Shown(300.0));
    report
}
