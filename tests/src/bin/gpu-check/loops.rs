//! The programs themselves on the device: a round of self-play, an answer table made
//! twice, a training that is killed and taken up again.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use spin_run::facts::{Facts as _, SampleFacts};
use spin_run::schema::{Row as _, Sample, ScoreRow};
use spin_store::{Artifact, Store};

use crate::Line;

/// A run file, its data and a model of random weights.
pub struct Project {
    dir: PathBuf,
    programs: PathBuf,
    device: String,
}

const RUN: &str = r#"
run = "check"
seed = 7
store = "store"
[model]
path = "model"
init = "random"
[data]
train = { path = "train.jsonl" }
test = { path = "test.jsonl" }
[template]
max_prompt_length = 60
max_length = 110
[sft]
objective = "sft"
optimizer = "adamw"
learning_rate = 2e-3
batch_size = 16
stop_epoch = 2
schedule_epochs = 2
checkpoint_every = 10
[sample]
max_new_tokens = 24
rows_per_part = 64
[fit]
learning_rate = 1e-4
beta = 0.5
batch_size = 16
schedule_epochs = 6
stop_epoch = 6
checkpoint_every = 5
[bench]
tasks = ["nll"]
[[iteration]]
"#;

impl Project {
    pub fn new(dir: &Path, data: &Path, programs: &Path, device: &str) -> anyhow::Result<Project> {
        let dir = dir.join("loop");
        std::fs::create_dir_all(dir.join("model"))?;
        std::fs::write(dir.join("run.toml"), RUN)?;
        for (file, rows) in [("train.jsonl", 400), ("test.jsonl", 40)] {
            let text = std::fs::read_to_string(data.join(file))
                .with_context(|| format!("no {file} in {}; give --data", data.display()))?;
            let lines: Vec<&str> = text.lines().take(rows).collect();
            std::fs::write(dir.join(file), lines.join("\n"))?;
        }
        for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(data.join("model").join(file), dir.join("model").join(file))?;
        }
        Ok(Project { dir, programs: programs.into(), device: device.into() })
    }

    fn command(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(&self.dir).args(words).stdin(Stdio::null());
        command
    }

    fn run(&self, program: &str, words: &[&str]) -> anyhow::Result<()> {
        let output = self.command(program, words).output().with_context(|| format!("{program} does not start"))?;
        anyhow::ensure!(
            output.status.success(),
            "{program} {} ended with {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).lines().rev().take(5).collect::<Vec<_>>().join(" | ")
        );
        Ok(())
    }

    fn artifact(&self, store: &str, reference: &str) -> anyhow::Result<Artifact> {
        Ok(Store::open(&self.dir.join(store))?.get(&reference.parse()?)?)
    }

    fn samples(&self, store: &str) -> anyhow::Result<Vec<Sample>> {
        Ok(Sample::read_all(&self.artifact(store, "samples/check/iter-0")?)?)
    }

    /// θ0, its answers on the device, alone and in batches, by mistral.rs on a GPU and by our own
    /// kernels, and on the CPU.
    pub fn answers(&self) -> anyhow::Result<Vec<Line>> {
        let device = self.device.as_str();
        self.run("spin-store", &["import", "run.toml"])?;
        self.run("spin-fit", &["run.toml", "--sft", "--device", device])?;
        // Copies of the store, each with answers of its own.
        for (copy, sampler, batch, engine) in [
            ("cpu", "cpu", "0", "auto"),
            ("alone", device, "1", "auto"),
            ("own-alone", device, "1", "spin-model"),
            ("own", device, "0", "spin-model"),
        ] {
            let (store, engine) = (format!("store={copy}"), format!("sample.engine={engine}"));
            copy_dir(&self.dir.join("store"), &self.dir.join(copy))?;
            let of = ["run.toml", "--iteration", "0", "--set", &store, "--set", &engine];
            self.run("spin-sample", &[&of[..], &["--device", sampler, "--batch-size", batch]].concat())?;
        }
        self.run("spin-sample", &["run.toml", "--iteration", "0", "--device", device])?;
        let cpu = self.samples("cpu")?;
        let same = |store: &str| -> anyhow::Result<f64> {
            let rows = self.samples(store)?;
            let equal = cpu.iter().zip(&rows).filter(|(a, b)| a.row_id == b.row_id && a.response_ids == b.response_ids);
            Ok(equal.count() as f64 / cpu.len() as f64)
        };
        let mut lines = vec![
            Line::at_least("answers that are the CPU's, one sequence at a time", same("alone")?, 0.97),
            Line::at_least("answers that are the CPU's, in batches", same("store")?, 0.9),
            Line::at_least("answers by the engine spin-model that are the CPU's", same("own")?, 0.97),
        ];
        let (alone, batches) = (self.samples("own-alone")?, self.samples("own")?);
        let other = alone.iter().zip(&batches).filter(|(a, b)| a.response_ids != b.response_ids).count();
        lines.push(Line::at_most("answers by spin-model that differ one at a time", other as f64, 0.0));
        for (store, how) in [("alone", "one at a time"), ("store", "in batches"), ("own", "by spin-model")] {
            let facts = SampleFacts::of(&self.artifact(store, "samples/check/iter-0")?)?;
            let largest = facts.logps_check.largest_difference.unwrap_or(f64::NAN);
            lines.push(Line::at_most(format!("log-probabilities of answers {how}, from the trainer's"), largest, 1e-3));
        }
        Ok(lines)
    }

    /// θ0's held-out likelihood on the device, beside the CPU's.
    pub fn scores(&self) -> anyhow::Result<Vec<Line>> {
        for (copy, device) in [("cpu", "cpu"), ("own", self.device.as_str())] {
            let store = format!("store={copy}");
            self.run("spin-bench", &["run.toml", "--iteration", "0", "--device", device, "--set", &store])?;
        }
        let rows = |store: &str| -> anyhow::Result<Vec<ScoreRow>> {
            Ok(ScoreRow::read_all(&self.artifact(store, "scores/check/iter-0")?)?)
        };
        let (cpu, found) = (rows("cpu")?, rows("own")?);
        anyhow::ensure!(cpu.len() == found.len() && !cpu.is_empty(), "{} and {} scores", cpu.len(), found.len());
        let apart = cpu.iter().zip(&found).map(|(a, b)| (a.value - b.value).abs() / a.weight.max(1.0));
        let largest = apart.fold(0.0_f64, |all, x| if x.is_nan() { f64::INFINITY } else { all.max(x) });
        Ok(vec![Line::at_most("negative log-likelihoods of held-out rows, nats a token", largest, 1e-4)])
    }

    /// θ1, undisturbed and killed after its first checkpoint.
    pub fn killed(&self) -> anyhow::Result<Vec<Line>> {
        let device = self.device.as_str();
        self.run("spin-pair", &["run.toml", "--iteration", "0"])?;
        copy_dir(&self.dir.join("store"), &self.dir.join("killed"))?;
        let fit = |store: &str| -> Vec<String> {
            ["run.toml", "--iteration", "0", "--device", device, "--set"]
                .map(String::from)
                .into_iter()
                .chain([format!("store={store}")])
                .collect()
        };
        let words = fit("killed");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut child = self.command("spin-fit", &words).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let start = Instant::now();
        let has_checkpoint = || {
            let all = walkdir::WalkDir::new(self.dir.join("killed/.work")).into_iter().flatten();
            all.into_iter().any(|entry| entry.file_name() == "checkpoint.safetensors")
        };
        while !has_checkpoint() && child.try_wait()?.is_none() {
            anyhow::ensure!(start.elapsed() < Duration::from_secs(300), "no checkpoint in five minutes");
            std::thread::sleep(Duration::from_millis(2));
        }
        let was_running = child.try_wait()?.is_none();
        child.kill()?;
        child.wait()?;
        for store in ["killed", "store"] {
            let words = fit(store);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.run("spin-fit", &words)?;
        }
        let content = |store: &str| -> anyhow::Result<String> {
            Ok(self.artifact(store, "model/check/iter-1")?.manifest.content.clone())
        };
        let differs = content("killed")? != content("store")?;
        Ok(vec![
            Line::at_least("a training was killed while it ran", f64::from(u8::from(was_running)), 1.0),
            Line::at_most("taken up again it ends with other weights", f64::from(u8::from(differs)), 0.0),
        ])
    }
}

fn copy_dir(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry?;
        let to = to.join(entry.path().strip_prefix(from)?);
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
