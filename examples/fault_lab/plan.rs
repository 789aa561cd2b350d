//! Which faults there will be, and in which order: the same ones for the same seed.

use std::collections::VecDeque;
use std::time::Duration;

use rds_proxy_pool::emulator::{Existing, Fault, Kind, Message, Point};

use crate::kernel::{Kernel, Network};
use crate::support::servers::pair::Ending;

/// Between two faults that everybody meets.
const BREATH: Duration = Duration::from_millis(150);
/// Of so many faults one is a failover of the pair.
const PER_FAILOVER: u64 = 100;
/// Of so many faults one concerns everybody.
const PER_GLOBAL: u64 = 15;
/// From so many faults on there are two outages that no deadline outlives.
const LONG_RUN: u64 = 500;
/// Of so many faults one stops this process, and one drops packets.
const PER_STOP: u64 = 200;
/// An outage that no deadline outlives.
const LONG: Duration = Duration::from_secs(10);

/// A fault of one connection, at a point of its conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local {
    pub(crate) message: Message,
    pub(crate) point: Point,
    pub(crate) kind: Kind,
    /// In place of all that: a lock on the server holds a COMMIT for so long, and its client is cut off meanwhile.
    pub(crate) held: Option<Duration>,
}

/// A fault that everybody meets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Global {
    /// Every connection is cut, whatever is under way.
    Cut { reset: bool },
    /// Every connection is cut while nothing is under way.
    CutIdle { reset: bool },
    /// The primary ends and the standby takes over; the proxy has noticed before, or notices by what breaks.
    FailOver { ending: Ending, existing: Existing, noticed: bool },
    /// The proxy leads to a server that cannot write.
    Demoted { existing: Existing, back: Existing, lasts: Duration },
    /// Nobody listens.
    Refuse { lasts: Duration },
    /// The proxy takes everything and says nothing.
    Silence { lasts: Duration },
    /// There is no writer, and work queues; with a borrow timeout it does not queue for long.
    NoWriter { lasts: Duration, borrow_timeout: Option<Duration> },
    /// Everybody has to log in again, and few are let in.
    Throttled { by_token: bool, per_second: u32, lasts: Duration },
    /// Time passes and nobody runs; connections may be gone meanwhile, and tokens may have expired.
    Freeze { minutes: u64, reset: Option<bool> },
    /// Bytes take their time.
    SlowLink { latency: Duration, lasts: Duration },
    /// This process is stopped, with calls under way or without, and its connections suffer meanwhile.
    Stopped { lasts: Duration, idle: bool, network: Network },
    /// The primary is killed and started again; `piled` with all COMMITs kept on their way before.
    Restart { noticed: bool, piled: bool },
    /// One process of the primary is killed, and the primary ends all others and recovers.
    Crash { piled: bool },
    /// As [`FailOver`](Self::FailOver), of a standby that has not got what was committed last; nobody was told of that.
    MissedCommits { lasts: Duration },
    /// The kernel drops all packets.
    DroppedPackets { lasts: Duration },
}

impl Global {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Global::Cut { reset: false } => "cut_busy",
            Global::Cut { reset: true } => "reset_busy",
            Global::CutIdle { reset: false } => "cut_idle",
            Global::CutIdle { reset: true } => "reset_idle",
            Global::FailOver { ending: Ending::Kill9, .. } => "kill9_and_promote",
            Global::FailOver { ending: Ending::StopFast, .. } => "stop_fast_and_promote",
            Global::Demoted { .. } => "demoted_writer",
            Global::Refuse { .. } => "refuse_connections",
            Global::Silence { .. } => "stop_answering",
            Global::NoWriter { borrow_timeout: None, .. } => "no_writer",
            Global::NoWriter { .. } => "borrow_timeout",
            Global::Throttled { by_token: false, .. } => "connection_rate",
            Global::Throttled { .. } => "iam_rate",
            Global::Freeze { minutes: 15.., .. } => "token_expiry",
            Global::Freeze { .. } => "freeze",
            Global::SlowLink { .. } => "slow_link",
            Global::Stopped { idle: true, network: Network::Reset, .. } => "stopped_idle_and_reset",
            Global::Stopped { idle: true, .. } => "stopped_idle_and_dropped",
            Global::Stopped { network: Network::Reset, .. } => "stopped_busy_and_reset",
            Global::Stopped { .. } => "stopped_busy_and_dropped",
            Global::DroppedPackets { .. } => "dropped_packets",
            Global::Restart { .. } => "kill9_and_restart",
            Global::Crash { .. } => "kill9_of_a_backend",
            Global::MissedCommits { .. } => "promoted_without_the_last_commits",
        }
    }
}

/// Everything a run will meet.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) local: VecDeque<Local>,
    pub(crate) global: Vec<Global>,
    /// Between two of the faults that everybody meets: time to recover, and to work.
    pub(crate) breath: Duration,
}

