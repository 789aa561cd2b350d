//! How long to wait before the next attempt: full jitter under a growing cap.

use std::time::Duration;

/// Delays drawn evenly from zero to a cap that doubles up to a ceiling ("full jitter"), so that environments that failed
/// together do not come back together.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    cap: Duration,
    ceiling: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    /// For a peer that refuses or drops connections: it may be back any moment.
    pub(crate) fn for_failures(random: fastrand::Rng) -> Self {
        Backoff { cap: Duration::from_millis(20), ceiling: Duration::from_millis(250), random }
    }

    /// For a peer that says it is at its limit: coming back soon makes it worse.
    pub(crate) fn for_throttling(random: fastrand::Rng) -> Self {
        Backoff { cap: Duration::from_millis(200), ceiling: Duration::from_secs(2), random }
    }

    /// For logins that are more than the peer takes. How many others were refused with this one, nobody knows: a whole
    /// fleet, after a failover, and only the time that it spreads over keeps it below a limit per second.
    pub(crate) fn for_crowded_logins(random: fastrand::Rng) -> Self {
        Backoff { cap: Duration::from_secs(8), ceiling: Duration::from_secs(32), random }
    }

    /// The next delay for one who has `left` time: at most half of it, so that it can come again more than once.
    pub(crate) fn next_within(&mut self, left: Duration) -> Duration {
        let longest = self.grow().min(left / 2);
        longest.mul_f64(self.random.f64())
    }

    /// The cap of this delay.
    fn grow(&mut self) -> Duration {
        let cap = self.cap;
        self.cap = (cap * 2).min(self.ceiling);
        cap
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.grow().mul_f64(self.random.f64()))
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
    fn delays_stay_under_a_cap_that_doubles_to_its_ceiling() {
        for seed in 0..200 {
            let delays: Vec<_> = Backoff::for_failures(random(seed)).take(6).collect();
            for (delay, cap) in delays.iter().zip([20, 40, 80, 160, 250, 250]) {
                assert!(*delay <= Duration::from_millis(cap), "{delays:?}");
            }
        }
    }

    #[test]
    fn throttling_waits_longer_than_a_refused_socket() {
        let mean = |backoff: fn(fastrand::Rng) -> Backoff| -> Duration {
            (0..200).flat_map(|seed| backoff(random(seed)).take(4)).sum::<Duration>() / 800
        };
        assert!(mean(Backoff::for_throttling) > 4 * mean(Backoff::for_failures));
    }

    #[test]
    fn a_peer_that_is_back_is_found_within_a_tenth_of_a_second_and_not_by_all_at_once() {
        for outage in (100..=1000).step_by(50).map(Duration::from_millis) {
            let mut found: Vec<_> = (0..1000)
                .map(|seed| {
                    let mut tried = Duration::ZERO;
                    let mut backoff = Backoff::for_failures(random(seed));
                    while tried < outage {
                        tried += backoff.next().unwrap_or_default();
                    }
                    tried - outage
                })
                .collect();
            found.sort();
            assert!(found[500] <= Duration::from_millis(90), "after {outage:?}: {:?}", found[500]);
            let wave = peak(found, Duration::from_millis(100));
            assert!(wave <= 800, "after {outage:?} {wave} of 1000 come within 100 ms");
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
