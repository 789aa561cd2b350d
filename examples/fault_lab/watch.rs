//! What the emulator saw of each worker's calls, so that an unknown outcome can be held against it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rds_proxy_pool::emulator::{Event, Events, Kind, Message, RdsProxyEmulator, SessionId};

const TAG: &str = "/* worker ";

/// A comment that says whose statement it is.
pub(crate) fn tag(worker: usize) -> String {
    format!("{TAG}{worker} */")
}

fn worker_of(sql: &str) -> Option<usize> {
    sql.rsplit_once(TAG)?.1.split(' ').next()?.parse().ok()
}

/// Reads the emulator's log as far as it has come, whenever a call begins or ends.
pub(crate) struct Watch(Mutex<Seen>);

struct Seen {
    events: Events,
    /// Whether a statement of the worker's present call has arrived whole.
    received: Vec<bool>,
    /// On which session the worker's last statement came.
    sessions: Vec<Option<SessionId>>,
    strikes: BTreeMap<&'static str, u64>,
    logins_struck: u64,
    /// When somebody's login was struck, and whether it met with silence or with an answer that took its time.
    logins: Vec<(Instant, bool)>,
    /// When somebody was shown a certificate that nobody may trust.
    certificates: Vec<Instant>,
}

impl Watch {
    pub(crate) fn new(proxy: &RdsProxyEmulator, workers: usize) -> Self {
        Watch(Mutex::new(Seen {
            events: proxy.events(),
            received: vec![false; workers],
            sessions: vec![None; workers],
            strikes: BTreeMap::new(),
            logins_struck: 0,
            logins: Vec::new(),
            certificates: Vec::new(),
        }))
    }

    pub(crate) fn call_begins(&self, worker: usize) {
        self.up_to_date().received[worker] = false;
    }

    /// Whether the emulator received the statement of the call that ends.
    pub(crate) fn call_ends(&self, worker: usize) -> bool {
        self.up_to_date().received[worker]
    }

    /// The session of the worker's last statement.
    pub(crate) fn session(&self, worker: usize) -> Option<SessionId> {
        self.up_to_date().sessions[worker]
    }

    /// Strikes by kind.
    pub(crate) fn strikes(&self) -> BTreeMap<&'static str, u64> {
        self.up_to_date().strikes.clone()
    }

    pub(crate) fn logins_struck(&self) -> u64 {
        self.up_to_date().logins_struck
    }

    pub(crate) fn logins(&self) -> Vec<(Instant, bool)> {
        self.up_to_date().logins.clone()
    }

    pub(crate) fn certificates(&self) -> Vec<Instant> {
        self.up_to_date().certificates.clone()
    }

    fn up_to_date(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(event) = seen.events.try_next() {
            match event {
                Event::Statement { sql, session } => {
                    if let Some(worker) = worker_of(&sql).filter(|worker| *worker < seen.received.len()) {
                        seen.received[worker] = true;
                        seen.sessions[worker] = Some(session);
                    }
                }
                Event::Struck(strike) => {
                    *seen.strikes.entry(name(strike.kind)).or_default() += 1;
                    if matches!(strike.message, Message::Startup | Message::Login) {
                        seen.logins_struck += 1;
                        let slow =
                            is_silent(strike.kind) || matches!(strike.kind, Kind::Delay { .. } | Kind::Drip { .. });
                        seen.logins.push((Instant::now(), slow));
                        let certificate = matches!(strike.kind, Kind::UnknownIssuer | Kind::OtherHost);
                        seen.certificates.extend(certificate.then(Instant::now));
                    }
                }
                _ => {}
            }
        }
        seen
    }
}

/// Whether the client waits for ever.
pub(crate) fn is_silent(kind: Kind) -> bool {
    matches!(kind, Kind::StopReading | Kind::NeverAnswer)
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Close => "close",
        Kind::Reset => "reset",
        Kind::AdminShutdown => "admin_shutdown",
        Kind::CrashShutdown => "crash_shutdown",
        Kind::CannotConnectNow => "cannot_connect_now",
        Kind::StopReading => "stop_reading",
        Kind::NeverAnswer => "never_answer",
        Kind::Delay { .. } => "delay",
        Kind::Drip { .. } => "drip",
        Kind::Late { .. } => "late",
        Kind::UnknownIssuer => "certificate_of_unknown_issuer",
        Kind::OtherHost => "certificate_of_other_host",
        _ => "other",
    }
}
