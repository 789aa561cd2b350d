//! What is printed: a table, or one line of JSON.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Outcome;
use crate::traffic::Traffic;

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(100);
/// The bar: our peak over that of `sqlx::Pool`.
const HIGHEST_RATIO: f64 = 0.5;

/// How a fleet came back.
pub(crate) struct Storm {
    pub(crate) served: Instant,
    pub(crate) answers: Vec<Outcome<Instant>>,
    pub(crate) traffic: Traffic,
}

/// How fleets came back from all outages.
#[derive(Default)]
pub(crate) struct Storms {
    /// From the return of the proxy to the answer, in ascending order.
    recovered: Vec<Duration>,
    /// Why an environment had no answer.
    failures: Vec<String>,
    /// What came since the return of the proxy.
    traffic: Vec<(Instant, Traffic)>,
}

/// What both fleets did.
pub(crate) struct Numbers {
    pub(crate) pools: usize,
    pub(crate) seed: u64,
    pub(crate) outages: Vec<Duration>,
    pub(crate) per_second: u32,
    pub(crate) deadline: Duration,
    pub(crate) ours: Storms,
    pub(crate) plain: Storms,
    /// Recoveries of pools without a fleet around them.
    pub(crate) alone: Vec<Duration>,
}

impl Storms {
    pub(crate) fn add(&mut self, Storm { served, answers, traffic }: Storm) {
        for answer in answers {
            match answer {
                Ok(at) => self.recovered.push(at.saturating_duration_since(served)),
                Err(error) => self.failures.push(error.to_string()),
            }
        }
        self.recovered.sort();
        self.traffic.push((served, traffic));
    }

    fn peak(&self, after: Duration, window: Duration) -> usize {
        self.traffic.iter().map(|(served, traffic)| traffic.peak(*served + after, window)).max().unwrap_or_default()
    }

    /// The most connections in any tenth of a second.
    fn peak_of_a_moment(&self) -> usize {
        self.peak(Duration::ZERO, MOMENT)
    }

    fn peak_of_a_second(&self) -> usize {
        self.peak(Duration::ZERO, SECOND)
    }

    fn peak_after_first_second(&self) -> usize {
        self.peak(SECOND, SECOND)
    }

    fn sum(&self, count: impl Fn(&Traffic) -> usize) -> usize {
        self.traffic.iter().map(|(_, traffic)| count(traffic)).sum()
    }

    fn connects(&self) -> usize {
        self.sum(|traffic| traffic.connects.len())
    }

    fn refused_by_connection_rate(&self) -> usize {
        self.sum(|traffic| traffic.refused_by_connection_rate)
    }

    fn refused_by_iam_rate(&self) -> usize {
        self.sum(|traffic| traffic.refused_by_iam_rate)
    }

    fn connects_per_pool(&self) -> f64 {
        ratio(self.connects(), self.recovered.len() + self.failures.len())
    }

    fn to_json(&self) -> Value {
        json!({
            "recovered": self.recovered.len(),
            "failed": self.failures.len(),
            "first_failure": self.failures.first(),
            "recovery_ms_p50": millis(percentile(&self.recovered, 50)),
            "recovery_ms_p90": millis(percentile(&self.recovered, 90)),
            "recovery_ms_max": millis(percentile(&self.recovered, 100)),
            "peak_100ms": self.peak_of_a_moment(),
            "peak_1s": self.peak_of_a_second(),
            "peak_1s_after_first_second": self.peak_after_first_second(),
            "peaks_100ms": self.traffic.iter().map(|(served, traffic)| traffic.peak(*served, MOMENT)).collect::<Vec<_>>(),
            "connects": self.connects(),
            "connects_per_pool": self.connects_per_pool(),
            "logins": self.sum(|traffic| traffic.logins),
            "refused_by_connection_rate": self.refused_by_connection_rate(),
            "refused_by_iam_rate": self.refused_by_iam_rate(),
        })
    }
}

