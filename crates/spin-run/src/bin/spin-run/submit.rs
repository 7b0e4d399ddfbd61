//! `spin-run submit` and `spin-run cancel`.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use spin_cli::{Exit, out, printable, say};
use spin_run::cluster::ClusterError;
use spin_run::cluster::need::{self, Element};
use spin_run::cluster::record::{Hold, Record, Submitted};
use spin_run::cluster::script::{self, Places};
use spin_run::cluster::site::Site;
use spin_run::cluster::state::Jobs;
use spin_run::graph::Graph;
use spin_run::plan::{Options, Plan, Step, Survey, shell_line};
use spin_run::run::RunFile;
use spin_store::fsutil;

use super::{open, slurm};

/// What is asked of a submission.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: spin_cli::RunArgs,
    #[command(flatten)]
    site: SiteArgs,
    /// Print the commands and scripts, byte for byte, and submit nothing
    #[arg(long)]
    dry_run: bool,
}

/// What is asked of a cluster.
#[derive(clap::Args)]
pub struct SiteArgs {
    /// The site's profile: partitions, accounts, modules and limits [default: $SPIN_SITE, or one that asks for nothing]
    #[arg(long, value_name = "FILE")]
    pub site: Option<PathBuf>,
    /// Where models compute, in place of the profile's: cpu, cuda or cuda:N
    #[arg(long)]
    pub device: Option<String>,
    /// Elements of the arrays that generate answers, in place of the profile's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub shards: Option<u32>,
}

impl SiteArgs {
    /// The profile with the flags over it.
    pub fn site(&self) -> anyhow::Result<Site> {
        let mut site = slurm::site(self.site.as_deref())?;
        site.device = self.device.clone().unwrap_or(site.device);
        site.shards = self.shards.unwrap_or(site.shards);
        Ok(site)
    }
}

/// Submits what is missing.
pub fn submit(args: &Args) -> anyhow::Result<Exit> {
    let site = args.site.site()?;
    let (run, store) = open(&args.run)?;
    let places = slurm::places(&run, site.programs.as_deref())?;
    let graph = Graph::new(&run, &store);
    let options = Options {
        set: args.run.set.clone(),
        device: site.device.clone(),
        shards: site.shards,
        peak_gflops: site.peak_gflops,
    };
    let mut plan = Plan::new(&graph, &options)?;
    let survey = Survey::new(&graph, &plan);
    let _hold = if args.dry_run { None } else { Some(hold(&places)?) };
    let (mut jobs, problem) = slurm::jobs(&places)?;
    if let (Some(problem), false) = (problem, args.dry_run) {
        bail!("{problem}; jobs are submitted where Slurm's commands are, or see `spin-run plan --format make`");
    }
    for step in &mut plan.steps {
        keep_shares(&jobs, step)?;
    }
    let needed = need::steps(&plan, &survey);
    for (step, _) in plan.steps.iter().zip(&needed).filter(|(_, needed)| **needed) {
        let elements = need::elements(step).len();
        site.ask(step, elements).check(step, elements)?;
    }
    let mut ids: Vec<Vec<String>> = vec![Vec::new(); plan.steps.len()];
    let mut count = 0;
    for (index, step) in plan.steps.iter().enumerate().filter(|(index, _)| needed[*index]) {
        let after: Vec<String> = step.after.iter().flat_map(|&before| ids[before].clone()).collect();
        let Wanted { live, elements, is_array } = wanted(&jobs, step, need::open_elements(&graph, &survey, step));
        let numbers: Vec<u32> = elements.iter().map(|element| element.number).collect();
        ids[index].clone_from(&live);
        if !live.is_empty() {
            say(&format!("{}: {} in the queue", step.name, live.join(", ")));
        }
        if (is_array && numbers.is_empty()) || (!is_array && !live.is_empty()) {
            continue;
        }
        let flags = script::sbatch_flags(&numbers, &site, &after);
        let (path, text) = (places.script(&step.name), script::script(&run.run, step, &site, &places));
        let words = [vec!["sbatch".to_owned()], flags.clone(), vec![path.display().to_string()]].concat();
        if args.dry_run {
            out(&format!("# {}\n{text}\n", printable(&shell_line(&words))));
            ids[index].push(format!("<{}>", step.name));
            continue;
        }
        fsutil::write_atomic(&path, text.as_bytes())?;
        let said = slurm::call("sbatch", &words[1..])?.context("there is no sbatch here")?;
        let job = said.lines().last().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
        if job.is_empty() || !job.bytes().all(|b| b.is_ascii_digit()) {
            bail!("sbatch printed {said:?} where a job's number was awaited; look for it with squeue --me");
        }
        let shown = if numbers.is_empty() { job.clone() } else { format!("{job}_[{}]", script::ranges(&numbers)) };
        let waits = if after.is_empty() { String::new() } else { format!(", after {}", names(&plan, step, &ids)) };
        out(&format!("{:20} {shown}{waits}\n", step.name));
        jobs.record.add(Submitted {
            at: spin_cli::now(),
            step: step.name.clone(),
            job: job.clone(),
            elements: numbers,
            shards: step.shards,
            command: step.command.clone(),
            after,
        })?;
        ids[index].push(job);
        count += 1;
    }
    say_what_next(&run, args, count, &places);
    Ok(Exit::Done)
}

