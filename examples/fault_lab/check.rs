//! Compares what callers were told with what the database holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rds_proxy_pool::emulator::{ClientMessage, Delivered, Kind, Message, Strike};
use sqlx::{Connection, PgConnection};

use crate::Outcome;
use crate::client::{Class, Work};
use crate::stage::{Stage, Window};
use crate::watch::is_silent;
use crate::worker::Record;

/// What a call may spend, the reserve for its caller's answer apart.
const BUDGET: Duration = Duration::from_millis(1750);
/// A call whose budget is used up by outages but for this can hardly succeed.
const LEFT: Duration = Duration::from_millis(350);
/// Two outages with no more than this between them are one to whoever meets both: it is the longest pause of a client, and
/// the time to connect.
const BETWEEN: Duration = Duration::from_millis(350);
/// So long after it struck, a fault may be seen in the emulator's log.
const SEEN: Duration = Duration::from_millis(20);

/// What the comparison found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) operations: usize,
    pub(crate) acknowledged: usize,
    /// Acknowledged, and not there.
    pub(crate) lost: usize,
    /// Applied more than once.
    pub(crate) doubled: usize,
    /// Said to have left nothing, and there.
    pub(crate) falsely_failed: usize,
    /// Acknowledged, and overwritten by an older one that was applied again.
    pub(crate) lost_updates: usize,
    /// Reads that did not see what was acknowledged before.
    pub(crate) stale_reads: usize,
    pub(crate) unknown: usize,
    pub(crate) unknown_explained: usize,
    /// How much of the request had arrived, for each explained one.
    pub(crate) unknown_where: BTreeMap<&'static str, usize>,
    /// Of those that were under way when something befell everybody: what that was.
    pub(crate) unknown_under_way_at: BTreeMap<&'static str, usize>,
    /// After something befell connections that were idle, and for no other reason.
    pub(crate) unknown_of_idle_cuts: usize,
    /// The statement was being prepared for its only run: it did nothing, and its caller cannot know.
    pub(crate) unknown_of_prepare: usize,
    pub(crate) errors_of_reads: usize,
    pub(crate) errors_of_idempotent_writes: usize,
    /// Reads and idempotent writes that outages left no time for.
    pub(crate) errors_beyond_the_deadline: usize,
    /// Those whose own connection took them and stayed silent for as long as they could wait.
    pub(crate) errors_of_silence: usize,
    /// Calls of all kinds that were shown a certificate nobody may trust: no outage, and never tried again.
    pub(crate) errors_of_certificates: usize,
    /// Calls that say so, and nobody was shown one at the time.
    pub(crate) certificates_unseen: usize,
    /// How often such a certificate was shown.
    pub(crate) certificates: usize,
    pub(crate) errors: BTreeMap<String, usize>,
    /// The calls behind what is wrong, in words.
    pub(crate) culprits: Vec<String>,
    /// From the moment that everybody could be served again to the first success.
    pub(crate) recovery: Vec<Duration>,
    /// The same for each call that waited at that moment.
    pub(crate) waiting: Vec<Duration>,
    /// The longest of them for each fault.
    pub(crate) longest_recovery: BTreeMap<&'static str, Duration>,
    pub(crate) late: Duration,
    /// The latest that a timer of this process fired; it is stopped at times.
    pub(crate) lag: Duration,
    pub(crate) longest_call: Duration,
}

/// What the database holds.
struct Database {
    /// How often each operation was applied.
    applied: BTreeMap<i64, i64>,
    versions: BTreeMap<i64, i64>,
    /// Register and operation, in the order they were applied.
    overwrites: Vec<(i64, i64)>,
    counters_agree: bool,
}

impl Database {
    async fn read(stage: &Stage) -> Outcome<Database> {
        let mut owner = stage.owner().await?;
        let applied = "SELECT op, count(*) FROM (SELECT op FROM entry UNION ALL SELECT op FROM increment) AS all_of_them \
                       GROUP BY op";
        let agree = "SELECT (SELECT COALESCE(sum(n), 0)::bigint FROM counter) = (SELECT count(*) FROM increment)";
        let database = Database {
            applied: pairs(&mut owner, applied).await?.into_iter().collect(),
            versions: pairs(&mut owner, "SELECT id, version FROM item").await?.into_iter().collect(),
            overwrites: pairs(&mut owner, "SELECT register, op FROM overwrite ORDER BY at").await?,
            counters_agree: sqlx::query_scalar(agree).fetch_one(&mut owner).await?,
        };
        owner.close().await?;
        Ok(database)
    }
}

async fn pairs(owner: &mut PgConnection, sql: &'static str) -> Result<Vec<(i64, i64)>, sqlx::Error> {
    sqlx::query_as(sql).fetch_all(owner).await
}

