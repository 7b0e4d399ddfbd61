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

    /// By transformers 5's `get_linear_schedule_with_warmup` and
    /// `get_cosine_schedule_with_warmup`.
    #[test]
    fn warm_ups_as_long_as_the_training_or_longer_are_those_of_transformers() {
        for (decay, warmup_steps, total_steps, expected) in [
            (Decay::Linear, 5, 5, vec![0.0, 0.2, 0.4, 0.6, 0.8, 0.0, 0.0]),
            (Decay::Cosine, 5, 5, vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 0.0]),
            (Decay::Linear, 4, 2, vec![0.0, 0.25, 0.5, 0.75, 0.0]),
            (Decay::Linear, 0, 1, vec![1.0, 0.0]),
            (Decay::Linear, 1, 1, vec![0.0, 0.0]),
            (Decay::Cosine, 1, 1, vec![0.0, 1.0, 0.0]),
            (Decay::Linear, 2, 3, vec![0.0, 0.5, 1.0, 0.0]),
            (Decay::Constant, 2, 1, vec![0.0, 0.5, 1.0, 1.0]),
        ] {
            let schedule = Schedule { decay, warmup_steps, total_steps };
            for (step, expected) in expected.into_iter().enumerate() {
                assert!((schedule.factor(step) - expected).abs() < 1e-15, "{schedule:?} step {step}");
            }
        }
    }
}
