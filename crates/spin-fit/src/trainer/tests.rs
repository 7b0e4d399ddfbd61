//! Whole trainings of a tiny model, without a store.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Tensor};
use spin_run::run::{FitConfig, Keep, Loss, NonFinite, ObjectiveKind, OptimizerKind, SchedulerKind};

use crate::checkpoint::Settings;
use crate::data::Example;
use crate::metrics::LogLine;
use crate::testing::{self, model, ragged};
use crate::trainer::{EarlyStop, End, Files, Job, MAX_SKIPPED_IN_A_ROW, Trainer, TrainingSummary};
use crate::watch::{TrainingWatch, Unwatched};

fn config(objective: ObjectiveKind) -> FitConfig {
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

fn finish(trainer: &mut Trainer<'_>, watch: &mut dyn TrainingWatch) -> TrainingSummary {
    match trainer.run(&AtomicBool::new(false), watch).unwrap() {
        End::Finished(summary) => summary,
        End::Stopped(update) => panic!("stopped at {update}"),
    }
}

fn train(config: &FitConfig, examples: &[Example]) -> (Vec<LogLine>, BTreeMap<String, Vec<f32>>) {
    let mut trainer = Trainer::new(model(), job(config, examples, &[])).unwrap();
    let summary = finish(&mut trainer, &mut Unwatched);
    (summary.log, weights(&trainer))
}

/// Collects notes.
#[derive(Default)]
struct Notes(Vec<String>);

impl TrainingWatch for Notes {
    fn note(&mut self, text: &str) {
        self.0.push(text.into());
    }
}

#[test]
fn accumulation_equals_the_large_batch() {
    for objective in [ObjectiveKind::Spin, ObjectiveKind::Dpo, ObjectiveKind::Sft] {
        // 100 rows: the second update of each epoch is a partial one.
        let examples = ragged(100, objective != ObjectiveKind::Sft);
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
        (ObjectiveKind::Spin, Loss::Logistic),
        (ObjectiveKind::Spin, Loss::Hinge),
        (ObjectiveKind::Spin, Loss::Exponential),
        (ObjectiveKind::Spin, Loss::Correlation),
        (ObjectiveKind::Tspin, Loss::Logistic),
        (ObjectiveKind::Space, Loss::Nce),
        (ObjectiveKind::Dpo, Loss::Sigmoid),
        (ObjectiveKind::Dpo, Loss::Hinge),
        (ObjectiveKind::Dpo, Loss::Ipo),
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
    let config = FitConfig {
        batch_size: 8,
        max_tokens_per_batch: 300,
        eval_every: 2,
        eval_rows: 6,
        ..config(ObjectiveKind::Spin)
    };
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
                trainer.step(&mut Unwatched).unwrap();
                if trainer.log().len().is_multiple_of(3) {
                    trainer.save().unwrap();
                }
            }
        }
        let mut trainer =
            Trainer::new(model(), job(&config, rest, held_out)).unwrap().with_files(files, settings()).unwrap();
        let summary = finish(&mut trainer, &mut Unwatched);
        let log: Vec<_> = summary.log.iter().map(|line| line.update.clone()).collect();
        (log, summary.kept_update, weights(&trainer))
    };
    let undisturbed = run(&[]);
    assert_eq!(undisturbed.0.len(), 12);
    assert_eq!(run(&[1, 4, 3, 11]), undisturbed);
}

fn files_in(dir: &std::path::Path) -> Files {
    Files {
        checkpoint: dir.join("c.safetensors"),
        best: dir.join("b.safetensors"),
        log: dir.join("log.jsonl"),
        events: dir.join("events"),
    }
}

