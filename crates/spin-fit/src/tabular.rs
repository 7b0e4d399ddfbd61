//! The game on a finite set of answers, exactly: what a round of self-play
//! does when nothing but the objective decides.
//!
//! One prompt, a handful of answers, policies as tables of probabilities. The
//! loss is the expectation of [`PairObjective::term`], the function that
//! `spin-fit` trains with, over the human distribution and the opponent's; it
//! is minimised in f64 by Newton's method, so that what is seen is a property of
//! the objective and not of an optimiser.
//!
//! For the logistic loss the minimum is known: p_{t+1} ∝ p_t (p_data/p_t)^{1/λ}
//! (Chen et al. 2024, Theorem 5.4), see [`closed_form`]. In logarithms, up to
//! the normaliser, log p_{t+1} - log p_data = (1 - 1/λ)(log p_t - log p_data):
//! one round is enough with λ = 1, the error shrinks without a change of sign
//! for λ > 1, changes its sign in every round for λ < 1, and grows for λ < 1/2.

use crate::objective::{PairLogps, PairObjective};

/// Probabilities of answers. All are above 0.
pub type Policy = Vec<f64>;

/// A policy from logits, any constant added.
pub fn softmax(logits: &[f64]) -> Policy {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|z| (z - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

fn logs(policy: &[f64]) -> Vec<f64> {
    policy.iter().map(|p| p.ln()).collect()
}

/// KL(p ‖ q) in nats.
pub fn kl(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| if *p > 0.0 { p * (p / q).ln() } else { 0.0 }).sum()
}

/// The minimum of the logistic loss in closed form: p_t (p_data/p_t)^{1/λ},
/// normalised (Chen et al. 2024, Theorem 5.4).
pub fn closed_form(data: &[f64], opponent: &[f64], lambda: f64) -> Policy {
    let logit = |(d, t): (&f64, &f64)| t.ln() + (d.ln() - t.ln()) / lambda;
    softmax(&data.iter().zip(opponent).map(logit).collect::<Vec<_>>())
}

/// Who plays: distributions over the same answers.
#[derive(Clone, Debug)]
pub struct Game<'a> {
    /// The human answers: p_data, or the shares of a sample.
    pub data: &'a [f64],
    /// The generated answers: p_t, or the shares of a sample.
    pub generated: &'a [f64],
    /// The opponent, whose log-probabilities are the reference; `None` for an
    /// objective without one.
    pub reference: Option<&'a [f64]>,
    /// θ0's answers, for an objective that has them.
    pub initial: Option<&'a [f64]>,
}

impl Game<'_> {
    /// The expected loss of a policy given by its logits, and its gradient by
    /// them.
    pub fn loss(&self, objective: &PairObjective, logits: &[f64]) -> (f64, Vec<f64>) {
        let policy = softmax(logits);
        let logp = logs(&policy);
        let reference = self.reference.map_or_else(|| vec![0.0; logits.len()], logs);
        let nobody = [1.0];
        let initial = self.initial.unwrap_or(&nobody);
        let (mut loss, mut by_logp) = (0.0, vec![0.0; logits.len()]);
        for (y, real) in self.data.iter().enumerate() {
            for (g, generated) in self.generated.iter().enumerate() {
                for (i, first) in initial.iter().enumerate() {
                    let weight = real * generated * first;
                    let term = objective.term(&PairLogps {
                        real: logp[y],
                        generated: logp[g],
                        ref_real: reference[y],
                        ref_generated: reference[g],
                        initial: self.initial.map(|_| logp[i]),
                        real_tokens: 1,
                        generated_tokens: 1,
                    });
                    loss += weight * term.loss;
                    by_logp[y] += weight * term.by_real;
                    by_logp[g] += weight * term.by_generated;
                    if self.initial.is_some() {
                        by_logp[i] += weight * term.by_initial;
                    }
                }
            }
        }
        // ∂ log p_j / ∂ z_k = δ_jk - p_k.
        let total: f64 = by_logp.iter().sum();
        let gradient = by_logp.iter().zip(&policy).map(|(slope, p)| slope - p * total).collect();
        (loss, gradient)
    }

    /// The policy that minimises the expected loss among those whose logits are
    /// `features` times a vector of weights, one row of features per answer;
    /// from the weights `start`. For a loss with second derivatives.
    pub fn best(&self, objective: &PairObjective, features: &[Vec<f64>], start: &[f64]) -> Policy {
        let logits = |w: &[f64]| -> Vec<f64> {
            features.iter().map(|row| row.iter().zip(w).map(|(x, w)| x * w).sum()).collect()
        };
        let weights = minimise(start.to_vec(), |w| {
            let (loss, by_logit) = self.loss(objective, &logits(w));
            let gradient =
                (0..w.len()).map(|k| features.iter().zip(&by_logit).map(|(row, slope)| row[k] * slope).sum()).collect();
            (loss, gradient)
        });
        softmax(&logits(&weights))
    }
}

