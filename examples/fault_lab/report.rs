//! What is printed: one line of JSON, or a table.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Report;
use crate::check::Findings;

/// A call may come so long after its deadline.
pub(crate) const LATE: Duration = Duration::from_millis(50);

/// All runs together.
pub(crate) struct Statements {
    pub(crate) seed: u64,
    /// What cannot be done on this machine.
    pub(crate) skipped: Vec<&'static str>,
    pub(crate) ours: Verdict,
    pub(crate) controls: [(&'static str, Verdict); 3],
}

/// One run.
pub(crate) struct Verdict {
    pub(crate) faults: u64,
    pub(crate) planned: u64,
    pub(crate) by_fault: BTreeMap<&'static str, u64>,
    pub(crate) findings: Findings,
    pub(crate) took: Duration,
}

impl Report for Statements {
    fn culprits(&self) -> &[String] {
        &self.ours.findings.culprits
    }

    fn complaints(&self) -> Vec<String> {
        let Findings { lost, doubled, falsely_failed, stale_reads, unknown, unknown_explained, .. } =
            self.ours.findings;
        let Findings { errors_of_reads, errors_of_idempotent_writes, .. } = self.ours.findings;
        let Findings { unknown_of_idle_cuts, certificates_unseen, .. } = self.ours.findings;
        let wrong = [
            ("acknowledged writes were lost", lost),
            ("writes were applied twice", doubled),
            ("writes were called failed and applied", falsely_failed),
            ("reads did not see what was acknowledged", stale_reads),
            ("unknown outcomes without a reason", unknown - unknown_explained),
            ("unknown outcomes of cuts while idle", unknown_of_idle_cuts),
            ("reads failed though they could be served in time", errors_of_reads),
            ("idempotent writes failed though they could be served in time", errors_of_idempotent_writes),
            ("certificates were refused that nobody had shown", certificates_unseen),
        ];
        common_complaints(&wrong, &self.ours, &self.controls)
    }

    fn to_json(&self) -> String {
        let findings = &self.ours.findings;
        let longest: BTreeMap<_, _> =
            findings.longest_recovery.iter().map(|(name, longest)| (name, millis(*longest))).collect();
        let all = findings.counts();
        let more = json!({
            "seed": self.seed,
            "skipped": self.skipped,
            "faults": self.ours.faults,
            "seconds": self.ours.took.as_secs(),
            "unknown_explained": findings.unknown_explained,
            "unknown_where": findings.unknown_where,
            "unknown_under_way_at": findings.unknown_under_way_at,
            "unknown_of_idle_cuts": findings.unknown_of_idle_cuts,
            "unknown_of_prepare": findings.unknown_of_prepare,
            "stale_reads": findings.stale_reads,
            "errors_of_reads": findings.errors_of_reads,
            "errors_of_idempotent_writes": findings.errors_of_idempotent_writes,
            "errors_beyond_the_deadline": findings.errors_beyond_the_deadline,
            "errors_of_silence": findings.errors_of_silence,
            "errors_of_certificates": findings.errors_of_certificates,
            "certificates_shown": findings.certificates,
            "recovery_ms_p50": percentile(&findings.recovery, 50),
            "recovery_ms_p90": percentile(&findings.recovery, 90),
            "recovery_ms_max": percentile(&findings.recovery, 100),
            "recovery_ms_max_by_fault": longest,
            "waiting_ms_p50": percentile(&findings.waiting, 50),
            "waiting_ms_p90": percentile(&findings.waiting, 90),
            "waiting_ms_max": percentile(&findings.waiting, 100),
            "late_ms_max": millis(findings.late),
            "longest_call_ms": millis(findings.longest_call),
            "lag_ms_max": millis(findings.lag),
            "by_fault": self.ours.by_fault,
            "errors": findings.errors,
            "controls": controls_json(&self.controls),
        });
        merged(all, more)
    }

    fn print_table(&self) {
        let Findings { recovery, waiting, late, .. } = &self.ours.findings;
        let names = ["this crate", "sqlx::Pool", "retry everything", "blind overwrite"];
        println!("{:34}{}", "", names.map(|name| format!("{name:>18}")).concat());
        let row = |name: &str, value: &dyn Fn(&Verdict) -> u64| print_row(name, &self.ours, &self.controls, value);
        row("faults", &|verdict| verdict.faults);
        row("calls", &|verdict| verdict.findings.operations as u64);
        row("acknowledged", &|verdict| verdict.findings.acknowledged as u64);
        row("lost", &|verdict| verdict.findings.lost as u64);
        row("applied twice", &|verdict| verdict.findings.doubled as u64);
        row("called failed, and applied", &|verdict| verdict.findings.falsely_failed as u64);
        row("overwritten by an older one", &|verdict| verdict.findings.lost_updates as u64);
        row("unknown", &|verdict| verdict.findings.unknown as u64);
        let own = |name: &str, value: String| println!("{name:36}{value:>22}");
        let Findings { errors_of_reads, errors_of_idempotent_writes, .. } = self.ours.findings;
        own("unknown, and the emulator says why", self.ours.findings.unknown_explained.to_string());
        own("errors of reads", errors_of_reads.to_string());
        own("errors of idempotent writes", errors_of_idempotent_writes.to_string());
        let Findings { errors_beyond_the_deadline, errors_of_silence, errors_of_certificates, .. } = self.ours.findings;
        own("no time left by outages", errors_beyond_the_deadline.to_string());
        own("their own connection silent", errors_of_silence.to_string());
        own("shown a wrong certificate", errors_of_certificates.to_string());
        own("unknown, of cuts while idle", self.ours.findings.unknown_of_idle_cuts.to_string());
        let three = |all: &[Duration]| [50, 90, 100].map(|percent| percentile(all, percent).to_string()).join(" / ");
        own("first success after, ms", three(recovery));
        own("who waited has an answer after, ms", three(waiting));
        own("longest call, ms", millis(self.ours.findings.longest_call).to_string());
        own("latest after its deadline, ms", millis(*late).to_string());
        print_counts("faults", &self.ours.by_fault);
        print_counts("errors", &self.ours.findings.errors);
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
        let mut counts = self.findings.counts();
        counts["faults"] = json!(self.faults);
        counts
    }

    fn convicted_of(&self, control: &str) -> usize {
        match control {
            "sqlx_pool" => self.findings.falsely_failed,
            "retry_everything" => self.findings.doubled,
            _ => self.findings.lost_updates,
        }
    }
}

impl Findings {
    fn counts(&self) -> Value {
        json!({
            "operations": self.operations,
            "acknowledged": self.acknowledged,
            "lost": self.lost,
            "doubled": self.doubled,
            "falsely_failed": self.falsely_failed,
            "lost_updates": self.lost_updates,
            "unknown": self.unknown,
        })
    }
}

/// A run as both kinds of reports see it.
pub(crate) trait Tried {
    fn faults(&self) -> u64;

    fn planned(&self) -> u64;

    /// The latest answer after its deadline.
    fn late(&self) -> Duration;

    fn counts(&self) -> Value;

    /// How often this control did what it is there to be convicted of.
    fn convicted_of(&self, control: &str) -> usize;
}

/// What is wrong with any kind of run, in words; `wrong` are things of which there should be none.
pub(crate) fn common_complaints<T: Tried>(
    wrong: &[(&str, usize)],
    ours: &T,
    controls: &[(&'static str, T)],
) -> Vec<String> {
    let mut complaints: Vec<String> = Vec::new();
    complaints.extend(wrong.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")));
    if ours.late() > LATE {
        complaints.push(format!("a call came {} ms after its deadline", millis(ours.late())));
    }
    if ours.faults() < ours.planned() {
        complaints.push(format!("only {} of {} faults: out of time", ours.faults(), ours.planned()));
    }
    let acquitted = controls.iter().filter(|(name, control)| control.convicted_of(name) == 0);
    complaints.extend(acquitted.map(|(name, _)| format!("the checker does not convict {name}")));
    complaints
}

pub(crate) fn controls_json<T: Tried>(controls: &[(&'static str, T)]) -> Value {
    let control = |(name, control): &(&'static str, T)| {
        let mut counts = control.counts();
        counts["convicted"] = json!(control.convicted_of(name) > 0);
        ((*name).to_owned(), counts)
    };
    Value::Object(controls.iter().map(control).collect())
}

/// Two objects as one line.
pub(crate) fn merged(mut all: Value, more: Value) -> String {
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all.to_string()
}

/// A number of ours, and of each control.
pub(crate) fn print_row<T>(name: &str, ours: &T, controls: &[(&'static str, T)], value: &dyn Fn(&T) -> u64) {
    let runs = std::iter::once(ours).chain(controls.iter().map(|(_, control)| control));
    println!("{name:34}{}", runs.map(|run| format!("{:>18}", value(run))).collect::<String>());
}

pub(crate) fn print_counts(what: &str, counts: &BTreeMap<impl std::fmt::Display, impl std::fmt::Display>) {
    println!("{what} of the first run:");
    counts.iter().for_each(|(name, count)| println!("  {name:32}{count:>18}"));
}

pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(at).copied().map(millis).unwrap_or_default()
}

pub(crate) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}
