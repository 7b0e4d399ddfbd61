//! What is measured, and in which order.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spin_run::run::Dtype;
use spin_text::{Codec, Message, TemplateChoice};

/// Who generates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The trainer's forward pass with cached keys and values.
    SpinModel,
    /// mistral.rs as spin-sample runs it on the CPU: a sequence at a time, in
    /// several copies.
    Mistralrs,
    /// mistral.rs with all requests sent at once. It is fast or slow, but wrong:
    /// see spin-sample's `engine/mistral.rs`.
    MistralrsQueued,
    /// transformers' `generate`.
    Transformers,
}

/// A measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub side: Side,
    pub model: PathBuf,
    /// A JSON file: token ids of each prompt.
    pub prompts: PathBuf,
    /// The first of them, spread over all.
    pub count: usize,
    pub new_tokens: usize,
    pub batch_size: usize,
    pub threads: usize,
    /// 0 for greedy.
    pub temperature: f64,
    /// Where the answers' ids go, if anywhere.
    pub answers: Option<PathBuf>,
    /// Element type of products with weights.
    pub dtype: Dtype,
}

/// A measurement with its result.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Part of the report it belongs to.
    pub part: &'static str,
    pub spec: Spec,
    pub result: Value,
}

pub struct Bench {
    pub model: PathBuf,
    pub prompts: PathBuf,
    /// Tokens of each prompt.
    pub lengths: Vec<usize>,
    pub new_tokens: usize,
    pub threads: usize,
    python: PathBuf,
    peer: PathBuf,
}

/// Batch sizes among which transformers' best is looked for, on a share of the
/// prompts.
const BATCHES: [usize; 4] = [16, 32, 64, 128];
const SEARCHED: usize = 256;
/// Prompts for what is too slow for all of them.
const FEW: usize = 128;

impl Bench {
    /// Writes the prompts' tokens beside the model.
    pub fn prepare(
        data: &Path,
        benchmarks: &Path,
        python: PathBuf,
        peer: PathBuf,
        count: usize,
        new_tokens: usize,
        threads: usize,
    ) -> anyhow::Result<Bench> {
        let model = data.join("model");
        let file = benchmarks.join("gsm8k/train.jsonl");
        let text = std::fs::read_to_string(&file).with_context(|| format!("no prompts in {}", file.display()))?;
        let codec = Codec::from_dir_with(&model, TemplateChoice::Alpaca)?;
        let prompts = text.lines().take(count).map(|line| {
            let question: Value = serde_json::from_str(line)?;
            let question = question["question"].as_str().context("a line without a question")?;
            Ok(codec.prompt_ids(&[Message::user(question)])?)
        });
        let prompts: Vec<Vec<u32>> = prompts.collect::<anyhow::Result<_>>()?;
        let path = data.join("sample-prompts.json");
        std::fs::write(&path, serde_json::to_vec(&prompts)?)?;
        let lengths = prompts.iter().map(Vec::len).collect();
        Ok(Bench { model, prompts: path, lengths, new_tokens, threads, python, peer })
    }

    fn spec(&self, side: Side, count: usize, batch_size: usize) -> Spec {
        Spec {
            side,
            model: self.model.clone(),
            prompts: self.prompts.clone(),
            count,
            new_tokens: self.new_tokens,
            batch_size,
            threads: self.threads,
            temperature: 1.0,
            answers: None,
            dtype: Dtype::F32,
        }
    }

    fn measure(&self, part: &'static str, spec: Spec) -> anyhow::Result<Measured> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), serde_json::to_vec(&spec)?)?;
        let mut command = match spec.side {
            Side::Transformers => {
                let mut command = Command::new(&self.python);
                command.arg(&self.peer);
                command
            }
            _ => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("worker").env("RAYON_NUM_THREADS", self.threads.to_string());
                command
            }
        };
        let output = command.arg(file.path()).stderr(std::process::Stdio::inherit()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().with_context(|| format!("{:?} printed nothing", spec.side))?;
        let result: Value = serde_json::from_str(line).with_context(|| format!("{:?}: {line}", spec.side))?;
        let figure = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
        eprintln!(
            "{part}: {:?}, {}, {} prompts, batch {}: {:.0} tokens/s, {:.1} s, {:.2} GiB",
            spec.side,
            spec.dtype,
            spec.count,
            spec.batch_size,
            figure("tokens") / figure("seconds"),
            figure("seconds"),
            figure("peak_rss_bytes") / f64::from(1 << 30),
        );
        Ok(Measured { part, spec, result })
    }
}

/// Tokens per second.
pub fn speed(measured: &Measured) -> f64 {
    let figure = |key: &str| measured.result[key].as_f64().unwrap_or(f64::NAN);
    figure("tokens") / figure("seconds")
}

pub fn run(bench: &Bench, turns: usize) -> anyhow::Result<Vec<Measured>> {
    let all = bench.lengths.len();
    let mut measured = Vec::new();
    let searched = BATCHES.map(|batch| bench.spec(Side::Transformers, SEARCHED.min(all), batch));
    for spec in searched {
        measured.push(bench.measure("search", spec)?);
    }
    let best = measured.iter().max_by(|a, b| speed(a).total_cmp(&speed(b))).map_or(32, |best| best.spec.batch_size);
    for batch in [8, 32, 64, 128] {
        measured.push(bench.measure("batches", bench.spec(Side::SpinModel, SEARCHED.min(all), batch))?);
    }
    // Whether company, or the engine, changes a token.
    let directory = tempfile::tempdir()?;
    for (name, part, side, batch) in [
        ("one", "batches", Side::SpinModel, 1),
        ("many", "flips", Side::SpinModel, 64),
        ("mistralrs", "mistralrs", Side::Mistralrs, 1),
        ("queued", "mistralrs", Side::MistralrsQueued, 32),
    ] {
        let answers = Some(directory.path().join(name));
        measured.push(bench.measure(part, Spec { answers, ..bench.spec(side, FEW.min(all), batch) })?);
    }
    let one = directory.path().join("one");
    let flips = ["many", "mistralrs", "queued"].map(|name| flips(&one, &directory.path().join(name)));
    for flips in flips {
        let spec = bench.spec(Side::SpinModel, FEW.min(all), 1);
        measured.push(Measured { part: "flipped", spec, result: flips? });
    }
    for _ in 0..turns {
        measured.push(bench.measure("comparison", bench.spec(Side::SpinModel, all, 0))?);
        measured.push(bench.measure("comparison", bench.spec(Side::Transformers, all, best))?);
        for (side, batch) in [(Side::SpinModel, 0), (Side::Transformers, best)] {
            measured.push(bench.measure("bf16", Spec { dtype: Dtype::Bf16, ..bench.spec(side, all, batch) })?);
        }
    }
    Ok(measured)
}

/// Tokens that differ first, of those up to there.
fn flips(one: &Path, other: &Path) -> anyhow::Result<Value> {
    let read = |path: &Path| Ok::<Vec<Vec<u32>>, anyhow::Error>(serde_json::from_slice(&std::fs::read(path)?)?);
    let (mut tokens, mut flipped, mut rows) = (0, 0, 0);
    for (one, other) in read(one)?.into_iter().zip(read(other)?) {
        let same = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
        let differs = one != other;
        (rows, tokens, flipped) = (rows + 1, tokens + same + usize::from(differs), flipped + usize::from(differs));
    }
    let name = other.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(serde_json::json!({"against": name, "rows": rows, "tokens": tokens, "flipped": flipped}))
}
