//! A login token beside one signed by hand with aws-sigv4, as the AWS examples do: `cargo bench --bench sign` in this
//! folder. Nothing is connected.
//!
//! The pool's signer is not public: it is reached through `sqlx_pool`, which signs a token in every call, and the row
//! holds what else that does. The generator of aws-sdk-rds is left out: it is that same signer, and comes with the whole
//! API of RDS to build.

use std::process::ExitCode;
use std::time::Instant;

use aws_credential_types::Credentials;
use rds_proxy_pool::ProxyConfig;

use rds_proxy_pool_peers::bench::connect::pool;
use rds_proxy_pool_peers::bench::measure::{Bar, Candidate, Effort, Report, run};
use rds_proxy_pool_peers::token::token;

const EFFORT: Effort = Effort { rounds: 50, calls: 50, tasks: 1 };
const HOST: &str = "orders.proxy-abcdefghijkl.us-east-1.rds.amazonaws.com";
const USER: &str = "app";

fn main() -> ExitCode {
    run(measure())
}

async fn measure() -> Report {
    let mut report = Report::default();
    // As long as Lambda's are.
    let session = "IQoJb3JpZ2luX2VjE".repeat(50);
    let credentials = Credentials::new("ASIAIOSFODNN7EXAMPLE", "a secret key", Some(session), None, "bench");
    let config = ProxyConfig::builder().endpoint(HOST).user(USER).database("app");
    let pool = pool(config.credentials_provider(credentials.clone()));
    let ours = Candidate::new("pool", move |_| {
        let pool = pool.clone();
        async move {
            let started = Instant::now();
            pool.sqlx_pool().await.expect("a token");
            started.elapsed()
        }
    });
    let by_hand = Candidate::new("by hand", move |_| {
        let credentials = credentials.clone();
        async move {
            let started = Instant::now();
            token(credentials, "us-east-1", HOST, 5432, USER).expect("a token");
            started.elapsed()
        }
    });
    let mut candidates = [ours, by_hand];
    EFFORT.measure(&mut candidates).await;
    let [ours, by_hand] = &candidates;
    report.row("token", ours, by_hand, Bar::None);
    report
}
