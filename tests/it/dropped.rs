//! Packets that vanish, as they do when a NAT or firewall forgot a connection during a freeze.
//!
//! Needs a network of its own and a packet filter in it: as root, or as anybody where user namespaces are allowed.

use std::process::Command;
use std::time::{Duration, Instant};

use rds_proxy_pool::ProxyPool;

use crate::support::process::find_program;
use crate::support::world::World;

/// Tells the second run of this program that it is in a network of its own.
const INSIDE: &str = "RDS_PROXY_POOL_TEST_NETWORK";
const FILTER: &str = "add table inet lost; add chain inet lost input { type filter hook input priority 0; }";
const GAP: Duration = Duration::from_secs(5 * 60);
const SOON: Duration = Duration::from_secs(2);

/// Which packets of a connection vanish.
#[derive(Clone, Copy, Debug)]
enum Lost {
    /// All of them.
    Both,
    /// Those to us: what we send arrives and is done, and we do not hear of it.
    Answers,
}

#[test]
fn a_connection_whose_packets_vanish_during_the_freeze_is_replaced_within_two_seconds() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        return runtime.block_on(inside());
    }
    if let Err(reason) =
        try_run(in_a_network_of_its_own().args(["sh", "-c", "ip link set lo up && nft \"$0\"", FILTER]))
    {
        // A program that is missing can be installed; a machine that forbids namespaces cannot be helped.
        let missing = ["unshare", "ip", "nft"].into_iter().find(|name| find_program(name).is_none());
        let required = std::env::var("RDS_PROXY_POOL_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
        assert!(!(required && is_root() && missing.is_some()), "{missing:?} is missing, run .ci/setup: {reason}");
        return eprintln!("SKIPPED: no network of one's own with a packet filter in it: {reason}");
    }
    let itself = std::env::current_exe().expect("the test knows its program");
    let name = "dropped::a_connection_whose_packets_vanish_during_the_freeze_is_replaced_within_two_seconds";
    let output = in_a_network_of_its_own()
        .arg(itself)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        // A server outside cannot be reached.
        .env_remove("RDS_PROXY_POOL_POSTGRES_URL")
        .output()
        .expect("unshare starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    if said.contains("SKIPPED") {
        return eprint!("{said}");
    }
    let successes: Vec<&str> = said.lines().filter(|line| line.contains(" succeeded after ")).collect();
    successes.iter().for_each(|line| println!("{line}"));
    assert_eq!(successes.len(), 6, "{said}");
}

async fn inside() {
    run("ip", &["link", "set", "lo", "up"]);
    run("nft", &[FILTER]);
    let Some(world) = World::start().await else { return };
    for lost in [Lost::Both, Lost::Answers] {
        let pool = world.pool();
        sqlx::raw_sql("CREATE TABLE written (n int)").execute(&pool).await.expect("the world is well");

        let read = async || sqlx::query("SELECT 1").execute(&pool).await.map(drop);
        thaw(&world, &pool, lost, "a read", read).await;
        let begin = async || {
            let mut transaction = pool.begin().await?;
            sqlx::query("INSERT INTO written VALUES (1)").execute(&mut transaction).await?;
            Ok(transaction.commit().await?)
        };
        thaw(&world, &pool, lost, "a transaction", begin).await;
        let write = async || sqlx::query("INSERT INTO written VALUES (1)").execute(&pool).await.map(drop);
        thaw(&world, &pool, lost, "an autocommit write", write).await;

        let written: i64 = sqlx::query_scalar("SELECT count(*) FROM written").fetch_one(&pool).await.expect("a read");
        assert_eq!(written, 2, "{lost:?}: each write once");
        let status = pool.status();
        assert_eq!(status.connects, 4, "{lost:?}: the first, and one for each that was lost");
        assert_eq!(status.connect_failures, 0, "{lost:?}");
        assert_eq!((status.retries, status.probes), (2, 1), "{lost:?}: only the write was preceded by a check");
        sqlx::raw_sql("DROP TABLE written").execute(&pool).await.expect("the world is well");
        pool.close(Duration::from_secs(1)).await;
    }
}

async fn thaw(
    world: &World,
    pool: &ProxyPool,
    lost: Lost,
    what: &str,
    call: impl AsyncFn() -> Result<(), sqlx::Error>,
) {
    pool.warm().await.expect("a connection");
    for port in client_ports(world.port()) {
        let rule = |end: &str| format!("add rule inet lost input tcp {end} {port} drop");
        run("nft", &[&rule("dport")]);
        if let Lost::Both = lost {
            run("nft", &[&rule("sport")]);
        }
    }
    world.clock.advance(GAP);
    let started = Instant::now();
    call().await.unwrap_or_else(|error| panic!("{what}, lost {lost:?}: {error}"));
    let took = started.elapsed();
    println!("{what} succeeded after {took:?}, lost {lost:?}");
    assert!(took < SOON, "{what}, lost {lost:?}, took {took:?}");
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

/// Starts what its further arguments say. Root may make a network; others may in a user namespace, where they keep their
/// name, as PostgreSQL does not run as root.
fn in_a_network_of_its_own() -> Command {
    let mut command = program("unshare");
    command.arg("--net");
    if !is_root() {
        command.args(["--user", "--map-current-user", "--keep-caps"]);
    }
    // Where system programs live, which is not on everybody's path.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn program(name: &str) -> Command {
    Command::new(find_program(name).unwrap_or_else(|| name.into()))
}

fn run(name: &str, arguments: &[&str]) {
    if let Err(reason) = try_run(program(name).args(arguments)) {
        panic!("{name} {}: {reason}", arguments.join(" "));
    }
}

fn try_run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{}: {error}", command.get_program().to_string_lossy())),
    }
}