/// Features of a policy that can be anything: a logit for each answer but the
/// first, whose logit is 0.
pub fn free(answers: usize) -> Vec<Vec<f64>> {
    (0..answers).map(|a| (1..answers).map(|k| f64::from(u8::from(a == k))).collect()).collect()
}

/// Logits of a policy as weights of [`free`] features.
pub fn weights_of(policy: &[f64]) -> Vec<f64> {
    policy[1..].iter().map(|p| (p / policy[0]).ln()).collect()
}

/// Newton's method with step halving; the Hessian by differences of the
/// gradient.
fn minimise(mut w: Vec<f64>, value: impl Fn(&[f64]) -> (f64, Vec<f64>)) -> Vec<f64> {
    for _ in 0..200 {
        let (loss, gradient) = value(&w);
        if gradient.iter().all(|slope| slope.abs() < 1e-14) {
            break;
        }
        let mut hessian: Vec<Vec<f64>> = (0..w.len())
            .map(|k| {
                let moved = |by: f64| {
                    let mut w = w.clone();
                    w[k] += by;
                    value(&w).1
                };
                let (up, down) = (moved(1e-5), moved(-1e-5));
                up.iter().zip(down).map(|(up, down)| (up - down) / 2e-5).collect()
            })
            .collect();
        hessian.iter_mut().enumerate().for_each(|(k, row)| row[k] += 1e-12);
        let step = solve(hessian, &gradient);
        let falls: f64 = step.iter().zip(&gradient).map(|(s, g)| s * g).sum();
        // Where the curvature is lost to rounding, down the slope.
        let mut step = if falls > 0.0 && step.iter().all(|s| s.is_finite()) { step } else { gradient.clone() };
        // Farther away the loss is another: a long step can end where all curvature is lost.
        let longest = step.iter().fold(1.0f64, |longest, s| longest.max(s.abs()));
        step.iter_mut().for_each(|s| *s /= longest);
        let mut share = 1.0;
        // Near the minimum a step changes the loss by less than its rounding.
        let allowed = loss + 8.0 * f64::EPSILON * loss.abs();
        let moved = loop {
            let moved: Vec<f64> = w.iter().zip(&step).map(|(w, s)| w - share * s).collect();
            if value(&moved).0 <= allowed || share < 1e-9 {
                break moved;
            }
            share /= 2.0;
        };
        w = moved;
    }
    w
}

/// The solution of a small system by elimination with pivots.
fn solve(mut a: Vec<Vec<f64>>, b: &[f64]) -> Vec<f64> {
    let n = b.len();
    let mut b = b.to_vec();
    for k in 0..n {
        let pivot = (k..n).max_by(|&x, &y| a[x][k].abs().total_cmp(&a[y][k].abs())).unwrap_or(k);
        a.swap(k, pivot);
        b.swap(k, pivot);
        let (upper, lower) = a.split_at_mut(k + 1);
        for (row, b_row) in lower.iter_mut().zip(k + 1..n) {
            let share = row[k] / upper[k][k];
            row.iter_mut().zip(&upper[k]).skip(k).for_each(|(x, pivot)| *x -= share * pivot);
            b[b_row] -= share * b[k];
        }
    }
    for k in (0..n).rev() {
        let known: f64 = a[k].iter().zip(&b).skip(k + 1).map(|(x, b)| x * b).sum();
        b[k] = (b[k] - known) / a[k][k];
    }
    b
}
