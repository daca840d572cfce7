//! The pause before another attempt. It doubles after each failure, up to a minute, and has a random part, so that
//! nodes that lost the server at the same moment do not all connect again at the same moment.

use std::time::Duration;

/// The longest first pause.
const MAX_FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub(crate) fn pause(&mut self) -> Duration {
        let longest = MAX_FIRST_PAUSE.saturating_mul(1 << self.failures.min(6)).min(MAX_PAUSE);
        self.failures = self.failures.saturating_add(1);
        scaled(longest, random())
    }

    /// Forgets the failures after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// 90 to 110 % of the interval, at random.
pub(crate) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * random())
}

/// A duration from half of `longest` to all of it, by a random number from 0 to 1.
fn scaled(longest: Duration, random: f64) -> Duration {
    longest.mul_f64(0.5 + 0.5 * random)
}

/// A random number from 0 to 1.
fn random() -> f64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    f64::from(u32::try_from(high >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_again_after_a_success() {
        let mut backoff = Backoff::default();
        for longest in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let pause = backoff.pause();
            assert!(pause >= Duration::from_secs(longest) / 2, "{pause:?} of {longest} s");
            assert!(pause <= Duration::from_secs(longest), "{pause:?} of {longest} s");
        }
        backoff.reset();
        assert!(backoff.pause() <= MAX_FIRST_PAUSE);
    }
}
