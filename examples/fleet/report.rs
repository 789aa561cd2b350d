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
    /// From the return of the proxy to the answer, in ascending order.
    recovered: Vec<Duration>,
    /// Why an environment had no answer.
    failures: Vec<String>,
    served: Instant,
    traffic: Traffic,
}

/// What both fleets did.
pub(crate) struct Numbers {
    pub(crate) pools: usize,
    pub(crate) seed: u64,
    pub(crate) outage: Duration,
    pub(crate) per_second: u32,
    pub(crate) deadline: Duration,
    pub(crate) ours: Storm,
    pub(crate) plain: Storm,
    /// Recoveries of pools without a fleet around them.
    pub(crate) alone: Vec<Duration>,
}

impl Storm {
    pub(crate) fn new(served: Instant, answers: Vec<Outcome<Instant>>, traffic: Traffic) -> Self {
        let (mut recovered, mut failures) = (Vec::new(), Vec::new());
        for answer in answers {
            match answer {
                Ok(at) => recovered.push(at.saturating_duration_since(served)),
                Err(error) => failures.push(error.to_string()),
            }
        }
        recovered.sort();
        Storm { recovered, failures, served, traffic }
    }

    /// The most connections in any tenth of a second.
    fn peak_of_a_moment(&self) -> usize {
        self.traffic.peak(self.served, MOMENT)
    }

    fn peak_of_a_second(&self) -> usize {
        self.traffic.peak(self.served, SECOND)
    }

    fn peak_after_first_second(&self) -> usize {
        self.traffic.peak(self.served + SECOND, SECOND)
    }

    fn connects_per_pool(&self) -> f64 {
        ratio(self.traffic.connects.len(), self.recovered.len() + self.failures.len())
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
            "connects": self.traffic.connects.len(),
            "connects_per_pool": self.connects_per_pool(),
            "logins": self.traffic.logins,
            "refused_by_connection_rate": self.traffic.refused_by_connection_rate,
            "refused_by_iam_rate": self.traffic.refused_by_iam_rate,
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
        let Numbers { pools, per_second, ours, .. } = self;
        [
            (format!("all {pools} of ours recover"), ours.recovered.len() == *pools),
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
            "outage_ms": millis(self.outage),
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
        let Numbers { pools, outage, per_second, deadline, .. } = self;
        println!("{pools} pools lose their connections; the proxy is away for {outage:?} and then takes {per_second}");
        println!("logins in a second; each pool wants an answer within {deadline:?} of the loss\n");
        println!("  {:38} {:>10} {:>10}", "", "this crate", "sqlx::Pool");
        let row = |name: &str, value: &dyn Fn(&Storm) -> String| {
            println!("  {name:38} {:>10} {:>10}", value(&self.ours), value(&self.plain));
        };
        let recovery =
            |percent| move |storm: &Storm| format!("{:.0} ms", millis(percentile(&storm.recovered, percent)));
        row("served", &|storm| storm.recovered.len().to_string());
        row("failed", &|storm| storm.failures.len().to_string());
        row("served after the return, median", &recovery(50));
        row("  90th percentile", &recovery(90));
        row("  last", &recovery(100));
        row("most connects in 100 ms", &|storm| storm.peak_of_a_moment().to_string());
        row("most connects in a second", &|storm| storm.peak_of_a_second().to_string());
        row("  after the first second", &|storm| storm.peak_after_first_second().to_string());
        row("connects per pool", &|storm| format!("{:.2}", storm.connects_per_pool()));
        row("refused by the connection rate", &|storm| storm.traffic.refused_by_connection_rate.to_string());
        row("refused by the IAM rate", &|storm| storm.traffic.refused_by_iam_rate.to_string());
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
