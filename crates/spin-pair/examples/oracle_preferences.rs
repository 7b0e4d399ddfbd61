//! Preferences of an oracle that knows the human answers: of a model's own
//! samples to a training prompt, those that say what the human said are better
//! than those that do not. What DPO is given in `pipelines/questions/dpo-oracle.toml`.
//!
//! ```sh
//! cargo run --release -p spin-pair --example oracle_preferences -- pipelines/questions/words.toml 0 out.jsonl --set seed=11
//! ```

use std::collections::HashMap;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use serde_json::json;
use spin_run::graph::{Graph, Split};
use spin_run::run::{ExactMatch, RunFile};
use spin_run::schema::{Demonstration, Row as _, Sample};
use spin_store::Store;

#[derive(Parser)]
struct Cli {
    /// The run file
    run: PathBuf,
    /// The round whose samples are judged
    iteration: usize,
    /// Where to write JSON lines of `prompt`, `chosen`, `rejected`
    out: PathBuf,
    /// Override a key of the run file
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let run = RunFile::load(&cli.run, &cli.set)?;
    let store = Store::open_existing(&run.store_dir())?;
    let graph = Graph::new(&run, &store);
    let rows = Demonstration::read_all(&graph.demonstrations(Split::Train)?)?;
    let mut samples: HashMap<String, Vec<Sample>> = HashMap::new();
    for sample in Sample::read_all(&graph.samples(cli.iteration)?)? {
        samples.entry(sample.row_id.clone()).or_default().push(sample);
    }
    let same = ExactMatch::default().compile().map_err(anyhow::Error::msg)?;
    let file = std::fs::File::create(&cli.out).with_context(|| format!("cannot write {}", cli.out.display()))?;
    let mut out = BufWriter::new(file);
    for row in &rows {
        let human = same.apply(&row.response);
        let own = samples.get(&row.row_id).map_or(&[][..], Vec::as_slice);
        let (right, wrong): (Vec<&Sample>, Vec<&Sample>) =
            // An answer of nothing but its end is none, as in the pair tables of self-play.
            own.iter()
                .filter(|sample| !sample.response.trim().is_empty())
                .partition(|sample| same.apply(&sample.response) == human);
        let prompt = row.prompt.last().map_or("", |message| &message.content);
        // Every wrong sample has one pair, as in the pair tables of self-play.
        for (rejected, chosen) in wrong.iter().zip(right.iter().cycle()) {
            let pair = json!({"prompt": prompt, "chosen": chosen.response, "rejected": rejected.response});
            writeln!(out, "{pair}")?;
        }
    }
    out.flush().context("cannot write the preferences")
}
