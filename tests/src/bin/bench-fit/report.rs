//! Figures and ratios, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use spin_tests::measure::{machine, median};

use crate::plan::{BF16, Measured, Side};

/// The median over the turns of a part.
fn figure(all: &[Measured], part: &str, side: Side, key: &str) -> f64 {
    let own = all.iter().filter(|m| m.part == part && m.side == side);
    median(own.filter_map(|m| m.result[key].as_f64()).collect())
}

const SPEED: &str = "tokens_per_second";
const MEMORY: &str = "peak_resident_training";
const GIB: f64 = (1_u64 << 30) as f64;

pub fn write(all: &[Measured], out: &Path) -> anyhow::Result<()> {
    let quick = "comparison, TRL with an allocator that keeps memory";
    let ratio = |key: &str| figure(all, "comparison", Side::SpinFit, key) / figure(all, "comparison", Side::Trl, key);
    let losses = |side: Side| {
        let own = all.iter().find(|m| m.part == "comparison" && m.side == side);
        own.and_then(|m| m.result["losses"].as_array()).cloned().unwrap_or_default()
    };
    let apart = losses(Side::SpinFit)
        .iter()
        .zip(&losses(Side::Trl))
        .filter_map(|(a, b)| Some((a.as_f64()? - b.as_f64()?).abs()))
        .fold(0.0, f64::max);
    let first_trl = all.iter().find(|m| m.side == Side::Trl).map(|m| m.result["versions"].clone());
    let ratios = json!({
        "tokens_per_second": ratio(SPEED),
        "tokens_per_second, TRL with an allocator that keeps memory":
            figure(all, "comparison", Side::SpinFit, SPEED) / figure(all, quick, Side::Trl, SPEED),
        "tokens_per_second, prompts not shared, TRL with an allocator that keeps memory":
            figure(all, "comparison, prompts not shared", Side::SpinFit, SPEED) / figure(all, quick, Side::Trl, SPEED),
        "peak_memory": ratio(MEMORY),
        "bf16, tokens_per_second": figure(all, BF16, Side::SpinFit, SPEED) / figure(all, BF16, Side::Trl, SPEED),
        "bf16, spin-fit by spin-fit in f32": figure(all, BF16, Side::SpinFit, SPEED) / figure(all, "comparison", Side::SpinFit, SPEED),
        "share_of_matmul_peak": figure(all, "comparison", Side::SpinFit, "share_of_peak"),
        "largest_difference_of_losses": apart,
    });
    let document = json!({ "machine": machine(), "trl_versions": first_trl, "ratios": ratios, "measurements": all });
    std::fs::create_dir_all(out)?;
    std::fs::write(out.join("fit.json"), without_paths(format!("{document:#}\n"), all))?;
    std::fs::write(out.join("fit.md"), markdown(all, &document))?;
    println!("{ratios:#}");
    Ok(())
}

/// Where the files lay is nobody's business.
fn without_paths(mut text: String, all: &[Measured]) -> String {
    if let Some(dir) = all.first().and_then(|m| m.spec.model.parent()).map(|dir| dir.display().to_string()) {
        text = text.replace(&dir, "DATA");
    }
    text
}

fn markdown(all: &[Measured], document: &Value) -> String {
    let mut text = String::from(
        "# spin-fit against TRL's DPOTrainer on the CPU\n\n\
         Written by `just bench fit`. Both sides train the same Llama-shaped model (hidden 512, 8 layers, vocabulary \
         32,000, random weights) in f32, or with products in bf16 where that is said (TRL: torch's autocast, with an allocator that keeps memory), on the same pairs of real text, half of each sequence prompt, with RMSProp, \
         activation checkpointing and reference log-probabilities computed beforehand, in processes of their own, in \
         turns. Tokens count prompt and answer of both sequences of a pair for both sides. Memory is the highest \
         resident set during training.\n\n",
    );
    let _ = writeln!(text, "Machine: `{}`\n\nPeer: `{}`\n", document["machine"], document["trl_versions"]);
    let _ = writeln!(text, "## 512 tokens, 4 pairs a step\n");
    let _ =
        writeln!(text, "| | tokens/s | memory, GiB | matmul ceiling, GFLOP/s | share of it |\n|---|---|---|---|---|");
    let mut parts: Vec<(&str, Side)> = Vec::new();
    for measured in all.iter().filter(|m| m.part.starts_with("comparison") || m.part == "no recomputation") {
        if !parts.contains(&(measured.part, measured.side)) {
            parts.push((measured.part, measured.side));
        }
    }
    for (part, side) in parts {
        let value = |key: &str| figure(all, part, side, key);
        let share = value("share_of_peak");
        let share = if share.is_nan() { String::from("-") } else { format!("{:.0}%", share * 100.0) };
        let name = if side == Side::Trl { "TRL" } else { "spin-fit" };
        let note = part.trim_start_matches("comparison").trim_start_matches(", ");
        let name = if note.is_empty() { name.to_owned() } else { format!("{name} ({note})") };
        let (speed, memory, peak) = (value(SPEED), value(MEMORY) / GIB, value("matmul_gflops"));
        let _ = writeln!(text, "| {name} | {speed:.0} | {memory:.2} | {peak:.0} | {share} |");
    }
    let _ = writeln!(text, "\nRatios, spin-fit by TRL:\n\n| metric | ratio |\n|---|---|");
    for (key, value) in document["ratios"].as_object().into_iter().flatten() {
        let value = value.as_f64().unwrap_or(f64::NAN);
        let _ = match value.abs() < 1e-3 {
            true => writeln!(text, "| {key} | {value:.1e} |"),
            false => writeln!(text, "| {key} | {value:.2} |"),
        };
    }
    text.push_str(
        "\nThe share of the ceiling counts the matrix products a step really makes, recomputation included; the \
         ceiling is the best of a few square products by the same library. The two libraries' ceilings differ on the \
         same machine, which is part of the ratios.\n",
    );
    for (part, title, variable) in [
        ("length", "## Growth with length, 2 pairs a step", "tokens"),
        ("batch", "## Growth with the batch, 256 tokens", "pairs"),
    ] {
        let rows: Vec<&Measured> = all.iter().filter(|m| m.part == part).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "\n{title}\n\n| {variable} | spin-fit s/step | TRL s/step | spin-fit GiB | TRL GiB | speed ratio | memory \
             ratio |\n|---|---|---|---|---|---|---|"
        );
        for pair in rows.chunks(2) {
            let [ours, theirs] = pair else { continue };
            let at = if part == "length" { ours.spec.length } else { ours.spec.batch_size };
            let value = |m: &Measured, key: &str| m.result[key].as_f64().unwrap_or(f64::NAN);
            let (a, b) = (value(ours, "median_step_seconds"), value(theirs, "median_step_seconds"));
            let (x, y) = (value(ours, MEMORY) / GIB, value(theirs, MEMORY) / GIB);
            let _ = writeln!(text, "| {at} | {a:.2} | {b:.2} | {x:.2} | {y:.2} | {:.2} | {:.2} |", b / a, x / y);
        }
    }
    text.push_str("\nNot measured on a GPU.\n");
    text
}
