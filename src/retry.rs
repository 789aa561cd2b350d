//! Whether a failed attempt is repeated, and when: decided from what is known of it, with the time as an argument.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::outcome::{Outcome, Reaction};

/// An attempt is made this often at most where no deadline ends it, the first one included.
const MAX_ATTEMPTS: u32 = 10;
/// Where no deadline is known, pauses are those of a call with so much time left.
const TIME_LEFT: Duration = Duration::from_secs(8);

/// Where no deadline is known, a repeat waits so long at most for its turn among those of other calls.
const LONGEST_TURN: Duration = Duration::from_secs(1);

/// When doing something twice does harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Never: it runs nothing, cannot write, or the caller said so.
    Harmless,
    /// Unless the server has left nothing of the first time.
    IfUndone,
    /// As soon as it was sent: part of it may stay whatever the server answers.
    IfUnsent,
}

impl Repeat {
    /// Whether a repeat is safe after an attempt with this outcome.
    fn is_safe_after(self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::NotSent => true,
            Outcome::Unknown => self == Repeat::Harmless,
            outcome => outcome.left_nothing() && self != Repeat::IfUnsent,
        }
    }
}

/// A failed attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed {
    pub(crate) outcome: Outcome,
    pub(crate) reaction: Reaction,
    pub(crate) repeat: Repeat,
    /// How many there have been, this one included.
    pub(crate) made: u32,
}

/// What bounds the next attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) now: Instant,
    /// The call must have answered by then; `None` where no deadline is known.
    pub(crate) until: Option<Instant>,
    /// An attempt with less time than this is not begun.
    pub(crate) min_attempt: Duration,
}

/// The pauses between the attempts of one call.
#[derive(Debug)]
pub(crate) struct Retry {
    failures: Backoff,
    throttling: Backoff,
}

impl Retry {
    pub(crate) fn new(failures: fastrand::Rng, throttling: fastrand::Rng) -> Self {
        let (failures, throttling) = (Backoff::for_failures(failures), Backoff::for_throttling(throttling));
        Retry { failures, throttling }
    }

    /// When the next attempt begins; `None` when there is none: it would not be safe, or of no use, or too late, or one too
    /// many.
    pub(crate) fn next(&mut self, failed: Failed, room: Room, budget: &mut RetryBudget) -> Option<Instant> {
        if !failed.repeat.is_safe_after(failed.outcome) {
            return None;
        }
        let left = room.until.map_or(TIME_LEFT, |until| until.saturating_duration_since(room.now));
        let pause = match failed.reaction {
            Reaction::Surface | Reaction::NewToken => return None,
            Reaction::Reconnect | Reaction::BackOff => self.failures.next_within(left),
            Reaction::Throttle => self.throttling.next_within(left),
        };
        let drawn = room.now + pause;
        let at = match room.until {
            Some(until) if drawn + room.min_attempt <= until => drawn,
            // Whatever was drawn, one more attempt is made, in time for it to connect as well.
            Some(until) => latest_resume(room.now, until, room.min_attempt)?,
            None if failed.made < MAX_ATTEMPTS => drawn,
            None => return None,
        };
        // Others may have been first: it waits for its turn, and gives up only if that comes too late.
        let last = match room.until {
            Some(until) => until.checked_sub(room.min_attempt)?,
            None => room.now + LONGEST_TURN,
        };
        budget.turn(room.now, at, last)
    }
}

/// The latest instant for one more attempt to begin, so that it can still connect and a timer may be late; `None` where it
/// has passed.
pub(crate) fn latest_resume(now: Instant, until: Instant, min_attempt: Duration) -> Option<Instant> {
    until.checked_sub(2 * min_attempt).filter(|latest| *latest > now)
}

/// What all calls of a pool may repeat together, so that many that fail at once do not become a storm: a bucket of tokens,
/// one for each repeat, that fills by itself. Who finds it empty waits for the next token.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    capacity: f64,
    tokens: f64,
    filled: Option<Instant>,
}

impl RetryBudget {
    /// As many repeats may come at once in a small pool.
    const LEAST: f64 = 50.0;
    /// And for each connection of a large one: when a database fails over, all lose their statements at once.
    const PER_CONNECTION: f64 = 4.0;
    /// What flows in, as a part of the whole: in a small pool more than one call uses up that waits between its attempts
    /// as the policy says.
    const PER_SECOND: f64 = 0.4;

