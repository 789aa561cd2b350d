//! How long to wait before the next attempt: full jitter under a growing cap.

use std::time::Duration;

/// Delays drawn evenly from zero to a cap that grows up to a ceiling ("full jitter"), so that environments that failed
/// together do not come back together.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    cap: Duration,
    growth: u32,
    ceiling: Ceiling,
    random: fastrand::Rng,
}

/// How long a delay may become.
#[derive(Clone, Copy, Debug)]
enum Ceiling {
    Fixed(Duration),
    /// At most half of the time left, so that one can come again more than once.
    HalfOfTheTimeLeft(Duration),
    /// A part of the time left, between two bounds: who has little time has to find a peer that is back at once, who has
    /// more leaves him room for the others.
    PartOfTheTimeLeft {
        part: u32,
        least: Duration,
        most: Duration,
    },
}

impl Ceiling {
    fn within(self, left: Duration) -> Duration {
        match self {
            Ceiling::Fixed(ceiling) => ceiling,
            Ceiling::HalfOfTheTimeLeft(ceiling) => ceiling.min(left / 2),
            Ceiling::PartOfTheTimeLeft { part, least, most } => (left / part).clamp(least, most),
        }
    }
}

impl Backoff {
    /// For a peer that refuses or drops connections: it may be back any moment.
    pub(crate) fn for_failures(random: fastrand::Rng) -> Self {
        let (least, most) = (Duration::from_millis(160), Duration::from_secs(1));
        let ceiling = Ceiling::PartOfTheTimeLeft { part: 30, least, most };
        Backoff { cap: Duration::from_millis(20), growth: 4, ceiling, random }
    }

    /// For a peer that says it is at its limit: coming back soon makes it worse.
    pub(crate) fn for_throttling(random: fastrand::Rng) -> Self {
        let ceiling = Ceiling::Fixed(Duration::from_secs(2));
        Backoff { cap: Duration::from_millis(200), growth: 2, ceiling, random }
    }

    /// For logins that are more than the peer takes. How many others were refused with this one, nobody knows: a whole
    /// fleet, after a failover, and only the time that it spreads over keeps it below a limit per second.
    pub(crate) fn for_crowded_logins(random: fastrand::Rng) -> Self {
        let ceiling = Ceiling::HalfOfTheTimeLeft(Duration::from_secs(32));
        Backoff { cap: Duration::from_secs(8), growth: 2, ceiling, random }
    }

    /// The next delay for one who has `left` time.
    pub(crate) fn next_within(&mut self, left: Duration) -> Duration {
        let cap = self.cap;
        self.cap = cap.saturating_mul(self.growth);
        cap.min(self.ceiling.within(left)).mul_f64(self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn random(seed: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(seed)
    }

    /// The most of them within any window of this length.
    fn peak(mut moments: Vec<Duration>, window: Duration) -> usize {
        moments.sort();
        let within = |first: usize| moments[first..].partition_point(|at| *at < moments[first] + window);
        (0..moments.len()).map(within).max().unwrap_or_default()
    }

    #[test]
    fn delays_stay_under_a_cap_that_grows_to_a_part_of_the_time_left() {
        for seed in 0..200 {
            for (left, ceiling_ms) in
                [(Duration::ZERO, 160), (2 * SECOND, 160), (15 * SECOND, 500), (900 * SECOND, 1000)]
            {
                let mut backoff = Backoff::for_failures(random(seed));
                for cap_ms in [20, 80, 320, 1280, 5120].map(|cap_ms: u64| cap_ms.min(ceiling_ms)) {
                    assert!(backoff.next_within(left) <= Duration::from_millis(cap_ms));
                }
            }
        }
    }

    #[test]
    fn throttling_waits_longer_than_a_refused_socket() {
        let mean = |backoff: fn(fastrand::Rng) -> Backoff| -> Duration {
            let first_four =
                |mut backoff: Backoff| -> Duration { (0..4).map(|_| backoff.next_within(5 * SECOND)).sum() };
            (0..200).map(|seed| first_four(backoff(random(seed)))).sum::<Duration>() / 800
        };
        assert!(mean(Backoff::for_throttling) > 4 * mean(Backoff::for_failures));
    }

    /// When each of a thousand finds a peer that is back after `outage`, counted from then.
    fn found(deadline: Duration, outage: Duration) -> Vec<Duration> {
        let find = |seed| {
            let mut backoff = Backoff::for_failures(random(seed));
            let mut tried = Duration::ZERO;
            while tried < outage {
                tried += backoff.next_within(deadline - tried);
            }
            tried - outage
        };
        let mut found: Vec<_> = (0..1000).map(find).collect();
        found.sort();
        found
    }

    #[test]
    fn a_peer_that_is_back_is_found_within_a_tenth_of_a_second_by_who_has_little_time() {
        for outage in (100..=1000).step_by(50).map(Duration::from_millis) {
            let median = found(3 * SECOND, outage)[500];
            assert!(median <= Duration::from_millis(60), "after {outage:?}: {median:?}");
        }
    }

    #[test]
    fn a_fleet_that_has_time_does_not_find_a_peer_that_is_back_all_at_once() {
        for outage in (100..=1000).step_by(50).map(Duration::from_millis) {
            let found = found(15 * SECOND, outage);
            assert!(found[500] <= Duration::from_millis(170), "after {outage:?}: {:?}", found[500]);
            let wave = peak(found, Duration::from_millis(100));
            assert!(wave <= 480, "after {outage:?} {wave} of 1000 come within 100 ms");
        }
    }

    #[test]
    fn who_is_refused_in_a_crowd_waits_for_half_of_the_time_left_at_most() {
        for seed in 0..200 {
            let mut backoff = Backoff::for_crowded_logins(random(seed));
            assert!(backoff.next_within(3 * SECOND) <= SECOND * 3 / 2);
            assert!(backoff.next_within(Duration::MAX) <= 16 * SECOND);
            assert_eq!(backoff.next_within(Duration::ZERO), Duration::ZERO);
        }
    }

    #[test]
    fn a_fleet_that_is_refused_together_stays_below_the_limit_and_is_served_before_its_deadline() {
        const FLEET: u64 = 1000;
        const PER_SECOND: usize = 200;
        let deadline = 14 * SECOND;
        for round in 0..20 {
            let mut backoffs: Vec<_> =
                (0..FLEET).map(|seed| Backoff::for_crowded_logins(random(round * FLEET + seed))).collect();
            // All come within a fifth of a second.
            let mut due: std::collections::BTreeSet<_> =
                (0..FLEET).map(|number| (SECOND * number as u32 / 5000, number as usize)).collect();
            let (mut came, mut served) = (Vec::new(), Vec::new());
            while let Some((now, number)) = due.pop_first() {
                came.push(now);
                if served.iter().rev().take(PER_SECOND).filter(|at| now - **at < SECOND).count() < PER_SECOND {
                    served.push(now);
                } else {
                    let again = now + backoffs[number].next_within(deadline - now);
                    assert!(again < deadline);
                    due.insert((again, number));
                }
            }
            assert_eq!(served.len(), FLEET as usize);
            let later = came.into_iter().filter(|at| *at >= SECOND).collect();
            let peak = peak(later, SECOND);
            assert!(peak <= PER_SECOND, "{peak} in a second");
        }
    }
}
