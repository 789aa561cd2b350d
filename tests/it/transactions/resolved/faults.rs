//! Each fault at each point of a write.

use std::time::Duration;

use futures::TryStreamExt;
use rds_proxy_pool::emulator::{Fault, Kind, Message, Point};
use rds_proxy_pool::{ErrorKind, Outcome, ProxyPool};
use sqlx::AssertSqlSafe;

use super::super::{marked_pool, markers, wait_out, written};
use super::told;
use crate::faults::KINDS;
use crate::support::world::World;

/// Less than the longest delay among the kinds of faults.
const DEADLINE: Duration = Duration::from_secs(20);
async fn put(pool: &ProxyPool, n: i64) -> Result<(), sqlx::Error> {
    // A new text each time, so that it is prepared.
    let sql = AssertSqlSafe(format!("/* {n} */ INSERT INTO written VALUES ($1) RETURNING n * 10"));
    let row: i64 = sqlx::query_scalar(sql).bind(n).fetch_one(pool).await?;
    assert_eq!(row, n * 10);
    Ok(())
}

async fn count(pool: &ProxyPool, n: i64) -> Result<(), sqlx::Error> {
    let sql = AssertSqlSafe(format!("/* {n} */ UPDATE counter SET n = n + $1"));
    assert_eq!(sqlx::query(sql).bind(1_i64).execute(pool).await?.rows_affected(), 1);
    Ok(())
}

#[tokio::test]
async fn each_fault_at_each_point_of_a_write_leaves_its_effect_once_and_is_told_if_its_answer_is_lost() {
    let Some(world) = World::start().await else { return };
    let plain = marked_pool(&world).await;
    sqlx::raw_sql("CREATE TABLE counter AS SELECT 0::bigint AS n").execute(&plain).await.unwrap();
    let (mut n, mut lost) = (0, 0);
    for message in [Message::Parse, Message::Execute] {
        for point in Point::ALL {
            for kind in KINDS {
                for returning in [true, false] {
                    let case = format!("{n}: {message:?} {point:?} {kind:?}, returning: {returning}");
                    n += 1;
                    let part = if returning { "INTO written" } else { "UPDATE counter" };
                    let injected = world.proxy().inject(Fault::new(message, point, kind).text(part));
                    let pool = plain.resolved().by(DEADLINE);
                    let work = async { if returning { put(&pool, n).await } else { count(&pool, n).await } };
                    let goes_on = matches!(kind, Kind::Drip { .. });
                    let silence = async {
                        if !goes_on {
                            wait_out(&world, injected, DEADLINE / 2).await;
                        }
                    };
                    let (result, ()) = futures::join!(work, silence);
                    world.proxy().clear_faults();
                    let done = message == Message::Execute && matches!(point, Point::BeforeReply | Point::MidReply);
                    match result {
                        Ok(()) => assert!(!done || goes_on, "{case}: it cannot know"),
                        Err(error) => {
                            assert_eq!(told(&error), ("resolved.committed", Outcome::Committed, false), "{case}");
                            assert_eq!(rds_proxy_pool::Error::find(&error).map(|e| e.kind()), Some(ErrorKind::Lost));
                            assert!(done, "{case}: it could be sent again");
                            lost += 1;
                        }
                    }
                    let there: i64 =
                        sqlx::query_scalar("SELECT count(*) FROM written").fetch_one(&plain).await.unwrap();
                    let counted: i64 = sqlx::query_scalar("SELECT n FROM counter").fetch_one(&plain).await.unwrap();
                    assert_eq!((there, counted), ((n + 1) / 2, n / 2), "{case}");
                }
            }
        }
    }
    let (committed, tombstones) = markers(&plain).await;
    println!("{n} faults, {lost} answers lost, {committed} markers, {tombstones} tombstones");
    assert_eq!((n, lost, committed), (180, 32, n));
    assert!(tombstones > 0);
}

#[tokio::test]
async fn a_stream_hands_out_nothing_of_a_write_that_is_not_done() {
    let Some(world) = World::start().await else { return };
    let pool = marked_pool(&world).await;
    let write = "INSERT INTO written SELECT generate_series(1, 3) RETURNING n";
    for (point, done) in [(Point::BeforeSync, false), (Point::MidReply, true)] {
        sqlx::query("DELETE FROM written").execute(&pool).await.unwrap();
        let mut injected = world.proxy().inject(Fault::new(Message::Execute, point, Kind::Reset).text("INTO written"));
        let resolved = pool.resolved().by(DEADLINE);
        let mut rows = sqlx::query_scalar::<_, i64>(write).fetch(&resolved);
        let mut got = vec![];
        let ended = loop {
            match rows.try_next().await {
                Ok(Some(n)) => got.push(n),
                Ok(None) => break None,
                Err(error) => break Some(told(&error)),
            }
        };
        injected.struck().await;
        let lost = ("resolved.committed", Outcome::Committed, false);
        assert_eq!((got.len(), ended), if done { (0, Some(lost)) } else { (3, None) }, "{point:?}");
        assert_eq!(written(&pool).await, [1, 2, 3], "{point:?}");
    }
}
