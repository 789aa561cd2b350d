//! Brings the faults about that everybody meets.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rds_proxy_pool::emulator::{Existing, Fault, Injected, Kind, Link, Message, Point};

use crate::Outcome;
use crate::kernel::{Disturbance, Network};
use crate::plan::{Global, Plan};
use crate::stage::{Run, Stage, Window, lock};
use crate::support::servers::pair::Ending;

/// The borrow timeout of RDS Proxy.
const USUAL_BORROW_TIMEOUT: Duration = Duration::from_secs(120);
/// Until a cut has reached whom it cuts off.
const ARRIVAL: Duration = Duration::from_millis(20);
/// In this time everybody who is cut off by a command without an end of its own has been.
const AFTERMATH: Duration = Duration::from_millis(150);
/// Before somebody notices that the primary is gone.
const UNNOTICED: Duration = Duration::from_millis(50);
/// So long COMMITs pile up before a crash.
const PILED: Duration = Duration::from_millis(250);
/// The last faults of logins wait for somebody to log in; they do not wait for ever.
const LAST_LOGINS: u32 = 50;

impl Run<'_> {
    /// Goes through the plan, or through as much of it as there is time for.
    pub(crate) async fn direct(&self, plan: &Plan, until: Instant) -> Outcome<()> {
        let gone_through = self.go_through(plan, until).await;
        self.done.store(true, Ordering::Relaxed);
        gone_through
    }

    async fn go_through(&self, plan: &Plan, until: Instant) -> Outcome<()> {
        for fault in &plan.global {
            if Instant::now() > until {
                break;
            }
            self.strike(*fault).await?;
            self.global_done.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(plan.breath).await;
        }
        let mut more = LAST_LOGINS;
        let logins = || self.logins_injected.load(Ordering::Relaxed).saturating_sub(self.watch.logins_struck());
        while (self.local_left() > 0 || (logins() > 0 && more > 0)) && Instant::now() < until {
            if self.local_left() == 0 {
                more -= 1;
                if more.is_multiple_of(10) {
                    // One that was met at the end of a connection for another reason struck nobody.
                    drop(self.stage.proxy.inject(Fault::new(Message::Login, Point::BeforeReply, Kind::Close)));
                }
                let begin = Instant::now();
                self.cut_idle(false).await;
                // There was a link by now, on which it arrives late: it may well meet something under way.
                let end = Instant::now() + AFTERMATH;
                let name = "last_cuts";
                let last = Window { name, begin, served: None, end, idle: false, for_all: true, writes_only: false };
                lock(&self.windows).push(last);
            }
            tokio::time::sleep(plan.breath).await;
        }
        Ok(())
    }

    async fn strike(&self, fault: Global) -> Outcome<()> {
        if let Global::Stopped { lasts, idle, network } = fault {
            return self.stop(fault.name(), lasts, idle, network).await;
        }
        let (proxy, pair) = (&self.stage.proxy, &self.stage.pair);
        let begin = Instant::now();
        let mut served = None;
        match fault {
            Global::Cut { reset: false } => proxy.cut_all().await,
            Global::Cut { reset: true } => proxy.reset_all().await,
            Global::CutIdle { reset } => self.cut_idle(reset).await,
            Global::Freeze { minutes, reset } => self.freeze(minutes, reset).await,
            Global::FailOver { ending, existing, noticed } => {
                if noticed {
                    proxy.clear_backend();
                }
                tokio::join!(pair.fail_over(ending), self.notice());
                self.stage.lead_to_the_primary(existing);
                served = Some(Instant::now());
                tokio::time::sleep(AFTERMATH).await;
            }
            Global::Demoted { existing, back, lasts } => {
                self.stage.lead_to_the_standby(existing);
                tokio::time::sleep(lasts).await;
                self.stage.lead_to_the_primary(back);
                served = Some(Instant::now());
                tokio::time::sleep(AFTERMATH).await;
            }
            Global::Refuse { lasts } => {
                proxy.refuse_connections().await;
                proxy.cut_all().await;
                tokio::time::sleep(lasts).await;
                proxy.accept_connections().await;
                served = Some(Instant::now());
            }
            Global::Silence { lasts } => {
                proxy.stop_answering();
                tokio::time::sleep(lasts).await;
                proxy.resume_answering();
                served = Some(Instant::now());
            }
            Global::NoWriter { lasts, borrow_timeout } => {
                proxy.set_connection_borrow_timeout(borrow_timeout.unwrap_or(USUAL_BORROW_TIMEOUT));
                proxy.clear_backend();
                tokio::time::sleep(lasts).await;
                self.stage.lead_to_the_primary(Existing::Move);
                served = Some(Instant::now());
                proxy.set_connection_borrow_timeout(USUAL_BORROW_TIMEOUT);
                tokio::time::sleep(AFTERMATH).await;
            }
            Global::Throttled { by_token, per_second, lasts } => {
                let limit = |limit| match by_token {
                    true => proxy.set_iam_rate_limit(limit),
                    false => proxy.set_connection_rate_limit(limit),
                };
                limit(Some(per_second));
                proxy.cut_all().await;
                tokio::time::sleep(lasts).await;
                limit(None);
                served = Some(Instant::now());
            }
            Global::SlowLink { latency, lasts } => {
                proxy.set_link(Link::new().latency(latency).jitter(latency / 4));
                proxy.cut_all().await;
                tokio::time::sleep(lasts).await;
                proxy.set_link(Link::new());
                proxy.cut_all().await;
                // Over the link the cut comes late: it may meet what has begun since.
                tokio::time::sleep(AFTERMATH).await;
            }
            Global::DroppedPackets { lasts } => {
                let mut dropping = self.stage.kernel.drop_packets(lasts, proxy.port())?;
                dropping.goes_on().await?;
                dropping.end().await?;
                served = Some(Instant::now());
                tokio::time::sleep(AFTERMATH).await;
            }
            Global::Restart { noticed, piled } => {
                let kept = self.pile_up(piled).await;
                if noticed {
                    proxy.clear_backend();
                }
                let restarting = async {
                    pair.primary().kill9().await;
                    pair.primary().start_again().await;
                };
                tokio::join!(restarting, self.notice());
                self.stage.lead_to_the_primary(Existing::Move);
                served = Some(Instant::now());
                kept.into_iter().for_each(Injected::remove);
                tokio::time::sleep(AFTERMATH).await;
            }
            Global::Crash { piled } => {
                let kept = self.pile_up(piled).await;
                if self.stage.kill_a_process().await? {
                    tokio::time::sleep(UNNOTICED).await;
                    pair.primary().wait_ready().await;
                    served = Some(Instant::now());
                }
                kept.into_iter().for_each(Injected::remove);
                tokio::time::sleep(AFTERMATH).await;
            }
            Global::MissedCommits { lasts } => {
                pair.disconnect().await;
                tokio::time::sleep(lasts).await;
                tokio::join!(pair.fail_over(Ending::Kill9), self.notice());
                self.stage.lead_to_the_primary(Existing::Move);
                served = Some(Instant::now());
                tokio::time::sleep(AFTERMATH).await;
            }
            // It has windows of its own.
            Global::Stopped { .. } => {}
        }
        let writes_only = matches!(fault, Global::Demoted { .. });
        let idle = matches!(fault, Global::CutIdle { .. } | Global::Freeze { .. });
        let end = Instant::now();
        lock(&self.windows).push(Window { name: fault.name(), begin, served, end, idle, writes_only, for_all: true });
        if matches!(fault, Global::FailOver { .. } | Global::MissedCommits { .. }) {
            pair.rebuild().await;
        }
        Ok(())
    }

    /// Keeps all COMMITs on their way, if so told, until most workers wait for one.
    async fn pile_up(&self, piled: bool) -> Option<Injected> {
        if !piled {
            return None;
        }
        let kept = Kind::Delay { least: PILED + UNNOTICED, most: 2 * PILED };
        let kept = Fault::new(Message::Commit, Point::BeforeRequest, kept).times(u64::MAX);
        let kept = self.stage.proxy.inject(kept);
        tokio::time::sleep(PILED).await;
        Some(kept)
    }

    /// The proxy finds out that its writer is gone.
    async fn notice(&self) {
        tokio::time::sleep(UNNOTICED).await;
        self.stage.proxy.clear_backend();
    }

    /// Stops this process, workers and emulator and all. What was idle has no excuse for an unknown outcome, however long its
    /// packets are dropped afterwards.
    async fn stop(&self, name: &'static str, lasts: Duration, idle: bool, network: Network) -> Outcome<()> {
        let Stage { proxy, kernel, gate, .. } = self.stage;
        let nothing_is_under_way = if idle { Some(gate.write().await) } else { None };
        let begin = Instant::now();
        let mut disturbance: Disturbance = kernel.stop(lasts, network, proxy.port())?;
        disturbance.goes_on().await?;
        if matches!(network, Network::Reset) && !kernel.resets {
            proxy.reset_all().await;
        }
        let released = Instant::now();
        drop(nothing_is_under_way);
        disturbance.end().await?;
        let served = Some(Instant::now());
        tokio::time::sleep(AFTERMATH).await;
        let end = if idle { released } else { Instant::now() };
        lock(&self.windows).push(Window { name, begin, served, end, idle, writes_only: false, for_all: true });
        Ok(())
    }

    /// What is cut here was idle: there is no excuse for an unknown outcome.
    async fn cut_idle(&self, reset: bool) {
        let _nothing_is_under_way = self.stage.gate.write().await;
        self.cut(reset).await;
    }

    async fn freeze(&self, minutes: u64, reset: Option<bool>) {
        let _nothing_is_under_way = self.stage.gate.write().await;
        self.stage.clock.advance(Duration::from_secs(60 * minutes));
        if let Some(reset) = reset {
            self.cut(reset).await;
        }
    }

    async fn cut(&self, reset: bool) {
        match reset {
            true => self.stage.proxy.reset_all().await,
            false => self.stage.proxy.cut_all().await,
        }
        // On a link this takes its time to reach the clients.
        tokio::time::sleep(ARRIVAL).await;
    }
}
