//! The settings that are one duration or number each: default, range, setter and getter from one line.

use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{ProxyConfig, ProxyConfigBuilder};
use crate::error::Error;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What `call_timeout` may be; its default is none.
pub(super) const CALL_TIMEOUT: RangeInclusive<Duration> = ms(1)..=secs(15 * 60);

/// `config.range`, unless the value is within the range; what compares with nothing, such as NaN, is not.
pub(super) fn within<T: PartialOrd + Debug>(name: &str, value: T, range: &RangeInclusive<T>) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(Error::config("config.range", format!("{name}: {value:?} is outside {range:?}")))
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr, $range:expr, $text:literal;)*) => {
        #[derive(Clone, Copy, Debug)]
        pub(super) struct Tuning {
            $(pub(super) $name: $type,)*
        }

        impl Default for Tuning {
            fn default() -> Self {
                Tuning { $($name: $default,)* }
            }
        }

        impl Tuning {
            pub(super) fn check(&self) -> Result<(), Error> {
                $(within(stringify!($name), self.$name, &$range)?;)*
                Ok(())
            }
        }

        /// Limits, each with its default and range. A value outside the range is `config.range` at
        /// [`build`](ProxyConfigBuilder::build).
        ///
        /// ```
        /// use rds_proxy_pool::ProxyConfig;
        /// use std::time::Duration;
        ///
        /// let config = || ProxyConfig::builder().endpoint("localhost").user("app").password("app").database("app");
        /// let error = config().acquire_timeout(Duration::ZERO).build().unwrap_err();
        /// assert_eq!(error.code(), "config.range");
        /// assert_eq!(error.to_string(), "acquire_timeout: 0ns is outside 1ms..=300s");
        /// assert!(config().lifetime_jitter_ratio(f64::NAN).build().is_err());
        /// ```
        impl ProxyConfigBuilder {
            $(
                $(#[$doc])*
                #[doc = ""]
                #[doc = $text]
                pub fn $name(mut self, $name: $type) -> Self {
                    self.tuning.$name = $name;
                    self
                }
            )*
        }

        /// Limits, as they were set or by default.
        impl ProxyConfig {
            $(
                $(#[$doc])*
                #[doc = ""]
                #[doc = $text]
                pub fn $name(&self) -> $type {
                    self.tuning.$name
                }
            )*
        }
    };
}

settings! {
    /// The longest a call without a known deadline waits for a connection, queueing, token and connecting included.
    acquire_timeout: Duration = secs(2), ms(1)..=secs(300),
        "Default 2 s, below Lambda's default timeout of 3 s; 1 ms to 5 min.";

    /// The longest one attempt to connect may take, from the DNS to the login; the next one starts afresh.
    connect_timeout: Duration = secs(5), ms(10)..=secs(300), "Default 5 s; 10 ms to 5 min.";

    /// How long one address may leave a TCP connect unanswered before the next address is tried; half of the time that the
    /// attempt has, if that is less.
    syn_timeout: Duration = secs(1), ms(50)..=secs(60), "Default 1 s; 50 ms to 60 s.";

    /// What is kept back from a known deadline, so that the caller can still answer.
    margin: Duration = ms(250), Duration::ZERO..=secs(60), "Default 250 ms; 0 to 60 s.";

    /// The time that must be left for an attempt to connect to be started at all.
    min_attempt: Duration = ms(100), ms(1)..=secs(60), "Default 100 ms; 1 ms to 60 s.";

    /// A connection that was not used for longer than this is looked at before it is trusted.
    validate_after: Duration = secs(1), Duration::ZERO..=secs(3600), "Default 1 s; 0 to 1 h.";

    /// The longest a connection may take to answer the question whether it is still good; never more than half of the
    /// time that is left, so that it can be replaced.
    ping_timeout: Duration = secs(2), ms(10)..=secs(60), "Default 2 s; 10 ms to 60 s.";

    /// A connection that was not used for longer than this is replaced.
    idle_limit: Duration = secs(25 * 60), secs(1)..=secs(8 * 3600),
        "Default 25 min, below the proxy's idle timeout of 30 min; 1 s to 8 h.";

    /// A connection older than this is replaced; each one's limit is shortened at random by up to
    /// `lifetime_jitter_ratio`.
    max_lifetime: Duration = secs(12 * 3600), secs(1)..=secs(24 * 3600),
        "Default 12 h, below the proxy's limit of 24 h; 1 s to 24 h.";

    /// The share of `max_lifetime` by which a connection's life may be shortened, so that environments started together
    /// do not reconnect together.
    lifetime_jitter_ratio: f64 = 0.1, 0.0..=0.5, "A ratio, not a percentage. Default 0.1; 0.0 to 0.5.";

    /// How many prepared statements each connection keeps.
    statement_cache_capacity: usize = 100, 1..=10_000, "Default 100; 1 to 10 000.";
}
