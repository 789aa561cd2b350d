//! tokio-postgres and its pool as candidates.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use aws_credential_types::Credentials;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use sqlx::postgres::PgConnectOptions;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::bench::measure::Candidate;
use crate::bench::warm::QUERY;
use crate::support::world::World;
use crate::token::token;

/// TLS with every check, this authority the only one, made once for all connections.
///
/// Without resumption: the process that connects first has nothing to resume.
pub fn tls(ca_pem: &[u8]) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate.expect("a certificate")).expect("of an authority");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has TLS");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    MakeRustlsConnect::new(config)
}

/// Where `options` lead, with the password of its own; the driver sets `TCP_NODELAY` itself.
pub fn config(options: &PgConnectOptions, password: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(options.get_host()).port(options.get_port()).user(options.get_username()).password(password);
    config.dbname(options.get_database().expect("a database is named")).ssl_mode(SslMode::Require);
    config
}

/// A token for the user of `options` at the emulator.
pub fn token_for(options: &PgConnectOptions) -> String {
    let (key, secret, session) = World::keys();
    let credentials = Credentials::new(key, secret, session, None, "bench");
    let token = token(credentials, "us-east-1", options.get_host(), options.get_port(), options.get_username());
    token.expect("a token")
}

/// The best connect a driver can do: nothing is made that could have been made before.
pub fn connects_of_tokio_postgres(config: tokio_postgres::Config, tls: MakeRustlsConnect) -> Candidate {
    let config = Rc::new(config);
    Candidate::new("tokio-postgres", move |_| {
        let (config, tls) = (Rc::clone(&config), tls.clone());
        async move {
            let started = Instant::now();
            let (client, connection) = config.connect(tls).await.expect("tokio-postgres connects");
            let took = started.elapsed();
            drop(client);
            // It says goodbye.
            connection.await.expect("nothing is wrong");
            took
        }
    })
}

/// deadpool's pool for so many tasks, connected.
pub async fn deadpool(
    config: &tokio_postgres::Config,
    tls: &MakeRustlsConnect,
    tasks: usize,
    recycling_method: RecyclingMethod,
) -> Pool {
    let manager = Manager::from_config(config.clone(), tls.clone(), ManagerConfig { recycling_method });
    let pool = Pool::builder(manager).max_size(tasks).build().expect("the pool can be made");
    let mut connections = Vec::new();
    for _ in 0..tasks {
        connections.push(pool.get().await.expect("deadpool connects"));
    }
    drop(connections);
    pool
}

pub fn queries_of_deadpool(name: &str, pool: &Pool) -> Candidate {
    let pool = pool.clone();
    Candidate::new(name, move |_| {
        let pool = pool.clone();
        async move {
            let started = Instant::now();
            let client = pool.get().await.expect("a connection");
            let statement = client.prepare_cached(QUERY).await.expect("it was prepared before");
            let one: i32 = client.query_one(&statement, &[]).await.expect("an answer").get(0);
            drop(client);
            assert_eq!(one, 1);
            started.elapsed()
        }
    })
}

/// So many acquires and releases; a time is the mean.
pub fn acquires_of_deadpool(name: &str, pool: &Pool, times: u32) -> Candidate {
    let pool = pool.clone();
    Candidate::new(name, move |_| {
        let pool = pool.clone();
        async move {
            let started = Instant::now();
            for _ in 0..times {
                drop(pool.get().await.expect("a warm connection"));
            }
            started.elapsed() / times
        }
    })
}

/// The same of sqlx's pool. Its release is over when the connection is idle again: it goes on in a task of its own.
pub fn acquires_of_sqlx_pool(name: &str, pool: &sqlx::PgPool, times: u32) -> Candidate {
    let pool = pool.clone();
    Candidate::new(name, move |_| {
        let pool = pool.clone();
        async move {
            let started = Instant::now();
            for _ in 0..times {
                drop(pool.acquire().await.expect("a warm connection"));
                while pool.num_idle() == 0 {
                    tokio::task::yield_now().await;
                }
            }
            started.elapsed() / times
        }
    })
}
