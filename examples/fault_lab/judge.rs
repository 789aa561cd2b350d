//! Holds what callers of transactions were told against what the database holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rds_proxy_pool::Resolved;
use sqlx::{Connection, PgConnection};

use crate::Outcome;
use crate::bank::{CENTS, DEADLINE, MARKERS, Way};
use crate::client::{Class, Client};
use crate::commits::Deed;
use crate::stage::{Stage, Window};
use crate::worker::late;

/// So long after an outage somebody who met its end may still be about to begin anew.
const AFTER: Duration = Duration::from_millis(350);

/// What the comparison found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) operations: usize,
    pub(crate) acknowledged: usize,
    /// Acknowledged, and not there.
    pub(crate) lost: usize,
    /// Applied more than once.
    pub(crate) doubled: usize,
    /// Said to have left nothing, and there; or said to be committed by an error or an answer later, and not there.
    pub(crate) wrong_outcomes: usize,
    /// Of those: said to have left nothing, and there.
    pub(crate) falsely_failed: usize,
    /// Elements of a list that stand before one that their worker appended earlier, and gaps.
    pub(crate) reordered: usize,
    /// No cent was made or lost, and each account is what its transfers make it.
    pub(crate) sum_conserved: bool,
    /// Rows without their marker, and markers without their row.
    pub(crate) markers_disagree: i64,
    pub(crate) tombstones: i64,
    pub(crate) unknown: usize,
    /// Those of them that were found out afterwards.
    pub(crate) unknown_resolved_later: usize,
    /// Calls whose COMMIT met a fault of its own.
    pub(crate) commits_that_met_a_fault: usize,
    /// Calls whose closure ran more than once.
    pub(crate) replayed: usize,
    pub(crate) runs_max: u32,
    /// Errors that left nothing.
    pub(crate) not_applied: usize,
    /// Those of them in whose time nothing happened.
    pub(crate) failed_without_need: usize,
    pub(crate) errors: BTreeMap<String, usize>,
    pub(crate) by_fault: BTreeMap<&'static str, u64>,
    pub(crate) culprits: Vec<String>,
    /// From the moment that everybody could be served again to the first success.
    pub(crate) recovery: Vec<Duration>,
    /// What the calls took whose COMMIT met a fault and that succeeded, by fault.
    pub(crate) resolution: BTreeMap<&'static str, Vec<Duration>>,
    pub(crate) late: Duration,
    pub(crate) lag: Duration,
    pub(crate) longest_call: Duration,
}

/// What was found out afterwards about calls with an unknown outcome: by the number of the operation.
#[derive(Debug, Default)]
pub(crate) struct Trial(BTreeMap<i64, Resolved>);

/// What the database holds.
struct Books {
    /// How often each operation was applied.
    applied: BTreeMap<i64, i64>,
    /// List, worker and operation in the order of the lists.
    elements: Vec<(i64, i64, i64)>,
    gaps: i64,
    sum_conserved: bool,
    tombstones: i64,
    markers_disagree: i64,
}

impl Trial {
    pub(crate) async fn of(stage: &Stage, client: Option<&Client>, deeds: &[Deed]) -> Outcome<Trial> {
        let mut resolved = BTreeMap::new();
        let Some(Client::Ours(pool)) = client else { return Ok(Trial(resolved)) };
        stage.pair.primary().wait_ready().await;
        for deed in deeds {
            let Some(key) = deed.told.key.filter(|_| deed.told.class == Class::Unknown) else { continue };
            resolved.insert(deed.op.number, pool.by(DEADLINE).resolve(key).await?);
        }
        Ok(Trial(resolved))
    }
}

impl Books {
    async fn read(stage: &Stage) -> Outcome<Books> {
        let mut owner = stage.owner().await?;
        let applied = "SELECT op, count(*) FROM (SELECT op FROM transfer UNION ALL SELECT op FROM element) AS every \
                       GROUP BY op";
        let elements = "SELECT list, worker, op FROM element ORDER BY list, position";
        let gaps = "SELECT count(*) FROM list WHERE length <> (SELECT count(DISTINCT position) FROM element \
                    WHERE list = id) OR length <> (SELECT COALESCE(max(position), 0) FROM element WHERE list = id)";
        let sums = format!(
            "SELECT count(*) FROM account WHERE cents <> {CENTS} \
             + COALESCE((SELECT sum(cents) FROM transfer WHERE target = id), 0) \
             - COALESCE((SELECT sum(cents) FROM transfer WHERE source = id), 0)"
        );
        let total = format!("SELECT count(*) * {CENTS} - sum(cents)::bigint FROM account");
        let tombstones = format!("SELECT count(*) FROM {MARKERS} WHERE state = 'A'");
        let keys = "SELECT key FROM transfer WHERE key IS NOT NULL UNION SELECT key FROM element WHERE key IS NOT NULL";
        let markers = format!(
            "SELECT count(*) FROM ({keys}) AS rows FULL JOIN (SELECT key FROM {MARKERS} WHERE state = 'C') AS markers \
             ON rows.key = markers.key WHERE rows.key IS NULL OR markers.key IS NULL"
        );
        let books = Books {
            applied: sqlx::query_as(applied).fetch_all(&mut owner).await?.into_iter().collect(),
            elements: sqlx::query_as(elements).fetch_all(&mut owner).await?,
            gaps: count(&mut owner, gaps).await?,
            sum_conserved: count(&mut owner, &sums).await? == 0 && count(&mut owner, &total).await? == 0,
            tombstones: count(&mut owner, &tombstones).await?,
            markers_disagree: count(&mut owner, &markers).await?,
        };
        owner.close().await?;
        Ok(books)
    }

