//! What is measured, and in which order.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spin_run::run::Dtype;

/// A measurement, for either side; `trl_dpo.py` says what the fields mean.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub model: PathBuf,
    pub pairs: PathBuf,
    pub length: usize,
    pub threads: usize,
    pub batch_size: usize,
    pub max_steps: usize,
    pub gradient_checkpointing: bool,
    /// TRL only: malloc keeps what it has.
    pub keep_memory: bool,
    /// spin-fit only: a pair's prompt is computed once.
    pub share_prompts: bool,
    /// Element type of products with weights; masters, sums and the rest are f32.
    pub dtype: Dtype,
    /// spin-fit only: the reference's log-probabilities are wanted.
    #[serde(default)]
    pub reference: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
}

/// Whose measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    SpinFit,
    Trl,
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
    pub data: PathBuf,
    pub python: PathBuf,
    pub peer: PathBuf,
    pub threads: usize,
}

impl Bench {
    fn spec(&self, length: usize, batch_size: usize, max_steps: usize) -> Spec {
        Spec {
            model: self.data.join("model"),
            pairs: self.data.join(format!("pairs-{length}.jsonl")),
            length,
            threads: self.threads,
            batch_size,
            max_steps,
            gradient_checkpointing: true,
            keep_memory: false,
            share_prompts: true,
            dtype: Dtype::F32,
            reference: false,
            learning_rate: None,
        }
    }

    fn measure(&self, side: Side, part: &'static str, spec: Spec) -> anyhow::Result<Measured> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), serde_json::to_vec(&spec)?)?;
        let mut command = match side {
            Side::SpinFit => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("worker");
                command
            }
            Side::Trl => {
                let mut command = Command::new(&self.python);
                command.arg(&self.peer);
                command
            }
        };
        eprintln!("{part}: {side:?}, {}, {} tokens, {} pairs", spec.dtype, spec.length, spec.batch_size);
        let output = command.arg(file.path()).output().with_context(|| format!("{command:?}"))?;
        anyhow::ensure!(
            output.status.success(),
            "{side:?} failed: {}",
            String::from_utf8_lossy(&output.stderr).lines().rev().take(5).collect::<Vec<_>>().join(" | ")
        );
        let stdout = String::from_utf8(output.stdout)?;
        let result: Value = serde_json::from_str(stdout.lines().last().context("printed nothing")?)?;
        eprintln!(
            "    {:.0} tokens/s, {:.2} GiB",
            result["tokens_per_second"].as_f64().unwrap_or(0.0),
            result["peak_resident_training"].as_f64().unwrap_or(0.0) / f64::from(1 << 30)
        );
        Ok(Measured { side, part, spec, result })
    }
}

/// The comparison with products in bf16: of spin-fit with `dtype = "bf16"`, of TRL
/// with `bf16=True`, torch's autocast over f32 weights, and an allocator that keeps
/// memory.
pub const BF16: &str = "comparison, bf16";

/// Lengths of the first growth curve, at two pairs a step.
const LENGTHS: [usize; 5] = [128, 256, 512, 1024, 2048];
/// Pairs a step of the second, at 256 tokens.
const BATCHES: [usize; 4] = [1, 2, 4, 8];

/// Measures both sides in turns.
pub fn run(bench: &Bench, turns: usize, short: bool) -> anyhow::Result<Vec<Measured>> {
    for path in [&bench.data.join("model/config.json"), &bench.peer] {
        anyhow::ensure!(Path::new(path).exists(), "{} is absent; see tests/bench/prepare.py", path.display());
    }
    let mut all = Vec::new();
    for turn in 0..turns {
        let spec = bench.spec(512, 4, 4);
        let quick = Spec { keep_memory: true, ..spec.clone() };
        let mut sides = vec![
            (Side::SpinFit, "comparison", spec.clone()),
            (Side::Trl, "comparison", spec.clone()),
            (Side::Trl, "comparison, TRL with an allocator that keeps memory", quick),
            (Side::SpinFit, "comparison, prompts not shared", Spec { share_prompts: false, ..spec.clone() }),
            (Side::SpinFit, BF16, Spec { dtype: Dtype::Bf16, ..spec.clone() }),
            (Side::Trl, BF16, Spec { dtype: Dtype::Bf16, keep_memory: true, ..spec }),
        ];
        if turn % 2 == 1 {
            sides.reverse();
        }
        for (side, part, spec) in sides {
            all.push(bench.measure(side, part, spec)?);
        }
    }
    if short {
        return Ok(all);
    }
    let keep = |spec: Spec| Spec { gradient_checkpointing: false, ..spec };
    all.push(bench.measure(Side::SpinFit, "no recomputation", keep(bench.spec(512, 4, 4)))?);
    for length in LENGTHS {
        for side in [Side::SpinFit, Side::Trl] {
            all.push(bench.measure(side, "length", bench.spec(length, 2, 3))?);
        }
    }
    for batch in BATCHES {
        for side in [Side::SpinFit, Side::Trl] {
            all.push(bench.measure(side, "batch", bench.spec(256, batch, 3))?);
        }
    }
    Ok(all)
}