#[test]
fn a_checkpoint_is_made_after_minutes_as_well_as_after_updates() {
    let examples = ragged(40, true);
    // Nine updates of 100 seconds each.
    let made = |checkpoint_every: usize, checkpoint_minutes: f64| {
        let config = FitConfig { batch_size: 20, checkpoint_every, checkpoint_minutes, ..config(ObjectiveKind::Spin) };
        let dir = tempfile::tempdir().unwrap();
        let now = std::rc::Rc::new(std::cell::Cell::new(0.0));
        let clock = now.clone();
        let trainer = Trainer::new(model(), job(&config, &examples, &[])).unwrap();
        let mut trainer =
            trainer.with_files(files_in(dir.path()), Settings::default()).unwrap().with_clock(move || clock.get());
        let mut saved = Vec::new();
        while trainer.log().len() < 8 {
            trainer.step(&mut Unwatched).unwrap();
            now.set(now.get() + 100.0);
            let update = trainer.log().len();
            if trainer.pace.due(update) {
                trainer.save().unwrap();
                saved.push(update);
            }
        }
        saved
    };
    // 5 minutes are over after the third update, then after three more.
    assert_eq!(made(1000, 5.0), [3, 6]);
    assert!(made(1000, 0.0).is_empty());
    assert_eq!(made(4, 0.0), [4, 8]);
    // A checkpoint for either reason starts the minutes anew.
    assert_eq!(made(4, 5.0), [3, 4, 7, 8]);
    assert_eq!(FitConfig::default().checkpoint_minutes, 5.0);
}

/// Says stop when it is told of an update.
struct StopAt<'a>(usize, &'a AtomicBool);

