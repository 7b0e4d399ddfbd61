//! `spin-store`: bring data in, look at what is there, prove where it came
//! from.

mod again;
mod export;
mod import;
mod life;
mod looks;
mod overlap;
mod query;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use spin_cli::Exit;
use spin_net::secret::BadSecret;
use spin_run::graph::Graph;
use spin_run::import::ImportError;
use spin_run::plan::{self, Plan};
use spin_run::run::RunFile;
use spin_store::{Store, StoreError};

use import::ImportArgs;
use looks::{Asked, diff, lineage, ls, show, verify};

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
    /// Import a run's data and model, a file of demonstrations, a model directory, or a bundle
    Import(ImportArgs),
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
        #[arg(long, value_enum, default_value_t = LineageFormat::Text)]
        format: LineageFormat,
    },
    /// Check every manifest, file and parent, and that nothing else is there; exits 4 when something differs, 1 when something cannot be read
    Verify {
        /// Only this artifact and all that it was made from
        reference: Option<String>,
        /// How closely to look
        #[arg(long, value_enum, default_value_t = Level::Hash)]
        level: Level,
        /// A digest that was the journal's head once, as `journal` prints it: then nothing that it had is denied
        #[arg(long, value_name = "DIGEST", value_parser = head)]
        head: Option<String>,
        /// Say which artifacts are signed with these public keys: a file in PEM, or a directory of them
        #[arg(long, value_name = "KEYS")]
        trust: Option<PathBuf>,
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
    /// Print the run file that an artifact was made by
    Extract {
        /// kind/name, kind/name@v3 or kind/name@<digest prefix>
        reference: String,
        /// Write it to this file, for this store, ready to run: what the store has is not imported again
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        at: At,
    },
    /// Write an artifact for others: a data set for TRL or in the layout of UCLA-AGI/SPIN_iter*, or a bundle with all it is from
    Export {
        /// kind/name, kind/name@v3 or kind/name@<digest prefix>
        reference: String,
        /// What to write
        #[arg(long, value_enum)]
        format: export::As,
        /// The directory to make, or the bundle's file (NAME.spin.tar)
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Find what a table shares with benchmarks, test rows, and itself; publishes the rows
    Overlap(overlap::Args),
    /// Ask the rows of artifacts in SQL
    Query(query::Args),
    /// Sign an artifact, and with it all it is from (Ed25519, an in-toto statement in a DSSE envelope)
    Seal {
        /// kind/name, kind/name@v3 or kind/name@<digest prefix>
        reference: String,
        /// The private key, as `openssl genpkey -algorithm ed25519` makes one
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Print what became of every artifact, and the head that stands for all of it
    Journal {
        /// Only artifacts whose kind/name starts with this
        prefix: Option<String>,
        #[command(flatten)]
        at: At,
        /// Output format
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Remove an artifact for good; the journal says that it was meant
    Rm {
        /// kind/name@vN
        #[arg(required = true)]
        references: Vec<String>,
        /// Also one that others were made from
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        at: At,
    },
    /// Say that artifacts that were put there by hand belong there
    Adopt {
        /// kind/name@vN
        #[arg(required_unless_present = "all")]
        references: Vec<String>,
        /// All that the store has
        #[arg(long, conflicts_with = "references")]
        all: bool,
        #[command(flatten)]
        at: At,
    },
    /// Keep artifacts with all they are from whatever `gc` is told; without any, list what is kept
    Pin {
        /// kind/name, kind/name@v3 or kind/name@<digest prefix>
        references: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Keep artifacts no longer
    Unpin {
        /// As `pin` lists them
        #[arg(required = true)]
        references: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Give an artifact a further name, by which it is found from then on; without any, list these names
    Rename {
        /// kind/name, kind/name@v3 or kind/name@<digest prefix>
        #[arg(requires = "name")]
        reference: Option<String>,
        /// kind/name, of the same kind
        name: Option<String>,
        /// Let a name that stands for another artifact stand for this one
        #[arg(long)]
        force: bool,
        /// Take this name away; the artifact stays
        #[arg(long, value_name = "NAME", conflicts_with_all = ["reference", "force"])]
        drop: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Say what nothing needs, and remove it with --yes
    Gc(life::Collect),
    /// Print the JSON Schema of manifests
    Schema,
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
enum LineageFormat {
    /// For people
    Text,
    /// For programs
    Json,
    /// W3C PROV, as PROV-JSON
    Prov,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Manifests, seals, parents and directories; no file is read
    Structure,
    /// Besides, the digest of every file
    Hash,
    /// Besides, the rows of every table: how many, their values, and that none stands twice
    Rows,
    /// Besides, every stage is repeated from its inputs and held against what it made
    Replay,
}

/// Enough digits that no other digest has them by chance.
fn head(text: &str) -> Result<String, String> {
    match text.len() >= 8 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("give at least 8 hexadecimal digits".into()),
    }
}

fn main() -> ExitCode {
    let cli = spin_cli::parse::<Cli>();
    spin_cli::run(cli.log, spin_cli::bad_input!(StoreError, ImportError, BadSecret, query::BadQuery), || {
        match cli.command {
            Command::Import(args) => import::run(&args),
            Command::Ls { prefix, at, format } => ls(&open(&at)?, prefix.as_deref().unwrap_or(""), format),
            Command::Show { reference, at } => show(&open(&at)?, &reference),
            Command::Lineage { reference, at, format } => lineage(&open(&at)?, &reference, format),
            Command::Diff { a, b, at, format } => diff(&open(&at)?, &a, &b, format),
            Command::Verify { reference, level, head, trust, at } => {
                let asked = Asked { level, head, trust };
                verify(&open(&at)?, reference.as_deref(), &asked)
            }
            Command::Extract { reference, out, at } => again::extract(&open(&at)?, &reference, out.as_deref()),
            Command::Export { reference, format, out, at } => export::run(&open(&at)?, &reference, format, &out),
            Command::Overlap(args) => overlap::run(&open(&args.at)?, &args),
            Command::Query(args) => query::run(&open(&args.at)?, &args),
            Command::Seal { reference, key, at } => life::seal(&open(&at)?, &reference, &key),
            Command::Journal { prefix, at, format } => {
                life::journal(&open(&at)?, prefix.as_deref().unwrap_or(""), format)
            }
            Command::Rm { references, force, at } => life::rm(&open(&at)?, &references, force),
            Command::Adopt { references, all, at } => life::adopt(&open(&at)?, &references, all),
            Command::Pin { references, at } => life::pin(&open(&at)?, &references, true),
            Command::Unpin { references, at } => life::pin(&open(&at)?, &references, false),
            Command::Rename { reference, name, force, drop, at } => {
                life::rename(&open(&at)?, reference.as_deref().zip(name.as_deref()), force, &drop)
            }
            Command::Gc(args) => life::gc(&open(&args.at)?, &args),
            Command::Schema => {
                out(&format!("{}\n", serde_json::to_string_pretty(&spin_store::schema::schema())?)).map(|()| Exit::Done)
            }
            Command::Plan { run } => print_plan(&run),
        }
    })
}

/// Opens a store that must be there: a look must not create one.
fn open(at: &At) -> anyhow::Result<Store> {
    Ok(Store::open_existing(&at.store)?)
}

fn out(text: &str) -> anyhow::Result<()> {
    spin_cli::out(text);
    Ok(())
}

fn print_plan(args: &spin_cli::RunArgs) -> anyhow::Result<Exit> {
    let run = RunFile::load(&args.run, &args.set)?;
    // The plan follows from the run file: there may be no store yet.
    let store = Store::handle(&run.store_dir());
    let options = plan::Options { set: args.set.clone(), ..plan::Options::default() };
    out(&Plan::new(&Graph::new(&run, &store), &options)?.to_shell())?;
    Ok(Exit::Done)
}
