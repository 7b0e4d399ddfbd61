//! `spin-bench report`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use spin_bench::report;
use spin_cli::{Exit, say};
use spin_report::report::charts::Figures;
use spin_report::report::lineage::Lineages;
use spin_report::report::{Report, gather, html, markdown};
use spin_run::graph::Graph;
use spin_run::run::RunFile;
use spin_store::Store;

/// Flags of `report`.
#[derive(clap::Args)]
pub struct Args {
    /// The run files; several are set side by side
    #[arg(value_name = "RUN.toml", required = true)]
    runs: Vec<PathBuf>,
    /// Override a key of every run file, e.g. --set seed=2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The page to write; the same as Markdown (report.md) and every chart (report/NAME.svg) go beside it
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// Rows to browse, of each kind: of more than these a sample
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pairs: usize,
}

/// Writes the report.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let (mut runs, mut sources, mut lineages) = (Vec::new(), Vec::new(), Lineages::default());
    for (number, path) in args.runs.iter().enumerate() {
        let file = RunFile::load(path, &args.set)?;
        let store = Store::open_existing(&file.store_dir())?;
        let graph = Graph::new(&file, &store);
        let run = gather::run(&graph, &args.set, &mut lineages)?;
        sources.extend(report::sources(&graph, &run, number, args.pairs)?);
        runs.push(run);
    }
    let report = Report::new(runs, lineages, sources);
    let figures = Figures::of(&report);
    let folder = args.out.with_extension("");
    let text = args.out.with_extension("md");
    anyhow::ensure!(folder != args.out && text != args.out, "--out needs a name that ends with .html");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    write(&args.out, &html(&report, &figures))?;
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    write(&text, &markdown(&report, &figures, &name))?;
    let mut charts = 0;
    for figure in figures.all() {
        write(&folder.join(format!("{}.svg", figure.name)), &figure.file())?;
        charts += 1;
    }
    for note in &report.sampled {
        say(note);
    }
    let (page, text, folder) = (args.out.display(), text.display(), folder.display());
    say(&format!("wrote {page}, {text} and {charts} charts in {folder}/"));
    Ok(Exit::Done)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
