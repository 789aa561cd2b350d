//! The first call after a freeze, whatever happened meanwhile.

use std::time::{Duration, Instant};

use rds_proxy_pool::{Error, ErrorKind, Outcome, ProxyPool};
use sqlx::Connection;

use crate::support::world::World;

const GAP: Duration = Duration::from_secs(5 * 60);
const SOON: Duration = Duration::from_secs(1);

/// Does `call` after a freeze during which `meanwhile` happened; it must succeed soon.
macro_rules! thawed {
    ($world:expr, $pool:expr, $meanwhile:expr, $what:literal, $call:expr) => {{
        $pool.warm().await.unwrap();
        $meanwhile.await;
        $world.clock.advance(GAP);
        let started = Instant::now();
        $call.await.unwrap_or_else(|error| panic!("{}: {error:?}", $what));
        assert!(started.elapsed() < SOON, "{} took {:?}", $what, started.elapsed());
    }};
}

async fn read(pool: &ProxyPool) -> Result<(), sqlx::Error> {
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(pool).await?;
    assert_eq!(one, 1);
    Ok(())
}

async fn write(pool: &ProxyPool) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO written VALUES (1)").execute(pool).await.map(drop)
}

async fn begin(pool: &ProxyPool) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    sqlx::query("INSERT INTO written VALUES (1)").execute(&mut transaction).await?;
    Ok(transaction.commit().await?)
}

async fn with_table(world: Option<World>) -> Option<(World, ProxyPool)> {
    let world = world?;
    let pool = world.pool();
    sqlx::raw_sql("CREATE TABLE written (n int)").execute(&pool).await.unwrap();
    Some((world, pool))
}

async fn written(pool: &ProxyPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM written").fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_connection_closed_by_the_peer_during_the_freeze_is_replaced_unnoticed() {
    let Some((world, pool)) = with_table(World::start().await).await else { return };
    thawed!(world, pool, world.cut_all(), "read", read(&pool));
    thawed!(world, pool, world.cut_all(), "begin", begin(&pool));
    thawed!(world, pool, world.cut_all(), "write", write(&pool));
    assert_eq!(written(&pool).await, 2);
    assert_eq!(pool.status().retries, 0, "all of it was seen before anything was sent");
}

#[tokio::test]
async fn a_connection_held_through_the_freeze_without_being_used_is_looked_at_all_the_same() {
    let Some((world, pool)) = with_table(World::start().await).await else { return };
    let held = pool.acquire().await.unwrap();
    world.cut_all().await;
    world.clock.advance(GAP);
    drop(held);
    write(&pool).await.unwrap();
    assert_eq!((written(&pool).await, pool.status().connects), (1, 2));
}

#[tokio::test]
async fn a_connection_reset_by_the_peer_during_the_freeze_is_replaced_unnoticed() {
    let Some((world, pool)) = with_table(World::start().await).await else { return };
    thawed!(world, pool, world.reset_all(), "read", read(&pool));
    thawed!(world, pool, world.reset_all(), "begin", begin(&pool));
    thawed!(world, pool, world.reset_all(), "write", write(&pool));
    assert_eq!(written(&pool).await, 2);
}

#[tokio::test]
async fn a_connection_that_leads_to_a_demoted_writer_is_replaced_unnoticed() {
    let Some((world, pool)) = with_table(World::start_with_standby().await).await else { return };
    thawed!(world, pool, world.demote_existing(), "write", write(&pool));
    thawed!(world, pool, world.demote_existing(), "begin", begin(&pool));
    thawed!(world, pool, world.demote_existing(), "read", read(&pool));
    assert_eq!(written(&pool).await, 2);
}

#[tokio::test]
async fn a_healthy_connection_is_kept_and_its_check_costs_a_round_trip_only_before_a_write() {
    let Some((world, pool)) = with_table(World::start().await).await else { return };
    write(&pool).await.unwrap();
    world.clock.advance(GAP);
    let before = world.round_trips();
    write(&pool).await.unwrap();
    assert_eq!(world.round_trips() - before, 2, "the check and the statement");
    world.clock.advance(GAP);
    let before = world.round_trips();
    pool.begin().await.unwrap().rollback().await.unwrap();
    assert_eq!(world.round_trips() - before, 2, "an opening is its own check");
    world.clock.advance(GAP);
    read(&pool).await.unwrap();
    world.clock.advance(GAP);
    let before = world.round_trips();
    read(&pool).await.unwrap();
    assert_eq!(world.round_trips() - before, 1, "a read is its own check");
    assert_eq!(pool.status().connects, 1);
}

#[tokio::test]
async fn a_slow_query_after_a_freeze_is_not_mistaken_for_a_black_hole() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    pool.warm().await.unwrap();
    world.clock.advance(GAP);
    let held = world.hold().await;
    let querying = pool.idempotent();
    let slow =
        tokio::spawn(
            async move { sqlx::query("SELECT pg_advisory_lock_shared(1)").execute(&querying).await.map(drop) },
        );
    world.executing().await;
    // Small steps, so that none is taken for a freeze.
    for _ in 0..50 {
        world.clock.advance(Duration::from_millis(100));
        tokio::task::yield_now().await;
    }
    assert!(!slow.is_finished());
    held.close().await.unwrap();
    slow.await.unwrap().unwrap();
    assert_eq!((pool.status().connects, pool.status().retries), (1, 0));
}

#[tokio::test]
async fn a_peer_that_never_answers_costs_no_more_than_the_deadline() {
    let Some((world, pool)) = with_table(World::start().await).await else { return };
    pool.warm().await.unwrap();
    world.stop_answering(true);
    for (gap, outcome) in [(Duration::ZERO, Outcome::Unknown), (GAP, Outcome::NotSent)] {
        world.clock.advance(gap);
        let started = Instant::now();
        let error = write(&pool.by(Duration::from_millis(1250))).await.unwrap_err();
        let ours = Error::find(&error).expect("ours");
        assert_eq!((ours.kind(), ours.outcome()), (ErrorKind::Deadline, outcome), "{ours:#}");
        assert!(started.elapsed() < Duration::from_millis(1250), "{:?}", started.elapsed());
    }
    let started = Instant::now();
    let error = pool.by(Duration::from_millis(1250)).begin().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error:#}");
    assert!(started.elapsed() < Duration::from_millis(1250), "{:?}", started.elapsed());
    world.stop_answering(false);
    read(&pool).await.unwrap();
}

#[tokio::test]
async fn a_restored_snapshot_whose_monotonic_clock_stood_still_is_seen_as_a_gap() {
    let Some((world, pool)) = with_table(World::start().await).await else { return };
    pool.warm().await.unwrap();
    world.cut_all().await;
    world.clock.advance_wall(GAP);
    write(&pool).await.unwrap();
    assert_eq!(pool.status().connects, 2);
}

#[tokio::test]
async fn a_wall_clock_set_back_makes_connections_suspect() {
    let Some((world, pool)) = with_table(World::start().await).await else { return };
    pool.warm().await.unwrap();
    world.cut_all().await;
    world.clock.set_wall_back(Duration::from_secs(3600));
    write(&pool).await.unwrap();
    assert_eq!(pool.status().connects, 2);
}
