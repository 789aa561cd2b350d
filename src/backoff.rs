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
        Backoff { cap: Duration::from_millis(20), ceiling: Duration::from_millis(160), random }
    }

    /// For a peer that says it is at its limit: coming back soon makes it worse.
    pub(crate) fn for_throttling(random: fastrand::Rng) -> Self {
        Backoff { cap: Duration::from_millis(200), ceiling: Duration::from_secs(2), random }
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = self.cap.mul_f64(self.random.f64());
        self.cap = (self.cap * 2).min(self.ceiling);
        Some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_under_a_cap_that_doubles_to_its_ceiling() {
        for seed in 0..200 {
            let delays: Vec<_> = Backoff::for_failures(fastrand::Rng::with_seed(seed)).take(6).collect();
            for (delay, cap) in delays.iter().zip([20, 40, 80, 160, 160, 160]) {
                assert!(*delay <= Duration::from_millis(cap), "{delays:?}");
            }
        }
    }

    #[test]
    fn throttling_waits_longer_than_a_refused_socket() {
        let mean = |backoff: fn(fastrand::Rng) -> Backoff| -> Duration {
            (0..200).flat_map(|seed| backoff(fastrand::Rng::with_seed(seed)).take(4)).sum::<Duration>() / 800
        };
        assert!(mean(Backoff::for_throttling) > 4 * mean(Backoff::for_failures));
    }
}
