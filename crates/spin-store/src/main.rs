//! `spin-store`: bring data in, look at what is there, prove where it came
//! from.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::json;
use spin_cli::{Exit, say};
use spin_store::graph::{Graph, Split};
use spin_store::run::{RunFile, SourceConfig, SourceFormat};
use spin_store::schema::{Demonstration, Row};
use spin_store::{Artifact, Manifest, Reference, Store, audit, import};

#[derive(Parser)]
#[command(version, about = "The dataset store of SPIN: import, list, show, prove", after_help = spin_cli::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Import a run's data and model, a file of demonstrations, or a model directory
    Import {
        /// A run file (.toml), a .jsonl/.json/.parquet file, or a Hugging Face model directory
        source: PathBuf,
        /// Override a key of the run file
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Name in the store (needed unless the source is a run file)
        #[arg(long)]
        name: Option<String>,
        /// Use the first rows only; 0 for all
        #[arg(long, default_value_t = 0)]
        limit: usize,
        #[command(flatten)]
        at: At,
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
    /// Check every manifest, file and parent; exits 4 when something differs
    Verify {
        #[command(flatten)]
        at: At,
    },
    /// Print the commands of a whole run, one a line, in order
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

fn main() -> ExitCode {
    spin_cli::run(spin_store::error::is_bad_input, || match Cli::parse().command {
        Command::Import { source, set, name, limit, at } => import_any(&source, &set, name, limit, &at),
        Command::Ls { prefix, at, format } => ls(&open(&at)?, prefix.as_deref().unwrap_or(""), format),
        Command::Show { reference, at } => show(&open(&at)?, &reference),
        Command::Lineage { reference, at, format } => lineage(&open(&at)?, &reference, format),
        Command::Verify { at } => verify(&open(&at)?),
        Command::Plan { run } => plan(&run),
    })
}

/// Opens a store that must be there: a look must not create one.
fn open(at: &At) -> anyhow::Result<Store> {
    if !at.store.join("STORE.json").exists() {
        bail!(spin_store::StoreError::Missing {
            reference: "at all".into(),
            store: at.store.clone(),
            remedy: "it holds no STORE.json; give the store's directory with --store".into(),
        });
    }
    Ok(Store::open(&at.store)?)
}

fn out(text: &str) -> anyhow::Result<()> {
    spin_cli::out(text);
    Ok(())
}

fn report(artifact: &Artifact, made: bool) {
    let m = &artifact.manifest;
    let size = if m.rows() > 0 { format!("{} rows", m.rows()) } else { format!("{} bytes", m.bytes()) };
    say(&format!("{} {} ({size})", if made { "imported" } else { "already there:" }, m.reference()));
    if let Some(n) = m.facts.get("repeated_prompts").and_then(|v| v.as_u64()).filter(|n| *n > 0) {
        say(&format!("warning: {n} rows repeat the prompt of another row"));
    }
}

fn import_any(source: &Path, set: &[String], name: Option<String>, limit: usize, at: &At) -> anyhow::Result<Exit> {
    if source.extension().is_some_and(|e| e == "toml") {
        return import_run(&RunFile::load(source, set)?);
    }
    let name = name.context("give the artifact a name with --name")?;
    if !spin_store::store::is_name(&name) {
        bail!("{name:?} is not a name; use letters, digits, `-`, `_`, `.` and `/`");
    }
    let store = Store::open(&at.store)?;
    let (artifact, made) = if source.is_dir() {
        let recipe = import::model_recipe(&store, &name, source)?;
        import::model(&store, &recipe, source, spin_cli::environment())?
    } else {
        let config = SourceConfig { path: source.into(), format: SourceFormat::Auto, limit };
        let recipe = import::demonstrations_recipe(&name, &config, source)?;
        import::demonstrations(&store, &recipe, &config, source, spin_cli::environment())?
    };
    report(&artifact, made);
    Ok(Exit::Done)
}

fn import_run(run: &RunFile) -> anyhow::Result<Exit> {
    let store = Store::open(&run.store_dir())?;
    let graph = Graph::new(run, &store);
    let mut prompts = Vec::new();
    let splits: &[Split] = if run.data.is_some() { &[Split::Train, Split::Test] } else { &[] };
    for &split in splits {
        let (source, path) = graph.source(split)?;
        let recipe = graph.demonstrations_recipe(split)?;
        let (artifact, made) = import::demonstrations(&store, &recipe, source, &path, spin_cli::environment())?;
        report(&artifact, made);
        let rows = Demonstration::read_all(&artifact)?;
        prompts.push(rows.iter().map(|r| format!("{:?}", r.prompt)).collect::<std::collections::BTreeSet<_>>());
    }
    let shared = match prompts.as_slice() {
        [train, test] => train.intersection(test).count(),
        _ => 0,
    };
    if shared > 0 {
        say(&format!("warning: {shared} prompts stand in both data.train and data.test: scores will flatter"));
    }
    let recipe = graph.base_recipe()?;
    let dir = run.resolve(&run.model.path);
    let (artifact, made) = import::model(&store, &recipe, &dir, spin_cli::environment())?;
    report(&artifact, made);
    Ok(Exit::Done)
}

fn ls(store: &Store, prefix: &str, format: Format) -> anyhow::Result<Exit> {
    let mut rows = Vec::new();
    for entry in store.list()? {
        let name = format!("{}/{}", entry.0, entry.1);
        if name.starts_with(prefix) {
            let m = store.load_listed(&entry)?.manifest;
            rows.push((m.reference(), m.content[..12].to_owned(), m.rows(), m.bytes(), finished(&m)));
        }
    }
    if format == Format::Json {
        let list: Vec<_> = rows
            .iter()
            .map(|(r, c, n, b, t)| json!({"reference": r, "content": c, "rows": n, "bytes": b, "finished_at": t}))
            .collect();
        out(&format!("{}\n", serde_json::to_string_pretty(&list)?))?;
        return Ok(Exit::Done);
    }
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
    for (reference, content, count, bytes, time) in rows {
        let count = if count > 0 { count.to_string() } else { "-".into() };
        out(&format!("{reference:width$}  {content}  {count:>8} rows  {:>10} bytes  {time}\n", bytes))?;
    }
    Ok(Exit::Done)
}

fn finished(m: &Manifest) -> String {
    m.environment.get("finished_at").and_then(|v| v.as_str()).unwrap_or("").to_owned()
}

fn show(store: &Store, reference: &str) -> anyhow::Result<Exit> {
    let artifact = store.get(&reference.parse::<Reference>()?)?;
    if std::io::stdout().is_terminal() {
        say(&format!("{}", artifact.dir.display()));
    }
    out(&artifact.manifest.to_text())?;
    Ok(Exit::Done)
}

fn lineage(store: &Store, reference: &str, format: Format) -> anyhow::Result<Exit> {
    let tree = audit::lineage(store, &store.get(&reference.parse::<Reference>()?)?)?;
    match format {
        Format::Text => out(&tree.to_text())?,
        Format::Json => out(&format!("{}\n", serde_json::to_string_pretty(&tree)?))?,
    }
    Ok(Exit::Done)
}

fn verify(store: &Store) -> anyhow::Result<Exit> {
    let (count, findings) = audit::verify(store)?;
    for finding in &findings {
        say(&format!("{}: {}", finding.artifact, finding.error));
    }
    let verdict = if findings.is_empty() { "all as recorded".into() } else { format!("{} problems", findings.len()) };
    out(&format!("{count} artifacts, {verdict}\n"))?;
    Ok(if findings.is_empty() { Exit::Done } else { Exit::AuditMismatch })
}

fn plan(args: &spin_cli::RunArgs) -> anyhow::Result<Exit> {
    let run = RunFile::load(&args.run, &args.set)?;
    let store = Store::open(&run.store_dir())?;
    for mut words in Graph::new(&run, &store).plan() {
        for assignment in &args.set {
            words.push("--set".into());
            words.push(assignment.clone());
        }
        let line: Vec<String> = words.iter().map(|w| quoted(w)).collect();
        out(&format!("{}\n", line.join(" ")))?;
    }
    Ok(Exit::Done)
}

/// A word for a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
