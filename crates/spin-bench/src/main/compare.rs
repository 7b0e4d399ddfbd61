//! `spin-bench compare`.

use std::path::PathBuf;

use serde_json::json;
use spin_cli::Exit;
use spin_report::compare::{self, Scored};
use spin_store::Store;

/// Flags of `compare`.
#[derive(clap::Args)]
pub struct Args {
    /// Models (demo/iter-1: all their scores) or artifacts
    /// (evaluations/demo/iter-1/mmlu@v2); each is compared with the first
    #[arg(required = true, num_args = 2.., value_name = "MODEL")]
    models: Vec<String>,
    /// The store
    #[arg(long, default_value = "data")]
    store: PathBuf,
    /// Also take groups apart into their tasks
    #[arg(long)]
    tasks: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Compares.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let store = Store::open_existing(&args.store)?;
    let models: Vec<Scored> =
        args.models.iter().map(|model| Scored::read(&store, model, args.tasks)).collect::<Result<_, _>>()?;
    let found = compare::compare(&models)?;
    let text = if args.json {
        let all: Vec<_> = found.iter().map(|c| c.to_json(&args.models[0])).collect();
        serde_json::to_string_pretty(&json!({"comparisons": all}))? + "\n"
    } else {
        compare::table(&args.models[0], &found)
    };
    spin_cli::out(&text);
    Ok(Exit::Done)
}
