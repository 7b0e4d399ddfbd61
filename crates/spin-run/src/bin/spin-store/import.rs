//! `import`: what people have, into a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};
use clap::CommandFactory as _;
use clap::error::ErrorKind;
use serde_json::{Map, Value, json};
use spin_cli::{Exit, say};
use spin_net::hub::Settings;
use spin_net::{Name, NetError};
use spin_run::facts::{Facts as _, ImportFacts, LeftOutFiles};
use spin_run::graph::{Graph, Split};
use spin_run::import::{self, ImportError, Importer};
use spin_run::run::{BadRows, RunFile, SourceConfig, Turns};
use spin_store::{Artifact, Context, Kind, Store, StoreError, bundle};

use crate::Cli;
use crate::looks::shown;

/// What `import` was told.
#[derive(clap::Args)]
pub struct ImportArgs {
    /// A run file (.toml), a data file (.jsonl, .json, .csv, .parquet, .arrow; also .gz, .zst), a directory or
    /// pattern of them, a Hugging Face model directory, a name on the hub, or a bundle (.spin.tar) of another store
    source: PathBuf,
    /// Override a key of the run file
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Name in the store (needed unless the source is a run file or a bundle)
    #[arg(long)]
    name: Option<String>,
    /// Use the first rows only; 0 for all
    #[arg(long)]
    limit: Option<usize>,
    #[command(flatten)]
    rows: RowArgs,
    /// Read all weights again, though the file system says that they are those imported before
    #[arg(long)]
    rehash: bool,
    /// The store's directory, unless the source is a run file, which names it [default: data]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// How the rows of a data file are read; a run file has keys for it.
#[derive(clap::Args)]
struct RowArgs {
    /// Which answers of a conversation are used: first, last or all
    #[arg(long, value_parser = named::<Turns>)]
    turns: Option<Turns>,
    /// What to do with rows that cannot be used: error or drop
    #[arg(long, value_parser = named::<BadRows>)]
    on_bad_row: Option<BadRows>,
    /// The source is a preference set (prompt, chosen, rejected)
    #[arg(long)]
    preferences: bool,
}

/// A value of the run file's by its name there.
fn named<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(json!(name)).map_err(|e| e.to_string())
}

/// Whether an import is to be tried again: another process is at it, or a stop
/// was asked for.
fn is_for_later(error: &anyhow::Error) -> bool {
    use ImportError::{Net, Store};
    matches!(error.downcast_ref(), Some(StoreError::Locked { .. }))
        || matches!(error.downcast_ref(), Some(Store(StoreError::Locked { .. }) | Net(NetError::Stopped)))
}

impl ImportArgs {
    /// Ends the program where a flag would be ignored.
    fn refuse(&self, flags: &[(&str, bool)], why: &str) {
        for (flag, given) in flags {
            if *given {
                let text = format!("{flag} cannot be used with {}: {why}", self.source.display());
                Cli::command().error(ErrorKind::ArgumentConflict, text).exit();
            }
        }
    }
}

fn report((artifact, made): &(Artifact, bool)) -> anyhow::Result<()> {
    let m = &artifact.manifest;
    let size = if m.rows() > 0 { format!("{} rows", m.rows()) } else { format!("{} bytes", m.bytes()) };
    say(&format!("{} {} ({size})", if *made { "imported" } else { "already there:" }, m.reference()));
    let facts = ImportFacts::of(artifact)?;
    for (reason, n) in &facts.left_out {
        let hint = if reason == import::LATER_TURNS { "; turns = \"last\" or \"all\" uses them" } else { "" };
        say(&format!("left out: {n} {reason}{hint}"));
    }
    if facts.repeated_rows > 0 {
        say(&format!("warning: {} rows repeat another row, prompt and answer", facts.repeated_rows));
    }
    if facts.repeated_prompts > 0 {
        say(&format!("warning: {} rows repeat the prompt of another row", facts.repeated_prompts));
    }
    if let Some(LeftOutFiles { count, names }) = &facts.left_out_files {
        let mut names: Vec<String> = names.iter().map(|name| shown(name)).collect();
        if (names.len() as u64) < *count {
            names.push("…".into());
        }
        say(&format!("left out, because they are no part of a model: {count} ({})", names.join(", ")));
    }
    Ok(())
}

/// What an importer borrows.
struct Surroundings {
    holder: String,
    hub: Settings,
    stop: Arc<AtomicBool>,
}

impl Surroundings {
    fn look() -> anyhow::Result<Surroundings> {
        let hub = Settings::from_vars(&|name| std::env::var(name).ok())?;
        Ok(Surroundings { holder: spin_cli::whoami(), hub, stop: spin_cli::stop_flag()? })
    }

    fn importer<'a>(
        &'a self,
        store: &'a Store,
        environment: &'a dyn Fn() -> Map<String, Value>,
        rehash: bool,
    ) -> Importer<'a> {
        let context =
            Context { environment, holder: &self.holder, stop: &self.stop, watch: &say, ..Context::silent(store) };
        Importer { rehash, hub: Some(&self.hub), ..Importer::new(context) }
    }
}

