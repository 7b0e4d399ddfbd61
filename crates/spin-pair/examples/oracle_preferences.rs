//! Preferences of an oracle that knows the human answers: of a model's own
//! samples to a training prompt, those that say what the human said are better
//! than those that do not. What DPO is given in `pipelines/questions/dpo-oracle.toml`.
//! With `--by f1`, for answers that are never met word for word, the sample whose
//! words are most like the human's is better than the one whose words are least.
//!
//! ```sh
//! cargo run --release -p spin-pair --example oracle_preferences -- pipelines/questions/words.toml 0 out.jsonl --set seed=11
//! ```

use std::collections::HashMap;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use serde_json::json;
use spin_run::graph::{Graph, Split};
use spin_run::run::{ExactMatch, Normaliser, RunFile};
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
    /// What makes a sample better
    #[arg(long, value_enum, default_value_t = By::ExactMatch)]
    by: By,
    /// Override a key of the run file
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum By {
    /// It is the human answer
    ExactMatch,
    /// The harmonic mean of precision and recall of its words, as SQuAD's F1
    F1,
}

/// The F1 of two texts' words (Rajpurkar et al. 2016, arXiv 1606.05250).
fn f1(answer: &str, human: &str) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    human.split_whitespace().for_each(|word| *left.entry(word).or_default() += 1);
    let mut common = 0_u32;
    for word in answer.split_whitespace() {
        if let Some(n @ 1..) = left.get_mut(word) {
            *n -= 1;
            common += 1;
        }
    }
    let words = answer.split_whitespace().count() + human.split_whitespace().count();
    2.0 * f64::from(common) / words.max(1) as f64
}

/// Pairs of a better and a worse sample to one prompt.
fn judge<'a>(by: By, same: &Normaliser, human: &str, own: &[&'a Sample]) -> Vec<(&'a Sample, &'a Sample)> {
    match by {
        // Every wrong sample has one pair, as in the pair tables of self-play.
        By::ExactMatch => {
            let human = same.apply(human);
            let (right, wrong): (Vec<&Sample>, Vec<&Sample>) =
                own.iter().partition(|sample| same.apply(&sample.response) == human);
            right.iter().copied().cycle().zip(wrong).collect()
        }
        By::F1 => {
            let like = |sample: &Sample| f1(&same.apply(&sample.response), &same.apply(human));
            let by_likeness = |a: &&&Sample, b: &&&Sample| like(a).total_cmp(&like(b));
            match (own.iter().max_by(by_likeness), own.iter().min_by(by_likeness)) {
                (Some(best), Some(worst)) if like(best) > like(worst) => vec![(*best, *worst)],
                _ => Vec::new(),
            }
        }
    }
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
        // An answer of nothing but its end is none, as in the pair tables of self-play.
        let own: Vec<&Sample> = samples
            .get(&row.row_id)
            .into_iter()
            .flatten()
            .filter(|sample| !sample.response.trim().is_empty())
            .collect();
        let prompt = row.prompt.last().map_or("", |message| &message.content);
        for (chosen, rejected) in judge(cli.by, &same, &row.response, &own) {
            let pair = json!({"prompt": prompt, "chosen": chosen.response, "rejected": rejected.response});
            writeln!(out, "{pair}")?;
        }
    }
    out.flush().context("cannot write the preferences")
}
