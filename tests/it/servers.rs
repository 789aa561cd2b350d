//! The servers the other tests stand on.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use crate::support::servers::Postgres;

mod pair;

#[tokio::test]
async fn a_started_server_takes_writes_from_its_own_role() {
    let Some(server) = Postgres::start().await else { return };
    let mut app = PgConnection::connect(&server.url()).await.expect("the role app can log in");
    sqlx::raw_sql("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").execute(&mut app).await.expect("app may write");
    assert_eq!(server.address().port(), server.port());
}

#[tokio::test]
async fn a_second_start_copies_the_template_and_takes_little_time() {
    let Some(first) = Postgres::start().await else { return };
    let before = Instant::now();
    let second = Postgres::start().await.expect("what started once starts twice");
    assert!(before.elapsed() < Duration::from_secs(5), "took {:?}", before.elapsed());
    assert_ne!(first.port(), second.port());
    println!("second start: {:?}", before.elapsed());
}

#[tokio::test]
async fn every_caller_gets_a_database_of_its_own_on_the_shared_server() {
    let Some(first) = Postgres::shared().await else { return };
    let second = Postgres::shared().await.expect("the shared server is there");
    assert_ne!(first.name, second.name);
    let mut owner = PgConnection::connect(&first.url).await.expect("the owner can log in");
    sqlx::raw_sql("CREATE TABLE t (id int)").execute(&mut owner).await.expect("the owner may create tables");
    let mut other = PgConnection::connect(&second.url).await.expect("the owner can log in");
    sqlx::raw_sql("SELECT id FROM t").execute(&mut other).await.expect_err("the other database is empty");
}

#[test]
fn the_shared_server_outlives_the_test_and_the_runtime_that_started_it() {
    // Each on a thread and a runtime that end, as `cargo test` does it.
    let turn = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async {
            let Some(database) = Postgres::shared().await else { return false };
            PgConnection::connect(&database.url).await.expect("the shared server is alive");
            true
        })
    };
    for _ in 0..2 {
        if !std::thread::spawn(turn).join().expect("the turn did not panic") {
            return;
        }
    }
}

#[tokio::test]
async fn a_password_is_asked_of_the_role_that_has_one() {
    let Some(server) = Postgres::start().await else { return };
    let url = |password: &str| format!("postgres://with_password:{password}@{}/app", server.address());
    PgConnection::connect(&url("a%20password")).await.expect("the right password is accepted");
    let refused = PgConnection::connect(&url("wrong")).await.expect_err("a wrong password is refused");
    let code = refused.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
    assert_eq!(code.as_deref(), Some("28P01"));
}

#[tokio::test]
async fn the_port_of_a_server_that_is_down_is_given_to_nobody() {
    let Some(server) = Postgres::start().await else { return };
    server.kill9().await;
    // From all over the range the system chooses from.
    let taken: Vec<_> = (0..100).map_while(|_| TcpListener::bind("127.0.0.1:0").ok()).collect();
    let lowest = taken.iter().map(|listener| listener.local_addr().expect("it is bound").port()).min();
    assert!(lowest > Some(server.port()), "{lowest:?} was given out, {} must not be", server.port());
    server.start_again().await;
}

#[tokio::test]
async fn a_server_killed_or_stopped_comes_back_on_its_port_with_its_data() {
    let Some(server) = Postgres::start().await else { return };
    server.execute("CREATE TABLE t (id int)").await;
    server.kill9().await;
    assert!(server.connect().await.is_err());
    server.start_again().await;
    server.execute("INSERT INTO t VALUES (1)").await;
    server.stop_fast().await;
    assert!(server.connect().await.is_err());
    server.start_again().await;
    server.wait_ready().await;
    server.wait_until("SELECT count(*) = 1 FROM t").await;
}

/// The test below runs itself in a second process, which this variable tells to wait for its end.
const VICTIM: &str = "RDS_PROXY_POOL_TEST_VICTIM";

#[tokio::test]
async fn a_test_run_that_is_killed_leaves_no_server_behind() {
    let Some(server) = Postgres::start().await else { return };
    if std::env::var_os(VICTIM).is_some() {
        println!("\nport {}", server.port());
        std::future::pending::<()>().await;
    }
    let itself = std::env::current_exe().expect("the test knows its program");
    let mut victim = Command::new(itself)
        .args(["--exact", "servers::a_test_run_that_is_killed_leaves_no_server_behind", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test program starts again");
    let output = BufReader::new(victim.stdout.take().expect("stdout is piped"));
    let mut lines = output.lines().map_while(Result::ok);
    let port: u16 = lines.find_map(|line| line.strip_prefix("port ")?.parse().ok()).expect("the victim has a server");
    TcpStream::connect(("127.0.0.1", port)).expect("its server accepts connections");

    victim.kill().and_then(|()| victim.wait()).expect("the victim is killed");
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_ok() {
        assert!(Instant::now() < deadline, "the server lives on");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}
