use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rds_proxy_pool::emulator::{Event, Fault, Kind, Message, Point};
use rds_proxy_pool::{Error, ErrorKind, OnceKey, Outcome, ProxyPool};
use tokio::sync::Notify;

use super::written;
use crate::support::world::World;

mod failures;

const INSERT: &str = "INSERT INTO written VALUES ($1)";
const LONG: Duration = Duration::from_secs(20);

/// Makes the table of the keys, and one to write into.
async fn with_tables(pool: ProxyPool) -> ProxyPool {
    sqlx::raw_sql(sqlx::AssertSqlSafe(pool.once_table_sql())).execute(&pool).await.unwrap();
    sqlx::raw_sql("CREATE TABLE written (n bigint NOT NULL)").execute(&pool).await.unwrap();
    pool
}

fn key(id: &str) -> OnceKey {
    OnceKey::sqs_message("write", id)
}

/// Writes `n` once for this key and answers it; counts the runs.
async fn write(pool: &ProxyPool, key: OnceKey, n: i64, runs: &AtomicU32) -> Result<i64, sqlx::Error> {
    pool.transaction_once(key, |mut tx| async move {
        runs.fetch_add(1, Ordering::Relaxed);
        sqlx::query(INSERT).bind(n).execute(&mut tx).await?;
        Ok(n)
    })
    .await
}

fn ours(error: &sqlx::Error) -> &Error {
    Error::find(error).unwrap_or_else(|| panic!("not ours: {error:?}"))
}

#[tokio::test]
async fn a_redelivery_has_no_effect_and_the_result_of_the_first() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    let runs = AtomicU32::new(0);
    for n in [7, 8, 9] {
        assert_eq!(write(&pool, key("a").payload(b"same"), n, &runs).await.unwrap(), 7);
    }
    for key in [key("b"), OnceKey::new("write", "a"), OnceKey::sqs_message("another scope", "a")] {
        assert_eq!(write(&pool, key, 10, &runs).await.unwrap(), 10);
    }
    assert_eq!((runs.into_inner(), written(&pool).await), (4, vec![7, 10, 10, 10]));
    assert_eq!(pool.status().connects, 1, "a connection on which the key was found is kept");
}

#[tokio::test]
async fn once_costs_the_round_trips_of_a_plain_transaction_and_a_redelivery_two() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    let split = ProxyPool::new(world.config().split_messages(true).build().unwrap()).unwrap();
    for (pool, ids, expected) in [(&pool, ["a", "b"], [4, 2]), (&split, ["c", "d"], [7, 4])] {
        let mut costs = [0; 3];
        for (cost, id) in costs.iter_mut().zip([ids[0], ids[1], ids[1]]) {
            let before = world.round_trips();
            pool.transaction_once(key(id), |mut tx| async move {
                sqlx::raw_sql("INSERT INTO written VALUES (1)").execute(&mut tx).await?;
                sqlx::raw_sql("INSERT INTO written VALUES (2)").execute(&mut tx).await?;
                Ok::<_, sqlx::Error>(())
            })
            .await
            .unwrap();
            *cost = world.round_trips() - before;
        }
        assert_eq!(costs[1..], expected, "BEGIN, two statements, COMMIT; then what was stored: {costs:?}");
    }
    assert_eq!(written(&pool).await, [1, 1, 1, 1, 2, 2, 2, 2]);
}

/// Meets a fault at its COMMIT; the effect must be there once, and its result be found by a redelivery.
async fn broken_at_commit(world: &World, pool: &ProxyPool, n: i64, fault: Fault, deadline: Duration) {
    let what = format!("{fault:?}");
    let runs = AtomicU32::new(0);
    let id = n.to_string();
    drop(world.proxy().inject(fault));
    let mark = world.proxy().events();
    let result = write(&pool.by(deadline), key(&id), n, &runs).await;
    world.proxy().clear_faults();
    assert_eq!(result.unwrap_or_else(|error| panic!("{what}: {error:?}")), n, "{what}");
    let mut events = mark;
    let mut struck = false;
    while let Some(event) = events.try_next() {
        struck |= matches!(event, Event::Struck(_));
    }
    assert!(struck, "{what}: it met nothing");
    let before = runs.load(Ordering::Relaxed);
    assert!((1..=2).contains(&before), "{what}: {before} runs");
    assert_eq!(write(pool, key(&id), -n, &runs).await.unwrap(), n, "{what}");
    assert_eq!(runs.into_inner(), before, "{what}: a redelivery ran");
    let effects = written(pool).await.into_iter().filter(|written| *written == n).count();
    assert_eq!(effects, 1, "{what}");
}

