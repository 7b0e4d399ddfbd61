//! When a checkpoint is due: after so many updates, and after so much time,
//! because the updates of a large model are slow.

use std::time::Instant;

use spin_run::run::FitConfig;

/// Seconds since some moment.
type Clock = Box<dyn Fn() -> f64>;

/// Counts what would be lost.
pub(super) struct Pace {
    updates: usize,
    /// 0 for none.
    seconds: f64,
    clock: Clock,
    /// What the clock showed at the start, then at the last checkpoint.
    since: f64,
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace").field("updates", &self.updates).field("seconds", &self.seconds).finish_non_exhaustive()
    }
}

impl Pace {
    /// As a configuration has it.
    pub(super) fn of(config: &FitConfig) -> Pace {
        let start = Instant::now();
        Pace::with_clock(config, Box::new(move || start.elapsed().as_secs_f64()))
    }

    /// The same by another clock.
    pub(super) fn with_clock(config: &FitConfig, clock: Clock) -> Pace {
        let since = clock();
        Pace { updates: config.checkpoint_every, seconds: config.checkpoint_minutes * 60.0, clock, since }
    }

    /// Whether a checkpoint is due after `update`.
    pub(super) fn due(&self, update: usize) -> bool {
        update.is_multiple_of(self.updates) || (self.seconds > 0.0 && (self.clock)() - self.since >= self.seconds)
    }

    /// A checkpoint was made.
    pub(super) fn saved(&mut self) {
        self.since = (self.clock)();
    }
}