    /// Elements that come before one their worker appended earlier.
    fn reordered(&self) -> usize {
        let mut last = BTreeMap::new();
        let later = |(list, worker, op): &&(i64, i64, i64)| last.insert((*list, *worker), *op) > Some(*op);
        self.elements.iter().filter(later).count()
    }
}

async fn count(owner: &mut PgConnection, sql: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(owner).await
}

impl Findings {
    pub(crate) async fn of(
        stage: &Stage,
        deeds: Vec<Deed>,
        windows: &[Window],
        lags: &[(Instant, Duration)],
        Trial(resolved): Trial,
    ) -> Outcome<Findings> {
        let books = Books::read(stage).await?;
        let mut findings = Findings {
            operations: deeds.len(),
            reordered: books.reordered() + usize::try_from(books.gaps)?,
            sum_conserved: books.sum_conserved,
            tombstones: books.tombstones,
            markers_disagree: books.markers_disagree,
            unknown_resolved_later: resolved.len(),
            lag: lags.iter().map(|(_, lag)| *lag).max().unwrap_or_default(),
            ..Findings::default()
        };
        let known: BTreeSet<i64> = deeds.iter().map(|deed| deed.op.number).collect();
        let strangers = books.applied.keys().filter(|op| !known.contains(op)).count();
        if strangers > 0 {
            return Err(format!("{strangers} operations nobody asked for: the lab itself is wrong").into());
        }
        for deed in &deeds {
            let times = books.applied.get(&deed.op.number).copied().unwrap_or(0);
            findings.judge(deed, times, resolved.get(&deed.op.number), windows);
            findings.late = findings.late.max(late(deed.start + DEADLINE, deed.end, lags));
        }
        findings.measure_recovery(&deeds, windows);
        Ok(findings)
    }

    /// Holds one call against how often it was applied.
    fn judge(&mut self, deed: &Deed, times: i64, later: Option<&Resolved>, windows: &[Window]) {
        let class = deed.told.class;
        let mut wrong = Vec::new();
        if class == Class::Acknowledged {
            self.acknowledged += 1;
            if times == 0 {
                self.lost += 1;
                wrong.push("acknowledged, and not there");
            }
        }
        if times > 1 {
            self.doubled += 1;
            wrong.push("applied more than once");
        }
        if class == Class::NotApplied {
            self.not_applied += 1;
            self.falsely_failed += usize::from(times > 0);
            if !deed.met_anything(windows) && !deed.is_refused_by_hand() {
                self.failed_without_need += 1;
                wrong.push("failed for no reason");
            }
        }
        if class == Class::Unknown {
            self.unknown += 1;
            wrong.push("unknown");
        }
        let said_committed = class == Class::Acknowledged && deed.told.error.is_some();
        let answered_wrongly = later.is_some_and(|later| (*later == Resolved::Committed) != (times > 0));
        if class == Class::NotApplied && times > 0 || said_committed && times == 0 || answered_wrongly {
            self.wrong_outcomes += 1;
            wrong.push("not as it was said");
        }
        self.replayed += usize::from(deed.told.runs > 1);
        self.runs_max = self.runs_max.max(deed.told.runs);
        if let Some(met) = deed.met {
            *self.by_fault.entry(met.fault.name()).or_default() += 1;
            self.commits_that_met_a_fault += usize::from(met.fault.is_of_commit());
            if met.fault.is_of_commit() && class == Class::Acknowledged {
                self.resolution.entry(met.fault.name()).or_default().push(deed.end - deed.start);
            }
        }
        if let Some(error) = &deed.told.error {
            *self.errors.entry(error.code.clone()).or_default() += 1;
        }
        self.longest_call = self.longest_call.max(deed.end - deed.start);
        if !wrong.is_empty() {
            self.culprits.push(format!("{}: {}", wrong.join(", "), deed.described(times, windows)));
        }
    }

    fn measure_recovery(&mut self, deeds: &[Deed], windows: &[Window]) {
        for served in windows.iter().filter_map(|window| window.served) {
            let answered = deeds.iter().filter(|deed| deed.told.class == Class::Acknowledged && deed.end >= served);
            self.recovery.extend(answered.map(|deed| deed.end - served).min());
        }
        self.recovery.sort();
        self.resolution.values_mut().for_each(|took| took.sort());
    }
}

impl Deed {
    fn met_anything(&self, windows: &[Window]) -> bool {
        let under_way = |window: &Window| self.start < window.end + AFTER && window.begin < self.end;
        self.met.is_some() || windows.iter().any(under_way)
    }

    /// Deadlocks are resolved at the cost of one of two, and who ends his transaction himself has to run it again himself.
    fn is_refused_by_hand(&self) -> bool {
        let by_the_server = self.told.error.as_ref().is_some_and(|error| error.code.starts_with("sqlstate"));
        self.op.way == Way::ByHand && by_the_server
    }

    fn described(&self, times: i64, windows: &[Window]) -> String {
        let before = |at: Instant| self.end.saturating_duration_since(at).as_millis();
        let error = self.told.error.as_ref().map_or("no error", |error| &error.text);
        let mut text = format!("{:?}, {times} times there, after {} ms: {error}", self.op, before(self.start));
        if let Some(met) = self.met {
            text += &format!("; met {:?} ({}) about {} ms before", met.fault, met.fault.name(), before(met.at));
        }
        for Window { name, begin, end, .. } in
            windows.iter().filter(|w| w.begin < self.end && w.end + AFTER > self.start)
        {
            text += &format!("; {name} {} to {} ms before", before(*begin), before(*end));
        }
        text
    }
}
