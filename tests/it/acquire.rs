//! Getting and giving back connections.

use std::time::{Duration, Instant, SystemTime};

use futures::FutureExt;
use rds_proxy_pool::clock::{AdjustableClock, Clock, Sleep};
use rds_proxy_pool::{ErrorKind, Outcome, Phase, ProxyPool};
use socket2::{Domain, Socket, Type};
use sqlx::Connection;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::support::world::{World, is_in_transaction};

#[tokio::test]
async fn a_warm_query_costs_one_round_trip_and_a_warm_acquire_none() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let query = || async { sqlx::query_scalar::<_, i32>("SELECT $1 + 1").bind(41).fetch_one(&pool).await.unwrap() };
    query().await;

    let before = world.round_trips();
    assert_eq!(query().await, 42);
    assert_eq!(world.round_trips() - before, 1);

    let before = world.round_trips();
    drop(pool.acquire().await.unwrap());
    pool.settle().await;
    assert_eq!(world.round_trips() - before, 0);
    assert_eq!(pool.status().connects, 1);
}

#[tokio::test]
async fn a_warm_acquire_and_release_allocate_nothing() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    pool.warm().await.unwrap();
    let acquire = || drop(pool.acquire().now_or_never().expect("a warm acquire does not wait").unwrap());
    acquire();
    let counted = allocation_counter::measure(acquire);
    assert_eq!(counted.count_total, 0, "{counted:?}");
}

#[test]
fn a_warm_query_allocates_little_more_than_on_a_held_connection() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Some(world) = runtime.block_on(World::start()) else { return };
    let pool = world.pool();
    let mut held = runtime.block_on(async {
        let options = pool.sqlx_pool().await.unwrap().connect_options();
        sqlx::PgConnection::connect_with(&options).await.unwrap()
    });
    let query = || sqlx::query_scalar::<_, i32>("SELECT 1");
    let on_pool = || assert_eq!(runtime.block_on(query().fetch_one(&pool)).unwrap(), 1);
    let mut on_held = || assert_eq!(runtime.block_on(query().fetch_one(&mut held)).unwrap(), 1);
    // The least of several, as an answer that comes in pieces takes more.
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        ours.push(allocation_counter::measure(on_pool));
        theirs.push(allocation_counter::measure(&mut on_held));
    }
    let [ours, theirs] = [ours, theirs].map(|all| all.into_iter().min_by_key(|info| info.bytes_total).unwrap());
    println!("held connection: {theirs:?}, pool: {ours:?}");
    assert!(ours.count_total <= theirs.count_total + 1, "one block: the future of the call");
    assert!(ours.bytes_total <= theirs.bytes_total + 1024, "which an allocator has at hand");
}

#[tokio::test]
async fn nothing_is_sent_between_login_and_the_first_statement() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    pool.warm().await.unwrap();
    assert_eq!(world.statements(), Vec::<String>::new());
}

#[tokio::test]
async fn waiters_are_served_in_the_order_they_came() {
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().max_idle(1).max_connections(1).build().unwrap()).unwrap();
    let held = pool.acquire().await.unwrap();
    let (served, mut order) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..8 {
        let (waiting, served) = (pool.clone(), served.clone());
        tokio::spawn(async move {
            let connection = waiting.acquire().await.unwrap();
            served.send(number).unwrap();
            drop(connection);
        });
        // Each is in the queue before the next one is started.
        while pool.status().waiting <= number {
            tokio::task::yield_now().await;
        }
    }
    drop((held, served));
    let mut seen = Vec::new();
    while let Some(number) = order.recv().await {
        seen.push(number);
    }
    assert_eq!(seen, (0..8).collect::<Vec<_>>());
    assert_eq!(pool.status().connects, 1, "the one connection went from hand to hand");
}

#[tokio::test]
async fn a_wait_that_is_the_pools_own_fault_says_so() {
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().max_idle(1).max_connections(1).build().unwrap()).unwrap();
    let _held = pool.acquire().await.unwrap();
    let error = pool.by(Duration::from_millis(400)).acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Deadline, "deadline.queue"));
    assert_eq!((error.outcome(), error.phase()), (Outcome::NotSent, Some(Phase::Queue)));
    assert!(error.hint().unwrap().contains("hold all 1 connections"), "{error:#}");
    let counts = error.counts().unwrap();
    assert_eq!((counts.open, counts.idle), (1, 0));
    assert!(error.waited() >= Duration::from_millis(100), "{error:#}");
}

