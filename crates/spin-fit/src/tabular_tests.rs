//! The paper's theorems on tables.

use proptest::prelude::*;
use spin_run::run::Loss;

use crate::objective::PairObjective;
use crate::tabular::{Game, Policy, closed_form, free, kl, softmax, weights_of};

const ASSUMED: [Loss; 4] = [Loss::Logistic, Loss::Hinge, Loss::Exponential, Loss::Correlation];

fn objective(loss: Loss, lambda: f64) -> PairObjective {
    PairObjective { loss, beta: lambda, initial_weight: 0.1, mu: 1.0, label_smoothing: 0.0, nll_weight: 0.0 }
}

fn spin<'a>(data: &'a [f64], opponent: &'a [f64]) -> Game<'a> {
    Game { data, generated: opponent, reference: Some(opponent), initial: None }
}

fn best(game: &Game<'_>, objective: &PairObjective, start: &[f64]) -> Policy {
    game.best(objective, &free(start.len()), &weights_of(start))
}

fn policies(answers: usize) -> impl Strategy<Value = (Policy, Policy)> {
    let logits = || proptest::collection::vec(-1.5..1.5f64, answers);
    (logits(), logits()).prop_map(|(a, b)| (softmax(&a), softmax(&b)))
}

fn distance(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| (p - q).abs()).fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Theorem 5.4: minimising the logistic loss gives the closed form.
    #[test]
    fn the_minimum_is_the_closed_form((data, opponent) in policies(5), lambda in 0.4..4.0f64) {
        let found = best(&spin(&data, &opponent), &objective(Loss::Logistic, lambda), &opponent);
        let expected = closed_form(&data, &opponent, lambda);
        prop_assert!(distance(&found, &expected) < 1e-7, "{found:?} for {expected:?}");
    }

    /// Theorem 5.2: where the opponent is p_data, staying is a global minimum,
    /// for every λ and loss.
    #[test]
    fn p_data_is_a_fixed_point((data, other) in policies(5), lambda in 0.0..10.0f64) {
        let game = spin(&data, &data);
        let logits = |policy: &[f64]| policy.iter().map(|p| p.ln()).collect::<Vec<_>>();
        for loss in ASSUMED {
            let (staying, gradient) = game.loss(&objective(loss, lambda), &logits(&data));
            let (leaving, _) = game.loss(&objective(loss, lambda), &logits(&other));
            prop_assert!(staying <= leaving + 1e-12 * leaving.abs().max(1.0), "{loss:?}: {staying} above {leaving}");
            prop_assert!(gradient.iter().all(|slope| slope.abs() < 1e-12), "{loss:?}: {gradient:?}");
        }
    }

    /// Theorem 5.2, the other way round: any other opponent is left. The slope
    /// at the start is λ ℓ'(0) (p_data - p_t), so a small step lowers the loss.
    #[test]
    fn any_other_opponent_is_left((data, opponent) in policies(5), lambda in 0.1..5.0f64) {
        prop_assume!(distance(&data, &opponent) > 1e-3);
        let game = spin(&data, &opponent);
        let start: Vec<f64> = opponent.iter().map(|p| p.ln()).collect();
        for loss in ASSUMED {
            let objective = objective(loss, lambda);
            let (before, gradient) = game.loss(&objective, &start);
            let first = if loss == Loss::Logistic { -0.5 } else { -1.0 };
            for ((slope, d), t) in gradient.iter().zip(&data).zip(&opponent) {
                prop_assert!((slope - lambda * first * (d - t)).abs() < 1e-12, "{loss:?}");
            }
            let step = 0.02 / lambda / lambda.max(1.0);
            let moved: Vec<f64> = start.iter().zip(&gradient).map(|(z, slope)| z - step * slope).collect();
            prop_assert!(game.loss(&objective, &moved).0 < before, "{loss:?} stays");
        }
    }

    /// log p_{t+1} - log p_data = (1 - 1/λ)(log p_t - log p_data), up to the
    /// normaliser.
    #[test]
    fn errors_shrink_by_one_factor_a_round((data, opponent) in policies(6), lambda in 0.3..5.0f64) {
        let next = closed_form(&data, &opponent, lambda);
        let error = |policy: &[f64], a: usize| (policy[a] / data[a]).ln() - (policy[0] / data[0]).ln();
        for a in 1..data.len() {
            prop_assert!((error(&next, a) - (1.0 - 1.0 / lambda) * error(&opponent, a)).abs() < 1e-9);
        }
        prop_assert!(distance(&closed_form(&data, &opponent, 1.0), &data) < 1e-12);
        if lambda >= 1.0 {
            prop_assert!(kl(&data, &next) <= kl(&data, &opponent) + 1e-12);
        }
    }

    /// SPACE's minimum is p_data in one round, whatever μ and the opponent are.
    #[test]
    fn noise_contrastive_estimation_finds_p_data_in_a_round((data, opponent) in policies(5), mu in 0.2..8.0f64) {
        let objective = PairObjective { mu, ..objective(Loss::Nce, 1.0) };
        let found = best(&spin(&data, &opponent), &objective, &opponent);
        prop_assert!(distance(&found, &data) < 1e-6, "{found:?} for {data:?}");
    }

    /// Without a reference the minimum is (p_data/p_t)^{1/α}: T-SPIN's first
    /// round does not keep p_data where it has it, and makes it uniform.
    #[test]
    fn a_triplet_without_history_answers_the_ratio_alone((data, opponent) in policies(5), alpha in 0.5..3.0f64) {
        let game = |generated| Game { data: &data, generated, reference: None, initial: None };
        let found = best(&game(&opponent), &objective(Loss::Logistic, alpha), &opponent);
        let ratio: Vec<f64> = data.iter().zip(&opponent).map(|(d, t)| (d / t).ln() / alpha).collect();
        prop_assert!(distance(&found, &softmax(&ratio)) < 1e-6);
        let kept = best(&game(&data), &objective(Loss::Logistic, alpha), &data);
        prop_assert!(distance(&kept, &[0.2; 5]) < 1e-6, "{kept:?}");
        // What it does keep is p_data^{1/(1+α)}.
        let fixed = softmax(&data.iter().map(|d| d.ln() / (1.0 + alpha)).collect::<Vec<_>>());
        let again = best(&game(&fixed), &objective(Loss::Logistic, alpha), &fixed);
        prop_assert!(distance(&again, &fixed) < 1e-6);
    }

    #[test]
    fn gradients_are_those_of_finite_differences((data, opponent) in policies(4), (first, at) in policies(4)) {
        let game = Game { data: &data, generated: &opponent, reference: None, initial: Some(&first) };
        let objective = objective(Loss::Logistic, 0.7);
        let z: Vec<f64> = at.iter().map(|p| p.ln() + 3.0).collect();
        let (_, gradient) = game.loss(&objective, &z);
        for k in 0..z.len() {
            let at = |by: f64| {
                let mut z = z.clone();
                z[k] += by;
                game.loss(&objective, &z).0
            };
            prop_assert!((gradient[k] - (at(1e-5) - at(-1e-5)) / 2e-5).abs() < 1e-9);
        }
    }
}

#[test]
fn small_lambda_overshoots_and_half_never_settles() {
    let (data, start) = (vec![0.5, 0.3, 0.2], vec![0.2, 0.3, 0.5]);
    let run = |lambda: f64, rounds: usize| {
        (0..rounds).fold(start.clone(), |opponent, _| closed_form(&data, &opponent, lambda))
    };
    assert!(distance(&run(0.5, 2), &start) < 1e-12 && distance(&run(0.5, 1), &start) > 0.1);
    assert!(kl(&data, &run(0.4, 6)) > kl(&data, &start));
    assert!(kl(&data, &run(0.7, 12)) < 1e-6 && kl(&data, &run(3.0, 30)) < 1e-6);
    // With a tenth, the paper's, one round puts all on one answer.
    assert!(run(0.1, 1)[0] > 0.999);
}
