//! What is reported about pairs.

use super::{PairLogps, PairTerm};

/// Sums over pairs, with their means. Rewards are beta log(policy / opponent)
/// in nats, as DPO trainers report them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairMetrics {
    pairs: usize,
    loss: f64,
    real: f64,
    generated: f64,
    real_gain: f64,
    generated_gain: f64,
    wins: usize,
}

impl PairMetrics {
    /// Counts a pair in.
    pub fn add(&mut self, pair: &PairLogps, term: &PairTerm) {
        self.pairs += 1;
        self.loss += term.loss;
        self.real += pair.real;
        self.generated += pair.generated;
        self.real_gain += pair.real_gain();
        self.generated_gain += pair.generated_gain();
        self.wins += usize::from(pair.real_gain() > pair.generated_gain());
    }

    /// Adds the sums over other pairs.
    pub fn add_all(&mut self, more: &PairMetrics) {
        self.pairs += more.pairs;
        self.loss += more.loss;
        self.real += more.real;
        self.generated += more.generated;
        self.real_gain += more.real_gain;
        self.generated_gain += more.generated_gain;
        self.wins += more.wins;
    }

    /// All of it, to be sent to another process.
    pub(crate) fn to_words(self) -> [u64; 7] {
        let PairMetrics { pairs, loss, real, generated, real_gain, generated_gain, wins } = self;
        let [loss, real, generated, real_gain, generated_gain] =
            [loss, real, generated, real_gain, generated_gain].map(f64::to_bits);
        [pairs as u64, loss, real, generated, real_gain, generated_gain, wins as u64]
    }

    /// What [`PairMetrics::to_words`] gave.
    pub(crate) fn of_words([pairs, loss, real, generated, real_gain, generated_gain, wins]: [u64; 7]) -> PairMetrics {
        let [loss, real, generated, real_gain, generated_gain] =
            [loss, real, generated, real_gain, generated_gain].map(f64::from_bits);
        PairMetrics { pairs: pairs as usize, loss, real, generated, real_gain, generated_gain, wins: wins as usize }
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.pairs.max(1) as f64
    }

    /// Mean loss.
    pub fn loss(&self) -> f64 {
        self.mean(self.loss)
    }

    /// Mean log-probability of the real answers.
    pub fn logp_real(&self) -> f64 {
        self.mean(self.real)
    }

    /// Mean log-probability of the generated answers.
    pub fn logp_generated(&self) -> f64 {
        self.mean(self.generated)
    }

    /// Mean gain of the real answers over the opponent: since the opponent is
    /// the model at the start, what they have gained since then.
    pub fn real_gain(&self) -> f64 {
        self.mean(self.real_gain)
    }

    /// Mean reward of the real answers.
    pub fn reward_real(&self, beta: f64) -> f64 {
        beta * self.mean(self.real_gain)
    }

    /// Mean reward of the generated answers.
    pub fn reward_generated(&self, beta: f64) -> f64 {
        beta * self.mean(self.generated_gain)
    }

    /// Mean difference of the rewards.
    pub fn margin(&self, beta: f64) -> f64 {
        self.reward_real(beta) - self.reward_generated(beta)
    }

    /// Share of pairs whose real answer gained more than the generated one.
    pub fn accuracy(&self) -> f64 {
        self.mean(self.wins as f64)
    }
}