impl Numbers {
    /// By the tenth of a second: whatever comes within it is one wave to the proxy.
    fn peak_ratio(&self) -> f64 {
        ratio(self.ours.peak_of_a_moment(), self.plain.peak_of_a_moment())
    }

    fn peak_ratio_of_a_second(&self) -> f64 {
        ratio(self.ours.peak_of_a_second(), self.plain.peak_of_a_second())
    }

    fn alone(&self) -> Duration {
        let mut alone = self.alone.clone();
        alone.sort();
        percentile(&alone, 50)
    }

    fn bars(&self) -> [(String, bool); 3] {
        let Numbers { pools, per_second, outages, ours, .. } = self;
        [
            (format!("all {pools} of ours recover, each time"), ours.recovered.len() == *pools * outages.len()),
            (format!("their peak is at most {HIGHEST_RATIO} of sqlx::Pool's"), self.peak_ratio() <= HIGHEST_RATIO),
            (
                format!("after the first second at most {per_second} come in a second"),
                ours.peak_after_first_second() <= *per_second as usize,
            ),
        ]
    }

    pub(crate) fn holds_the_bars(&self) -> bool {
        self.bars().iter().all(|(_, holds)| *holds)
    }

    pub(crate) fn to_json(&self) -> String {
        json!({
            "pools": self.pools,
            "seed": self.seed,
            "outages_ms": self.outages.iter().copied().map(millis).collect::<Vec<_>>(),
            "limit_per_second": self.per_second,
            "deadline_ms": millis(self.deadline),
            "peak_ratio": self.peak_ratio(),
            "peak_ratio_1s": self.peak_ratio_of_a_second(),
            "alone_recovery_ms_p50": millis(self.alone()),
            "ours": self.ours.to_json(),
            "sqlx": self.plain.to_json(),
            "bars_hold": self.holds_the_bars(),
        })
        .to_string()
    }

    pub(crate) fn print_table(&self) {
        let Numbers { pools, outages, per_second, deadline, .. } = self;
        println!("{pools} pools lose their connections; the proxy is away for {outages:?} and then takes {per_second}");
        println!("logins in a second; each pool wants an answer within {deadline:?} of the loss\n");
        println!("  {:38} {:>10} {:>10}", "", "this crate", "sqlx::Pool");
        let row = |name: &str, value: &dyn Fn(&Storms) -> String| {
            println!("  {name:38} {:>10} {:>10}", value(&self.ours), value(&self.plain));
        };
        let recovery =
            |percent| move |storm: &Storms| format!("{:.0} ms", millis(percentile(&storm.recovered, percent)));
        row("served", &|storm| storm.recovered.len().to_string());
        row("failed", &|storm| storm.failures.len().to_string());
        row("served after the return, median", &recovery(50));
        row("  90th percentile", &recovery(90));
        row("  last", &recovery(100));
        row("most connects in 100 ms", &|storm| storm.peak_of_a_moment().to_string());
        row("most connects in a second", &|storm| storm.peak_of_a_second().to_string());
        row("  after the first second", &|storm| storm.peak_after_first_second().to_string());
        row("connects per pool", &|storm| format!("{:.2}", storm.connects_per_pool()));
        row("refused by the connection rate", &|storm| storm.refused_by_connection_rate().to_string());
        row("refused by the IAM rate", &|storm| storm.refused_by_iam_rate().to_string());
        println!();
        println!(
            "  peak of ours over sqlx::Pool's: {:.2} in 100 ms, {:.2} in a second",
            self.peak_ratio(),
            self.peak_ratio_of_a_second()
        );
        println!("  a few pools alone, with a deadline of 3 s: served after {:.0} ms (median)\n", millis(self.alone()));
        for (bar, holds) in self.bars() {
            println!("  {} {bar}", if holds { "yes" } else { "NO " });
        }
        for storm in [&self.ours, &self.plain] {
            if let Some(failure) = storm.failures.first() {
                println!("  a failure: {failure}");
            }
        }
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

fn ratio(part: usize, whole: usize) -> f64 {
    (part as f64 / whole.max(1) as f64 * 1000.0).round() / 1000.0
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}
