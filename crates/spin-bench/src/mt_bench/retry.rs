//! When and how long to wait before the judge is asked again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use spin_noise::{WEYL, finalize, unit};

/// How often and after what pauses a failing judge is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries of one judgment, the first included.
    pub tries: u32,
    /// Longest pause after the first failure; it doubles with each further one.
    pub base_delay: Duration,
    /// No pause is longer than this, unless the server asks for it.
    pub max_delay: Duration,
    /// Longest pause that a server may ask for with `Retry-After`.
    pub max_retry_after: Duration,
}

impl Default for Retry {
    /// FastChat's 16 tries, and pauses that bridge an outage of some minutes.
    fn default() -> Self {
        Retry {
            tries: 16,
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(60),
            max_retry_after: Duration::from_secs(120),
        }
    }
}

impl Retry {
    /// The pause after failure number `failures` (from 1).
    ///
    /// Half of the exponential pause is jitter, so that workers that were
    /// turned away together do not come back together. It follows from `key`,
    /// not from a global generator.
    pub(super) fn delay(&self, failures: u32, retry_after: Option<Duration>, key: u64) -> Duration {
        let doubled = self.base_delay.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
        let full = doubled.min(self.max_delay);
        let jitter = full.mul_f64(0.5 * unit(finalize(key.wrapping_add(u64::from(failures)).wrapping_mul(WEYL))));
        match retry_after {
            // Jitter on top: nobody should come back earlier than asked.
            Some(asked) => asked.min(self.max_retry_after) + jitter.min(self.base_delay),
            None => full / 2 + jitter,
        }
    }
}

/// How often a wait looks up, so that a signal is heard in time.
pub(crate) const POLL: Duration = Duration::from_millis(100);

/// Ends pauses and requests early when the run is over, or a stop is asked
/// for from outside.
pub struct Stop<'a> {
    over: Mutex<bool>,
    changed: Condvar,
    asked: &'a AtomicBool,
}

impl<'a> Stop<'a> {
    /// One that listens to a flag, as signals set it.
    pub fn new(asked: &'a AtomicBool) -> Self {
        Stop { over: Mutex::new(false), changed: Condvar::new(), asked }
    }

    /// Whether a stop was asked for: requests under way are given up.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Ends the run; requests under way are waited for.
    pub(super) fn set(&self) {
        *self.over.lock().expect("no holder panics") = true;
        self.changed.notify_all();
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_asked() || *self.over.lock().expect("no holder panics")
    }

    /// Waits, and says whether the run is over.
    pub(super) fn wait(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        let mut over = self.over.lock().expect("no holder panics");
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if *over || self.is_asked() {
                return true;
            }
            if left.is_zero() {
                return false;
            }
            over = self.changed.wait_timeout(over, left.min(POLL)).expect("no holder panics").0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_cap_and_are_reproducible() {
        let retry = Retry::default();
        let mut seen = Vec::new();
        for failures in 1..=15 {
            let pause = retry.delay(failures, None, 7);
            let full = Duration::from_secs(1 << (failures - 1).min(10)).min(retry.max_delay);
            assert!(pause >= full / 2 && pause < full, "{failures}: {pause:?}");
            assert_eq!(pause, retry.delay(failures, None, 7));
            seen.push(pause);
        }
        assert_ne!(retry.delay(1, None, 7), retry.delay(1, None, 8));
        assert_eq!(retry.delay(1, None, 7), Duration::from_nanos(885_773_278));
        assert!(retry.delay(40, None, 7) < retry.max_delay);
        let asked = retry.delay(1, Some(Duration::from_secs(20)), 7);
        assert!(asked >= Duration::from_secs(20) && asked < Duration::from_secs(21), "{asked:?}");
        let long = retry.delay(1, Some(Duration::from_secs(86_400)), 7);
        assert!(long < retry.max_retry_after + retry.base_delay, "{long:?}");
    }
}