impl Findings {
    pub(crate) async fn of(
        stage: &Stage,
        records: &[Record],
        windows: &[Window],
        certificates: &[Instant],
        lags: &[(Instant, Duration)],
    ) -> Outcome<Findings> {
        let database = Database::read(stage).await?;
        if !database.counters_agree {
            return Err("the counters do not agree with their log: the lab itself is wrong".into());
        }
        let lag = lags.iter().map(|(_, lag)| *lag).max().unwrap_or_default();
        let mut findings =
            Findings { operations: records.len(), certificates: certificates.len(), lag, ..Findings::default() };
        let mut newest = BTreeMap::new();
        let mut certificates = certificates.to_vec();
        for record in records.iter().filter(|record| record.refused_a_certificate()) {
            findings.errors_of_certificates += 1;
            findings.certificates_unseen += usize::from(!record.takes_one_of(&mut certificates));
        }
        for record in records {
            findings.count(record, windows, &mut certificates);
            findings.compare(record, &database, &mut newest);
            findings.late = findings.late.max(record.late(lags));
            findings.longest_call = findings.longest_call.max(record.end - record.start);
        }
        for (item, version) in newest {
            findings.lost += usize::from(database.versions.get(&item).is_none_or(|there| *there < version));
        }
        findings.look_for_lost_updates(records, &database.overwrites);
        findings.measure_recovery(records, windows);
        Ok(findings)
    }

    fn count(&mut self, record: &Record, windows: &[Window], certificates: &mut Vec<Instant>) {
        self.acknowledged += usize::from(record.class == Class::Acknowledged);
        self.stale_reads += usize::from(record.stale);
        let Some(error) = &record.error else { return };
        *self.errors.entry(error.code.clone()).or_default() += 1;
        let repeatable = record.work.is_read() || record.work.is_idempotent();
        if repeatable && !record.refused_a_certificate() {
            self.judge_failure(record, windows, certificates);
        }
        if record.class == Class::Unknown && !record.work.is_read() {
            self.unknown += 1;
            self.unknown_of_prepare +=
                usize::from(record.strike.is_some_and(|strike| strike.message == Message::Parse));
            if let Some(explanation) = record.explanation(windows) {
                self.unknown_explained += 1;
                *self.unknown_where.entry(explanation).or_default() += 1;
                if explanation == UNDER_WAY
                    && let Some(window) = windows.iter().find(|window| record.was_under_way(window))
                {
                    *self.unknown_under_way_at.entry(window.name).or_default() += 1;
                }
            } else {
                self.unknown_of_idle_cuts += usize::from(windows.iter().any(|window| record.came_after_idle(window)));
                self.culprits.push(record.told(windows, "has an unknown outcome"));
            }
        }
    }

    /// Why a call failed that could be made again and again.
    fn judge_failure(&mut self, record: &Record, windows: &[Window], certificates: &mut Vec<Instant>) {
        let lost_before = || record.error.as_ref().is_some_and(|error| error.code.starts_with("lost."));
        if record.met_silence() {
            self.errors_of_silence += 1;
        } else if record.had_no_chance(windows) {
            self.errors_beyond_the_deadline += 1;
        } else if record.work.is_idempotent() && lost_before() && record.takes_one_of(certificates) {
            // The certificate kept it from being made again; what it says is what became of it before.
            self.errors_of_certificates += 1;
        } else {
            self.culprits.push(record.told(windows, "failed"));
            self.errors_of_reads += usize::from(record.work.is_read());
            self.errors_of_idempotent_writes += usize::from(record.work.is_idempotent());
        }
    }

    /// Holds one call against the database. What overwrites is judged together: the `newest` acknowledged is to be there.
    fn compare(&mut self, record: &Record, database: &Database, newest: &mut BTreeMap<i64, i64>) {
        match record.work {
            Work::Read { .. } | Work::Overwrite { .. } => {}
            Work::Insert { op } | Work::Increment { op, .. } => {
                let applied = database.applied.get(&op).copied().unwrap_or(0);
                self.lost += usize::from(record.class == Class::Acknowledged && applied == 0);
                self.falsely_failed += usize::from(record.class == Class::NotApplied && applied > 0);
                self.doubled += usize::from(applied > 1);
            }
            Work::Upsert { item, version } => {
                let there = database.versions.get(&item) == Some(&version);
                self.falsely_failed += usize::from(record.class == Class::NotApplied && there);
                if record.class == Class::Acknowledged {
                    let newest = newest.entry(item).or_insert(version);
                    *newest = version.max(*newest);
                }
            }
        }
    }

    fn look_for_lost_updates(&mut self, records: &[Record], overwrites: &[(i64, i64)]) {
        let acknowledged: BTreeSet<i64> = records
            .iter()
            .filter_map(|record| match record.work {
                Work::Overwrite { op, .. } if record.class == Class::Acknowledged => Some(op),
                _ => None,
            })
            .collect();
        let (mut seen, mut present) = (BTreeSet::new(), BTreeMap::new());
        for (register, op) in overwrites {
            let before = present.insert(register, op);
            let again = !seen.insert(op);
            let overwrites_another = before.is_some_and(|before| before != op && acknowledged.contains(before));
            self.lost_updates += usize::from(again && overwrites_another);
        }
    }

