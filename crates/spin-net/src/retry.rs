//! When and how long to wait before a server is asked again, and how a stop
//! ends the wait.

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
    pub fn delay(&self, failures: u32, retry_after: Option<Duration>, key: u64) -> Duration {
        let full = doubled(self.base_delay, failures).min(self.max_delay);
        let jitter = full.mul_f64(0.5 * unit(finalize(key.wrapping_add(u64::from(failures)).wrapping_mul(WEYL))));
        match retry_after {
            // Jitter on top: nobody should come back earlier than asked.
            Some(asked) => asked.min(self.max_retry_after) + jitter.min(self.base_delay),
            None => full / 2 + jitter,
        }
    }
}

/// `base` after the first failure, twice as long after each further one.
pub fn doubled(base: Duration, failures: u32) -> Duration {
    base.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX))
}

/// The first result of `once` that is worth no other try: success, an error
/// for which `pause` (of it and the number of failures) is `None`, or the last
/// of `tries`. `None` when a stop was asked for between two tries.
pub fn until<T, E>(
    stop: &Stop<'_>,
    tries: u32,
    mut once: impl FnMut() -> Result<T, E>,
    pause: impl Fn(&E, u32) -> Option<Duration>,
) -> Option<Result<T, E>> {
    let mut failures = 0;
    loop {
        let result = once();
        failures += 1;
        let again = result.as_ref().err().filter(|_| failures < tries).and_then(|error| pause(error, failures));
        match again {
            None => return Some(result),
            Some(pause) if stop.wait(pause) => return None,
            Some(_) => {}
        }
    }
}

/// How often a wait looks up, so that a signal is heard in time.
pub const POLL: Duration = Duration::from_millis(100);

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
    pub fn set(&self) {
        *self.over.lock().expect("no holder panics") = true;
        self.changed.notify_all();
    }

    /// Whether the run is over, or a stop was asked for.
    pub fn is_set(&self) -> bool {
        self.is_asked() || *self.over.lock().expect("no holder panics")
    }

    /// Waits, and says whether the run is over.
    fn wait(&self, pause: Duration) -> bool {
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
    fn tries_end_with_success_a_lasting_error_their_number_or_a_stop() {
        let flag = AtomicBool::new(false);
        let (stop, mut made) = (Stop::new(&flag), 0);
        let mut tried = |tries, good: u32, passing: bool, stop: &Stop<'_>| {
            made = 0;
            let once = || {
                made += 1;
                if made == good { Ok(made) } else { Err(made) }
            };
            let result = until(stop, tries, once, |_, _| passing.then_some(Duration::ZERO));
            (result, made)
        };
        assert_eq!(tried(5, 3, true, &stop), (Some(Ok(3)), 3));
        assert_eq!(tried(2, 3, true, &stop), (Some(Err(2)), 2));
        assert_eq!(tried(5, 3, false, &stop), (Some(Err(1)), 1));
        flag.store(true, Ordering::Relaxed);
        assert_eq!(tried(5, 3, true, &stop), (None, 1));
        assert_eq!(tried(5, 1, true, &stop), (Some(Ok(1)), 1), "what is had is kept");
        assert_eq!((doubled(POLL, 1), doubled(POLL, 4), doubled(POLL, 33)), (POLL, POLL * 8, POLL * u32::MAX));
    }

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
