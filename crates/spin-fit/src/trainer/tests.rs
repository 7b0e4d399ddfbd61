//! Whole trainings of a tiny model, without a store.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Tensor};
use spin_store::run::{FitConfig, Keep, Loss, NonFinite, Objective, OptimizerKind, SchedulerKind};

use crate::checkpoint::Settings;
use crate::data::Example;
use crate::metrics::LogLine;
use crate::testing::{self, model, ragged};
use crate::trainer::{EarlyStop, End, Files, Job, MAX_SKIPPED_IN_A_ROW, Summary, Trainer};
use crate::watch::{Silent, Watch};

fn config(objective: Objective) -> FitConfig {
    FitConfig {
        objective,
        beta: 0.2,
        learning_rate: 1e-3,
        lr_scheduler: SchedulerKind::Cosine,
        optimizer: OptimizerKind::Adamw,
        weight_decay: 0.1,
        batch_size: 64,
        micro_batch_size: 64,
        schedule_epochs: 4.0,
        stop_epoch: 4.0,
        checkpoint_every: 3,
        ..FitConfig::default()
    }
}

fn job<'a>(config: &'a FitConfig, examples: &'a [Example], held_out: &'a [Example]) -> Job<'a> {
    Job { config, examples, held_out, seed: 7, updates: 0 }
}

fn weights(trainer: &Trainer<'_>) -> BTreeMap<String, Vec<f32>> {
    let flat = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    trainer.model().params().iter().map(|(name, var)| (name.clone(), flat(var))).collect()
}

fn finish(trainer: &mut Trainer<'_>, watch: &mut dyn Watch) -> Summary {
    match trainer.run(&AtomicBool::new(false), watch).unwrap() {
        End::Finished(summary) => summary,
        End::Stopped(update) => panic!("stopped at {update}"),
    }
}

fn train(config: &FitConfig, examples: &[Example]) -> (Vec<LogLine>, BTreeMap<String, Vec<f32>>) {
    let mut trainer = Trainer::new(model(), job(config, examples, &[])).unwrap();
    let summary = finish(&mut trainer, &mut Silent);
    (summary.log, weights(&trainer))
}

/// Collects notes.
#[derive(Default)]
struct Notes(Vec<String>);

impl Watch for Notes {
    fn note(&mut self, text: &str) {
        self.0.push(text.into());
    }
}

#[test]
fn accumulation_equals_the_large_batch() {
    for objective in [Objective::Spin, Objective::Dpo, Objective::Sft] {
        // 100 rows: the second update of each epoch is a partial one.
        let examples = ragged(100, objective != Objective::Sft);
        let large = config(objective);
        let (log, weights) = train(&large, &examples);
        assert_eq!(log.len(), 8);
        let (first, last) = (log[0].update.loss, log[7].update.loss);
        assert!(last < first - 1e-3, "{objective:?}: nothing was learned, {first} to {last}");
        for other in [
            FitConfig { micro_batch_size: 8, ..large.clone() },
            FitConfig { micro_batch_size: 7, ..large.clone() },
            FitConfig { max_tokens_per_batch: 500, ..large.clone() },
            FitConfig { max_tokens_per_batch: 1, ..large.clone() },
        ] {
            let (other_log, other_weights) = train(&other, &examples);
            for (a, b) in log.iter().zip(&other_log) {
                let (a, b) = (&a.update, &b.update);
                assert!((a.loss - b.loss).abs() < 1e-5, "{objective:?} {}: {} and {}", a.update, a.loss, b.loss);
                assert!((a.grad_norm - b.grad_norm).abs() < 1e-4 * a.grad_norm.max(1.0), "{objective:?} {}", a.update);
                assert_eq!((a.tokens, a.learning_rate), (b.tokens, b.learning_rate));
            }
            for (name, values) in &weights {
                for (a, b) in values.iter().zip(&other_weights[name]) {
                    assert!((a - b).abs() < 1e-5, "{objective:?} {name}: {a} and {b}");
                }
            }
        }
    }
}

