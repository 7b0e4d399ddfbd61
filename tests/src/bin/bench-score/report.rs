//! Figures and ratios, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};
use spin_run::run::Dtype;
use spin_tests::measure::{machine, median};

use crate::plan::{Measured, Side, TASKS};

const GIB: f64 = (1_u64 << 30) as f64;

fn number(measured: &Measured, key: &str) -> f64 {
    measured.result[key].as_f64().unwrap_or(f64::NAN)
}

fn speed(measured: &Measured) -> f64 {
    number(measured, "documents") / number(measured, "seconds")
}

/// The median over the turns of a part.
fn figure(all: &[Measured], part: &str, side: Side, task: &str, value: impl Fn(&Measured) -> f64) -> f64 {
    let own = all.iter().filter(|m| m.part == part && m.side == side && m.spec.task == task);
    median(own.map(value).collect())
}

/// The machine's ceiling: the best of those measured before each run, as
/// machines have better and worse moments.
fn peak(all: &[Measured]) -> f64 {
    let own = all.iter().filter(|m| m.spec.dtype == Dtype::F32);
    own.map(|m| number(m, "matmul_gflops")).filter(|peak| !peak.is_nan()).fold(0.0, f64::max)
}

/// Largest difference of the two sides' metrics on a task.
fn apart(all: &[Measured], task: &str) -> f64 {
    let metrics = |side: Side| {
        let own = all.iter().find(|m| m.part == "comparison" && m.side == side && m.spec.task == task);
        own.map(|m| m.result["metrics"][task].clone()).unwrap_or_default()
    };
    let (ours, theirs) = (metrics(Side::SpinBench), metrics(Side::Harness));
    let keys = ours.as_object().into_iter().flatten().filter(|(_, value)| value.is_number());
    keys.map(|(key, value)| match theirs[key].as_f64() {
        Some(other) => (value.as_f64().unwrap_or(f64::NAN) - other).abs(),
        None => f64::NAN,
    })
    .fold(0.0, |a: f64, b| if b.is_nan() { f64::NAN } else { a.max(b) })
}

/// Documents per second in bf16.
fn bf16(all: &[Measured], task: &str, side: Side) -> f64 {
    figure(all, "bf16", side, task, speed)
}

pub fn write(all: &[Measured], out: &Path) -> anyhow::Result<()> {
    let mut ratios = Map::new();
    for (task, _) in TASKS {
        let own = |side: Side, value: fn(&Measured) -> f64| figure(all, "comparison", side, task, value);
        let memory = figure(all, "memory", Side::Harness, task, |m| number(m, "peak_rss_bytes"));
        let shared = |key: &'static str| figure(all, "comparison", Side::SpinBench, task, |m| number(m, key));
        ratios.insert(
            task.into(),
            json!({
                "documents_per_second": own(Side::SpinBench, speed) / own(Side::Harness, speed),
                "peak_memory": own(Side::SpinBench, |m| number(m, "peak_rss_bytes")) / memory,
                "share_of_ideal_sharing": shared("tokens_distinct") / shared("tokens_computed"),
                "tokens_given_by_computed": shared("tokens_given") / shared("tokens_computed"),
                "products_share_of_matmul_peak": shared("products_gflops") / peak(all),
                "largest_difference_of_metrics": apart(all, task),
                "bf16_documents_per_second": bf16(all, task, Side::SpinBench) / bf16(all, task, Side::Harness),
                "bf16_documents_per_second_to_f32": bf16(all, task, Side::SpinBench) / own(Side::SpinBench, speed),
            }),
        );
    }
    let peer = all.iter().find(|m| m.side == Side::Harness).map(|m| m.result["versions"].clone());
    let document = json!({"machine": machine(), "harness_versions": peer, "ratios": ratios, "measurements": all});
    std::fs::create_dir_all(out)?;
    let mut text = format!("{document:#}\n");
    if let Some(first) = all.first() {
        // Where the files lay is nobody's business.
        for (dir, name) in [(&first.spec.model, "MODEL"), (&first.spec.data, "DATA")] {
            text = text.replace(&dir.display().to_string(), name);
        }
    }
    std::fs::write(out.join("score.json"), text)?;
    std::fs::write(out.join("score.md"), markdown(all, &document))?;
    println!("{:#}", document["ratios"]);
    Ok(())
}

