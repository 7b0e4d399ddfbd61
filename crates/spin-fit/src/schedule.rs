//! How the learning rate changes from step to step.
//!
//! The factors are those of transformers' `get_*_schedule_with_warmup`.

use serde::{Deserialize, Serialize};

/// What follows the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// The full learning rate to the end.
    Constant,
    /// A straight line to zero.
    Linear,
    /// Half a period of a cosine to zero.
    Cosine,
}

/// A learning rate's course over training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// What follows the warm-up.
    pub decay: Decay,
    /// Optimiser steps of linear growth from zero.
    pub warmup_steps: usize,
    /// All optimiser steps, the warm-up included.
    pub total_steps: usize,
}

impl Schedule {
    /// The factor on the learning rate for a step; the first step is 0.
    ///
    /// With a warm-up, step 0 has the factor 0 and changes nothing, as in
    /// transformers.
    pub fn factor(&self, step: usize) -> f64 {
        let Self { decay, warmup_steps, total_steps } = *self;
        if step < warmup_steps {
            return step as f64 / warmup_steps as f64;
        }
        let decaying = total_steps.saturating_sub(warmup_steps).max(1) as f64;
        match decay {
            Decay::Constant => 1.0,
            Decay::Linear => total_steps.saturating_sub(step) as f64 / decaying,
            Decay::Cosine => {
                let progress = (step - warmup_steps) as f64 / decaying;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_equal_those_of_transformers() {
        let golden: serde_json::Value = serde_json::from_str(include_str!("../../../tests/golden/optim.json")).unwrap();
        let cases = golden["schedules"].as_array().unwrap();
        assert_eq!(cases.len(), 6);
        for case in cases {
            let schedule = Schedule {
                decay: serde_json::from_value(case["schedule"].clone()).unwrap(),
                warmup_steps: case["warmup"].as_u64().unwrap() as usize,
                total_steps: case["total"].as_u64().unwrap() as usize,
            };
            for (step, expected) in case["factors"].as_array().unwrap().iter().enumerate() {
                let difference = schedule.factor(step) - expected.as_f64().unwrap();
                assert!(difference.abs() < 1e-12, "{schedule:?} step {step}: {difference}");
            }
        }
    }
}