impl TrainingWatch for StopAt<'_> {
    fn update(&mut self, line: &LogLine, _: usize) {
        if line.update.update == self.0 {
            self.1.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

#[test]
fn a_stop_drops_the_update_under_way_and_nothing_else() {
    let examples = ragged(40, true);
    // Each update is five forward passes.
    let config =
        FitConfig { batch_size: 20, micro_batch_size: 4, checkpoint_every: 1000, ..config(ObjectiveKind::Spin) };
    let dir = tempfile::tempdir().unwrap();
    let trainer = || {
        Trainer::new(model(), job(&config, &examples, &[]))
            .unwrap()
            .with_files(files_in(dir.path()), Settings::default())
    };
    let undisturbed = train(&config, &examples).1;

    // In the middle of the first update there is nothing to keep.
    let mut first = trainer().unwrap();
    let mut asked = 0;
    let mut go_on = || {
        asked += 1;
        asked < 3
    };
    assert!(!first.step_while(&mut go_on, &mut Unwatched).unwrap());
    assert_eq!((asked, first.log().len()), (3, 0), "it is asked before each forward pass");
    assert_eq!(first.run(&AtomicBool::new(true), &mut Unwatched).unwrap(), End::Stopped(0));
    assert!(!files_in(dir.path()).checkpoint.exists());
    drop(first);

    // Stopped after two updates and in the middle of the third.
    let mut second = trainer().unwrap();
    let stop = AtomicBool::new(false);
    assert_eq!(second.run(&stop, &mut StopAt(2, &stop)).unwrap(), End::Stopped(2));
    let mut asked = 0;
    let mut go_on = || {
        asked += 1;
        asked < 4
    };
    assert!(!second.step_while(&mut go_on, &mut Unwatched).unwrap());
    drop(second);

    let mut third = trainer().unwrap();
    assert_eq!(third.log().len(), 2);
    let summary = finish(&mut third, &mut Unwatched);
    assert_eq!((summary.updates, weights(&third)), (8, undisturbed));
}

#[test]
fn a_damaged_file_is_said_and_the_result_is_the_same() {
    let examples = ragged(30, true);
    let (rest, held_out) = examples.split_at(24);
    let config = FitConfig { batch_size: 8, eval_every: 2, eval_rows: 6, ..config(ObjectiveKind::Spin) };
    let settings = || Settings::of(&serde_json::json!({"seed": 7}));
    let run = |damage: &dyn Fn(&Files)| {
        let dir = tempfile::tempdir().unwrap();
        let files = files_in(dir.path());
        let trainer = || {
            let trainer = Trainer::new(model(), job(&config, rest, held_out)).unwrap();
            trainer.with_files(files.clone(), settings()).unwrap()
        };
        let mut first = trainer();
        let stop = AtomicBool::new(false);
        first.run(&stop, &mut StopAt(7, &stop)).unwrap();
        drop(first);
        damage(&files);
        let (mut second, mut notes) = (trainer(), Notes::default());
        let went_on_from = second.log().len();
        let summary = finish(&mut second, &mut notes);
        let log: Vec<_> = summary.log.iter().map(|line| line.update.clone()).collect();
        let notes: Vec<String> = notes.0.into_iter().filter(|note| note.contains("from the beginning")).collect();
        (log, weights(&second), went_on_from, notes)
    };
    let good = run(&|_| ());
    assert_eq!((good.2, good.3.len()), (7, 0));
    let flip = |path: &std::path::Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let at = bytes.len() - 2;
        bytes[at] ^= 2;
        std::fs::write(path, bytes).unwrap();
    };
    type Damage<'a> = (&'static str, &'a dyn Fn(&Files));
    let damages: [Damage<'_>; 5] = [
        ("c.safetensors", &|files| flip(&files.checkpoint)),
        ("b.safetensors", &|files| flip(&files.best)),
        ("b.safetensors", &|files| std::fs::remove_file(&files.best).unwrap()),
        ("log.jsonl", &|files| flip(&files.log)),
        ("log.jsonl", &|files| std::fs::remove_file(&files.log).unwrap()),
    ];
    for (named, damage) in damages {
        let bad = run(damage);
        assert_eq!((&bad.0, &bad.1, bad.2), (&good.0, &good.1, 0), "{named}");
        assert!(bad.3.len() == 1 && bad.3[0].contains(named) && bad.3[0].contains("c.damaged"), "{named}: {:?}", bad.3);
    }
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
        ..config(ObjectiveKind::Spin)
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
        let summary = finish(&mut trainer, &mut Unwatched);
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
    let stop = FitConfig { batch_size: 4, ..config(ObjectiveKind::Spin) };
    let mut trainer = Trainer::new(model(), job(&stop, &examples, &[])).unwrap();
    let error = trainer.run(&AtomicBool::new(false), &mut Unwatched).unwrap_err().to_string();
    assert!(error.contains("the loss is NaN") && error.contains("003"), "{error}");
    // No file is named that is not there.
    assert!(error.contains("there is no checkpoint yet") && !error.contains("update 0"), "{error}");

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
    let error = trainer.run(&AtomicBool::new(false), &mut Unwatched).unwrap_err().to_string();
    assert!(error.contains(&format!("after {MAX_SKIPPED_IN_A_ROW} skipped ones in a row")), "{error}");
    assert_eq!(trainer.log().len(), MAX_SKIPPED_IN_A_ROW);
}

#[test]
fn what_was_not_finite_before_training_is_not_blamed_on_the_learning_rate() {
    let stop = FitConfig { batch_size: 20, ..config(ObjectiveKind::Spin) };
    let said = |model: spin_model::CausalLm, examples: &[Example]| {
        let mut trainer = Trainer::new(model, job(&stop, examples, &[])).unwrap();
        trainer.run(&AtomicBool::new(false), &mut Unwatched).unwrap_err()
    };
    // A row.
    let error = said(model(), &broken(20, 3)).to_string();
    assert!(error.contains("the learning rate is not the cause") && !error.contains("Lower"), "{error}");
    // A weight, of the model or beneath an adapter.
    let spoilt = || {
        let model = model();
        let (name, var) = model.params().iter().find(|(name, _)| name.contains("1.mlp.down_proj")).unwrap();
        var.set(&(var.as_detached_tensor() * f64::NAN).unwrap()).unwrap();
        (model.clone(), name.clone())
    };
    let (model, name) = spoilt();
    let adapted = spoilt().0.with_new_adapter(&spin_model::LoraConfig { r: 2, ..Default::default() }, 1).unwrap();
    for model in [model, adapted] {
        let error = said(model, &ragged(20, true));
        assert!(error.is_bad_input(), "the input is to blame");
        let error = error.to_string();
        assert!(error.contains(&name) && !error.contains("learning_rate"), "{error}");
    }
}

#[test]
fn human_answers_that_become_less_likely_are_reported_once() {
    // An opponent that finds every answer e times as likely as the model does.
    let mut examples = ragged(16, true);
    let start = crate::learner::Learner::new(model(), &config(ObjectiveKind::Spin), 1).unwrap();
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
        ..config(ObjectiveKind::Spin)
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
    for (objective, examples) in [(ObjectiveKind::Sft, &pairs), (ObjectiveKind::Spin, &rows)] {
        let config = config(objective);
        let mut trainer = Trainer::new(model(), job(&config, examples, &[])).unwrap();
        let error = trainer.step(&mut Unwatched).unwrap_err().to_string();
        assert!(error.contains(&examples[0].row_id) && error.contains("sft on demonstrations"), "{error}");
    }
}
