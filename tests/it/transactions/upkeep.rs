//! What a transaction is opened with reaches the server, and old markers go.

use std::time::Duration;

use rds_proxy_pool::{CommitMarkers, ErrorKind, Isolation, Outcome, OutcomeKey, ProxyPool, TransactionOptions};

use super::{TABLE, marked_pool, markers};
use crate::support::world::World;

const HOUR: Duration = Duration::from_secs(3600);
/// How long [`marked_pool`]'s markers are kept: the default.
const RETENTION: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn the_options_of_a_transaction_reach_the_server() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let shown = |options| {
        pool.transaction_with(options, |mut tx| async move {
            let settings = "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'), \
                            current_setting('transaction_deferrable')";
            sqlx::query_as::<_, (String, String, String)>(settings).fetch_one(&mut tx).await
        })
    };
    let options = TransactionOptions::new;
    for (options, isolation, read_only, deferrable) in [
        (options(), "read committed", "off", "off"),
        (options().isolation(Isolation::ReadCommitted), "read committed", "off", "off"),
        (options().isolation(Isolation::RepeatableRead), "repeatable read", "off", "off"),
        (options().isolation(Isolation::Serializable), "serializable", "off", "off"),
        (options().read_only(), "read committed", "on", "off"),
        (options().deferrable(), "read committed", "off", "on"),
        (options().isolation(Isolation::Serializable).read_only().deferrable(), "serializable", "on", "on"),
    ] {
        let (is, reads, defers) = shown(options).await.unwrap();
        assert_eq!((&*is, &*reads, &*defers), (isolation, read_only, deferrable), "{options:?}");
    }
}

#[tokio::test]
async fn markers_are_deleted_when_they_are_older_than_they_are_kept_for_and_none_before() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    pool.transaction(|mut tx| async move { sqlx::query("SELECT 1").execute(&mut tx).await }).await.unwrap();
    // So many that one statement does not do, of the same age.
    let more = "INSERT INTO rds_proxy_pool_outcome (key, state) SELECT overlay(key::text PLACING \
                lpad(to_hex(n), 12, '0') FROM 25)::uuid, 'C' FROM rds_proxy_pool_outcome, generate_series(1, 2499) AS n";
    sqlx::query(more).execute(&pool).await.unwrap();
    assert_eq!(markers(&pool).await, (2500, 0));
    world.clock.advance(RETENTION - HOUR);
    assert_eq!(pool.purge_commit_markers().await.unwrap(), 0);

    world.clock.advance(2 * HOUR);
    let young = pool.begin().await.unwrap();
    let key = young.outcome_key().expect("markers are on");
    young.commit().await.unwrap();
    assert_eq!(pool.purge_commit_markers().await.unwrap(), 2500);
    let left: Vec<String> =
        sqlx::query_scalar("SELECT key::text FROM rds_proxy_pool_outcome").fetch_all(&pool).await.unwrap();
    assert_eq!(left, [key.to_string()]);
}

#[tokio::test]
async fn a_key_whose_marker_may_have_gone_is_not_asked_for() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let transaction = pool.begin().await.unwrap();
    let key = transaction.outcome_key().expect("markers are on");
    transaction.commit().await.unwrap();
    world.clock.advance(RETENTION / 2 + HOUR);
    let error = pool.resolve(key).await.unwrap_err();
    assert_eq!((error.code(), error.outcome(), error.outcome_key()), ("markers.expired", Outcome::Unknown, Some(key)));
    assert_eq!(markers(&pool).await, (1, 0), "nothing was left in its place");

    let longer = CommitMarkers::table(TABLE).retention(3 * RETENTION);
    let longer = ProxyPool::new(world.config().commit_markers(longer).build().unwrap()).unwrap();
    assert!(longer.resolve(key).await.is_ok());
}

#[tokio::test]
async fn a_pool_without_markers_says_so() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let key: OutcomeKey = "01936f2e-7f80-7abc-8def-0123456789ab".parse().unwrap();
    let error = pool.resolve(key).await.unwrap_err();
    assert_eq!((error.code(), error.kind(), error.outcome()), ("markers.off", ErrorKind::Usage, Outcome::Unknown));
    assert_eq!(pool.purge_commit_markers().await.unwrap_err().code(), "markers.off");
}
