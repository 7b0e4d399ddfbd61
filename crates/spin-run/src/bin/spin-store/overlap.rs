//! `overlap`: what a table shares with what it is tested on, and with itself.

use std::path::{Path, PathBuf};

use serde_json::Value;
use spin_cli::{Exit, say};
use spin_run::overlap::{self, Against, Options, data_below};
use spin_run::schema::{Overlap, Row};
use spin_store::{Context, Reference, Store};

use crate::looks::shown;
use crate::out;

/// Rows that are printed.
const SHOWN: usize = 10;

/// Flags of `overlap`.
#[derive(clap::Args)]
pub struct Args {
    /// Demonstrations, preferences, samples or pairs: kind/name, kind/name@v3 or kind/name@<digest prefix>
    reference: String,
    /// What to hold it against: another table by its reference, a directory of data files, or `benchmarks` for those
    /// in the store's directory
    #[arg(long, value_name = "REF|DIR")]
    against: Vec<String>,
    /// Words of a run that counts as shared
    #[arg(long, default_value_t = Options::default().n, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..))]
    ngram: usize,
    /// Share of runs of five words from which two rows are near-duplicates
    #[arg(long, default_value_t = Options::default().similarity, value_parser = share)]
    similarity: f64,
    #[command(flatten)]
    pub at: crate::At,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        // What MinHash was set to find.
        Ok(share) if (0.6..=1.0).contains(&share) => Ok(share),
        _ => Err("give a share from 0.6 to 1".into()),
    }
}

pub fn run(store: &Store, args: &Args) -> anyhow::Result<Exit> {
    let of = store.get(&args.reference.parse::<Reference>()?)?;
    let against = args.against.iter().map(|text| {
        let dir = if text == "benchmarks" { store.root().join(text) } else { PathBuf::from(text) };
        match dir.is_dir() {
            true => Ok(Against::Files(data_below(Path::new(&dir))?)),
            false => Ok(Against::Table(Box::new(store.get(&text.parse::<Reference>()?)?))),
        }
    });
    let against: Vec<Against> = against.collect::<anyhow::Result<_>>()?;
    let options = Options { n: args.ngram, similarity: args.similarity };
    let holder = spin_cli::whoami();
    let context = Context {
        environment: &|| spin_cli::environment(spin_cli::features!("hub")),
        holder: &holder,
        ..Context::silent(store)
    };
    let (artifact, made) = overlap::run(&context, &of, &against, options)?;
    let facts = &artifact.manifest.facts;
    let rows = &facts["rows"];
    for (name, counts) in facts["against"].as_object().into_iter().flatten() {
        let count = |key: &str| counts[key].as_u64().unwrap_or_default();
        out(&shown(&format!(
            "{name}: {} of {rows} rows have a text of it, {} share {} words in a row with it; {} of its {} documents\n",
            count("rows_exact"),
            count("rows_ngram"),
            args.ngram,
            count("documents_touched"),
            count("documents"),
        )))?;
    }
    out(&format!("{} of {rows} rows are near-duplicates of a row before them\n", facts["near_duplicates"]))?;
    let found = Overlap::read_all(&artifact)?;
    for row in found.iter().take(SHOWN) {
        let Overlap { how, row_id, column, document, text, similarity, .. } = row;
        let column = if column.is_empty() { String::new() } else { format!(" {column}") };
        let text: String = text.chars().take(80).collect();
        out(&shown(&format!("  {how:5}  {row_id}{column} ~ {document}  {similarity:.2}  {}\n", Value::from(text))))?;
    }
    if found.len() > SHOWN {
        out(&format!("  … and {} more\n", found.len() - SHOWN))?;
    }
    let how = if made { "made" } else { "already there:" };
    say(&format!("{how} {}: {} rows, {}", artifact.reference(), found.len(), spin_cli::cost()));
    Ok(Exit::Done)
}
