//! `spin-bench fetch`.

use std::path::PathBuf;

use spin_bench::fetch::{self, Dataset, Endpoints};
use spin_cli::{Exit, Progress, say};

/// Flags of `fetch`.
#[derive(clap::Args)]
pub struct Args {
    /// Data sets; all of them when none is named
    #[arg(value_name = "DATASET", value_parser = dataset)]
    datasets: Vec<Dataset>,
    /// Where to
    #[arg(long, value_name = "DIR", default_value = "data/benchmarks")]
    data: PathBuf,
}

fn dataset(name: &str) -> Result<Dataset, String> {
    Dataset::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Dataset::ALL.iter().map(|dataset| dataset.name()).collect();
        format!("there are {}", names.join(", "))
    })
}

/// Fetches.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut endpoints = Endpoints { token: std::env::var("HF_TOKEN").ok(), ..Endpoints::default() };
    if let Ok(hub) = std::env::var("HF_ENDPOINT") {
        endpoints.hub = hub;
    }
    let datasets = if args.datasets.is_empty() { Dataset::ALL.to_vec() } else { args.datasets.clone() };
    let mut bar: Option<Progress> = None;
    let result = fetch::fetch(&args.data, &endpoints, &datasets, &mut |file| {
        bar.get_or_insert_with(|| Progress::new("fetch", "files", 0, file.total as u64))
            .set(file.done as u64, &file.path.display().to_string());
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    let report = result?;
    say(&format!(
        "{}: {} files fetched ({} MiB), {} were there, {} of them copied by hand",
        args.data.display(),
        report.downloaded,
        report.bytes >> 20,
        report.kept + report.copied,
        report.copied
    ));
    Ok(Exit::Done)
}
