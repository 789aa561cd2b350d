//! Packets that vanish, as they do when a NAT or firewall forgot a connection during a freeze.
//!
//! Needs root, for a network of its own and a packet filter in it.

use std::process::Command;
use std::time::{Duration, Instant};

use rds_proxy_pool::ProxyPool;

use crate::support::process::find_program;
use crate::support::world::World;

/// Tells the second run of this program that it is in a network of its own.
const INSIDE: &str = "RDS_PROXY_POOL_TEST_NETWORK";
const GAP: Duration = Duration::from_secs(5 * 60);
const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_connection_whose_packets_vanish_during_the_freeze_is_replaced_within_two_seconds() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        return runtime.block_on(inside());
    }
    let missing = ["unshare", "ip", "nft"].into_iter().find(|program| find_program(program).is_none());
    let root = std::fs::metadata("/proc/self").is_ok_and(|this| std::os::unix::fs::MetadataExt::uid(&this) == 0);
    match missing {
        Some(program) if root && std::env::var_os("RDS_PROXY_POOL_REQUIRE_SERVERS").is_some() => {
            panic!("{program} is missing: run .ci/setup")
        }
        Some(program) => return eprintln!("SKIPPED: {program} is missing"),
        None if !root => return eprintln!("SKIPPED: a network of one's own needs root"),
        None => {}
    }
    let itself = std::env::current_exe().expect("the test knows its program");
    let name = "dropped::a_connection_whose_packets_vanish_during_the_freeze_is_replaced_within_two_seconds";
    let output = Command::new("unshare")
        .arg("--net")
        .arg(itself)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    said.lines().filter(|line| line.contains(" after ")).for_each(|line| println!("{line}"));
}

async fn inside() {
    run("ip", "link set lo up");
    run("nft", "add table inet lost");
    run("nft", "add chain inet lost input { type filter hook input priority 0 ; }");
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    sqlx::raw_sql("CREATE TABLE written (n int)").execute(&pool).await.expect("the world is well");

    let read = async || sqlx::query("SELECT 1").execute(&pool).await.map(drop);
    thaw(&world, &pool, "a read", read).await;
    let begin = async || {
        let mut transaction = pool.begin().await?;
        sqlx::query("INSERT INTO written VALUES (1)").execute(&mut transaction).await?;
        Ok(transaction.commit().await?)
    };
    thaw(&world, &pool, "a transaction", begin).await;
    let write = async || sqlx::query("INSERT INTO written VALUES (1)").execute(&pool).await.map(drop);
    thaw(&world, &pool, "an autocommit write", write).await;

    let written: i64 = sqlx::query_scalar("SELECT count(*) FROM written").fetch_one(&pool).await.expect("a read");
    assert_eq!(written, 2);
    assert_eq!(pool.status().connects, 4, "the first, and one for each that was lost");
}

async fn thaw(world: &World, pool: &ProxyPool, what: &str, call: impl AsyncFn() -> Result<(), sqlx::Error>) {
    pool.warm().await.expect("a connection");
    for port in client_ports(world.port()) {
        run("nft", &format!("add rule inet lost input tcp sport {port} drop"));
        run("nft", &format!("add rule inet lost input tcp dport {port} drop"));
    }
    world.clock.advance(GAP);
    let started = Instant::now();
    call().await.unwrap_or_else(|error| panic!("{what}: {error}"));
    println!("{what} succeeded after {:?}", started.elapsed());
    assert!(started.elapsed() < SOON, "{what} took {:?}", started.elapsed());
}

/// Our ends of the connections to `port` that stand, as the kernel lists them.
fn client_ports(port: u16) -> Vec<u16> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel lists connections");
    let port_of = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
    let client_port = |line: &str| {
        let mut columns = line.split_whitespace().skip(1);
        let (ours, theirs, state) = (port_of(columns.next()?)?, port_of(columns.next()?)?, columns.next()?);
        (theirs == port && state == "01").then_some(ours)
    };
    let ports: Vec<u16> = table.lines().filter_map(client_port).collect();
    assert!(!ports.is_empty(), "a connection stands");
    ports
}

fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split(' ')).output().expect("the program is there");
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