fn markdown(all: &[Measured], document: &Value) -> String {
    let mut text = String::from(
        "# spin-bench against lm-evaluation-harness on the CPU\n\n\
         Written by `just bench score`. Both sides score the same documents with the same Llama-shaped model (56 \
         million random weights, context 2048) in f32, in processes of their own, in turns. Times are those of \
         evaluation: prompts, tokens, model, metrics; loading data is not in them. The harness runs its `hf` model \
         at its fastest batch size of 1, 4 and 16, its malloc told to keep memory; its memory is that of the same \
         run without that setting.\n\n",
    );
    let _ = writeln!(text, "Machine: `{}`\n\nPeer: `{}`\n", document["machine"], document["harness_versions"]);
    text.push_str(
        "| task | documents | harness, documents/s (batch) | spin-bench, documents/s | ratio | harness GiB | spin-bench \
         GiB | tokens computed of given | of the ideal | products, of the matmul peak | metrics differ by |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (task, docs) in TASKS {
        let ours = |value: &dyn Fn(&Measured) -> f64| figure(all, "comparison", Side::SpinBench, task, value);
        let theirs = |value: &dyn Fn(&Measured) -> f64| figure(all, "comparison", Side::Harness, task, value);
        let batch = theirs(&|m| m.spec.batch_size as f64);
        let memory = figure(all, "memory", Side::Harness, task, |m| number(m, "peak_rss_bytes"));
        let _ = writeln!(
            text,
            "| {task} | {docs} | {:.2} ({batch}) | {:.2} | **{:.1}** | {:.2} | {:.2} | 1 of {:.1} | {:.0}% | {:.0}% | {:.0e} |",
            theirs(&speed),
            ours(&speed),
            ours(&speed) / theirs(&speed),
            memory / GIB,
            ours(&|m| number(m, "peak_rss_bytes")) / GIB,
            ours(&|m| number(m, "tokens_given")) / ours(&|m| number(m, "tokens_computed")),
            100.0 * ours(&|m| number(m, "tokens_distinct")) / ours(&|m| number(m, "tokens_computed")),
            100.0 * ours(&|m| number(m, "products_gflops")) / peak(all),
            apart(all, task),
        );
    }
    text.push_str(
        "\nThe ideal computes every token once that differs from all others, or in what is before it, within a part \
         of 256 documents. The last column but one counts the products with weights alone, without attention and \
         everything else that time is spent on.\n",
    );
    text.push_str(
        "\n## bf16\n\nThe same with `dtype = \"bf16\"` and the harness's `dtype=bfloat16`, at the batch size that is \
         best in f32.\n\n| task | harness, documents/s | spin-bench, documents/s | ratio | spin-bench, bf16 by f32 |\n\
         |---|---|---|---|---|\n",
    );
    for (task, _) in TASKS {
        let [theirs, ours] = [Side::Harness, Side::SpinBench].map(|side| bf16(all, task, side));
        let f32 = figure(all, "comparison", Side::SpinBench, task, speed);
        let _ = writeln!(text, "| {task} | {theirs:.2} | {ours:.2} | **{:.1}** | {:.2} |", ours / theirs, ours / f32);
    }
    for (part, title) in [
        ("documents", "## Growth with documents (MMLU, one subject, 5-shot)"),
        ("shots", "## Growth with examples (ARC-Challenge, 8 documents)"),
    ] {
        let rows: Vec<&Measured> = all.iter().filter(|m| m.part == part).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{title}\n\n| {part} | spin-bench s | harness s | ratio |\n|---|---|---|---|");
        for ours in rows.iter().filter(|m| m.side == Side::SpinBench) {
            let at = if part == "documents" { ours.spec.docs } else { ours.spec.shots.unwrap_or(0) };
            let theirs = rows.iter().find(|m| m.side == Side::Harness && m.spec == ours.spec);
            let a = number(ours, "seconds");
            let _ = match theirs.map(|m| number(m, "seconds")) {
                Some(b) => writeln!(text, "| {at} | {a:.2} | {b:.2} | {:.1} |", b / a),
                None => writeln!(text, "| {at} | {a:.2} | | |"),
            };
        }
    }
    text.push_str("\nNot measured on a GPU.\n");
    text
}
