//! Transactions as closures: when they run again, and what their commit markers tell.

mod attacks;
mod closures;
mod fence;
mod leaks;
mod once;
mod resolved;
mod upkeep;

use std::time::Duration;

use rds_proxy_pool::emulator::Injected;
use rds_proxy_pool::{CommitMarkers, ProxyPool};

use crate::support::world::World;

const TABLE: &str = "rds_proxy_pool_outcome";

/// A pool that leaves markers, and a table to write into.
async fn marked_pool(world: &World) -> ProxyPool {
    let pool = ProxyPool::new(world.config().commit_markers(CommitMarkers::table(TABLE)).build().unwrap()).unwrap();
    let table = pool.commit_marker_table_sql().expect("markers are on");
    sqlx::raw_sql(sqlx::AssertSqlSafe(table)).execute(&pool).await.unwrap();
    sqlx::raw_sql("CREATE TABLE written (n bigint NOT NULL)").execute(&pool).await.unwrap();
    pool
}

async fn written(pool: &ProxyPool) -> Vec<i64> {
    sqlx::query_scalar("SELECT n FROM written ORDER BY n").fetch_all(pool).await.unwrap()
}

/// Markers by state: committed, tombstones.
async fn markers(pool: &ProxyPool) -> (i64, i64) {
    let count =
        "SELECT count(*) FILTER (WHERE state = 'C'), count(*) FILTER (WHERE state = 'A') FROM rds_proxy_pool_outcome";
    sqlx::query_as(count).fetch_one(pool).await.unwrap()
}

/// Once the fault has struck, lets so much time pass that a peer whose silence is borne for as long is given up.
async fn wait_out(world: &World, mut injected: Injected, silence: Duration) {
    injected.struck().await;
    let step = Duration::from_millis(400);
    // In small steps: a large one is taken for a freeze.
    for _ in 0..=silence.as_millis() / step.as_millis() {
        world.clock.advance(step);
        tokio::task::yield_now().await;
    }
}
