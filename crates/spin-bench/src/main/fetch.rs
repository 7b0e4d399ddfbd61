//! `spin-bench fetch`.

use std::path::PathBuf;

use spin_bench::BenchError;
use spin_bench::fetch::{self, Dataset, Options};
use spin_cli::{Exit, Progress, say, stop_flag};
use spin_net::hub::Settings;

/// Flags of `fetch`.
#[derive(clap::Args)]
pub struct Args {
    /// Data sets; all of them when none is named
    #[arg(value_name = "DATASET", value_parser = dataset)]
    datasets: Vec<Dataset>,
    /// Where to
    #[arg(long, value_name = "DIR", default_value = "data/benchmarks")]
    data: PathBuf,
    /// Take data with other rows than the pinned too, e.g. your own; scores on it are not the leaderboard's
    #[arg(long)]
    allow_unpinned_data: bool,
}

fn dataset(name: &str) -> Result<Dataset, String> {
    Dataset::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Dataset::ALL.iter().map(|dataset| dataset.name()).collect();
        format!("there are {}", names.join(", "))
    })
}

/// Fetches.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let Settings { endpoints, .. } = Settings::from_vars(&|name| std::env::var(name).ok()).map_err(BenchError::from)?;
    let datasets = if args.datasets.is_empty() { Dataset::ALL.to_vec() } else { args.datasets.clone() };
    let mut bar: Option<Progress> = None;
    let stop = stop_flag()?;
    let options = Options { accept_unpinned: args.allow_unpinned_data, stop: &stop };
    let result = fetch::fetch(&args.data, &endpoints, &datasets, &options, &mut |file| {
        bar.get_or_insert_with(|| Progress::new("fetch", "files", 0, file.total as u64))
            .set(file.done as u64, &file.path.display().to_string());
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    let report = match result {
        Err(error) if error.is_stop() => {
            say("stopped with the files so far kept; run it again");
            return Ok(Exit::Again);
        }
        result => result.map_err(BenchError::from)?,
    };
    say(&format!(
        "{}: {} files fetched ({} MiB), {} were there, {} of them copied by hand",
        args.data.display(),
        report.downloaded,
        report.bytes >> 20,
        report.kept + report.copied,
        report.copied
    ));
    if report.only_counted > 0 {
        say(&format!("{} of them were checked by their number of rows alone: no digest is known", report.only_counted));
    }
    if report.unpinned > 0 {
        say(&format!("warning: {} hold other data than the pinned; scores are not the leaderboard's", report.unpinned));
    }
    Ok(Exit::Done)
}
