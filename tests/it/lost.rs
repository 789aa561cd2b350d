//! Connections lost while they are in use: what is repeated, what is not, and what is said of it.

use std::time::Duration;

use futures::future::join_all;
use rds_proxy_pool::emulator::{Fault, Kind, Message, Point};
use rds_proxy_pool::{Error, ErrorKind, Outcome, ProxyPool};
use sqlx::Connection;

use crate::support::world::World;

/// A statement that is under way until the world's hold ends, and its result.
async fn under_way(
    world: &World,
    pool: &ProxyPool,
) -> tokio::task::JoinHandle<Result<sqlx::postgres::PgQueryResult, sqlx::Error>> {
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS written (n int)").execute(pool).await.unwrap();
    let mark = world.statements().len();
    let writing = pool.clone();
    let running = tokio::spawn(async move {
        let insert = "INSERT INTO written SELECT $1 FROM pg_advisory_xact_lock_shared(1)";
        sqlx::query(insert).bind(1).execute(&writing).await
    });
    world.statement_seen(mark, "INSERT INTO written").await;
    running
}

async fn written(pool: &ProxyPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM written").fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_statement_whose_answer_was_lost_is_not_repeated() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let held = world.hold().await;
    let running = under_way(&world, &pool).await;
    world.executing().await;
    world.cut_all().await;
    held.close().await.unwrap();
    let error = running.await.unwrap().unwrap_err();
    let ours = Error::find(&error).expect("ours");
    assert_eq!((ours.kind(), ours.outcome(), ours.code()), (ErrorKind::Lost, Outcome::Unknown, "lost.connection"));
    assert!(ours.hint().is_some());
    assert_eq!(pool.status().retries, 0);
    assert!(written(&pool).await <= 1);
}

#[tokio::test]
async fn a_write_is_not_sent_on_a_connection_that_was_closed_a_moment_ago() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    sqlx::raw_sql("CREATE TABLE written (n int)").execute(&pool).await.unwrap();
    let write = || sqlx::query("INSERT INTO written VALUES (1)").execute(&pool);
    for _ in 0..20 {
        write().await.unwrap();
        world.cut_all().await;
        write().await.unwrap();
        world.reset_all().await;
    }
    assert_eq!(written(&pool).await, 40);
}

#[tokio::test]
async fn an_idempotent_statement_whose_answer_was_lost_is_sent_again() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let held = world.hold().await;
    let running = under_way(&world, &pool.idempotent()).await;
    world.executing().await;
    world.cut_all().await;
    held.close().await.unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(pool.status().retries, 1);
    assert!(written(&pool).await >= 1);
}

#[tokio::test]
async fn one_repeat_is_enough_however_many_idle_connections_lead_to_a_demoted_writer() {
    let Some(world) = World::start_with_standby().await else { return };
    let pool = ProxyPool::new(world.config().max_connections(14).max_idle(14).build().unwrap()).unwrap();
    sqlx::raw_sql("CREATE TABLE written (n int)").execute(&pool).await.unwrap();
    for begins in [false, true] {
        let held = futures::future::join_all((0..14).map(|_| pool.acquire())).await;
        drop(held.into_iter().map(Result::unwrap).collect::<Vec<_>>());
        world.demote_existing().await;
        let retries = pool.status().retries;
        if begins {
            let mut transaction = pool.begin().await.unwrap();
            sqlx::raw_sql("INSERT INTO written VALUES (1)").execute(&mut transaction).await.unwrap();
            transaction.commit().await.unwrap();
        } else {
            sqlx::raw_sql("INSERT INTO written VALUES (1)").execute(&pool).await.unwrap();
        }
        assert_eq!(pool.status().retries - retries, 1);
    }
    assert_eq!(written(&pool).await, 2);
}

#[tokio::test]
async fn a_large_pool_loses_no_read_when_all_its_connections_are_lost_at_once() {
    const CALLS: usize = 80;
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().max_connections(40).max_idle(40).build().unwrap()).unwrap();
    let lost = Fault::new(Message::Execute, Point::BeforeReply, Kind::Reset).text("read").times(CALLS as u64);
    world.proxy().inject(lost);
    let read = async || sqlx::query("SELECT 1 AS read").execute(&pool).await;
    let answers = futures::future::join_all((0..CALLS).map(|_| read())).await;
    let failed: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of {CALLS}: {:?}", failed.len(), failed[0]);
    assert_eq!(pool.status().retries, CALLS as u64);
}

#[tokio::test]
async fn a_backend_that_is_terminated_in_a_transaction_loses_it_and_the_error_says_so() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let mut transaction = pool.begin().await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut transaction).await.unwrap();
    world.terminate_backend(pid).await;
    let error = sqlx::query("SELECT 1").execute(&mut transaction).await.unwrap_err();
    assert_eq!(Error::find(&error).expect("ours").kind(), ErrorKind::Lost, "{error:?}");
    let error = transaction.commit().await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("commit.aborted", Outcome::RolledBack), "no COMMIT was sent");
    assert_eq!(pool.status().open, 0);
}

#[tokio::test]
async fn a_backend_that_is_terminated_while_idle_is_not_noticed() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool).await.unwrap();
    world.terminate_backend(pid).await;
    let other: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool).await.unwrap();
    assert_ne!(pid, other);
}

#[tokio::test]
async fn connecting_is_tried_again_until_the_proxy_is_back() {
    let Some(world) = World::start().await else { return };
    world.refuse_connections(true).await;
    let pool = world.pool();
    let waiting = pool.by(Duration::from_secs(20));
    let running = tokio::spawn(async move { sqlx::query_scalar::<_, i32>("SELECT 3").fetch_one(&waiting).await });
    while pool.status().connect_failures < 3 {
        tokio::task::yield_now().await;
    }
    world.refuse_connections(false).await;
    assert_eq!(running.await.unwrap().unwrap(), 3);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_at_once() {
    let Some(world) = World::start().await else { return };
    let Some(other) = World::start().await else { return };
    let config = world.config().ca_pem(other.ca_pem().as_bytes().to_vec()).build().unwrap();
    let error = ProxyPool::new(config).unwrap().acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Connect, "connect.certificate"));
    assert_eq!(error.attempts(), 1);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_at_once() {
    let Some(world) = World::start().await else { return };
    let endpoint = format!("127.0.0.1:{}", world.port());
    let error =
        ProxyPool::new(world.config().endpoint(endpoint).build().unwrap()).unwrap().acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Connect, "connect.certificate"), "{error:#}");
}

#[tokio::test]
async fn calls_that_fail_together_wait_for_their_turn_to_be_made_again_and_all_have_an_answer() {
    // More than a pool makes again without a pause between.
    const LOST: u64 = 80;
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().max_connections(8).build().unwrap()).unwrap();
    let strikes = Fault::new(Message::Execute, Point::BeforeReply, Kind::Close).times(LOST);
    drop(world.proxy().inject(strikes));
    let calls = (0..LOST as i64).map(|n| {
        let pool = pool.by(Duration::from_secs(20));
        async move { sqlx::query_scalar::<_, i64>("SELECT $1").bind(n).fetch_one(&pool).await }
    });
    for (n, answer) in (0..).zip(join_all(calls).await) {
        let answer: i64 = answer.unwrap_or_else(|error| panic!("call {n}: {error}"));
        assert_eq!(answer, n);
    }
    assert_eq!(pool.status().retries, LOST);
}