#[tokio::test]
async fn a_panic_gives_its_place_back() {
    let Some(world) = World::start().await else { return };
    let pool = ProxyPool::new(world.config().max_idle(1).max_connections(1).build().unwrap()).unwrap();
    let panicking = pool.clone();
    let joined = tokio::spawn(async move {
        let _connection = panicking.acquire().await.unwrap();
        panic!("on purpose");
    });
    assert!(joined.await.unwrap_err().is_panic());
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&pool).await.unwrap();
    assert_eq!(one, 1);
    assert_eq!(pool.status().open, 1);
}

#[tokio::test]
async fn a_query_inside_a_row_loop_and_beside_a_transaction_does_not_deadlock() {
    use futures::TryStreamExt;
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("SELECT 1").execute(&mut transaction).await.unwrap();
    let mut sum = 0;
    let mut rows = sqlx::query_scalar::<_, i32>("SELECT generate_series(1, 3)").fetch(&pool);
    while let Some(number) = rows.try_next().await.unwrap() {
        sum += sqlx::query_scalar::<_, i32>("SELECT $1 * 2").bind(number).fetch_one(&pool).await.unwrap();
    }
    drop(rows);
    transaction.rollback().await.unwrap();
    assert_eq!(sum, 12);
    assert_eq!(pool.status().idle, 1, "more than are kept are closed at release");
    assert_eq!(pool.status().open, 1);
}

#[tokio::test]
async fn a_connection_past_its_idle_limit_or_lifetime_is_replaced() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    pool.warm().await.unwrap();
    world.clock.advance(Duration::from_secs(26 * 60));
    pool.warm().await.unwrap();
    assert_eq!(pool.status().connects, 2, "idle for more than 25 minutes");
    for _ in 0..37 {
        world.clock.advance(Duration::from_secs(20 * 60));
        pool.warm().await.unwrap();
    }
    assert_eq!(pool.status().connects, 3, "once in 12 hours");
    assert_eq!(pool.status().open, 1);
}

#[tokio::test]
async fn a_lent_connection_left_in_a_transaction_is_closed_when_the_invocation_ends() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let mut connection = pool.acquire().await.unwrap();
    sqlx::query("BEGIN").execute(connection.lend()).await.unwrap();
    drop(connection);
    assert_eq!(pool.status().idle, 1);
    pool.settle().await;
    assert_eq!(pool.status().open, 0);

    let mut connection = pool.acquire().await.unwrap();
    connection.lend().ping().await.unwrap();
    drop(connection);
    pool.settle().await;
    assert_eq!(pool.status().idle, 1, "a clean one stays");
}

#[tokio::test]
async fn a_lent_connection_left_in_a_transaction_is_not_used_again() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let mut connection = pool.acquire().await.unwrap();
    sqlx::query("BEGIN").execute(connection.lend()).await.unwrap();
    drop(connection);
    assert!(!is_in_transaction(&pool).await);
    assert_eq!(pool.status().connects, 2);
}

#[tokio::test]
async fn a_transaction_opened_by_text_closes_the_connection_unless_it_is_ended() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut connection).await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut connection).await.unwrap();
    drop(connection);
    assert_eq!(pool.status().idle, 1);
    for opened in ["BEGIN", "/* note */ start transaction", "SELECT 1; BEGIN"] {
        let mut connection = pool.acquire().await.unwrap();
        sqlx::raw_sql(opened).execute(&mut connection).await.unwrap();
        drop(connection);
        assert_eq!(pool.status().open, 0, "{opened}");
    }
}

#[test]
fn a_pool_used_from_several_runtimes_recovers() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let home = runtime();
    let Some(world) = home.block_on(World::start()) else { return };
    let pool = world.pool();
    let select = || async { sqlx::query_scalar::<_, i32>("SELECT 7").fetch_one(&pool).await.unwrap() };

    let first = runtime();
    assert_eq!(first.block_on(select()), 7);
    let second = runtime();
    assert_eq!(second.block_on(select()), 7, "the first runtime is alive but not driven");
    assert_eq!(first.block_on(select()), 7);
    drop(first);
    assert_eq!(second.block_on(select()), 7, "the first runtime is gone");
    for _ in 0..8 {
        assert_eq!(runtime().block_on(select()), 7);
    }
    assert!(pool.status().open <= pool.config().max_connections());
}

#[test]
fn outside_a_runtime_there_is_an_error_and_no_panic() {
    let config = rds_proxy_pool::ProxyConfig::builder().endpoint("localhost").user("u").database("d").password("p");
    let pool = ProxyPool::new(config.build().unwrap()).unwrap();
    let error = pool.acquire().now_or_never().unwrap().unwrap_err();
    assert_eq!(error.code(), "config.runtime");
}

