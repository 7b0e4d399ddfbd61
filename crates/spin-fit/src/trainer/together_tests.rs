//! Trainings by several processes: as many as there are, the bits are the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::DType;
use spin_model::{CausalLm, LoraConfig};
use spin_run::run::{FitConfig, ObjectiveKind, OptimizerKind, SchedulerKind};

use super::{End, Files, Job, OPTIMIZER, Trainer, WEIGHTS};
use crate::checkpoint::{self, Progress, Settings};
use crate::collective::threads::among;
use crate::collective::{Collective, Failure, Solo, conclude};
use crate::data::Example;
use crate::error::{FitError, Result};
use crate::learner::Learner;
use crate::metrics::{LogLine, UpdateLog};
use crate::testing::{model, ragged, wide};
use crate::watch::TrainingWatch;

fn config(shards: usize) -> FitConfig {
    FitConfig {
        objective: ObjectiveKind::Spin,
        shards,
        beta: 0.2,
        learning_rate: 3e-3,
        lr_scheduler: SchedulerKind::Cosine,
        optimizer: OptimizerKind::Adamw,
        weight_decay: 0.1,
        batch_size: 10,
        micro_batch_size: 2,
        schedule_epochs: 2.0,
        stop_epoch: 2.0,
        checkpoint_every: 3,
        eval_every: 2,
        eval_rows: 5,
        ..FitConfig::default()
    }
}

fn files(dir: &Path) -> Files {
    Files {
        checkpoint: dir.join("c.safetensors"),
        best: dir.join("b.safetensors"),
        log: dir.join("log.jsonl"),
        events: dir.join("events"),
    }
}

fn settings() -> Settings {
    Settings::of(&serde_json::json!({"seed": 7}))
}

/// Stops one process when an update is done.
struct StopAt<'a>(Option<usize>, &'a AtomicBool);

