//! Watching the human answers. The loss of a pair falls when the generated
//! answer loses more than the real one, and users of the original code found
//! both falling.

use std::collections::VecDeque;

/// Updates that the gain is smoothed over.
pub const WINDOW: usize = 10;

/// How far the smoothed gain must fall before it counts, in nats per answer:
/// more than the noise of arithmetic and of a small learning rate.
pub const TOLERANCE_NATS: f64 = 0.1;

/// Says when the human answers have become less likely than they were under
/// the opponent, which is the model before the first update. The comparison is
/// row by row, so that it does not matter which rows an update has.
#[derive(Clone, Debug, Default)]
pub struct RealWatch {
    gains: VecDeque<f64>,
}

impl RealWatch {
    /// Takes in an update's mean gain of the human answers in nats; the mean
    /// of the last [`WINDOW`] updates when it lies below where it started.
    pub fn fall(&mut self, gain: f64) -> Option<f64> {
        if !gain.is_finite() {
            return None;
        }
        self.gains.push_back(gain);
        if self.gains.len() > WINDOW {
            self.gains.pop_front();
        }
        // Summed anew: a resumed training must come to the same bits.
        let mean = self.gains.iter().sum::<f64>() / self.gains.len() as f64;
        (self.gains.len() == WINDOW && mean < -TOLERANCE_NATS).then_some(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fall_counts_once_it_lasts() {
        let mut watch = RealWatch::default();
        let mut fallen = Vec::new();
        for update in 0..40 {
            let gain = match update {
                // A dip of one update, and a fall that stays.
                5 => -0.8,
                20.. => -0.5,
                _ => 0.02,
            };
            if watch.fall(gain).is_some() {
                fallen.push(update);
            }
        }
        // Three of ten at -0.5 pull the mean below -0.1.
        assert_eq!(fallen, (22..40).collect::<Vec<_>>());
    }

    #[test]
    fn noise_and_what_is_not_a_number_do_not_count() {
        let mut watch = RealWatch::default();
        for _ in 0..30 {
            assert_eq!(watch.fall(-0.09), None);
            assert_eq!(watch.fall(f64::NAN), None);
        }
    }
}
