//! What is measured, and in which order.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spin_run::run::Dtype;

/// A measurement, for either side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub model: PathBuf,
    pub data: PathBuf,
    pub task: String,
    pub docs: usize,
    pub shots: Option<usize>,
    pub threads: usize,
    /// The harness only.
    pub batch_size: usize,
    /// The harness only: malloc keeps what it has.
    pub keep_memory: bool,
    /// Element type of products with weights.
    pub dtype: Dtype,
}

/// Whose measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    SpinBench,
    Harness,
}

/// A measurement with its result.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub side: Side,
    /// Part of the report it belongs to.
    pub part: &'static str,
    pub spec: Spec,
    pub result: Value,
}

pub struct Bench {
    pub model: PathBuf,
    pub benchmarks: PathBuf,
    pub python: PathBuf,
    pub peer: PathBuf,
    pub threads: usize,
}

/// Tasks of the comparison, with documents.
pub const TASKS: [(&str, usize); 4] =
    [("mmlu_high_school_psychology", 200), ("truthfulqa_mc2", 60), ("arc_challenge", 12), ("winogrande", 160)];
/// Batch sizes among which the harness's best is looked for.
const BATCHES: [usize; 3] = [1, 4, 16];
/// Documents of MMLU in the first growth curve.
const DOCS: [usize; 4] = [25, 50, 100, 400];
/// Examples in ARC's prompts in the second.
const SHOTS: [usize; 4] = [0, 5, 10, 25];

impl Bench {
    fn spec(&self, task: &str, docs: usize) -> Spec {
        Spec {
            model: self.model.clone(),
            data: self.benchmarks.clone(),
            task: task.into(),
            docs,
            shots: None,
            threads: self.threads,
            batch_size: 1,
            keep_memory: true,
            dtype: Dtype::F32,
        }
    }

    fn measure(&self, side: Side, part: &'static str, spec: Spec) -> anyhow::Result<Measured> {
        let file = tempfile::NamedTempFile::new()?;
        let mut command = match side {
            Side::SpinBench => {
                std::fs::write(file.path(), serde_json::to_vec(&spec)?)?;
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("worker").arg(file.path());
                command
            }
            Side::Harness => {
                let mut command = Command::new(&self.python);
                command.arg(&self.peer).arg("--model").arg(&spec.model).arg("--data").arg(&spec.data);
                command.args(["--task", &spec.task, "--docs", &spec.docs.to_string()]);
                command.args(["--threads", &spec.threads.to_string(), "--batch-size", &spec.batch_size.to_string()]);
                if spec.dtype == Dtype::Bf16 {
                    command.args(["--dtype", "bfloat16"]);
                }
                if let Some(shots) = spec.shots {
                    command.args(["--num-fewshot", &shots.to_string()]);
                }
                if spec.keep_memory {
                    command.arg("--keep-memory");
                }
                command
            }
        };
        let Spec { task, docs, batch_size, dtype, .. } = &spec;
        eprintln!("{part}: {side:?}, {dtype}, {task}, {docs} documents, batch {batch_size}");
        let output = command.output().with_context(|| format!("{command:?}"))?;
        anyhow::ensure!(
            output.status.success(),
            "{side:?} failed: {}",
            String::from_utf8_lossy(&output.stderr).lines().rev().take(5).collect::<Vec<_>>().join(" | ")
        );
        let stdout = String::from_utf8(output.stdout)?;
        let result: Value = serde_json::from_str(stdout.lines().last().context("printed nothing")?)?;
        let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
        let (seconds, memory) = (number("seconds"), number("peak_rss_bytes") / f64::from(1 << 30));
        eprintln!("    {:.2} documents/s, {memory:.2} GiB", number("documents") / seconds);
        Ok(Measured { side, part, spec, result })
    }

    /// The batch size with which the harness is fastest on some documents.
    fn best_batch(&self, task: &str, docs: usize, all: &mut Vec<Measured>) -> anyhow::Result<usize> {
        let mut best = (f64::INFINITY, 1);
        for batch_size in BATCHES {
            let spec = Spec { batch_size, ..self.spec(task, docs) };
            let measured = self.measure(Side::Harness, "batch size", spec)?;
            let seconds = measured.result["seconds"].as_f64().unwrap_or(f64::INFINITY);
            if seconds < best.0 {
                best = (seconds, batch_size);
            }
            all.push(measured);
        }
        Ok(best.1)
    }
}

/// Measures both sides in turns.
pub fn run(bench: &Bench, turns: usize, short: bool) -> anyhow::Result<Vec<Measured>> {
    for path in [&bench.model.join("config.json"), &bench.peer, &bench.benchmarks] {
        anyhow::ensure!(path.exists(), "{} is absent; see tests/bench/prepare_score.py", path.display());
    }
    let mut all = Vec::new();
    let mut batches = Vec::new();
    for (task, docs) in TASKS {
        batches.push(bench.best_batch(task, (docs / 8).max(4), &mut all)?);
    }
    for turn in 0..turns {
        for ((task, docs), batch_size) in TASKS.into_iter().zip(&batches) {
            let spec = Spec { batch_size: *batch_size, ..bench.spec(task, docs) };
            let mut sides = [Side::SpinBench, Side::Harness];
            if turn % 2 == 1 {
                sides.reverse();
            }
            for side in sides {
                all.push(bench.measure(side, "comparison", spec.clone())?);
                all.push(bench.measure(side, "bf16", Spec { dtype: Dtype::Bf16, ..spec.clone() })?);
            }
        }
    }
    // Memory is compared with the harness as it comes.
    for ((task, docs), batch_size) in TASKS.into_iter().zip(&batches) {
        let spec = Spec { batch_size: *batch_size, keep_memory: false, ..bench.spec(task, (docs / 4).max(4)) };
        all.push(bench.measure(Side::Harness, "memory", spec)?);
    }
    if short {
        return Ok(all);
    }
    for docs in DOCS {
        let spec = Spec { batch_size: batches[0], ..bench.spec(TASKS[0].0, docs) };
        all.push(bench.measure(Side::SpinBench, "documents", spec.clone())?);
        if docs <= 50 {
            all.push(bench.measure(Side::Harness, "documents", spec)?);
        }
    }
    for shots in SHOTS {
        let spec = Spec { batch_size: batches[2], shots: Some(shots), ..bench.spec("arc_challenge", 8) };
        for side in [Side::SpinBench, Side::Harness] {
            all.push(bench.measure(side, "shots", spec.clone())?);
        }
    }
    Ok(all)
}
