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

#[path = "support/mod.rs"]
mod bench;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;

use rds_proxy_pool::ProxyPool;

use bench::connect::{connects_of_pool, connects_of_sqlx, pool, postgres_with_tls, straight_to};
use bench::measure::{Bar, Effort, Report, run};
use bench::warm::options;
use support::world::World;

const EFFORT: Effort = Effort { rounds: 20, calls: 2, tasks: 1 };
const BAR: Bar = Bar::Held(0.15);

fn main() -> ExitCode {
    run(measure())
}

async fn measure() -> Report {
    let mut report = Report::default();
    let Some(world) = World::start().await else { return report };
    let config = world.config();
    compare(&mut report, "the emulator", move || pool(config.clone())).await;
    if let Some((server, ca)) = postgres_with_tls().await {
        let port = server.port();
        compare(&mut report, "PostgreSQL", move || pool(straight_to(port, &ca))).await;
    }
    report
}

async fn compare(report: &mut Report, server: &str, new_pool: impl Fn() -> ProxyPool + 'static) {
    let options = options(&new_pool()).await;
    let mut candidates = [connects_of_pool(new_pool), connects_of_sqlx(options)];
    EFFORT.measure(&mut candidates).await;
    let [pool, sqlx] = &candidates;
    report.row(&format!("tls connect to {server}"), pool, sqlx, BAR);
}
