//! What a TLS connect costs, as a ratio to plain sqlx 0.9.0 in the same run: `cargo bench --bench connect`.
//!
//! Both connect to the same server, one after the other, with the same secret and the same verification: to the emulator
//! with an IAM token, and, where there is an `openssl` to make a certificate, straight to a PostgreSQL with a password in
//! clear. The bar is 0.15 as long as the driver leaves Nagle's algorithm on; above it the bench fails.
//!
//! Plain sqlx waits for a delayed acknowledgement, 40 ms, once or twice. Always before it sends the startup message,
//! because the end of the handshake is still on its way. And once more in the handshake where the server takes another
//! curve than the one the client offered first: PostgreSQL before 18 does by default, the emulator does not. How RDS Proxy
//! chooses is not known here, so both are shown.

#[path = "../tests/support/mod.rs"]
mod support;

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rds_proxy_pool::clock::SystemClock;
use rds_proxy_pool::{ProxyConfig, ProxyConfigBuilder, ProxyPool};
use sqlx::{ConnectOptions, Connection};

use support::process::find_program;
use support::servers::Postgres;
use support::world::World;

const ROUNDS: usize = 40;
const BAR: f64 = 0.15;

fn main() -> ExitCode {
    if cfg!(debug_assertions) {
        println!(
            "not optimized: what is computed, on both sides of a connection, takes many times as long as it should"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(run())
}

async fn run() -> ExitCode {
    let Some(world) = World::start().await else { return ExitCode::SUCCESS };
    let mut holds = compare("the emulator", || pool(world.config())).await;
    if let Some((server, ca)) = postgres_with_tls().await {
        holds &= compare("PostgreSQL", || pool(straight_to(&server, &ca))).await;
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints both medians; whether their ratio is within the bar.
async fn compare(server: &str, new_pool: impl Fn() -> ProxyPool) -> bool {
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    // The options of a plain pool carry the secret and nothing else of ours.
    let options = new_pool().sqlx_pool().await.expect("a token").connect_options();
    for _ in 0..ROUNDS {
        let pool = new_pool();
        let started = Instant::now();
        pool.warm().await.expect("the pool connects");
        ours.push(started.elapsed());
        pool.close(Duration::from_secs(1)).await;

        let started = Instant::now();
        let connection = options.connect().await.expect("sqlx connects");
        plain.push(started.elapsed());
        connection.close().await.expect("sqlx says goodbye");
    }
    let (ours, plain) = (median(ours), median(plain));
    let ratio = ours / plain;
    println!("tls connect to {server}: pool {ours:.2} ms, sqlx {plain:.2} ms, ratio {ratio:.3} (bar {BAR})");
    ratio <= BAR
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// A PostgreSQL that speaks TLS and asks for the password in clear, as a proxy asks for a token; and its certificate.
async fn postgres_with_tls() -> Option<(Postgres, Vec<u8>)> {
    let Some(openssl) = find_program("openssl") else {
        println!("SKIPPED, straight to PostgreSQL: no openssl to make a certificate");
        return None;
    };
    let server = Postgres::start().await?;
    let mut superuser = server.connect().await.expect("the server is there");
    let data: String =
        sqlx::query_scalar("SHOW data_directory").fetch_one(&mut superuser).await.expect("a superuser may");
    drop(superuser);
    let data = Path::new(&data);
    let certificate = certificate(&openssl, data);
    let access = data.join("pg_hba.conf");
    let rules = std::fs::read_to_string(&access).expect("the rules are there");
    // The first rule that fits counts.
    let rules = format!("hostssl all by_token 127.0.0.1/32 password\n{rules}");
    std::fs::write(&access, rules).expect("the rules are ours");
    // With SCRAM the server would compute for milliseconds, on both sides of the ratio.
    server.execute("SET password_encryption = md5; CREATE ROLE by_token LOGIN PASSWORD 'a token'").await;
    server.execute("ALTER SYSTEM SET ssl = on").await;
    server.stop_fast().await;
    server.start_again().await;
    Some((server, certificate))
}

/// Makes a key and a certificate for localhost where the server in `data` looks for them.
fn certificate(openssl: &Path, data: &Path) -> Vec<u8> {
    const SETTINGS: &str = "[req]\nprompt=no\ndistinguished_name=name\nx509_extensions=leaf\n[name]\nCN=localhost\n\
                            [leaf]\nsubjectAltName=DNS:localhost\nbasicConstraints=critical,CA:FALSE\n";
    std::fs::write(data.join("openssl.cnf"), SETTINGS).expect("the directory is ours");
    let made = Command::new(openssl)
        .current_dir(data)
        .args(["req", "-x509", "-config", "openssl.cnf", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-nodes", "-days", "2", "-keyout", "server.key", "-out", "server.crt"])
        .output()
        .expect("openssl starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let owner = data.metadata().expect("the directory is there");
    for file in ["server.key", "server.crt"] {
        chown(data.join(file), Some(owner.uid()), Some(owner.gid())).expect("the file is ours");
    }
    std::fs::read(data.join("server.crt")).expect("openssl wrote it")
}

fn straight_to(server: &Postgres, ca: &[u8]) -> ProxyConfigBuilder {
    ProxyConfig::builder()
        .endpoint(format!("localhost:{}", server.port()))
        .user("by_token")
        .database("app")
        .password("a token")
        .ca_pem(ca)
        .acquire_timeout(Duration::from_secs(20))
        .connect_timeout(Duration::from_secs(20))
}

/// With the clock that users have; a world's own is for tests to move.
fn pool(config: ProxyConfigBuilder) -> ProxyPool {
    let config = config.clock(SystemClock).build().expect("the configuration is right");
    ProxyPool::new(config).expect("the pool can be made")
}
