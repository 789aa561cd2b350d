//! The faults that are in force, and the search for the one a message meets.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::SessionId;
use super::event::{Event, Events};
use super::fault::{ClientMessage, Delivered, Fault, Kind, Message, Point, Schedule, Strike};

/// A fault or a schedule in force; it stays so when this is dropped.
pub struct Injected {
    id: u64,
    events: Events,
    faults: Arc<Faults>,
}

impl Injected {
    /// Waits until it strikes, or strikes again. A strike that thousands of events have followed is forgotten.
    ///
    /// # Cancel safety
    /// No strike is lost.
    pub async fn struck(&mut self) -> Strike {
        loop {
            if let Event::Struck(strike) = self.events.next().await
                && strike.fault == self.id
            {
                return strike;
            }
        }
    }

    /// Takes it away; what it has struck stays so.
    pub fn remove(self) {
        self.faults.remove(self.id);
    }
}

impl fmt::Debug for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injected").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A fault on its way to the point where it strikes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Armed {
    pub(super) message: Message,
    pub(super) point: Point,
    pub(super) kind: Kind,
    /// Between the shortest and the longest delay.
    pub(super) delay: Duration,
    fault: u64,
}

impl Armed {
    pub(super) fn strike(&self, session: SessionId, received: Option<ClientMessage>, delivered: Delivered) -> Strike {
        let Armed { message, point, kind, fault, .. } = *self;
        Strike { session, message, point, kind, received, delivered, fault }
    }
}

/// The faults in force.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<InForce>);

#[derive(Debug, Default)]
struct InForce {
    last: u64,
    single: Vec<(u64, Fault)>,
    schedules: Vec<(u64, Schedule, fastrand::Rng)>,
}

impl Faults {
    pub(super) fn inject(self: &Arc<Self>, fault: Fault, events: Events) -> Injected {
        let mut faults = self.lock();
        let id = faults.next_id();
        faults.single.push((id, fault));
        Injected { id, events, faults: Arc::clone(self) }
    }

    pub(super) fn follow(self: &Arc<Self>, schedule: Schedule, events: Events) -> Injected {
        let mut faults = self.lock();
        let id = faults.next_id();
        let random = fastrand::Rng::with_seed(schedule.seed);
        faults.schedules.push((id, schedule, random));
        Injected { id, events, faults: Arc::clone(self) }
    }

    pub(super) fn clear(&self) {
        let mut faults = self.lock();
        faults.single.clear();
        faults.schedules.clear();
    }

    fn remove(&self, id: u64) {
        let mut faults = self.lock();
        faults.single.retain(|(other, _)| *other != id);
        faults.schedules.retain(|(other, ..)| *other != id);
    }

    /// The fault that a client meets at this message: of those that fit the oldest, then the schedules'.
    pub(super) fn meet(&self, session: SessionId, message: Message, text: Option<&str>) -> Option<Armed> {
        let mut faults = self.lock();
        let single = faults.single.iter_mut().find_map(|(id, fault)| fault.meet(*id, session, message, text));
        faults.single.retain(|(_, fault)| fault.times > 0);
        single.or_else(|| {
            faults.schedules.iter_mut().find_map(|(id, schedule, random)| schedule.meet(*id, message, random))
        })
    }

    fn lock(&self) -> MutexGuard<'_, InForce> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InForce {
    fn next_id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Fault {
    fn meet(&mut self, id: u64, session: SessionId, message: Message, text: Option<&str>) -> Option<Armed> {
        let fits = self.message == message
            && self.kind.fits(message)
            && self.session.is_none_or(|only| only == session)
            && self.text.as_deref().is_none_or(|part| text.is_some_and(|text| text.contains(part)));
        if !fits {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times = self.times.checked_sub(1)?;
        let Fault { point, kind, .. } = *self;
        Some(Armed { message, point, kind, delay: delay(kind, &mut fastrand::Rng::with_seed(id)), fault: id })
    }
}

impl Schedule {
    fn meet(&mut self, id: u64, message: Message, random: &mut fastrand::Rng) -> Option<Armed> {
        if self.at_most == 0 || !self.messages.contains(&message) {
            return None;
        }
        if random.u32(..self.one_in) != 0 {
            return None;
        }
        let kinds: Vec<Kind> = self.kinds.iter().copied().filter(|kind| kind.fits(message)).collect();
        let (point, kind) = (*random.choice(&self.points)?, random.choice(kinds)?);
        let delay = delay(kind, random);
        self.at_most -= 1;
        Some(Armed { message, point, kind, delay, fault: id })
    }
}

fn delay(kind: Kind, random: &mut fastrand::Rng) -> Duration {
    let (Kind::Delay { least, most } | Kind::Late { least, most }) = kind else { return Duration::ZERO };
    least + most.saturating_sub(least).mul_f64(random.f64())
}