#[tokio::test]
async fn close_says_goodbye_waits_for_those_in_use_and_refuses_new_calls() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let held = pool.acquire().await.unwrap();
    assert!(!pool.close(Duration::from_millis(20)).await, "one is in use");
    let error = pool.acquire().await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Closed, "closed.pool"));
    drop(held);
    assert!(pool.close(Duration::from_secs(5)).await);
    assert_eq!(pool.status().open, 0);
}

#[tokio::test]
async fn a_plain_sqlx_pool_gets_a_token_that_the_proxy_accepts() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let plain = pool.sqlx_pool().await.unwrap();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&plain).await.unwrap();
    assert_eq!(one, 1);
    world.cut_all().await;
    world.clock.advance(Duration::from_secs(20 * 60));
    let again = pool.sqlx_pool().await.unwrap();
    let two: i32 = sqlx::query_scalar("SELECT 2").fetch_one(&again).await.unwrap();
    assert_eq!(two, 2);
    assert!(pool.close(Duration::from_secs(5)).await);
    assert!(again.is_closed(), "it is the same pool");
}

#[tokio::test]
async fn an_acquire_timeout_below_the_least_attempt_still_makes_one() {
    let Some(world) = World::start().await else { return };
    let config = world.config().acquire_timeout(Duration::from_millis(90)).build().unwrap();
    if let Err(error) = ProxyPool::new(config).unwrap().acquire().await {
        assert!(error.attempts() > 0, "{error:#}");
    }
}

/// A clock that stands still, and tells until when somebody sleeps.
#[derive(Debug)]
struct Pauses(AdjustableClock, UnboundedSender<Instant>);

impl Clock for Pauses {
    fn wall(&self) -> SystemTime {
        self.0.wall()
    }

    fn monotonic(&self) -> Instant {
        self.0.monotonic()
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        // Nobody listens once the call is over.
        let _ = self.1.send(at);
        self.0.sleep_until(at)
    }
}

#[tokio::test]
async fn whatever_pause_is_drawn_a_peer_that_is_back_in_time_for_one_more_attempt_is_found() {
    const ALL: Duration = Duration::from_millis(600);
    /// Twice the least time for an attempt: room for one, and for a late timer.
    const ROOM: Duration = Duration::from_millis(200);
    let Some(world) = World::start().await else { return };
    for round in 0..40 {
        world.refuse_connections(true).await;
        let clock = AdjustableClock::stopped();
        let (pauses, mut until) = unbounded_channel();
        let config = world.config().acquire_timeout(ALL).clock(Pauses(clock.clone(), pauses)).build().unwrap();
        let end = clock.monotonic() + ALL;
        let pool = ProxyPool::new(config).unwrap();
        let mut call = std::pin::pin!(pool.acquire());
        let following = async {
            loop {
                tokio::select! {
                    found = &mut call => break found,
                    // What is attended to is given until the end or longer; what ends before is a pause.
                    Some(at) = until.recv() => if at < end {
                        if at + ROOM >= end {
                            world.refuse_connections(false).await;
                        }
                        clock.advance(at.saturating_duration_since(clock.monotonic()));
                    },
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(10), following).await;
        let found = found.unwrap_or_else(|_| panic!("round {round}: a pause that leaves no time for an attempt"));
        let found = found.unwrap_or_else(|error| panic!("round {round}: {error:#}"));
        drop(found);
        assert!(pool.status().connect_failures > 0);
    }
}

#[tokio::test]
async fn a_connect_whose_first_packet_is_lost_leaves_time_for_another() {
    const ALL: Duration = Duration::from_millis(600);
    let Some(world) = World::start().await else { return };
    // Its queue is full after a few, and the packets of others are dropped.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let mut queue = Vec::new();
    loop {
        let waiting = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let answered = waiting.connect_timeout(&address, Duration::from_millis(50)).is_ok();
        queue.push(waiting);
        if !answered {
            break;
        }
    }
    let endpoint = format!("127.0.0.1:{}", address.as_socket().unwrap().port());
    let config = world.config().endpoint(endpoint).acquire_timeout(ALL).build().unwrap();
    let error = ProxyPool::new(config).unwrap().acquire().await.unwrap_err();
    assert_eq!(error.phase(), Some(Phase::Tcp), "{error:#}");
    assert!(error.attempts() > 1, "{error:#}");
}
