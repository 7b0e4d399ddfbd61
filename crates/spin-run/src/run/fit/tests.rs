use super::*;

fn problem(change: impl FnOnce(&mut FitConfig)) -> String {
    let mut config = FitConfig::default();
    change(&mut config);
    config.check().expect_err("must not pass")
}

#[test]
fn every_objective_takes_its_own_losses_alone() {
    use {Loss::*, ObjectiveKind::*};
    let all = [Logistic, Hinge, Exponential, Correlation, Sigmoid, Ipo];
    for (objective, own) in
        [(Spin, &[Logistic, Hinge, Exponential, Correlation][..]), (Dpo, &[Sigmoid, Hinge, Ipo]), (Sft, &[])]
    {
        FitConfig { objective, ..FitConfig::default() }.check().unwrap();
        for loss in all {
            let config = FitConfig { objective, loss: Some(loss), ..FitConfig::default() };
            assert_eq!(config.check().is_ok(), own.contains(&loss), "{objective:?} {loss:?}");
        }
    }
    let said = problem(|c| c.loss = Some(Ipo));
    assert!(said.contains("loss = \"ipo\"") && said.contains("logistic, hinge, exponential"), "{said}");
    assert_eq!(FitConfig { objective: Dpo, ..FitConfig::default() }.loss(), Some(Sigmoid));
}

#[test]
fn numbers_that_fit_nothing_are_named() {
    assert!(problem(|c| c.label_smoothing = 0.1).contains("label_smoothing = 0.1"));
    let dpo = |c: &mut FitConfig| (c.objective, c.label_smoothing) = (ObjectiveKind::Dpo, 0.5);
    assert!(problem(dpo).contains("below 0.5"));
    assert!(problem(|c| (c.objective, c.nll_weight) = (ObjectiveKind::Sft, 1.0)).contains("nll_weight"));
    assert!(problem(|c| (c.objective, c.loss, c.beta) = (ObjectiveKind::Dpo, Some(Loss::Ipo), 0.0)).contains("beta"));
    assert!(problem(|c| c.stop_margin = 1.0).contains("need eval_every"));
    assert!(problem(|c| c.eval_every = 1).contains("eval_rows"));
    assert!(problem(|c| c.betas[1] = 1.0).contains("betas[1] = 1"));
    assert!(problem(|c| c.learning_rate = f64::NAN).contains("learning_rate = NaN"));
    assert!(problem(|c| c.shards = 0).contains("shards = 0 must be at least 1"));
    assert!(problem(|c| (c.shards, c.batch_size) = (9, 8)).contains("at most batch_size = 8"));
    assert!(problem(|c| c.checkpoint_minutes = -1.0).contains("checkpoint_minutes = -1"));
}

#[test]
fn one_share_is_not_in_parameters_and_two_are() {
    let params = |shards| serde_json::to_value(FitConfig { shards, ..FitConfig::default() }).unwrap();
    assert_eq!(params(1).get("shards"), None);
    assert_eq!(params(2)["shards"], 2);
    assert_eq!(FitConfig { shards: 4, ..FitConfig::default() }.as_baseline().shards, 4);
}

#[test]
fn a_baseline_has_nothing_that_only_pairs_have() {
    let fit = FitConfig {
        objective: ObjectiveKind::Dpo,
        label_smoothing: 0.2,
        nll_weight: 1.0,
        loss: Some(Loss::Sigmoid),
        stop_margin: 2.0,
        eval_every: 3,
        eval_rows: 4,
        ..FitConfig::default()
    };
    fit.check().unwrap();
    let baseline = fit.as_baseline();
    baseline.check().unwrap();
    assert_eq!((baseline.objective, baseline.label_smoothing, baseline.eval_every), (ObjectiveKind::Sft, 0.0, 3));
}