/// Takes the lock of a run's jobs, with the directories that they write to.
fn hold(places: &Places) -> anyhow::Result<Hold> {
    let hold = Record::hold(&places.jobs)?;
    for dir in [places.logs(), places.outcomes()] {
        fsutil::create_dir_all(&dir)?;
    }
    Ok(hold)
}

/// What of a step is in the queue, and what is to be submitted.
struct Wanted {
    live: Vec<String>,
    elements: Vec<Element>,
    is_array: bool,
}

fn wanted(jobs: &Jobs<'_>, step: &Step, open: Vec<Element>) -> Wanted {
    if open.is_empty() {
        let live = jobs.live(&step.name, None).map(|job| job.id());
        return Wanted { live: live.into_iter().collect(), elements: open, is_array: false };
    }
    let live = |element: &Element| jobs.live(&step.name, Some(element.number));
    let (in_queue, elements): (Vec<Element>, Vec<Element>) =
        open.into_iter().partition(|element| live(element).is_some());
    let live = in_queue.iter().filter_map(live).map(|job| job.id()).collect();
    Wanted { live, elements, is_array: true }
}

/// A step of which something is in the queue is cut as it was; with another command
/// it is refused.
fn keep_shares(jobs: &Jobs<'_>, step: &mut Step) -> Result<(), ClusterError> {
    let comment = jobs.places.comment(&step.name);
    let Some(live) = jobs.all_live().find(|job| job.comment == comment) else { return Ok(()) };
    // One that a killed submission did not write down is taken as it is.
    let Some(was) = jobs.record.jobs.iter().rev().find(|job| job.job == live.job) else { return Ok(()) };
    if was.command != step.command {
        return Err(ClusterError::Other {
            job: live.job.clone(),
            step: step.name.clone(),
            was: shell_line(&was.command),
            now: shell_line(&step.command),
        });
    }
    step.shards = was.shards;
    Ok(())
}

/// The steps before one that are awaited.
fn names(plan: &Plan, step: &Step, ids: &[Vec<String>]) -> String {
    let awaited = step.after.iter().filter(|&&before| !ids[before].is_empty());
    awaited.map(|&before| plan.steps[before].name.as_str()).collect::<Vec<_>>().join(", ")
}

fn say_what_next(run: &RunFile, args: &Args, count: usize, places: &Places) {
    if args.dry_run {
        return;
    }
    let file = shell_line(&[args.run.run.display().to_string()]);
    match count {
        0 => say(&format!("{}: nothing to submit", run.run)),
        _ => say(&format!(
            "{}: {count} jobs submitted; scripts and logs: {}; `spin-run status {file}` says how they are",
            run.run,
            places.jobs.display()
        )),
    }
}

/// Takes a run's jobs out of the queue.
pub fn cancel(args: &spin_cli::RunArgs) -> anyhow::Result<Exit> {
    let run = RunFile::load(&args.run, &args.set)?;
    let places = slurm::places(&run, None)?;
    let _hold = Record::hold(&places.jobs)?;
    let (jobs, problem) = slurm::jobs(&places)?;
    if let Some(problem) = problem {
        bail!("{problem}; jobs are cancelled where Slurm's commands are");
    }
    // What waits for others first, so that nothing begins meanwhile.
    let mut ids: Vec<String> = jobs.all_live().map(|job| job.job.clone()).collect();
    ids.sort_by_key(|job| std::cmp::Reverse(job.parse::<u64>().unwrap_or(0)));
    ids.dedup();
    if ids.is_empty() {
        say(&format!("{}: no job of it is in the queue", run.run));
        return Ok(Exit::Done);
    }
    slurm::call("scancel", &ids)?.context("there is no scancel here")?;
    out(&format!("cancelled {}\n", ids.join(" ")));
    say(&format!("{}: what was done is kept; submit it again to go on", run.run));
    Ok(Exit::Done)
}