    /// The budget of a pool with as many connections.
    pub(crate) fn for_connections(connections: u32) -> Self {
        let capacity = (f64::from(connections) * Self::PER_CONNECTION).max(Self::LEAST);
        RetryBudget { capacity, tokens: capacity, filled: None }
    }

    /// When a repeat planned for `at` may begin; `None`, and nothing is taken, if that is after `last`.
    fn turn(&mut self, now: Instant, at: Instant, last: Instant) -> Option<Instant> {
        let passed = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.filled = Some(now);
        let per_second = Self::PER_SECOND * self.capacity;
        self.tokens = passed.as_secs_f64().mul_add(per_second, self.tokens).min(self.capacity);
        // What is missing belongs to those who wait already.
        let missing = (1.0 - self.tokens).max(0.0);
        let turn = at.max(now + Duration::from_secs_f64(missing / per_second));
        if turn > at.max(last) {
            return None;
        }
        self.tokens -= 1.0;
        Some(turn)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{AdjustableClock, Clock};

    impl Default for RetryBudget {
        fn default() -> Self {
            RetryBudget::for_connections(1)
        }
    }

    const OUTCOMES: [Outcome; 6] = [
        Outcome::NotSent,
        Outcome::NotExecuted,
        Outcome::Undone,
        Outcome::RolledBack,
        Outcome::Unknown,
        Outcome::Committed,
    ];
    const REACTIONS: [Reaction; 5] =
        [Reaction::Reconnect, Reaction::NewToken, Reaction::BackOff, Reaction::Throttle, Reaction::Surface];
    const REPEATS: [Repeat; 3] = [Repeat::Harmless, Repeat::IfUndone, Repeat::IfUnsent];

    fn failed() -> impl Strategy<Value = Failed> {
        let parts = (prop::sample::select(&OUTCOMES[..]), prop::sample::select(&REACTIONS[..]));
        (parts, prop::sample::select(&REPEATS[..])).prop_map(|((outcome, reaction), repeat)| Failed {
            outcome,
            reaction,
            repeat,
            made: 1,
        })
    }

    fn retry(seed: u64) -> Retry {
        Retry::new(fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(seed + 1))
    }

    proptest! {
        #[test]
        fn what_may_have_been_done_and_may_write_is_never_repeated(seed: u64, failures in prop::collection::vec(failed(), 1..30)) {
            let now = AdjustableClock::new().monotonic();
            let (mut retry, mut budget) = (retry(seed >> 1), RetryBudget::default());
            for failed in failures {
                let room = Room { now, until: Some(now + Duration::from_secs(60)), min_attempt: Duration::ZERO };
                if retry.next(failed, room, &mut budget).is_some() {
                    let Failed { outcome, reaction, repeat, .. } = failed;
                    prop_assert!(outcome != Outcome::Unknown || repeat == Repeat::Harmless);
                    prop_assert!(outcome == Outcome::NotSent || repeat != Repeat::IfUnsent);
                    prop_assert!(!matches!(outcome, Outcome::Committed | Outcome::Undone));
                    prop_assert!(!matches!(reaction, Reaction::Surface | Reaction::NewToken), "of no use");
                }
            }
        }

        #[test]
        fn no_attempt_begins_that_cannot_end_in_time_and_all_end_by_the_deadline(
            seed: u64,
            time_ms in 0_u64..5000,
            min_attempt_ms in 0_u64..200,
            took_ms in prop::collection::vec(0_u64..400, 1..200),
            reaction in prop::sample::select(&REACTIONS[..]),
        ) {
            let start = AdjustableClock::new().monotonic();
            let until = start + Duration::from_millis(time_ms);
            let min_attempt = Duration::from_millis(min_attempt_ms);
            let (mut retry, mut budget) = (retry(seed >> 1), RetryBudget::default());
            let mut now = start;
            for took in took_ms {
                // An attempt is cut off by the deadline itself.
                now = (now + Duration::from_millis(took)).min(until.max(now));
                let failed = Failed { outcome: Outcome::NotSent, reaction, repeat: Repeat::IfUndone, made: 1 };
                let Some(at) = retry.next(failed, Room { now, until: Some(until), min_attempt }, &mut budget) else { break };
                prop_assert!(at >= now && at + min_attempt <= until);
                now = at;
            }
            prop_assert!(now <= until.max(start));
        }

        #[test]
        fn without_a_deadline_attempts_are_few(seed: u64) {
            let now = AdjustableClock::new().monotonic();
            let (mut retry, mut budget) = (retry(seed >> 1), RetryBudget::default());
            let room = Room { now, until: None, min_attempt: Duration::ZERO };
            let failed = |made| Failed { outcome: Outcome::NotSent, reaction: Reaction::BackOff, repeat: Repeat::Harmless, made };
            let made = (1..).find(|made| retry.next(failed(*made), room, &mut budget).is_none());
            prop_assert_eq!(made, Some(MAX_ATTEMPTS));
        }

        #[test]
        fn a_budget_never_gives_more_than_it_holds_and_what_has_flowed_in(steps in prop::collection::vec(0_u64..300, 1..400)) {
            let start = AdjustableClock::new().monotonic();
            let (mut now, mut budget, mut turns) = (start, RetryBudget::default(), Vec::new());
            for step in steps {
                now += Duration::from_millis(step);
                turns.extend(budget.turn(now, now, now + Duration::from_secs(5)));
            }
            for (before, turn) in turns.iter().enumerate() {
                let most = RetryBudget::LEAST * (*turn - start).as_secs_f64().mul_add(RetryBudget::PER_SECOND, 1.0);
                prop_assert!((before + 1) as f64 <= most + 1e-3, "number {before} after {:?}", *turn - start);
            }
        }
    }

    #[test]
    fn one_call_alone_does_not_use_up_the_budget() {
        let start = AdjustableClock::new().monotonic();
        let until = start + Duration::from_secs(60);
        for seed in 0..50 {
            let (mut retry, mut budget, mut now) = (retry(seed), RetryBudget::default(), start);
            let failed =
                Failed { outcome: Outcome::NotSent, reaction: Reaction::Reconnect, repeat: Repeat::IfUndone, made: 1 };
            while let Some(at) = retry.next(
                failed,
                Room { now, until: Some(until), min_attempt: Duration::from_millis(20) },
                &mut budget,
            ) {
                now = at;
            }
            assert!(until - now < Duration::from_millis(200), "it went on until the deadline: {:?}", until - now);
        }
    }

    #[test]
    fn a_pause_longer_than_the_time_left_is_cut_short_for_one_more_attempt() {
        let now = AdjustableClock::new().monotonic();
        let room = Room { now, until: Some(now + Duration::from_millis(201)), min_attempt: Duration::from_millis(100) };
        for seed in 0..50 {
            for reaction in [Reaction::Throttle, Reaction::BackOff] {
                let failed = Failed { outcome: Outcome::NotSent, reaction, repeat: Repeat::IfUndone, made: 1 };
                let at = retry(seed).next(failed, room, &mut RetryBudget::default()).expect("there is time for it");
                assert!(at <= now + Duration::from_millis(101));
            }
        }
    }

    /// When each of a thousand calls that fail together is made again.
    fn a_thousand_at_once(until: Option<Duration>) -> (Instant, Vec<Instant>) {
        let now = AdjustableClock::new().monotonic();
        let mut budget = RetryBudget::default();
        let room = Room { now, until: until.map(|until| now + until), min_attempt: Duration::ZERO };
        let failed =
            Failed { outcome: Outcome::NotSent, reaction: Reaction::Reconnect, repeat: Repeat::IfUndone, made: 1 };
        (now, (0..1000).filter_map(|seed| retry(seed).next(failed, room, &mut budget)).collect())
    }

    #[test]
    fn many_calls_at_once_share_the_budget_and_wait_for_their_turn_while_there_is_time() {
        let (per_second, capacity) =
            ((RetryBudget::PER_SECOND * RetryBudget::LEAST) as usize, RetryBudget::LEAST as usize);
        let (now, again) = a_thousand_at_once(Some(Duration::from_secs(9)));
        assert_eq!(again.len(), capacity + 9 * per_second, "the others have no turn in time");
        for seconds in 1..=9 {
            let begun = again.iter().filter(|at| **at <= now + Duration::from_secs(seconds)).count();
            assert!(begun <= capacity + seconds as usize * per_second, "{begun} within {seconds} s");
        }
        let (_, again) = a_thousand_at_once(None);
        assert_eq!(again.len(), capacity + per_second, "nobody waits for ever");
    }
}
