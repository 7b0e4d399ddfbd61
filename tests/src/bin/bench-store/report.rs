//! The reports.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use spin_tests::measure::{machine, median};

use crate::Work;

fn head(machine: &Value) -> String {
    format!(
        "Processor: {}, {} cores, {} GiB. Not measured on a GPU, which nothing of this uses.\n",
        machine["processor"].as_str().unwrap_or("unknown"),
        machine["cores"],
        machine["memory_gib"]
    )
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

pub fn store(steps: &[Value], out: &Path) -> anyhow::Result<()> {
    let machine = machine();
    let mut text = format!(
        "# The store at scale\n\n`just bench store`. {}\nRows of about 80 characters. Reading: what reading the same bytes \
         alone takes, as a share of the time; the files were written just before and are in the system's cache. `verify` \
         reads demonstrations, samples and pairs.\n\n| | rows | s | rows/s | MB/s | reading | peak memory |\n|---|---|---|---|---|---|---|\n",
        head(&machine)
    );
    for one in steps {
        let (rows, seconds, bytes) = (number(&one["rows"]), number(&one["seconds"]), number(&one["bytes"]));
        text += &format!(
            "| {} | {rows} | {seconds:.1} | {:.0} | {:.0} | {:.0}% | {:.0} MiB |\n",
            one["step"].as_str().unwrap_or_default(),
            rows / seconds,
            bytes / seconds / 1e6,
            100.0 * number(&one["reading_seconds"]) / seconds,
            number(&one["peak_mib"]),
        );
    }
    fs::write(out.join("store.md"), text)?;
    let report = json!({"machine": machine, "steps": steps});
    fs::write(out.join("store.json"), format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    Ok(())
}

pub fn pair(measured: &[Value], rows: usize, parts: usize, out: &Path) -> anyhow::Result<()> {
    let machine = machine();
    let mut text = format!(
        "# spin-pair against pandas and datasets\n\n`just bench pair`. {}\n{rows} samples in {parts} parts, one of each \
         row; all keep the same rows, compared token for token. Whole processes, medians of {} turns, both sides in turns. \
         spin-pair also checks every digest and publishes with digests and syncs, prompts and answers as conversations \
         beside the ids; the peers check nothing and write one Parquet file.\n",
        head(&machine),
        measured.iter().filter_map(|one| one["turn"].as_u64()).max().map_or(0, |last| last + 1),
    );
    for (work, title, note) in [
        (
            Work::All,
            "All of it",
            "The peers make the demonstrations' tokens too: transformers' `apply_chat_template` on lists of \
             conversations, texts to the tokenizer 16,384 at a time, which uses all cores.",
        ),
        (
            Work::Join,
            "Join and filter, tokens given",
            "Both sides read the demonstrations' tokens from a Parquet file; spin-pair is then its own stage with a \
             table in the tokenizer's place.",
        ),
    ] {
        let of = |who: &str, key: &str| {
            let values = measured.iter().filter(|one| one["who"] == who && one["work"] == work.name());
            median(values.map(|one| number(&one[key])).collect())
        };
        let least =
            |key: &str| ["pandas", "datasets"].map(|who| of(who, key)).into_iter().fold(f64::INFINITY, f64::min);
        text += &format!(
            "\n## {title}\n\n{note}\n\n| | s | of it inside | processor s | rows/s | peak memory |\n|---|---|---|---|---|---|\n"
        );
        for who in ["spin-pair", "pandas", "datasets"] {
            let version = measured.iter().find(|one| one["who"] == who).and_then(|one| one["version"].as_str());
            let inside = of(who, "inside");
            let inside = if inside.is_nan() { "-".into() } else { format!("{inside:.2}") };
            text += &format!(
                "| {who} {} | {:.2} | {inside} | {:.2} | {:.0} | {:.0} MiB |\n",
                version.unwrap_or_default(),
                of(who, "seconds"),
                of(who, "processor_seconds"),
                rows as f64 / of(who, "seconds"),
                of(who, "peak_mib"),
            );
        }
        text += &format!(
            "\nspin-pair: {:.1} times the rows/s of the faster peer, {:.2} of the memory of the smaller.\n",
            least("seconds") / of("spin-pair", "seconds"),
            of("spin-pair", "peak_mib") / least("peak_mib"),
        );
    }
    fs::write(out.join("pair.md"), &text)?;
    let report = json!({"machine": machine, "rows": rows, "parts": parts, "measured": measured});
    fs::write(out.join("pair.json"), format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    println!("{text}");
    Ok(())
}
