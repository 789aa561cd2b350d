//! What is printed: a line per event of the story, and a table at its end.

use std::io::IsTerminal;
use std::time::Instant;

use serde_json::json;

/// The live account; silent when only the numbers are wanted.
pub(crate) struct Story {
    aloud: bool,
    colours: bool,
    started: Instant,
}

/// What it all cost.
#[derive(Default)]
pub(crate) struct Numbers {
    pub(crate) cold_start_ms: f64,
    pub(crate) warm_p50_us: u64,
    pub(crate) warm_p99_us: u64,
    pub(crate) round_trips_per_query: f64,
    pub(crate) reconnects: u64,
    pub(crate) token_refreshes: u64,
    pub(crate) freezes_survived: u64,
    pub(crate) failover_gap_ms: f64,
    pub(crate) errors: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
}

impl Story {
    pub(crate) fn new(aloud: bool) -> Self {
        Story { aloud, colours: std::io::stdout().is_terminal(), started: Instant::now() }
    }

    pub(crate) fn tell(&mut self, what: &str) {
        self.line("1", what);
    }

    pub(crate) fn invocation(&mut self, what: &str, took: &str, answer: &str) {
        self.line("32", &format!("{what:62} {took}  {answer}"));
    }

    pub(crate) fn failure(&mut self, what: &str, error: &str) {
        self.line("31", &format!("{what:62} FAILED: {error}"));
    }

    fn line(&self, colour: &str, text: &str) {
        let at = self.started.elapsed().as_secs_f64();
        match (self.aloud, self.colours) {
            (false, _) => {}
            (true, true) => println!("{at:6.2} s  \x1b[{colour}m{text}\x1b[0m"),
            (true, false) => println!("{at:6.2} s  {text}"),
        }
    }
}

impl Numbers {
    /// Whether the story ended well.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors == 0 && self.lost == 0 && self.doubled == 0
    }

    pub(crate) fn to_json(&self) -> String {
        json!({
            "cold_start_ms": round(self.cold_start_ms),
            "warm_p50_us": self.warm_p50_us,
            "warm_p99_us": self.warm_p99_us,
            "round_trips_per_query": self.round_trips_per_query,
            "reconnects": self.reconnects,
            "token_refreshes": self.token_refreshes,
            "freezes_survived": self.freezes_survived,
            "failover_gap_ms": round(self.failover_gap_ms),
            "errors": self.errors,
            "lost": self.lost,
            "doubled": self.doubled,
        })
        .to_string()
    }

    pub(crate) fn print_table(&self) {
        let rows = [
            ("cold start, init included", format!("{:.1} ms", self.cold_start_ms)),
            ("warm invocation, median", format!("{} µs", self.warm_p50_us)),
            ("warm invocation, 99th percentile", format!("{} µs", self.warm_p99_us)),
            ("round trips per warm query", format!("{}", self.round_trips_per_query)),
            ("reconnects", self.reconnects.to_string()),
            ("token refreshes", self.token_refreshes.to_string()),
            ("freezes survived", self.freezes_survived.to_string()),
            ("failover gap", format!("{:.0} ms", self.failover_gap_ms)),
            ("errors", self.errors.to_string()),
            ("writes lost", self.lost.to_string()),
            ("writes doubled", self.doubled.to_string()),
        ];
        println!();
        for (name, value) in rows {
            println!("  {name:34} {value:>12}");
        }
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
