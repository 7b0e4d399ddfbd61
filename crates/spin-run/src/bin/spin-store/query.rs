//! `query`: SQL over the tables of artifacts, for who audits them.

use std::io::IsTerminal as _;

use polars::prelude::*;
use polars::sql::SQLContext;
use spin_cli::Exit;
use spin_store::{Reference, Store};

use crate::At;
use crate::looks::shown;

/// What is asked.
#[derive(clap::Args)]
pub struct Args {
    /// For example "SELECT finish_reason, count(*) AS n FROM samples GROUP BY finish_reason"
    #[arg(value_name = "SQL")]
    sql: String,
    /// An artifact, as kind/name or kind/name@v3; in the query it is called by its kind, or by a name put before it.
    /// Every byte of it is checked first
    #[arg(long, value_name = "[NAME=]REF", required = true)]
    from: Vec<String>,
    /// How rows are printed: csv takes no lists, jsonl does
    #[arg(long, value_enum, default_value_t = Rows::Csv)]
    format: Rows,
    #[command(flatten)]
    pub at: At,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Rows {
    /// With a line of names
    Csv,
    /// An object a line
    Jsonl,
}

/// A query that cannot be answered.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct BadQuery {
    problem: String,
}

impl BadQuery {
    fn new(problem: impl ToString) -> BadQuery {
        BadQuery { problem: problem.to_string() }
    }

    /// The query is to blame, or the artifacts that it is put to.
    pub fn is_bad_input(&self) -> bool {
        true
    }
}

/// Prints what a query selects.
pub fn run(store: &Store, args: &Args) -> anyhow::Result<Exit> {
    let context = SQLContext::new();
    let mut names = Vec::new();
    for from in &args.from {
        let (name, reference) = from.split_once('=').map_or((None, from.as_str()), |(name, of)| (Some(name), of));
        let reference: Reference = reference.parse()?;
        let name = name.unwrap_or(reference.kind.dir()).to_owned();
        if names.contains(&name) {
            let problem = format!("two tables are called {name}; put names before them: --from a=REF --from b=REF");
            return Err(BadQuery::new(problem).into());
        }
        let artifact = store.get(&reference)?;
        let parts = artifact.verified()?.parts();
        if parts.is_empty() {
            return Err(BadQuery::new(format!("{} has no table", artifact.reference())).into());
        }
        let scan = |part: &std::path::PathBuf| {
            LazyFrame::scan_parquet(PlRefPath::try_from_path(part)?, ScanArgsParquet::default())
        };
        let frames: Vec<LazyFrame> = parts.iter().map(scan).collect::<PolarsResult<_>>().map_err(BadQuery::new)?;
        // Whole, in memory: of files this release counts rows in a type that is not built in.
        let frame = concat(frames, UnionArgs::default()).and_then(LazyFrame::collect).map_err(BadQuery::new)?;
        context.register(&name, frame.lazy());
        names.push(name);
    }
    // polars panics at what its build leaves out.
    let answered = spin_cli::caught(|| answer(context, &args.sql, args.format));
    let text = answered
        .ok_or_else(|| BadQuery::new("polars failed at it; ask in other words"))?
        .map_err(|error| BadQuery::new(format!("{error}; the tables are {}", names.join(", "))))?;
    // A program gets what is there; a terminal would obey what people wrote.
    spin_cli::out(&if std::io::stdout().is_terminal() { shown(&text) } else { text });
    Ok(Exit::Done)
}

fn answer(mut context: SQLContext, sql: &str, format: Rows) -> PolarsResult<String> {
    let mut frame = context.execute(sql)?.collect()?;
    let mut bytes = Vec::new();
    match format {
        Rows::Csv => CsvWriter::new(&mut bytes).finish(&mut frame)?,
        Rows::Jsonl => JsonWriter::new(&mut bytes).with_json_format(JsonFormat::JsonLines).finish(&mut frame)?,
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