#[tokio::test]
async fn a_connection_lost_at_the_commit_is_not_noticed_and_the_effect_is_there_once() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    let pause = Duration::from_millis(5);
    let kinds = [
        Kind::Close,
        Kind::Reset,
        Kind::AdminShutdown,
        Kind::CrashShutdown,
        Kind::CannotConnectNow,
        Kind::Delay { least: pause, most: pause },
        Kind::Drip { bytes: 16, every: Duration::from_millis(1) },
    ];
    let mut n = 0;
    for kind in kinds {
        for point in Point::ALL {
            n += 1;
            broken_at_commit(&world, &pool, n, Fault::new(Message::Commit, point, kind), LONG).await;
        }
    }
    assert_eq!(written(&pool).await.len() as i64, n);
}

#[tokio::test]
async fn a_commit_that_is_never_answered_is_given_up_in_time_to_run_it_again() {
    let silent = [Kind::StopReading, Kind::NeverAnswer];
    let cases = silent.into_iter().flat_map(|kind| Point::ALL.map(|point| Fault::new(Message::Commit, point, kind)));
    futures::future::join_all(cases.map(async |fault| {
        let Some(world) = World::start().await else { return };
        let pool = with_tables(world.pool()).await;
        broken_at_commit(&world, &pool, 1, fault, Duration::from_secs(4)).await;
    }))
    .await;
}

#[tokio::test]
async fn a_connection_lost_before_the_commit_is_not_noticed_either() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    let mut n = 0;
    for message in [Message::Begin, Message::Execute] {
        for point in Point::ALL {
            n += 1;
            broken_at_commit(&world, &pool, n, Fault::new(message, point, Kind::Reset), LONG).await;
        }
    }
}

#[tokio::test]
async fn of_two_at_once_one_runs_and_the_other_has_its_result() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    two_at_once(&world, &pool).await;
}

/// A snapshot older than the first one's commit does not hide its result.
#[tokio::test]
async fn so_it_is_where_the_server_makes_all_transactions_serializable() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    let name = world.config().build().unwrap().database().to_owned();
    let set = format!("ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&pool).await.unwrap();
    // A session that is there already has the old level.
    let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool).await.unwrap();
    world.terminate_backend(pid).await;
    let level: String = sqlx::query_scalar("SHOW transaction_isolation").fetch_one(&pool).await.unwrap();
    assert_eq!(level, "serializable");
    two_at_once(&world, &pool).await;
}

async fn two_at_once(world: &World, pool: &ProxyPool) {
    let runs = Arc::new(AtomicU32::new(0));
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let first = tokio::spawn({
        let (pool, runs, begun, go_on) = (pool.by(LONG), runs.clone(), begun.clone(), go_on.clone());
        async move {
            let (runs, begun, go_on) = (&*runs, &*begun, &*go_on);
            pool.transaction_once(key("a"), |mut tx| async move {
                runs.fetch_add(1, Ordering::Relaxed);
                sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await?;
                begun.notify_one();
                go_on.notified().await;
                Ok::<i64, sqlx::Error>(1)
            })
            .await
        }
    });
    begun.notified().await;

    let error = write(&pool.by(Duration::from_millis(600)), key("a"), 2, &runs).await.unwrap_err();
    let error = ours(&error);
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Deadline, Outcome::NotExecuted), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("another transaction may hold the key")), "{error:?}");

    let mark = world.statements().len();
    let second = tokio::spawn({
        let (pool, runs) = (pool.by(LONG), runs.clone());
        async move { write(&pool, key("a"), 2, &runs).await }
    });
    world.statement_seen(mark, "ON CONFLICT DO NOTHING").await;
    world.executing().await;
    go_on.notify_one();
    assert_eq!((first.await.unwrap().unwrap(), second.await.unwrap().unwrap()), (1, 1));
    assert_eq!((runs.load(Ordering::Relaxed), written(pool).await), (1, vec![1]));
}

#[tokio::test]
async fn old_keys_are_deleted_in_batches_and_new_ones_stay() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    let runs = AtomicU32::new(0);
    write(&pool, key("a"), 1, &runs).await.unwrap();
    let old = "INSERT INTO rds_proxy_pool_once SELECT 's', i::text, NULL, '1', now() - interval '2 hours' \
               FROM generate_series(1, 2500) AS i";
    sqlx::raw_sql(old).execute(&pool).await.unwrap();
    let mark = world.statements().len();
    let hour = Duration::from_secs(3600);
    assert_eq!(pool.purge_once(3 * hour).await.unwrap(), 0);
    assert_eq!(pool.purge_once(hour).await.unwrap(), 2500);
    assert_eq!(pool.purge_once(Duration::MAX).await.unwrap(), 0);
    let deletes = world.statements()[mark..].iter().filter(|sql| sql.starts_with("DELETE")).count();
    assert_eq!(deletes, 1 + 3 + 1);
    assert_eq!(write(&pool, key("a"), 2, &runs).await.unwrap(), 1, "the new one is there yet");
}
