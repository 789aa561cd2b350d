//! A worker: one call after the other, each written down with what its caller takes for the truth.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt;
use rds_proxy_pool::emulator::{Message, Strike};

use crate::client::{Class, Client, DEADLINE, Failed, Work};
use crate::plan::Local;
use crate::stage::{Run, SHARED};
use crate::watch::tag;

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(4);
/// One in so many calls brings a fault with it, while there are any.
const ONE_IN: u32 = 4;
/// Between two looks at the clock by somebody who has nothing else to do.
const TICK: Duration = Duration::from_millis(2);

/// One call.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) work: Work,
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    pub(crate) class: Class,
    pub(crate) error: Option<Failed>,
    /// The fault of its own that it met.
    pub(crate) strike: Option<Strike>,
    /// Whether its statement arrived at the emulator.
    pub(crate) received: bool,
    /// A read that did not see what was acknowledged before.
    pub(crate) stale: bool,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    Everything,
    Overwrites,
}

impl Run<'_> {
    /// Works until the run is over.
    pub(crate) async fn work(&self, worker: usize, client: &Client, mix: Mix, seed: u64) -> Vec<Record> {
        let mut random = fastrand::Rng::with_seed(seed ^ (worker as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut records = Vec::new();
        let mut counted = 0;
        while !self.is_done() {
            let open = self.stage.gate.read().await;
            let work = self.choose(worker, mix, &mut random);
            let fault = if random.u32(..ONE_IN) == 0 { self.next_local() } else { None };
            let record = self.call(worker, client, work, fault, counted).await;
            drop(open);
            let incremented = matches!(work, Work::Increment { .. }) && record.class == Class::Acknowledged;
            counted += i64::from(incremented);
            records.push(record);
            tokio::time::sleep(PAUSE.mul_f64(2.0 * random.f64())).await;
        }
        records
    }

    fn choose(&self, worker: usize, mix: Mix, random: &mut fastrand::Rng) -> Work {
        let shared = (worker % SHARED) as i64;
        let number = self.stage.number();
        match (mix, random.u8(..4)) {
            (Mix::Overwrites, _) => Work::Overwrite { register: shared, op: number },
            (_, 0) => Work::Read { counter: worker as i64 },
            // Each his own: a session that another's fault keeps silent may hold a row for as long as a deadline.
            (_, 1) => Work::Upsert { item: worker as i64, version: number },
            (_, 2) => Work::Insert { op: number },
            _ => Work::Increment { counter: worker as i64, op: number },
        }
    }

    async fn call(&self, worker: usize, client: &Client, work: Work, fault: Option<Local>, at_least: i64) -> Record {
        let tag = tag(worker);
        let own = match fault {
            Some(fault) if fault.is_of_login() => {
                drop(self.stage.proxy.inject(fault.fault()));
                self.logins_injected.fetch_add(1, Ordering::Relaxed);
                None
            }
            fault => fault,
        };
        let mut injected = own.map(|fault| self.stage.proxy.inject(fault.fault().text(&tag)));
        let anew = own.is_some_and(|fault| fault.message == Message::Parse);
        self.watch.call_begins(worker);
        let start = Instant::now();
        let answer = client.call(work, &tag, anew).await;
        let end = Instant::now();
        let received = self.watch.call_ends(worker);
        let strike = injected.as_mut().and_then(|injected| injected.struck().now_or_never());
        if strike.is_some() {
            self.local_struck.fetch_add(1, Ordering::Relaxed);
        } else if let Some((injected, fault)) = injected.zip(own) {
            injected.remove();
            self.put_back(fault);
        }
        let stale = work.is_read() && answer.as_ref().is_ok_and(|n| *n < at_least);
        let error = answer.err();
        let class = error.as_ref().map_or(Class::Acknowledged, |error| error.class);
        Record { work, start, end, class, error, strike, received, stale }
    }

    /// How late this process itself is, all the time: a call cannot be blamed for that.
    pub(crate) async fn look_at_the_clock(&self) -> Vec<(Instant, Duration)> {
        let mut lags = Vec::new();
        while !self.is_done() {
            let due = Instant::now() + TICK;
            tokio::time::sleep_until(due.into()).await;
            let now = Instant::now();
            lags.push((now, now - due));
        }
        lags
    }
}

impl Record {
    /// How long after its deadline it ended.
    pub(crate) fn late(&self, lags: &[(Instant, Duration)]) -> Duration {
        late(self.start + DEADLINE, self.end, lags)
    }
}

/// How long after the moment it was `due` at it ended, less what the process was late at that time.
pub(crate) fn late(mut due: Instant, end: Instant, lags: &[(Instant, Duration)]) -> Duration {
    let mut lags = &lags[lags.partition_point(|(at, _)| *at < due)..];
    // It did not run when it was due.
    if let Some(((at, lag), others)) = lags.split_first()
        && *at - *lag <= due
    {
        (due, lags) = (*at, others);
    }
    let lag = lags.iter().take_while(|(at, lag)| *at - *lag <= end).map(|(_, lag)| *lag).max();
    end.saturating_duration_since(due).saturating_sub(lag.unwrap_or_default())
}
