use rds_proxy_pool::Resolved;

use super::{marked_pool, markers, written};
use crate::support::world::World;

#[tokio::test]
async fn repeated_questions_agree_and_a_tombstone_stops_a_late_commit() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let committed = pool.begin().await.unwrap();
    let key = committed.outcome_key().expect("markers are on");
    committed.commit().await.unwrap();
    for _ in 0..3 {
        assert_eq!(pool.resolve(key).await.unwrap(), Resolved::Committed);
    }
    let undone = pool.begin().await.unwrap();
    let key = undone.outcome_key().expect("markers are on");
    undone.rollback().await.unwrap();
    for _ in 0..3 {
        assert_eq!(pool.resolve(key).await.unwrap(), Resolved::RolledBack);
    }
    assert_eq!((markers(&pool).await, written(&pool).await), ((1, 1), vec![]));
}
