//! bf16 against f32 on the CPU: `just bench bf16`.
//!
//! What `spin-fit`, `spin-sample` and `spin-bench` gain by `dtype = "bf16"`, and what
//! the rounding does to log-probabilities, a training's losses and scores. Each
//! measurement is one of the other benchmarks' workers in a process of its own; both
//! types are measured in turns.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints what it measured")]

mod report;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use clap::Parser;
use serde::Serialize;
use serde_json::{Value, json};

/// Measure both types and write bf16.md and bf16.json
#[derive(Parser)]
struct Args {
    /// What `tests/bench/prepare.py` wrote: a model and pairs
    #[arg(long)]
    fit: PathBuf,
    /// Prompts as tokens, which `just bench sample` wrote
    #[arg(long)]
    prompts: PathBuf,
    /// The benchmarks' data
    #[arg(long, default_value = "../shared/benchmarks")]
    benchmarks: PathBuf,
    /// A model beside that of the benchmarks, with a name: a trained one, on which scores are compared, too
    #[arg(long, value_names = ["NAME", "DIR"], num_args = 2)]
    model: Vec<String>,
    /// Directory of the report
    #[arg(long)]
    out: PathBuf,
    /// Measure speeds alone; what rounding does is taken from an earlier report, bf16.json, since when no bit has changed
    #[arg(long, value_name = "FILE")]
    rounding: Option<PathBuf>,
    /// Turns of each comparison
    #[arg(long, default_value_t = 3)]
    turns: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// A measurement with its result.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The model's name.
    pub model: String,
    /// What of it.
    pub part: &'static str,
    /// In which type.
    pub dtype: &'static str,
    /// What the worker printed.
    pub result: Value,
}

/// Tasks whose scores are compared, with documents.
const TASKS: [(&str, usize); 5] = [
    ("arc_challenge", 60),
    ("openbookqa", 100),
    ("truthfulqa_mc2", 60),
    ("winogrande", 160),
    ("mmlu_high_school_psychology", 200),
];
/// Updates of the training whose losses are compared, and the rate of it: high
/// enough for the losses to move.
const UPDATES: usize = 100;
const RATE: f64 = 1e-5;

struct Bench<'a> {
    args: &'a Args,
    all: Vec<Measured>,
}

impl Bench<'_> {
    fn measure(
        &mut self,
        model: &str,
        part: &'static str,
        dtype: &'static str,
        program: &str,
        spec: &Value,
    ) -> anyhow::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), serde_json::to_vec(spec)?)?;
        let program = std::env::current_exe()?.with_file_name(program);
        eprintln!("{model}, {part}, {dtype}");
        let mut command = Command::new(&program);
        command.arg("worker").arg(file.path()).env("RAYON_NUM_THREADS", self.args.threads.to_string());
        let output = command.output().with_context(|| format!("{}", program.display()))?;
        anyhow::ensure!(output.status.success(), "{part} failed: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let result = serde_json::from_str(text.lines().last().context("printed nothing")?)?;
        self.all.push(Measured { model: model.into(), part, dtype, result });
        Ok(())
    }

    fn fit(&self, model: &Path, dtype: &str, [length, pairs, updates]: [usize; 3]) -> Value {
        json!({
            "model": model, "pairs": self.args.fit.join(format!("pairs-{length}.jsonl")), "length": length,
            "threads": self.args.threads, "batch_size": pairs, "max_steps": updates, "gradient_checkpointing": true,
            "keep_memory": false, "share_prompts": true, "dtype": dtype, "reference": true,
            "learning_rate": (updates == UPDATES).then_some(RATE),
        })
    }

    fn run(&mut self, name: &str, model: &Path, is_trained: bool) -> anyhow::Result<()> {
        let threads = self.args.threads;
        for turn in 0..self.args.turns {
            let mut types = ["f32", "bf16"];
            types.rotate_left(turn % 2);
            for dtype in types {
                let spec = self.fit(model, dtype, [512, 4, 4]);
                self.measure(name, "fit", dtype, "bench-fit", &spec)?;
                let spec = json!({
                    "side": "spin-model", "model": model, "prompts": self.args.prompts, "count": 256, "new_tokens": 64,
                    "batch_size": 0, "threads": threads, "temperature": 1.0, "answers": null, "dtype": dtype,
                });
                self.measure(name, "sample", dtype, "bench-sample", &spec)?;
                self.score(name, model, "score", dtype, ("mmlu_high_school_psychology", 100))?;
            }
        }
        let types: &[&'static str] = if self.args.rounding.is_some() { &[] } else { &["f32", "bf16"] };
        for &dtype in types {
            let spec = self.fit(model, dtype, [128, 4, UPDATES]);
            self.measure(name, "curve", dtype, "bench-fit", &spec)?;
            for task in TASKS.into_iter().filter(|_| is_trained) {
                self.score(name, model, task.0, dtype, task)?;
            }
        }
        Ok(())
    }

    fn score(
        &mut self,
        name: &str,
        model: &Path,
        part: &'static str,
        dtype: &'static str,
        (task, docs): (&str, usize),
    ) -> anyhow::Result<()> {
        let spec = json!({
            "model": model, "data": self.args.benchmarks, "task": task, "docs": docs, "shots": null,
            "threads": self.args.threads, "batch_size": 1, "keep_memory": false, "dtype": dtype,
        });
        self.measure(name, part, dtype, "bench-score", &spec)
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut bench = Bench { args: &args, all: Vec::new() };
    bench.run("56M, random weights", &args.fit.join("model"), false)?;
    if let [name, dir] = args.model.as_slice() {
        bench.run(name, Path::new(dir), true)?;
    }
    if let Some(path) = &args.rounding {
        let earlier: Value =
            serde_json::from_slice(&std::fs::read(path).with_context(|| format!("{}", path.display()))?)?;
        for measured in earlier["measurements"].as_array().into_iter().flatten() {
            let known = ["curve"].into_iter().chain(TASKS.map(|task| task.0));
            let Some(part) = known.into_iter().find(|part| measured["part"] == *part) else { continue };
            let Some(dtype) = ["f32", "bf16"].into_iter().find(|dtype| measured["dtype"] == *dtype) else { continue };
            let model = measured["model"].as_str().unwrap_or_default().to_owned();
            bench.all.push(Measured { model, part, dtype, result: measured["result"].clone() });
        }
    }
    report::write(&bench.all, args.rounding.is_some(), &args.out)
}
