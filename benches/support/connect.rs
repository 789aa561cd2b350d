//! Candidates that connect, and a PostgreSQL that speaks TLS.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rds_proxy_pool::clock::SystemClock;
use rds_proxy_pool::{ProxyConfig, ProxyConfigBuilder, ProxyPool};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

use super::measure::Candidate;
use crate::support::process::find_program;
use crate::support::servers::Postgres;

/// The password of the user at a PostgreSQL with TLS.
pub const PASSWORD: &str = "a token";

/// With the clock that users have; a world's own is for tests to move.
pub fn pool(config: ProxyConfigBuilder) -> ProxyPool {
    let config = config.clock(SystemClock).build().expect("the configuration is right");
    ProxyPool::new(config).expect("the pool can be made")
}

/// A new pool connects, with a token of its own.
pub fn connects_of_pool(new_pool: impl Fn() -> ProxyPool + 'static) -> Candidate {
    Candidate::new("pool", move |_| {
        let pool = new_pool();
        async move {
            let started = Instant::now();
            pool.warm().await.expect("the pool connects");
            let took = started.elapsed();
            pool.close(Duration::from_secs(1)).await;
            took
        }
    })
}

/// The driver by itself connects.
pub fn connects_of_sqlx(options: Arc<PgConnectOptions>) -> Candidate {
    Candidate::new("sqlx", move |_| {
        let options = Arc::clone(&options);
        async move {
            let started = Instant::now();
            let connection = options.connect().await.expect("sqlx connects");
            let took = started.elapsed();
            connection.close().await.expect("sqlx says goodbye");
            took
        }
    })
}

/// A PostgreSQL that speaks TLS and asks for the password in clear, as a proxy asks for a token; and its certificate.
pub async fn postgres_with_tls() -> Option<(Postgres, Vec<u8>)> {
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

/// How to connect to it at this port.
pub fn straight_to(port: u16, ca: &[u8]) -> ProxyConfigBuilder {
    ProxyConfig::builder()
        .endpoint(format!("localhost:{}", port))
        .user("by_token")
        .database("app")
        .password(PASSWORD)
        .ca_pem(ca)
        .acquire_timeout(Duration::from_secs(20))
        .connect_timeout(Duration::from_secs(20))
}