impl TrainingWatch for StopAt<'_> {
    fn update(&mut self, line: &LogLine, _: usize) {
        if self.0 == Some(line.update.update) {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

/// A part of a training: by so many processes, of which the last is asked to
/// stop after an update.
type Part = (usize, Option<usize>);

fn part(
    world: Rc<dyn Collective>,
    dir: &Path,
    config: &FitConfig,
    model: fn() -> CausalLm,
    rows: &[Example],
    stop_at: Option<usize>,
) -> Result<End> {
    let (examples, held_out) = rows.split_at(rows.len() - 5);
    let job = Job { config, examples, held_out, seed: 7, updates: 0 };
    let stop_at = stop_at.filter(|_| world.rank() + 1 == world.world());
    let mut trainer = Trainer::among(model(), job, world)?.with_files(files(dir), settings())?;
    let stop = AtomicBool::new(false);
    trainer.run(&stop, &mut StopAt(stop_at, &stop))
}

/// What a training leaves: the log but for times, counters, weights and state
/// of the last checkpoint, the best weights.
#[derive(Debug, PartialEq)]
struct Left {
    log: Vec<UpdateLog>,
    progress: Progress,
    tensors: Vec<BTreeMap<String, Vec<f32>>>,
}

fn left(dir: &Path, log: &[LogLine]) -> Left {
    let files = files(dir);
    let flat = |tensors: BTreeMap<String, candle_core::Tensor>| {
        let flat = |tensor: candle_core::Tensor| tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        tensors.into_iter().map(|(name, tensor)| (name, flat(tensor).to_vec1().unwrap())).collect()
    };
    let mut last = checkpoint::load(&files.checkpoint, &settings()).unwrap();
    let mut best = checkpoint::load(&files.best, &settings()).unwrap();
    Left {
        log: log.iter().map(|line| line.update.clone()).collect(),
        progress: last.progress.clone(),
        tensors: [last.take(WEIGHTS), last.take(OPTIMIZER), best.take("")].map(flat).into(),
    }
}

/// Trains in parts, each to its stop and the last to the end.
fn trained(config: &FitConfig, model: fn() -> CausalLm, parts: &[Part]) -> Left {
    let rows = ragged(42, config.objective != ObjectiveKind::Sft);
    let dir = tempfile::tempdir().unwrap();
    let mut log = Vec::new();
    for (world, stop_at) in parts {
        let run = |world| part(world, dir.path(), config, model, &rows, *stop_at).unwrap();
        let ends = if *world == 1 { vec![run(Rc::new(Solo))] } else { among(*world, run) };
        for end in ends {
            match end {
                End::Stopped(update) => assert_eq!(Some(update), *stop_at, "all stop at once"),
                End::Finished(summary) => {
                    assert_eq!(*stop_at, None);
                    let updates = |log: &[LogLine]| log.iter().map(|line| line.update.clone()).collect::<Vec<_>>();
                    assert!(log.is_empty() || updates(&log) == updates(&summary.log), "all have the same log");
                    log = summary.log;
                }
            }
        }
    }
    left(dir.path(), &log)
}

fn in_bf16() -> CausalLm {
    model().to_dtype(DType::BF16).unwrap()
}

fn wide_in_bf16() -> CausalLm {
    wide().to_dtype(DType::BF16).unwrap()
}

fn with_adapter() -> CausalLm {
    let lora = LoraConfig { r: 4, lora_alpha: 8.0, lora_dropout: 0.3, ..LoraConfig::default() };
    model().with_new_adapter(&lora, 5).unwrap()
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_processes() {
    let rmsprop = FitConfig { optimizer: OptimizerKind::Rmsprop, max_tokens_per_batch: 200, ..config(4) };
    let sft = FitConfig { objective: ObjectiveKind::Sft, label_smoothing: 0.1, ..config(6) };
    type Case = (&'static str, FitConfig, fn() -> CausalLm, &'static [usize]);
    let cases: [Case; 7] = [
        ("f32", config(4), model, &[1, 2, 4]),
        ("several chunks", config(4), wide, &[1, 2, 4]),
        ("bf16 with masters", config(3), in_bf16, &[1, 3]),
        ("several chunks of bf16", rmsprop.clone(), wide_in_bf16, &[1, 2, 4]),
        ("an adapter with dropout", config(4), with_adapter, &[1, 2, 4]),
        ("RMSProp", rmsprop, model, &[1, 4]),
        ("supervised, in two or three rounds", sft, model, &[1, 2, 3, 6]),
    ];
    for (name, config, model, worlds) in cases {
        let alone = trained(&config, model, &[(1, None)]);
        // The last of each epoch has fewer rows than shares where there are six.
        assert_eq!(alone.log.len(), 8, "{name}");
        assert!(alone.log.iter().all(|update| update.grad_norm > 0.0 && !update.skipped), "{name}");
        for world in &worlds[1..] {
            let together = trained(&config, model, &[(*world, None)]);
            assert!(together == alone, "{name}: {world} processes differ from one");
        }
    }
}

#[test]
fn a_training_goes_on_with_another_number_of_processes() {
    for model in [model as fn() -> CausalLm, wide_in_bf16, with_adapter] {
        let undisturbed = trained(&config(4), model, &[(1, None)]);
        let moved = trained(&config(4), model, &[(2, Some(2)), (1, Some(3)), (4, Some(6)), (2, None)]);
        assert!(moved == undisturbed);
    }
}

#[test]
fn shares_change_rounding_and_nothing_else() {
    let updates = |shards| trained(&config(shards), model, &[(1, None)]).log;
    let (one, four) = (updates(1), updates(4));
    assert_ne!(one, four);
    for (one, four) in one.iter().zip(&four) {
        assert!((one.loss - four.loss).abs() < 1e-5 && one.tokens == four.tokens, "{one:?} {four:?}");
    }
    // What is dropped is another matter.
    let dropped = |shards| trained(&config(shards), with_adapter, &[(1, None)]).log;
    // Not at once: a new adapter adds nothing.
    assert_ne!(dropped(2)[7].loss, dropped(4)[7].loss);
}

#[test]
fn an_error_of_one_process_is_one_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let ends = among(4, |world| {
        let mut rows = ragged(42, true);
        if world.rank() == 2 {
            rows.iter_mut().for_each(|row| row.real_ids[0] = 4000);
        }
        let result = part(world.clone(), dir.path(), &config(4), model, &rows, None);
        conclude(&*world, result, Failure::of).unwrap_err()
    });
    for (rank, end) in ends.iter().enumerate() {
        let said = matches!(end, FitError::Peer { rank: 2, .. });
        assert_eq!(said, rank != 2, "{end:?}");
    }
    // A disk that takes nothing: the first alone sees it, in the middle of a checkpoint.
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".tmp-c.safetensors")).unwrap();
    let ends = among(2, |world| {
        let result = part(world.clone(), dir.path(), &config(4), model, &ragged(42, true), None);
        conclude(&*world, result, Failure::of).unwrap_err()
    });
    assert!(matches!(ends[0], FitError::Store(_)), "{:?}", ends[0]);
    assert!(matches!(ends[1], FitError::Peer { rank: 0, .. }), "{:?}", ends[1]);
}

#[test]
fn a_damaged_checkpoint_is_set_aside_by_the_first_and_all_begin_anew() {
    let rows = ragged(42, true);
    let dir = tempfile::tempdir().unwrap();
    let run = |stop_at| among(2, |world| part(world, dir.path(), &config(2), model, &rows, stop_at).unwrap());
    assert_eq!(run(Some(3)), [End::Stopped(3), End::Stopped(3)]);
    let path = files(dir.path()).checkpoint;
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 2;
    bytes[at] ^= 2;
    std::fs::write(&path, bytes).unwrap();
    assert!(run(None).iter().all(|end| matches!(end, End::Finished(summary) if summary.updates == 8)));
    assert!(dir.path().join("c.damaged").exists());
}

#[test]
fn what_cannot_be_dealt_out_is_refused() {
    for end in among(2, |world| Learner::among(model(), &config(3), 1, world).map(drop).unwrap_err()) {
        assert!(matches!(end, FitError::Shares { shards: 3, world: 2, .. }), "{end:?}");
    }
}

#[test]
fn each_process_keeps_its_part_of_the_state() {
    let kept = among(4, |world| {
        let learner = Learner::among(wide(), &config(4), 1, world).unwrap();
        let numbers = |tensor: &crate::optim::StateTensor<'_>| match tensor {
            crate::optim::StateTensor::Host(values, _) => values.len(),
            crate::optim::StateTensor::Tensor(_) => 0,
        };
        learner.optimizer.state().unwrap().iter().map(|(_, tensor)| numbers(tensor)).sum::<usize>()
    });
    let all = 2 * wide().num_trainable();
    assert_eq!(kept.iter().sum::<usize>(), all);
    assert!(kept.iter().all(|kept| *kept <= all / 4 + 2 * spin_model::CHUNK), "{kept:?}");
}
