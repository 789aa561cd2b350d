//! What is printed of the transactions: one line of JSON, or a table.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Report;
use crate::judge::Findings;
use crate::report::{Tried, common_complaints, controls_json, merged, millis, percentile, print_counts, print_row};

/// Of so many commits that met a fault, one outcome may stay unknown.
const PER_UNKNOWN: usize = 1000;

/// All runs together.
pub(crate) struct Sentence {
    pub(crate) seed: u64,
    pub(crate) ours: Verdict,
    pub(crate) controls: [(&'static str, Verdict); 3],
}

/// One run.
pub(crate) struct Verdict {
    pub(crate) faults: u64,
    pub(crate) planned: u64,
    pub(crate) global: Vec<&'static str>,
    pub(crate) findings: Findings,
    pub(crate) took: Duration,
}

impl Report for Sentence {
    fn culprits(&self) -> &[String] {
        &self.ours.findings.culprits
    }

    fn complaints(&self) -> Vec<String> {
        let ours = &self.ours.findings;
        let wrong = [
            ("acknowledged transactions were lost", ours.lost),
            ("transactions were applied twice", ours.doubled),
            ("outcomes were wrong", ours.wrong_outcomes),
            ("elements of lists are out of order", ours.reordered),
            ("markers and rows do not agree", ours.markers_disagree.unsigned_abs() as usize),
            ("transactions failed for no reason", ours.failed_without_need),
        ];
        let mut complaints = common_complaints(&wrong, &self.ours, &self.controls);
        if !ours.sum_conserved {
            complaints.push("the sum of all accounts is not what it was".to_owned());
        }
        if ours.unknown * PER_UNKNOWN > ours.commits_that_met_a_fault {
            complaints.push(format!("{} outcomes of {} are unknown", ours.unknown, ours.commits_that_met_a_fault));
        }
        complaints
    }

    fn to_json(&self) -> String {
        let ours = &self.ours.findings;
        let three = |all: &[Duration]| [50, 90, 100].map(|percent| percentile(all, percent));
        let resolution: BTreeMap<_, _> = ours.resolution.iter().map(|(name, took)| (name, three(took))).collect();
        let recovery = three(&ours.recovery);
        let all = self.ours.counts();
        let more = json!({
            "mix": "transactions",
            "seed": self.seed,
            "seconds": self.ours.took.as_secs(),
            "unknown_of_commits_ratio": ours.unknown_ratio(),
            "unknown_resolved_later": ours.unknown_resolved_later,
            "markers_disagree": ours.markers_disagree,
            "failed_without_need": ours.failed_without_need,
            "replayed": ours.replayed,
            "runs_max": ours.runs_max,
            "recovery_ms_p50": recovery[0],
            "recovery_ms_p90": recovery[1],
            "recovery_ms_max": recovery[2],
            "call_ms_p50_p90_max": resolution,
            "late_ms_max": millis(ours.late),
            "lag_ms_max": millis(ours.lag),
            "longest_call_ms": millis(ours.longest_call),
            "by_fault": self.ours.by_fault(),
            "errors": ours.errors,
            "controls": controls_json(&self.controls),
        });
        merged(all, more)
    }

    fn print_table(&self) {
        let names = ["this crate", "sqlx::Pool", "naive replay", "pg_xact_status"];
        println!("{:34}{}", "", names.map(|name| format!("{name:>18}")).concat());
        let row = |name: &str, value: &dyn Fn(&Verdict) -> u64| print_row(name, &self.ours, &self.controls, value);
        row("faults", &|verdict| verdict.faults);
        row("transactions", &|verdict| verdict.findings.operations as u64);
        row("acknowledged", &|verdict| verdict.findings.acknowledged as u64);
        row("lost", &|verdict| verdict.findings.lost as u64);
        row("applied twice", &|verdict| verdict.findings.doubled as u64);
        row("called failed, and applied", &|verdict| verdict.findings.falsely_failed as u64);
        row("wrong outcomes", &|verdict| verdict.findings.wrong_outcomes as u64);
        row("out of order", &|verdict| verdict.findings.reordered as u64);
        row("unknown", &|verdict| verdict.findings.unknown as u64);
        let ours = &self.ours.findings;
        let own = |name: &str, value: String| println!("{name:34}{value:>18}");
        own("sum conserved", ours.sum_conserved.to_string());
        own("commits that met a fault", ours.commits_that_met_a_fault.to_string());
        own("closures that ran again", ours.replayed.to_string());
        own("tombstones", ours.tombstones.to_string());
        own("first success after, ms", [50, 90, 100].map(|p| percentile(&ours.recovery, p).to_string()).join(" / "));
        own("latest after its deadline, ms", millis(ours.late).to_string());
        print_counts("faults", &self.ours.by_fault());
        print_counts("errors", &ours.errors);
    }
}

impl Tried for Verdict {
    fn faults(&self) -> u64 {
        self.faults
    }

    fn planned(&self) -> u64 {
        self.planned
    }

    fn late(&self) -> Duration {
        self.findings.late
    }

    fn counts(&self) -> Value {
        let findings = &self.findings;
        json!({
            "faults": self.faults,
            "operations": findings.operations,
            "acknowledged": findings.acknowledged,
            "lost": findings.lost,
            "doubled": findings.doubled,
            "wrong_outcomes": findings.wrong_outcomes,
            "falsely_failed": findings.falsely_failed,
            "reordered": findings.reordered,
            "sum_conserved": findings.sum_conserved,
            "unknown": findings.unknown,
            "not_applied": findings.not_applied,
            "commits_that_met_a_fault": findings.commits_that_met_a_fault,
            "tombstones": findings.tombstones,
        })
    }

    fn convicted_of(&self, control: &str) -> usize {
        match control {
            "sqlx_pool" => self.findings.falsely_failed,
            "naive_replay" => self.findings.doubled,
            _ => self.findings.lost + self.findings.wrong_outcomes,
        }
    }
}

impl Verdict {
    fn by_fault(&self) -> BTreeMap<&'static str, u64> {
        let mut by_fault = self.findings.by_fault.clone();
        self.global.iter().for_each(|name| *by_fault.entry(name).or_default() += 1);
        by_fault
    }
}

impl Findings {
    fn unknown_ratio(&self) -> f64 {
        self.unknown as f64 / self.commits_that_met_a_fault.max(1) as f64
    }
}
