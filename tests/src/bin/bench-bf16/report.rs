//! Figures and ratios, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use spin_tests::measure::{machine, median};

use crate::{Measured, RATE, TASKS, UPDATES};

/// The parts whose speed is compared, with the figures it is computed from.
const SPEEDS: [(&str, &str, &str); 3] = [
    ("fit", "tokens/s", "spin-fit, 4 pairs of 512 tokens an update"),
    ("sample", "tokens/s", "spin-sample, 256 prompts, 64 new tokens each"),
    ("score", "documents/s", "spin-bench eval, 100 documents of MMLU, 5-shot"),
];

fn of<'a>(all: &'a [Measured], model: &'a str, part: &'a str, dtype: &'a str) -> impl Iterator<Item = &'a Measured> {
    all.iter().filter(move |m| m.model == model && m.part == part && m.dtype == dtype)
}

fn speed(measured: &Measured) -> f64 {
    let figure = |key: &str| measured.result[key].as_f64().unwrap_or(f64::NAN);
    match measured.part {
        "fit" => figure("tokens_per_second"),
        "sample" => figure("tokens") / figure("seconds"),
        _ => figure("documents") / figure("seconds"),
    }
}

fn speeds(all: &[Measured], model: &str, part: &str, dtype: &str) -> Vec<f64> {
    of(all, model, part, dtype).map(speed).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

/// The largest difference of two rows of numbers, and the mean of all.
fn apart(a: &[f64], b: &[f64]) -> (f64, f64) {
    let all: Vec<f64> = a.iter().zip(b).map(|(a, b)| (a - b).abs()).collect();
    let largest = all.iter().copied().fold(if all.is_empty() { f64::NAN } else { 0.0 }, f64::max);
    (largest, all.iter().sum::<f64>() / all.len() as f64)
}

/// Writes the report; `is_rounding_earlier` where what rounding does was taken from another.
pub fn write(all: &[Measured], is_rounding_earlier: bool, out: &Path) -> anyhow::Result<()> {
    let mut models: Vec<&str> = Vec::new();
    for measured in all {
        if !models.contains(&measured.model.as_str()) {
            models.push(&measured.model);
        }
    }
    let mut text = format!(
        "# bf16 against f32 on the CPU\n\nWritten by `just bench bf16`. Measurements in processes of their own, both \
         types in turns; medians with the extremes of the turns.{}\n\nMachine: `{}`\n",
        if is_rounding_earlier {
            " Speeds alone were measured; what rounding does is of an earlier report, since when no bit has changed."
        } else {
            ""
        },
        machine()
    );
    let mut ratios = Vec::new();
    for model in &models {
        writeln!(text, "\n## {model}\n\n| | f32 | bf16 | ratio | share of the bf16 ceiling |\n|---|---|---|---|---|")?;
        for (part, unit, what) in SPEEDS {
            let [f32, bf16] = ["f32", "bf16"].map(|dtype| speeds(all, model, part, dtype));
            let show = |values: &[f64]| {
                let ends = values.iter().fold((f64::INFINITY, 0.0), |(a, b), v| (v.min(a), v.max(b)));
                format!("{:.1} ({:.1} to {:.1})", median(values.to_vec()), ends.0, ends.1)
            };
            let ratio = median(bf16.clone()) / median(f32.clone());
            ratios.push(json!({"model": model, "part": part, "bf16_by_f32": ratio}));
            let share = ceiling_share(all, model, part);
            writeln!(text, "| {what}, {unit} | {} | {} | **{ratio:.2}** | {share} |", show(&f32), show(&bf16))?;
        }
        let curve = |dtype: &str, key: &str| {
            of(all, model, "curve", dtype).next().map(|m| numbers(&m.result[key])).unwrap_or_default()
        };
        let (losses, others) = (curve("f32", "losses"), curve("bf16", "losses"));
        let (largest, mean) = apart(&losses, &others);
        let key = "reference_logps_per_token";
        let (largest_logp, mean_logp) = apart(&curve("f32", key), &curve("bf16", key));
        writeln!(
            text,
            "\nRounding. Log-probabilities of {} answers of 64 tokens, per token: largest difference {largest_logp:.1e}, \
             mean {mean_logp:.1e}. Losses of {UPDATES} updates at {RATE:e}, from {:.4} to {:.4} in f32 and {:.4} to {:.4} \
             in bf16: largest difference {largest:.1e}, mean {mean:.1e}.",
            curve("f32", key).len(),
            losses.first().copied().unwrap_or(f64::NAN),
            losses.last().copied().unwrap_or(f64::NAN),
            others.first().copied().unwrap_or(f64::NAN),
            others.last().copied().unwrap_or(f64::NAN),
        )?;
        scores(&mut text, all, model)?;
    }
    text.push_str("\nNot measured on a GPU.\n");
    std::fs::create_dir_all(out)?;
    let document = json!({"machine": machine(), "ratios": ratios, "measurements": all});
    std::fs::write(out.join("bf16.json"), format!("{document:#}\n"))?;
    std::fs::write(out.join("bf16.md"), &text)?;
    println!("{text}");
    Ok(())
}

/// The share of the best product of bf16 numbers that the matrix products of a part
/// reach, where they are counted.
fn ceiling_share(all: &[Measured], model: &str, part: &str) -> String {
    let shares = of(all, model, part, "bf16").filter_map(|m| {
        let figure = |key: &str| m.result[key].as_f64();
        figure("share_of_peak").or_else(|| Some(figure("products_gflops")? / figure("matmul_gflops")?))
    });
    let share = median(shares.collect());
    if share.is_nan() { String::new() } else { format!("{:.0}%", 100.0 * share) }
}

fn scores(text: &mut String, all: &[Measured], model: &str) -> std::fmt::Result {
    if !TASKS.iter().any(|(task, _)| of(all, model, task, "bf16").next().is_some()) {
        return Ok(());
    }
    text.push_str("\n| task | documents | metric | f32 | bf16 | difference |\n|---|---|---|---|---|---|\n");
    for (task, docs) in TASKS {
        let metrics = |dtype: &str| of(all, model, task, dtype).next().map(|m| m.result["metrics"][task].clone());
        let (Some(f32), Some(bf16)) = (metrics("f32"), metrics("bf16")) else { continue };
        let is_score = |key: &str| !key.contains("stderr");
        for (key, value) in f32.as_object().into_iter().flatten().filter(|(key, _)| is_score(key)) {
            let (Some(a), Some(b)) = (value.as_f64(), bf16[key].as_f64()) else { continue };
            writeln!(text, "| {task} | {docs} | {key} | {a:.4} | {b:.4} | {:+.4} |", b - a)?;
        }
    }
    Ok(())
}