impl Plan {
    pub(crate) fn new(seed: u64, faults: u64, kernel: Kernel) -> Plan {
        let mut random = fastrand::Rng::with_seed(seed);
        let failovers = faults.div_ceil(PER_FAILOVER);
        let mut global: Vec<Global> = (0..faults / PER_GLOBAL).map(|_| anything(&mut random)).collect();
        if faults >= LONG_RUN {
            global.push(Global::Silence { lasts: LONG });
            global.push(Global::NoWriter { lasts: LONG, borrow_timeout: None });
        }
        global.extend((0..failovers).map(|number| failover(number, &mut random)));
        // From a series of their own: the others are the same ones on every machine.
        let mut apart = fastrand::Rng::with_seed(!seed);
        for number in 0..faults / PER_STOP {
            global.extend(stopped(number, kernel, &mut apart));
            global.extend(kernel.drops.then(|| Global::DroppedPackets { lasts: short(&mut apart) }));
        }
        random.shuffle(&mut global);
        // Last, because everything after it runs over threads of the link.
        for latency in [5, 15, 30].map(Duration::from_millis).into_iter().take(usize::from(faults >= 50) * 3) {
            global.push(Global::SlowLink { latency, lasts: outage(&mut random) });
        }
        let local = (global.len() as u64..faults).map(|_| local(&mut random)).collect();
        Plan { local, global, breath: BREATH }
    }

    pub(crate) fn faults(&self) -> u64 {
        (self.local.len() + self.global.len()) as u64
    }
}

impl Local {
    pub(crate) fn fault(self) -> Fault {
        Fault::new(self.message, self.point, self.kind)
    }

    /// Whether any client can meet it, because it has not said yet what it wants.
    pub(crate) fn is_of_login(self) -> bool {
        matches!(self.message, Message::Startup | Message::Login)
    }
}

fn local(random: &mut fastrand::Rng) -> Local {
    let message = match random.u8(..100) {
        0..8 => Message::Startup,
        8..16 => Message::Login,
        16..32 => Message::Parse,
        _ => Message::Execute,
    };
    let point = *random.choice(&Point::ALL).unwrap_or(&Point::BeforeReply);
    let kind = match random.u8(..100) {
        0..6 if message == Message::Startup => Kind::UnknownIssuer,
        6..12 if message == Message::Startup => Kind::OtherHost,
        0..20 => Kind::Close,
        20..40 => Kind::Reset,
        40..50 => Kind::AdminShutdown,
        50..58 => Kind::CrashShutdown,
        58..64 => Kind::CannotConnectNow,
        64..78 => Kind::Delay { least: Duration::from_millis(20), most: Duration::from_millis(600) },
        78..93 => Kind::Drip { bytes: random.usize(1..30), every: Duration::from_millis(1) },
        93..96 => Kind::StopReading,
        _ => Kind::NeverAnswer,
    };
    Local { message, point, kind, held: None }
}

fn anything(random: &mut fastrand::Rng) -> Global {
    let reset = random.bool();
    let lasts = outage(random);
    match random.u8(..100) {
        0..14 => Global::Cut { reset },
        14..28 => Global::CutIdle { reset },
        28..44 => Global::Demoted { existing: move_or_stay(random), back: move_or_stay(random), lasts },
        44..54 => Global::Refuse { lasts },
        54..62 => Global::Silence { lasts },
        62..70 => Global::NoWriter { lasts, borrow_timeout: None },
        70..78 => Global::NoWriter { lasts, borrow_timeout: Some(Duration::from_millis(random.u64(50..300))) },
        78..86 => Global::Throttled { by_token: random.bool(), per_second: random.u32(1..4), lasts },
        86..92 => Global::Freeze { minutes: 16, reset: Some(reset) },
        _ => Global::Freeze { minutes: random.u64(1..15), reset: random.bool().then_some(reset) },
    }
}

/// Shorter than a deadline.
fn outage(random: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(random.u64(20..1200))
}

/// Short enough for a packet that is sent again after 200, 400 and 800 ms.
fn short(random: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(random.u64(20..600))
}

/// Long enough for a connection that was idle meanwhile to be suspect.
fn stopped(number: u64, kernel: Kernel, random: &mut fastrand::Rng) -> Option<Global> {
    let lasts = Duration::from_millis(random.u64(1050..1300));
    let network = if number.is_multiple_of(2) { Network::Reset } else { Network::Dropped(short(random) / 2) };
    let possible = kernel.drops || matches!(network, Network::Reset);
    possible.then_some(Global::Stopped { lasts, idle: number % 4 < 2, network })
}

fn move_or_stay(random: &mut fastrand::Rng) -> Existing {
    if random.bool() { Existing::Move } else { Existing::Stay }
}

pub(crate) fn failover(number: u64, random: &mut fastrand::Rng) -> Global {
    let ending = if number.is_multiple_of(2) { Ending::Kill9 } else { Ending::StopFast };
    let existing = *random.choice(&[Existing::Move, Existing::Drop, Existing::Terminate]).unwrap_or(&Existing::Move);
    Global::FailOver { ending, existing, noticed: random.bool() }
}