/// Imports whatever the source is.
pub fn run(args: &ImportArgs) -> anyhow::Result<Exit> {
    match import_any(args) {
        Err(error) if is_for_later(&error) => {
            say(&format!("{error:#}"));
            Ok(Exit::Again)
        }
        result => result,
    }
}

fn import_any(args: &ImportArgs) -> anyhow::Result<Exit> {
    let source = args.source.as_path();
    let rows = &args.rows;
    let row_flags = [
        ("--limit", args.limit.is_some()),
        ("--turns", rows.turns.is_some()),
        ("--on-bad-row", rows.on_bad_row.is_some()),
        ("--preferences", rows.preferences),
    ];
    if source.extension().is_some_and(|e| e == "toml") {
        let why = "a run file says it itself; use --set KEY=VALUE";
        args.refuse(&row_flags, why);
        args.refuse(&[("--name", args.name.is_some()), ("--store", args.store.is_some())], why);
        return import_run(&RunFile::load(source, &args.set)?, args.rehash);
    }
    args.refuse(&[("--set", !args.set.is_empty())], "it overrides keys of a run file");
    if bundle::is_bundle(source) {
        let why = "a bundle says it itself";
        args.refuse(&row_flags, why);
        args.refuse(&[("--name", args.name.is_some()), ("--rehash", args.rehash)], why);
        return import_bundle(source, &Store::open(args.store.as_deref().unwrap_or(Path::new("data")))?);
    }
    let is_model = is_model(source);
    if is_model {
        args.refuse(&row_flags, "a model has no rows");
    } else {
        args.refuse(&[("--rehash", args.rehash)], "files of rows are always read");
    }
    let name = args.name.clone().context("give the artifact a name with --name")?;
    if !spin_store::store::is_name(&name) {
        bail!("{name:?} is not a name; use letters, digits, `-`, `_`, `.` and `/`");
    }
    let store = Store::open(args.store.as_deref().unwrap_or(Path::new("data")))?;
    let surroundings = Surroundings::look()?;
    let importer = surroundings.importer(&store, &|| spin_cli::environment(spin_cli::features!("hub")), args.rehash);
    let made = if is_model {
        let _lock = importer.lock(Kind::Model, &name)?;
        // A directory without weights is one that starts from nothing.
        let (artifact, made, _) = importer.model(&name, source, None, Name::is_meant(source))?;
        (artifact, made)
    } else {
        let config = SourceConfig {
            limit: args.limit.unwrap_or_default(),
            turns: rows.turns.unwrap_or_default(),
            on_bad_row: rows.on_bad_row.unwrap_or_default(),
            ..SourceConfig::new(source)
        };
        let kind = if rows.preferences { Kind::Preferences } else { Kind::Demonstrations };
        let _lock = importer.lock(kind, &name)?;
        importer.rows_of(kind, &name, &config, &importer.files(source, None)?)?
    };
    report(&made)?;
    Ok(Exit::Done)
}

/// Whether a path is a model's directory, rather than one of rows or a file.
fn is_model(source: &Path) -> bool {
    if Name::is_meant(source) {
        return !matches!(Name::of_path(source), Ok(Some(name)) if !name.is_model());
    }
    let is_adapter = |name: &str| source.join(name).exists();
    ["adapter_config.json", "adapter_model.safetensors"].into_iter().any(is_adapter)
        || (source.is_dir() && !import::is_data_dir(source))
}

fn import_run(run: &RunFile, rehash: bool) -> anyhow::Result<Exit> {
    let store = Store::open(&run.store_dir())?;
    let surroundings = Surroundings::look()?;
    let environment = || run.noted(spin_cli::environment(spin_cli::features!("hub")));
    let importer = surroundings.importer(&store, &environment, rehash);
    let mut demonstrations = Vec::new();
    let splits: &[Split] = if run.data.is_some() { &[Split::Train, Split::Test] } else { &[] };
    for &split in splits {
        let made = importer.demonstrations(run, split)?;
        report(&made)?;
        demonstrations.push(made.0);
    }
    if let [train, test] = demonstrations.as_slice() {
        let shared = import::shared_prompts(train, test)?;
        if shared > 0 {
            say(&format!("warning: {shared} prompts stand in both data.train and data.test: scores will flatter"));
        }
    }
    for baseline in run.baseline.iter().filter(|b| b.preferences.is_some()) {
        report(&importer.preferences(run, &baseline.name)?)?;
    }
    if run.data.is_some() {
        // What the test rows cannot serve ends here, not after the last training.
        let graph = Graph::new(run, &store);
        let tasks = graph.bench_tasks()?.join(", ");
        let why = if run.bench.tasks.is_some() { "" } else { ", as the test rows allow" };
        say(&format!("bench.tasks: {tasks}{why}"));
    }
    report(&importer.base(run)?)?;
    Ok(Exit::Done)
}

fn import_bundle(source: &Path, store: &Store) -> anyhow::Result<Exit> {
    let taken = bundle::take(store, source, Some(&spin_cli::now()))?;
    for reference in &taken.imported {
        say(&format!("imported {}", shown(reference)));
    }
    if taken.known > 0 {
        say(&format!("{} artifacts were there already", taken.known));
    }
    say(&format!("{} of {} bytes, all as recorded", shown(&taken.root), taken.bytes));
    Ok(Exit::Done)
}
