//! Figures and ratios, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use spin_tests::measure::{machine, median};

use crate::plan::{Bench, Measured, Side, speed};

const GIB: f64 = (1_u64 << 30) as f64;

fn of<'a>(all: &'a [Measured], part: &'a str, side: Side) -> impl Iterator<Item = &'a Measured> {
    all.iter().filter(move |m| m.part == part && m.spec.side == side)
}

fn figure(all: &[Measured], part: &str, side: Side, value: impl Fn(&Measured) -> f64) -> f64 {
    median(of(all, part, side).map(value).collect())
}

fn memory(measured: &Measured) -> f64 {
    measured.result["peak_rss_bytes"].as_f64().unwrap_or(f64::NAN)
}

/// How many sequences of equal length there are on average in a batch of so
/// many that follow each other, which is how many mistral.rs steps together.
fn equal_lengths(lengths: &[usize], batch: usize) -> f64 {
    let groups: usize =
        lengths.chunks(batch).map(|lengths| lengths.iter().collect::<std::collections::BTreeSet<_>>().len()).sum();
    lengths.len() as f64 / groups as f64
}

pub fn write(bench: &Bench, all: &[Measured], out: &Path) -> anyhow::Result<()> {
    let ours = figure(all, "comparison", Side::SpinModel, speed);
    let peer = figure(all, "comparison", Side::Transformers, speed);
    let queued = figure(all, "mistralrs", Side::MistralrsQueued, speed);
    let single = figure(all, "mistralrs", Side::Mistralrs, speed);
    let our_memory = figure(all, "comparison", Side::SpinModel, memory);
    let peer_memory = figure(all, "comparison", Side::Transformers, memory);
    let ratios = json!({
        "tokens_per_second_to_transformers": ours / peer,
        "tokens_per_second_to_mistralrs_queued": ours / queued,
        "tokens_per_second_to_mistralrs_one_at_a_time": ours / single,
        "peak_memory_to_transformers": our_memory / peer_memory,
        "bf16_tokens_per_second_to_transformers":
            figure(all, "bf16", Side::SpinModel, speed) / figure(all, "bf16", Side::Transformers, speed),
        "bf16_tokens_per_second_to_f32": figure(all, "bf16", Side::SpinModel, speed) / ours,
    });
    let mut sorted = bench.lengths.clone();
    sorted.sort_unstable();
    let groups = |batch| {
        json!({
            "batch": batch,
            "in_order_of_arrival": equal_lengths(&bench.lengths, batch),
            "in_order_of_length": equal_lengths(&sorted, batch),
        })
    };
    let groups: Vec<_> = [8, 32, 128, 512].into_iter().map(groups).collect();
    let versions = of(all, "comparison", Side::Transformers).next().map(|m| m.result["versions"].clone());
    let document = json!({
        "machine": machine(),
        "peer_versions": versions,
        "ratios": ratios,
        "sequences_of_equal_length": groups,
        "measurements": all,
    });
    std::fs::create_dir_all(out)?;
    std::fs::write(out.join("sample.json"), format!("{document:#}\n"))?;

    let (lengths, tokens) = (&bench.lengths, bench.new_tokens);
    let mut text = String::new();
    writeln!(
        text,
        "# spin-sample against transformers on the CPU\n\n\
         Written by `just bench sample`. Both sides answer the same {} prompts (GSM8K's questions in the paper's \
         template, {} to {} tokens, {:.0} on average) with {tokens} new tokens each, sampled at temperature 1 from the \
         whole distribution, with the same Llama-shaped model (56 million random weights, hidden 512, 8 layers, \
         vocabulary 32,000) in f32 on {} threads, in processes of their own, in turns. Times are those of generation, \
         prompts included, loading not. transformers runs at its fastest batch size of those searched, its prompts \
         sorted by length.\n\nMachine: `{}`\n\nPeer: `{}`\n",
        lengths.len(),
        sorted[0],
        sorted[sorted.len() - 1],
        lengths.iter().sum::<usize>() as f64 / lengths.len() as f64,
        bench.threads,
        machine(),
        versions.unwrap_or_default(),
    )?;
    writeln!(text, "| | generated tokens/s | ratio | peak memory GiB | prompts | batch |\n|---|---|---|---|---|---|")?;
    let mut row = |name: &str, part: &str, side: Side| -> std::fmt::Result {
        let Some(one) = of(all, part, side).next() else { return Ok(()) };
        let own = figure(all, part, side, speed);
        let batch = if one.spec.batch_size == 0 { "default".to_owned() } else { one.spec.batch_size.to_string() };
        writeln!(
            text,
            "| {name} | {own:.0} | {:.2} | {:.2} | {} | {batch} |",
            ours / own,
            figure(all, part, side, memory) / GIB,
            one.spec.count,
        )
    };
    row("spin-sample (engine spin-model)", "comparison", Side::SpinModel)?;
    row("transformers `generate`", "comparison", Side::Transformers)?;
    row("spin-sample, bf16", "bf16", Side::SpinModel)?;
    row("transformers `generate`, bf16", "bf16", Side::Transformers)?;
    row("spin-sample (engine mistralrs): one sequence per copy", "mistralrs", Side::Mistralrs)?;
    row("mistral.rs 0.8.1, everything queued at once", "mistralrs", Side::MistralrsQueued)?;
    writeln!(
        text,
        "\nThe ratio is spin-sample's tokens/s in f32 by the row's; in bf16 on both sides it is {:.2}, and spin-sample's bf16 \
         by its f32 {:.2}. mistral.rs with a queue batches, and on the CPU its batches are wrong (see flips).\n\n\
         ## Batch sizes\n\n| batch | transformers tokens/s | spin-sample tokens/s |\n|---|---|---|",
        figure(all, "bf16", Side::SpinModel, speed) / figure(all, "bf16", Side::Transformers, speed),
        figure(all, "bf16", Side::SpinModel, speed) / ours,
    )?;
    for batch in [1, 8, 16, 32, 64, 128] {
        let at = |part, side| {
            let one = of(all, part, side).find(|m| m.spec.batch_size == batch).map(speed);
            one.map_or_else(String::new, |speed| format!("{speed:.0}"))
        };
        writeln!(text, "| {batch} | {} | {} |", at("search", Side::Transformers), at("batches", Side::SpinModel))?;
    }
    writeln!(
        text,
        "\n## Flips\n\nTokens that differ from those of spin-sample's own engine with one sequence at a time: the \
         first of an answer, of all tokens up to there.\n\n| answers of | rows | tokens compared | flipped |\n|---|---|---|---|"
    )?;
    for flips in all.iter().filter(|m| m.part == "flipped").map(|m| &m.result) {
        let name = match flips["against"].as_str() {
            Some("many") => "engine spin-model, batches of 64",
            Some("mistralrs") => "engine mistralrs, one sequence per copy",
            _ => "mistral.rs, everything queued at once",
        };
        writeln!(text, "| {name} | {} | {} | {} |", flips["rows"], flips["tokens"], flips["flipped"])?;
    }
    writeln!(
        text,
        "\n## Sequences of equal length\n\nmistral.rs steps only sequences of equal length together. Of these prompts, \
         that is on average:\n\n| batch | in order of arrival | in order of length |\n|---|---|---|"
    )?;
    for group in &groups {
        let figure = |key: &str| group[key].as_f64().unwrap_or(f64::NAN);
        writeln!(
            text,
            "| {} | {:.1} | {:.1} |",
            group["batch"],
            figure("in_order_of_arrival"),
            figure("in_order_of_length")
        )?;
    }
    writeln!(text, "\nNot measured on a GPU.")?;
    std::fs::write(out.join("sample.md"), &text)?;
    println!("{text}");
    Ok(())
}
