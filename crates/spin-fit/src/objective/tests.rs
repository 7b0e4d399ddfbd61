//! Values against torch, properties against calculus.

use proptest::prelude::*;

use super::*;

type Named = (&'static str, fn(f64) -> Slope);

const FUNCTIONS: [Named; 4] =
    [("logistic", logistic), ("hinge", hinge), ("exponential", exponential), ("correlation", correlation)];

const LOSSES: [Loss; 7] =
    [Loss::Logistic, Loss::Hinge, Loss::Exponential, Loss::Correlation, Loss::Sigmoid, Loss::Ipo, Loss::Nce];

fn objective(loss: Loss, beta: f64) -> PairObjective {
    PairObjective { loss, beta, initial_weight: 0.1, mu: 1.0, label_smoothing: 0.0, nll_weight: 0.0 }
}

fn pair(real: f64, generated: f64, ref_real: f64, ref_generated: f64) -> PairLogps {
    PairLogps { real, generated, ref_real, ref_generated, initial: None, real_tokens: 7, generated_tokens: 11 }
}

fn swapped(p: &PairLogps) -> PairLogps {
    PairLogps {
        real: p.generated,
        generated: p.real,
        ref_real: p.ref_generated,
        ref_generated: p.ref_real,
        initial: p.initial,
        real_tokens: p.generated_tokens,
        generated_tokens: p.real_tokens,
    }
}

#[test]
fn losses_and_slopes_equal_those_of_torch() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../../../../tests/golden/optim.json")).unwrap();
    let golden = &golden["objective"];
    let column = |key: &str| serde_json::from_value::<Vec<f64>>(golden[key].clone()).unwrap();
    let (real, generated) = (column("policy_real"), column("policy_generated"));
    let (ref_real, ref_generated) = (column("ref_real"), column("ref_generated"));
    let beta = golden["beta"].as_f64().unwrap();
    let mut metrics = PairMetrics::default();
    for i in 0..real.len() {
        let pair = pair(real[i], generated[i], ref_real[i], ref_generated[i]);
        let term = spin(logistic, &pair, beta);
        metrics.add(&pair, &term);
        for (actual, key) in
            [(term.loss, "losses"), (term.by_real, "grad_policy_real"), (term.by_generated, "grad_policy_generated")]
        {
            let expected = column(key)[i];
            assert!((actual - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{key} {i}: {actual} for {expected}");
        }
    }
    // Margins 0.9, 1.5, 0 and -228.
    assert_eq!(metrics.accuracy(), 0.5);
    assert!((metrics.margin(beta) - (0.9 + 1.5 - 228.0) / 4.0).abs() < 1e-9);
}

/// A number of a row by its name.
type Value<'a> = dyn Fn(&str) -> f64 + 'a;

#[test]
fn the_family_equals_torch() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../../../../tests/golden/family.json")).unwrap();
    let cases = |name: &str| golden[name].as_array().unwrap().clone();
    let near = |actual: f64, expected: f64| (actual - expected).abs() <= 1e-12 * expected.abs().max(1.0);
    let check = |case: &serde_json::Value, term: &dyn Fn(&Value) -> PairTerm| {
        for i in 0..4 {
            let at = |key: &str| case[key][i].as_f64().unwrap();
            let term = term(&at);
            assert!(near(term.loss, at("losses")), "{case}: {term:?}");
            assert!(
                near(term.by_real, at("by_real")) && near(term.by_generated, at("by_generated")),
                "{case}: {term:?}"
            );
            if case.get("initial").is_some() {
                assert!(near(term.by_initial, at("by_initial")), "{case}: {term:?}");
            }
        }
    };
    for case in cases("tspin") {
        let loss: Loss = serde_json::from_value(case["loss"].clone()).unwrap();
        let (alpha, weight) = (case["alpha"].as_f64().unwrap(), case["weight"].as_f64().unwrap());
        let objective = PairObjective { initial_weight: weight, ..objective(loss, alpha) };
        check(&case, &|at| {
            let pair = PairLogps { initial: Some(at("initial")), ..pair(at("real"), at("generated"), 0.0, 0.0) };
            objective.term(&pair)
        });
    }
    for case in cases("space") {
        let objective = PairObjective { mu: case["mu"].as_f64().unwrap(), ..objective(Loss::Nce, 1.0) };
        check(&case, &|at| objective.term(&pair(at("real"), at("generated"), at("ref_real"), at("ref_generated"))));
    }
    assert_eq!((cases("tspin").len(), cases("space").len()), (8, 3));
}

#[test]
fn values_at_zero_are_the_papers() {
    for ((name, function), (value, slope)) in
        FUNCTIONS.into_iter().zip([(std::f64::consts::LN_2, -0.5), (1.0, -1.0), (1.0, -1.0), (1.0, -1.0)])
    {
        assert_eq!(function(0.0), Slope { value, slope }, "{name}");
    }
    let start = pair(-20.0, -30.0, -20.0, -30.0);
    // IPO begins at (1/(2 beta))².
    assert_eq!(objective(Loss::Ipo, 0.25).term(&start).loss, 4.0);
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    for loss in LOSSES {
        let broken = pair(f64::NAN, -1.0, -1.0, -1.0);
        let term = objective(loss, 0.1).term(&broken);
        // In SPACE each answer counts alone.
        assert!(term.loss.is_nan() && (loss == Loss::Nce || term.by_generated.is_nan()), "{loss:?}: {term:?}");
    }
    assert!(nll(f64::NAN, 3).value.is_nan());
}

#[test]
fn supervised_terms_are_per_token() {
    assert_eq!(nll(-6.0, 4), Slope { value: 1.5, slope: -0.25 });
    let with = PairObjective { nll_weight: 0.5, ..objective(Loss::Correlation, 1.0) };
    let p = pair(-14.0, -1.0, -14.0, -1.0);
    let term = with.term(&p);
    assert!((term.loss - (1.0 + 0.5 * 2.0)).abs() < 1e-12);
    assert!((term.by_real - (-1.0 - 0.5 / 7.0)).abs() < 1e-12);
    assert_eq!(term.by_generated, 1.0);
}

proptest! {
    #[test]
    fn functions_are_convex_and_decreasing(a in -50.0..50.0f64, b in -50.0..50.0f64, share in 0.0..1.0f64) {
        for (name, function) in FUNCTIONS {
            let (low, high) = (a.min(b), a.max(b));
            let (at_low, at_high) = (function(low), function(high));
            prop_assert!(at_low.value >= at_high.value, "{name} rises");
            prop_assert!(at_low.slope <= at_high.slope && at_high.slope <= 0.0, "{name} bends down");
            let between = function(share * a + (1.0 - share) * b).value;
            let chord = share * function(a).value + (1.0 - share) * function(b).value;
            prop_assert!(between <= chord + 1e-12 * chord.abs().max(1.0), "{name}: {between} above {chord}");
        }
    }

    #[test]
    fn nothing_overflows_and_f32_holds_it(t in -1e4..1e4f64) {
        for (name, function) in FUNCTIONS {
            for t in [t, -1e4, 1e4] {
                let Slope { value, slope } = function(t);
                prop_assert!((value as f32).is_finite() && (slope as f32).is_finite(), "{name}({t}): {value} {slope}");
            }
        }
    }

    #[test]
    fn derivatives_are_those_of_finite_differences(
        real in -40.0..0.0f64, generated in -40.0..0.0f64, ref_real in -40.0..0.0f64, ref_generated in -40.0..0.0f64,
        initial in -40.0..0.0f64, beta in 0.01..1.0f64, smoothing in 0.0..0.5f64, nll_weight in 0.0..2.0f64,
    ) {
        let p = PairLogps { initial: Some(initial), ..pair(real, generated, ref_real, ref_generated) };
        for loss in LOSSES {
            // The kink has no derivative.
            let kinks = [p.margin(beta), beta * (generated - initial)];
            prop_assume!(loss != Loss::Hinge || kinks.iter().all(|t| (t - 1.0).abs() > 1e-3));
            let label_smoothing = if loss == Loss::Sigmoid { smoothing } else { 0.0 };
            let objective = PairObjective { label_smoothing, nll_weight, initial_weight: 0.3, mu: 2.0, ..objective(loss, beta) };
            let h = 1e-5;
            let at = |dr: f64, dg: f64, di: f64| {
                let moved = PairLogps {
                    real: real + dr, generated: generated + dg, initial: Some(initial + di), ..p
                };
                objective.term(&moved).loss
            };
            let term = objective.term(&p);
            let numeric = (
                (at(h, 0.0, 0.0) - at(-h, 0.0, 0.0)) / (2.0 * h), (at(0.0, h, 0.0) - at(0.0, -h, 0.0)) / (2.0 * h),
                (at(0.0, 0.0, h) - at(0.0, 0.0, -h)) / (2.0 * h),
            );
            // Differences of a large loss lose its last digits.
            let tolerance = 1e-6 * term.loss.abs().max(1.0);
            prop_assert!((term.by_real - numeric.0).abs() < tolerance, "{loss:?}: {} for {}", term.by_real, numeric.0);
            prop_assert!((term.by_generated - numeric.1).abs() < tolerance, "{loss:?}");
            prop_assert!((term.by_initial - numeric.2).abs() < tolerance, "{loss:?}");
        }
    }

    #[test]
    fn sides_and_smoothing_are_symmetric(
        real in -90.0..0.0f64, generated in -90.0..0.0f64, beta in 0.01..5.0f64, smoothing in 0.0..0.5f64,
    ) {
        let p = pair(real, generated, -40.0, -50.0);
        let other = swapped(&p);
        // Smoothing by ε one way round is smoothing by 1 - ε the other way.
        let (here, there) = (dpo_sigmoid(&p, beta, smoothing), dpo_sigmoid(&other, beta, 1.0 - smoothing));
        prop_assert!((here.loss - there.loss).abs() <= 1e-9 * here.loss.abs().max(1.0));
        prop_assert!((here.by_real - there.by_generated).abs() < 1e-9);
        // softplus(t) - softplus(-t) = t.
        let difference = logistic(-p.margin(beta)).value - logistic(p.margin(beta)).value;
        prop_assert!((difference - p.margin(beta)).abs() < 1e-9 * difference.abs().max(1.0));
        // Without smoothing DPO with the sigmoid is SPIN with the logistic function.
        prop_assert_eq!(dpo_sigmoid(&p, beta, 0.0), spin(logistic, &p, beta));
        // An answer gains what the other loses, whatever it is a function of.
        for loss in [Loss::Logistic, Loss::Hinge, Loss::Exponential, Loss::Correlation, Loss::Sigmoid] {
            let term = objective(loss, beta).term(&p);
            prop_assert_eq!(term.by_real, -term.by_generated);
        }
    }
}