#[test]
fn every_loss_separates_the_pairs_it_is_trained_on() {
    let examples = ragged(24, true);
    for (objective, loss) in [
        (Objective::Spin, Loss::Logistic),
        (Objective::Spin, Loss::Hinge),
        (Objective::Spin, Loss::Exponential),
        (Objective::Spin, Loss::Correlation),
        (Objective::Dpo, Loss::Sigmoid),
        (Objective::Dpo, Loss::Hinge),
        (Objective::Dpo, Loss::Ipo),
    ] {
        let config = FitConfig {
            loss: Some(loss),
            batch_size: 24,
            schedule_epochs: 12.0,
            stop_epoch: 12.0,
            lr_scheduler: SchedulerKind::Constant,
            ..config(objective)
        };
        let (log, _) = train(&config, &examples);
        let (first, last) = (&log[0].update, &log.last().unwrap().update);
        assert!(last.loss < first.loss, "{objective:?} {loss:?}: {} to {}", first.loss, last.loss);
        let margins = (first.rewards_margins.unwrap(), last.rewards_margins.unwrap());
        assert!(margins.1 > margins.0, "{objective:?} {loss:?}: {margins:?}");
        assert!(last.rewards_accuracies >= first.rewards_accuracies, "{objective:?} {loss:?}");
    }
}

#[test]
fn an_interrupted_training_ends_with_the_same_bits() {
    let examples = ragged(30, true);
    let (rest, held_out) = examples.split_at(24);
    let config =
        FitConfig { batch_size: 8, max_tokens_per_batch: 300, eval_every: 2, eval_rows: 6, ..config(Objective::Spin) };
    let settings = || Settings::of(&serde_json::json!({"seed": 7}));
    let run = |stop_at: &[usize]| {
        let dir = tempfile::tempdir().unwrap();
        let files = Files {
            checkpoint: dir.path().join("c.safetensors"),
            best: dir.path().join("b.safetensors"),
            log: dir.path().join("log.jsonl"),
            events: dir.path().join("events"),
        };
        for at in stop_at {
            // Dropped without a word, as by a kill.
            let mut trainer = Trainer::new(model(), job(&config, rest, held_out))
                .unwrap()
                .with_files(files.clone(), settings())
                .unwrap();
            while trainer.log().len() < *at {
                trainer.step(&mut Silent).unwrap();
                if trainer.log().len().is_multiple_of(3) {
                    trainer.save().unwrap();
                }
            }
        }
        let mut trainer =
            Trainer::new(model(), job(&config, rest, held_out)).unwrap().with_files(files, settings()).unwrap();
        let summary = finish(&mut trainer, &mut Silent);
        let log: Vec<_> = summary.log.iter().map(|line| line.update.clone()).collect();
        (log, summary.kept_update, weights(&trainer))
    };
    let undisturbed = run(&[]);
    assert_eq!(undisturbed.0.len(), 12);
    assert_eq!(run(&[1, 4, 3, 11]), undisturbed);
}

#[test]
fn early_stops_come_when_they_should_and_keep_the_best() {
    let examples = ragged(40, true);
    let (rest, held_out) = examples.split_at(32);
    // A rate so high that held-out loss rises.
    let wild = FitConfig {
        batch_size: 8,
        learning_rate: 0.3,
        eval_every: 1,
        patience: 3,
        schedule_epochs: 20.0,
        stop_epoch: 20.0,
        ..config(Objective::Spin)
    };
    let dir = tempfile::tempdir().unwrap();
    let files = |name: &str| Files {
        checkpoint: dir.path().join(format!("{name}.c")),
        best: dir.path().join(format!("{name}.b")),
        log: dir.path().join(format!("{name}.log")),
        events: dir.path().join(format!("{name}.events")),
    };
    let run = |config: &FitConfig, name: &str| {
        let trainer = Trainer::new(model(), job(config, rest, held_out)).unwrap();
        let mut trainer = trainer.with_files(files(name), Settings::default()).unwrap();
        let summary = finish(&mut trainer, &mut Silent);
        let held_out: Vec<&Example> = held_out.iter().collect();
        let left =
            crate::learner::Learner::new(trainer.model().clone(), config, 1).unwrap().evaluate(&held_out).unwrap();
        (summary, left)
    };
    let (summary, left) = run(&wild, "best");
    assert_eq!(summary.early_stop, Some(EarlyStop::Patience));
    assert_eq!(summary.updates, summary.kept_update + 3);
    assert_eq!(Some(left.loss), summary.best_eval_loss);
    let last = FitConfig { keep: Keep::Last, ..wild.clone() };
    let (summary, left) = run(&last, "last");
    assert_eq!(summary.kept_update, summary.updates);
    assert_eq!(Some(left.loss), summary.log.last().unwrap().update.eval_loss);
    assert!(!files("last").best.exists());

    let gentle = FitConfig { learning_rate: 3e-3, patience: 0, stop_margin: 0.05, ..wild };
    let (summary, _) = run(&gentle, "margin");
    assert_eq!(summary.early_stop, Some(EarlyStop::Margin));
    let margins: Vec<f64> = summary.log.iter().map(|line| line.update.eval_margin.unwrap()).collect();
    let (reached, before) = margins.split_last().unwrap();
    assert!(*reached >= 0.05 && before.iter().all(|margin| *margin < 0.05), "{margins:?}");
    assert!(summary.updates < summary.scheduled_updates);
}

