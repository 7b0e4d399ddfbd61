//! `spin-run`: what there is to do for a run, what of it is done, and doing the
//! rest.

mod forecast;
mod run;
mod slurm;
mod status;
mod submit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use spin_cli::{Exit, duration, out, printable, size};
use spin_run::cluster::{ClusterError, others};
use spin_run::graph::Graph;
use spin_run::plan::{Options, Plan, Step, shell_line};
use spin_run::run::RunFile;
use spin_store::{Store, StoreError};

#[derive(Parser)]
#[command(version, about = "Plan a run, do what is missing of it, and say what is there", after_help = spin_cli::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: spin_cli::LogArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Print the steps of a run: what each reads, needs and calls
    Plan {
        #[command(flatten)]
        what: What,
        /// Output format
        #[arg(long, value_enum, default_value_t = PlanFormat::Text)]
        format: PlanFormat,
        /// The CPU's peak, for the times [default: measured by a short matrix product]
        #[arg(long, value_name = "GFLOP/s")]
        peak_gflops: Option<f64>,
        /// The site's profile, for pbs [default: $SPIN_SITE, or one that asks for nothing]
        #[arg(long, value_name = "FILE")]
        site: Option<PathBuf>,
    },
    /// Do every step that is not done yet, in order; with --jobs side by side where none needs the other
    Run {
        #[command(flatten)]
        what: What,
        /// Steps at once, at most; each takes its own memory, and they share the cores
        #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        jobs: u16,
        /// After a failure, go on with the steps that do not need what failed
        #[arg(long, short)]
        keep_going: bool,
    },
    /// Print what may stand in a run file: every key, its default and its meaning
    Settings {
        /// Output format
        #[arg(long, value_enum, default_value_t = SettingsFormat::Markdown)]
        format: SettingsFormat,
    },
    /// Say of every artifact of a run whether it is done, stale (and what changed) or missing, and what its jobs are doing
    Status(status::Args),
    /// Submit every step that is not done yet to Slurm, each after what it reads; what is in the queue already stays
    Submit(submit::Args),
    /// Take the jobs of a run out of Slurm's queue; what they have done is kept
    Cancel(spin_cli::RunArgs),
}

#[derive(clap::Args)]
struct What {
    #[command(flatten)]
    run: spin_cli::RunArgs,
    /// Where models generate and are trained: cpu, cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Have answers generated in this many shares, at most one for each part
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    shards: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PlanFormat {
    /// A table for people
    Text,
    /// The commands, one a line, for a shell
    Shell,
    /// Everything, for schedulers
    Json,
    /// A makefile: shares side by side with make -j
    Make,
    /// A shell script that submits everything to PBS; --site says what to ask for
    Pbs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SettingsFormat {
    /// Tables for people
    Markdown,
    /// JSON Schema, for editors
    Schema,
}

impl What {
    fn options(&self) -> Options {
        let Self { device, shards, .. } = self;
        Options { set: self.run.set.clone(), device: device.clone(), shards: *shards, ..Options::default() }
    }
}

/// A run file and its store. Looks create nothing: there may be no store yet.
fn open(args: &spin_cli::RunArgs) -> anyhow::Result<(RunFile, Store)> {
    let run = RunFile::load(&args.run, &args.set)?;
    let dir = run.store_dir();
    let store = match Store::open_existing(&dir) {
        Err(StoreError::Missing { .. }) => Store::handle(&dir),
        store => store?,
    };
    Ok((run, store))
}

fn main() -> ExitCode {
    let cli = spin_cli::parse::<Cli>();
    spin_cli::run(cli.log, spin_cli::bad_input!(StoreError, ClusterError), || match cli.command {
        Command::Plan { what, format, peak_gflops, site } => plan(&what, format, peak_gflops, site.as_deref()),
        Command::Run { what, jobs, keep_going } => run::run(&what, usize::from(jobs), keep_going),
        Command::Settings { format } => settings(format),
        Command::Status(args) => status::status(&args),
        Command::Submit(args) => submit::submit(&args),
        Command::Cancel(args) => submit::cancel(&args),
    })
}

fn settings(format: SettingsFormat) -> anyhow::Result<Exit> {
    match format {
        SettingsFormat::Markdown => out(&spin_run::settings::markdown()),
        SettingsFormat::Schema => out(&format!("{}\n", serde_json::to_string_pretty(&spin_run::settings::schema())?)),
    }
    Ok(Exit::Done)
}

fn plan(what: &What, format: PlanFormat, peak_gflops: Option<f64>, site: Option<&Path>) -> anyhow::Result<Exit> {
    let (run, store) = open(&what.run)?;
    let has_times = matches!(format, PlanFormat::Text | PlanFormat::Json);
    let measured = || (has_times && what.device == "cpu").then(forecast::peak).flatten();
    let options = Options { peak_gflops: peak_gflops.or_else(measured), ..what.options() };
    let plan = Plan::new(&Graph::new(&run, &store), &options)?;
    match format {
        PlanFormat::Text => {
            out(&plan_table(&plan));
            let steps: Vec<&Step> = plan.steps.iter().collect();
            match forecast::sum(&steps, options.peak_gflops) {
                Some(sum) => out(&format!("\nall of it: {sum}\n")),
                None => out("\ntimes are reckoned once model and data are imported\n"),
            }
        }
        PlanFormat::Shell => out(&plan.to_shell()),
        PlanFormat::Make => out(&others::makefile(&plan)),
        PlanFormat::Pbs => {
            let site = slurm::site(site)?;
            out(&others::pbs(&plan, &site, &slurm::places(&run, site.programs.as_deref())?));
        }
        PlanFormat::Json => out(&format!("{}\n", serde_json::to_string_pretty(&plan.to_json())?)),
    }
    Ok(Exit::Done)
}

fn plan_table(plan: &Plan) -> String {
    let mut rows = vec![["step", "after", "memory", "time", "command"].map(str::to_owned)];
    for step in &plan.steps {
        let after: Vec<&str> = step.after.iter().map(|&i| plan.steps[i].name.as_str()).collect();
        let resources = &step.resources;
        let measured = resources.measured.as_ref();
        let least = resources.memory_at_least.map(|bytes| format!(">= {}", size(bytes)));
        let memory = measured.and_then(|measured| measured.memory).map(size).or(least);
        let shards = if step.shards > 1 { format!("  ({} shares)", step.shards) } else { String::new() };
        rows.push([
            step.name.clone(),
            if after.is_empty() { "-".into() } else { after.join(" ") },
            memory.unwrap_or_else(|| "-".into()),
            match (measured, resources.expected_seconds) {
                (Some(measured), _) => format!("{:.1} s", measured.seconds),
                (None, Some(expected)) => format!("~{}", duration(expected)),
                (None, None) => "-".into(),
            },
            shell_line(&step.command) + &shards,
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..4).map(width).collect();
    let line = |row: &[String; 5]| {
        let cells: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  ")).collect();
        printable(&format!("{cells}{}", row[4])) + "\n"
    };
    rows.iter().map(line).collect()
}