    fn measure_recovery(&mut self, records: &[Record], windows: &[Window]) {
        for window in windows {
            let Some(served) = window.served.filter(|_| window.for_all) else { continue };
            let answered = records.iter().filter(|record| {
                let concerned = !window.writes_only || !record.work.is_read();
                concerned && record.class == Class::Acknowledged && record.end >= served
            });
            if let Some(first) = answered.clone().map(|record| record.end - served).min() {
                self.recovery.push(first);
                let longest = self.longest_recovery.entry(window.name).or_default();
                *longest = first.max(*longest);
            }
            let waited = answered.filter(|record| record.start < served && record.strike.is_none());
            self.waiting.extend(waited.map(|record| record.end - served));
        }
        self.recovery.sort();
        self.waiting.sort();
    }
}

/// No fault of its own: something befell everybody.
const UNDER_WAY: &str = "under_way";

impl Record {
    /// Why nobody can know what became of the call: it was on its way when something happened to it.
    fn explanation(&self, windows: &[Window]) -> Option<&'static str> {
        match &self.strike {
            Some(strike) if strike.delivered == Delivered::Answered => Some("answered"),
            Some(strike) if strike.delivered != Delivered::Nothing => Some("in_the_middle"),
            // Of the request, something had been taken before what was struck.
            Some(strike) if strike.received == Some(ClientMessage::Bind) => Some("in_the_middle"),
            _ if self.received => Some("received"),
            // It met the fault by its text, so it had been read; the database got nothing of it.
            Some(_) => Some("read_and_not_passed_on"),
            None => windows.iter().any(|window| self.was_under_way(window)).then_some(UNDER_WAY),
        }
    }

    fn was_under_way(&self, window: &Window) -> bool {
        !window.idle && self.start < window.end && window.begin < self.end
    }

    /// Whether the idle connections that the window befell may be those it was sent on.
    fn came_after_idle(&self, window: &Window) -> bool {
        window.idle && window.for_all && window.end <= self.end && self.start < window.end + BUDGET
    }

    fn refused_a_certificate(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.code == "connect.certificate")
    }

    /// Whether a certificate was shown to somebody meanwhile; it is then taken for the one that this call was shown.
    fn takes_one_of(&self, certificates: &mut Vec<Instant>) -> bool {
        let meanwhile = |at: &Instant| self.start <= *at && *at <= self.end + SEEN;
        let last = certificates.iter().rposition(meanwhile);
        last.map(|last| certificates.remove(last)).is_some()
    }

    /// Whether its connection took it and stayed silent for ever.
    fn met_silence(&self) -> bool {
        self.strike.is_some_and(|strike| is_silent(strike.kind))
    }

    /// What is known of it, to find out more.
    fn told(&self, windows: &[Window], what: &str) -> String {
        let Record { work, error, strike, received, .. } = self;
        let took = (self.end - self.start).as_millis();
        let text = error.as_ref().map_or("no error", |error| &error.text);
        let mut told = format!("{work:?} {what} after {took} ms ({text}), received: {received}");
        if let Some(Strike { message, point, kind, delivered, .. }) = strike {
            told += &format!("; struck: {message:?} {point:?} {kind:?} {delivered:?}");
        }
        let recent = windows.iter().filter(|window| window.begin < self.end && window.end + BUDGET > self.start);
        for Window { name, begin, end, .. } in recent {
            let before = |at: &Instant| self.end.saturating_duration_since(*at).as_millis();
            told += &format!("; {name} {} to {} ms before its end", before(begin), before(end));
        }
        told
    }

    /// Whether nobody could be served for as long as the call could wait.
    fn had_no_chance(&self, windows: &[Window]) -> bool {
        let until = self.start + BUDGET;
        let outages = windows.iter().filter_map(|window| {
            if window.idle && window.served.is_none() || window.writes_only && self.work.is_read() {
                return None;
            }
            // A cut is an outage without length: whoever meets it in a row of outages begins anew.
            let served = window.served.unwrap_or(window.begin) + window.unnoticed();
            let (begin, end) = (window.begin.max(self.start), served.min(until));
            (begin <= end).then_some((begin, end))
        });
        let mut outages: Vec<_> = outages.collect();
        outages.sort();
        let (mut longest, mut row) = (None, None);
        for (begin, end) in outages {
            // One that began earlier may end later.
            let (from, to) = row.filter(|(_, to)| begin <= *to + BETWEEN).unwrap_or((begin, end));
            row = Some((from, end.max(to)));
            longest = longest.max(Some(end.max(to) - from));
        }
        let delayed = match self.strike.map(|strike| strike.kind) {
            Some(Kind::Delay { most, .. }) => most,
            _ => Duration::ZERO,
        };
        longest.is_some_and(|longest| longest + delayed + LEFT >= BUDGET)
    }
}
