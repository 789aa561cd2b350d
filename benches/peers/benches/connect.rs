//! A connect with TLS beside the two drivers by themselves: `cargo bench --bench connect` in this folder.
//!
//! What plain sqlx waits for is told in the crate's own bench of this name.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use rds_proxy_pool::ProxyPool;
use rds_proxy_pool::emulator::Link;
use tokio_postgres_rustls::MakeRustlsConnect;

use rds_proxy_pool_peers::bench::connect::{
    PASSWORD, connects_of_pool, connects_of_sqlx, pool, postgres_with_tls, straight_to,
};
use rds_proxy_pool_peers::bench::measure::{Bar, Effort, Report, run};
use rds_proxy_pool_peers::bench::warm::options;
use rds_proxy_pool_peers::far::behind;
use rds_proxy_pool_peers::peers::{config, connects_of_tokio_postgres, tls, token_for};
use rds_proxy_pool_peers::support::world::World;

const EFFORT: Effort = Effort { rounds: 20, calls: 2, tasks: 1 };

fn main() -> ExitCode {
    run(measure())
}

async fn measure() -> Report {
    let mut report = Report::default();
    let Some(world) = World::start().await else { return report };
    let straight = postgres_with_tls().await;
    for microseconds in [0, 500, 2000] {
        let latency = Duration::from_micros(microseconds) / 2;
        let direct = latency.is_zero();
        if !direct {
            world.proxy().set_link(Link::new().latency(latency));
        }
        let what = format!("tls connect, {} ms per round trip", 2e3 * latency.as_secs_f64());

        let new_pool = {
            let config = world.config();
            move || pool(config.clone())
        };
        let to = format!("{what}, to the emulator");
        compare(&mut report, &to, direct, new_pool, None, tls(world.ca_pem().as_bytes())).await;

        if let Some((server, ca)) = &straight {
            let address = (Ipv4Addr::LOCALHOST, server.port()).into();
            let port = if direct { server.port() } else { behind(latency, address) };
            let new_pool = {
                let ca = ca.clone();
                move || pool(straight_to(port, &ca))
            };
            compare(&mut report, &format!("{what}, to PostgreSQL"), direct, new_pool, Some(PASSWORD), tls(ca)).await;
        }
    }
    report
}

/// Without a password tokio-postgres gets a token.
async fn compare(
    report: &mut Report,
    what: &str,
    direct: bool,
    new_pool: impl Fn() -> ProxyPool + 'static,
    password: Option<&str>,
    tls: MakeRustlsConnect,
) {
    let options = options(&new_pool()).await;
    let password = password.map_or_else(|| token_for(&options), str::to_owned);
    let mut candidates = [
        connects_of_pool(new_pool),
        connects_of_sqlx(options.clone()),
        connects_of_tokio_postgres(config(&options, &password), tls),
    ];
    EFFORT.measure(&mut candidates).await;
    let [ours, sqlx, best] = &candidates;
    report.row(what, ours, best, Bar::Shown(1.1));
    // What sqlx waits for takes as long on every network: beside round trips that take longer it is a smaller part.
    report.row(what, ours, sqlx, if direct { Bar::Held(0.15) } else { Bar::Shown(0.15) });
}
