//! `spin-store`: bring data in, look at what is there, prove where it came
//! from.

mod looks;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use serde_json::json;
use spin_cli::{Exit, say};
use spin_net::Name;
use spin_net::NetError;
use spin_net::hub::Settings;
use spin_net::secret::BadSecret;
use spin_run::facts::{Facts as _, ImportFacts, LeftOutFiles};
use spin_run::graph::{Graph, Split};
use spin_run::import::{self, ImportError, Importer};
use spin_run::plan::{self, Plan};
use spin_run::run::{BadRows, RunFile, SourceConfig, Turns};
use spin_run::schema::{Demonstration, Row};
use spin_store::{Artifact, Context, Kind, Store, StoreError};

use looks::{diff, lineage, ls, show, shown, verify};

#[derive(Parser)]
#[command(name = "spin-store", version, about = "The dataset store of SPIN: import, list, show, prove", after_help = spin_cli::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: spin_cli::LogArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Import a run's data and model, a file of demonstrations, or a model directory
    Import {
        /// A run file (.toml), a data file (.jsonl, .json, .csv, .parquet, .arrow; also .gz, .zst), a directory or
        /// pattern of them, or a Hugging Face model directory
        source: PathBuf,
        /// Override a key of the run file
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Name in the store (needed unless the source is a run file)
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
    },
    /// List artifacts
    Ls {
        /// Only those whose kind/name starts with this
        prefix: Option<String>,
        #[command(flatten)]
        at: At,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Print an artifact's manifest
    Show {
        /// kind/name, kind/name@v3 or kind/name@<digest prefix>
        reference: String,
        #[command(flatten)]
        at: At,
    },
    /// Print what an artifact was made from, down to files and seeds
    Lineage {
        /// kind/name, kind/name@v3 or kind/name@<digest prefix>
        reference: String,
        #[command(flatten)]
        at: At,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Check every manifest, file and parent, and that nothing else is there; exits 4 when something differs, 1 when something cannot be read
    Verify {
        /// Only this artifact and all that it was made from
        reference: Option<String>,
        /// How closely to look
        #[arg(long, value_enum, default_value_t = Level::Hash)]
        level: Level,
        #[command(flatten)]
        at: At,
    },
    /// Say what sets two artifacts of one kind apart: settings, inputs, files, rows; exits 4 when they hold something else
    Diff {
        /// kind/name, kind/name@v3 or kind/name@<digest prefix>
        a: String,
        /// The other
        b: String,
        #[command(flatten)]
        at: At,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Print the commands of a whole run, one a line, in order (`spin-run plan` knows more)
    Plan {
        #[command(flatten)]
        run: spin_cli::RunArgs,
    },
}

#[derive(clap::Args)]
struct At {
    /// The store's directory
    #[arg(long, default_value = "data", value_name = "DIR")]
    store: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Manifests, seals, parents and directories; no file is read
    Structure,
    /// Besides, the digest of every file
    Hash,
    /// Besides, the rows of every table: how many, their values, and that none stands twice
    Rows,
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

fn main() -> ExitCode {
    let cli = spin_cli::parse::<Cli>();
    spin_cli::run(cli.log, spin_cli::bad_input!(StoreError, ImportError, BadSecret), || match cli.command {
        Command::Import { source, set, name, limit, rows, rehash, store } => {
            match import_any(&ImportArgs { source, set, name, limit, rows, rehash, store }) {
                Err(error) if is_for_later(&error) => {
                    say(&format!("{error:#}"));
                    Ok(Exit::Again)
                }
                result => result,
            }
        }
        Command::Ls { prefix, at, format } => ls(&open(&at)?, prefix.as_deref().unwrap_or(""), format),
        Command::Show { reference, at } => show(&open(&at)?, &reference),
        Command::Lineage { reference, at, format } => lineage(&open(&at)?, &reference, format),
        Command::Diff { a, b, at, format } => diff(&open(&at)?, &a, &b, format),
        Command::Verify { reference, level, at } => verify(&open(&at)?, reference.as_deref(), level),
        Command::Plan { run } => print_plan(&run),
    })
}

/// Whether an import is to be tried again: another process is at it, or a stop
/// was asked for.
fn is_for_later(error: &anyhow::Error) -> bool {
    use ImportError::{Net, Store};
    matches!(error.downcast_ref(), Some(StoreError::Locked { .. }))
        || matches!(error.downcast_ref(), Some(Store(StoreError::Locked { .. }) | Net(NetError::Stopped)))
}

/// Opens a store that must be there: a look must not create one.
fn open(at: &At) -> anyhow::Result<Store> {
    Ok(Store::open_existing(&at.store)?)
}

fn out(text: &str) -> anyhow::Result<()> {
    spin_cli::out(text);
    Ok(())
}

/// What `import` was told.
struct ImportArgs {
    source: PathBuf,
    set: Vec<String>,
    name: Option<String>,
    limit: Option<usize>,
    rows: RowArgs,
    rehash: bool,
    store: Option<PathBuf>,
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

    fn importer<'a>(&'a self, store: &'a Store, rehash: bool) -> Importer<'a> {
        let context = Context {
            environment: &spin_cli::environment,
            holder: &self.holder,
            stop: &self.stop,
            watch: &say,
            ..Context::silent(store)
        };
        Importer { rehash, hub: Some(&self.hub), ..Importer::new(context) }
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
    let importer = surroundings.importer(&store, args.rehash);
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
    let importer = surroundings.importer(&store, rehash);
    let mut prompts = Vec::new();
    let splits: &[Split] = if run.data.is_some() { &[Split::Train, Split::Test] } else { &[] };
    for &split in splits {
        let made = importer.demonstrations(run, split)?;
        report(&made)?;
        let rows = Demonstration::read_all(&made.0)?;
        prompts.push(rows.iter().map(|r| format!("{:?}", r.prompt)).collect::<std::collections::BTreeSet<_>>());
    }
    let shared = match prompts.as_slice() {
        [train, test] => train.intersection(test).count(),
        _ => 0,
    };
    if shared > 0 {
        say(&format!("warning: {shared} prompts stand in both data.train and data.test: scores will flatter"));
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

fn print_plan(args: &spin_cli::RunArgs) -> anyhow::Result<Exit> {
    let run = RunFile::load(&args.run, &args.set)?;
    // The plan follows from the run file: there may be no store yet.
    let store = Store::handle(&run.store_dir());
    let options = plan::Options { set: args.set.clone(), ..plan::Options::default() };
    out(&Plan::new(&Graph::new(&run, &store), &options)?.to_shell())?;
    Ok(Exit::Done)
}