/// Rows of which one has an opponent that breaks the loss.
fn broken(rows: usize, which: usize) -> Vec<Example> {
    let mut examples = ragged(rows, true);
    examples[which].opponent.as_mut().unwrap().ref_real = f64::NAN;
    examples
}

#[test]
fn what_is_not_finite_stops_or_is_skipped_as_set() {
    let examples = broken(20, 3);
    let stop = FitConfig { batch_size: 4, ..config(Objective::Spin) };
    let mut trainer = Trainer::new(model(), job(&stop, &examples, &[])).unwrap();
    let error = trainer.run(&AtomicBool::new(false), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("the loss is NaN") && error.contains("003"), "{error}");

    let skip = FitConfig { on_nonfinite: NonFinite::Skip, ..stop };
    let (mut trainer, mut notes) = (Trainer::new(model(), job(&skip, &examples, &[])).unwrap(), Notes::default());
    let summary = finish(&mut trainer, &mut notes);
    // Once in each of four epochs of five updates.
    assert_eq!((summary.updates, summary.skipped_updates), (20, 4));
    assert_eq!(notes.0.iter().filter(|note| note.contains("is skipped: its loss is NaN")).count(), 4);
    assert_eq!(summary.log.iter().filter(|line| line.update.skipped).count(), 4);
    assert!(weights(&trainer).values().flatten().all(|w| w.is_finite()));

    // A training in which nothing works does not go on for ever.
    let mut hopeless = ragged(20, true);
    hopeless.iter_mut().for_each(|e| e.opponent.as_mut().unwrap().ref_real = f64::NAN);
    let mut trainer = Trainer::new(model(), job(&skip, &hopeless, &[])).unwrap();
    let error = trainer.run(&AtomicBool::new(false), &mut Silent).unwrap_err().to_string();
    assert!(error.contains(&format!("after {MAX_SKIPPED_IN_A_ROW} skipped ones in a row")), "{error}");
    assert_eq!(trainer.log().len(), MAX_SKIPPED_IN_A_ROW);
}

#[test]
fn human_answers_that_become_less_likely_are_reported_once() {
    // An opponent that finds every answer e times as likely as the model does.
    let mut examples = ragged(16, true);
    let start = crate::learner::Learner::new(model(), &config(Objective::Spin), 1).unwrap();
    let rows: Vec<&Example> = examples.iter().collect();
    let groups: Vec<_> = rows.iter().map(|e| (e.prompt_ids.as_slice(), e.answers().collect())).collect();
    let logps = crate::reference::logps(&start.model, &groups, crate::batches::Limit::Rows(16)).unwrap();
    for (example, logps) in examples.iter_mut().zip(logps) {
        let opponent = example.opponent.as_mut().unwrap();
        (opponent.ref_real, opponent.ref_generated) = (logps[0] + 1.0, logps[1] + 1.0);
    }
    let config = FitConfig {
        learning_rate: 1e-6,
        batch_size: 16,
        schedule_epochs: 15.0,
        stop_epoch: 15.0,
        ..config(Objective::Spin)
    };
    let (mut trainer, mut notes) = (Trainer::new(model(), job(&config, &examples, &[])).unwrap(), Notes::default());
    let summary = finish(&mut trainer, &mut notes);
    let first = summary.log.iter().position(|line| line.update.real_falls).unwrap();
    assert_eq!(first + 1, crate::metrics::WINDOW);
    assert!(summary.log[first..].iter().all(|line| line.update.real_falls));
    assert_eq!(notes.0.len(), 1, "{:?}", notes.0);
    assert!(notes.0[0].contains("1.00 nats") && notes.0[0].contains("fit.nll_weight"), "{}", notes.0[0]);
}

#[test]
fn rows_of_another_kind_are_refused() {
    let pairs = [testing::pair(0, 2, 3, 4)];
    let rows = [testing::demonstration(1, 2, 3)];
    for (objective, examples) in [(Objective::Sft, &pairs), (Objective::Spin, &rows)] {
        let config = config(objective);
        let mut trainer = Trainer::new(model(), job(&config, examples, &[])).unwrap();
        let error = trainer.step(&mut Silent).unwrap_err().to_string();
        assert!(error.contains(&examples[0].row_id) && error.contains("sft on demonstrations"), "{error}");
    }
}
