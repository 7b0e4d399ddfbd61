//! `spin-run status`: what the store has, and what jobs are doing.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use spin_cli::{Exit, out, printable, say, stop_flag, stopping};
use spin_run::cluster::need;
use spin_run::cluster::script::ranges;
use spin_run::cluster::state::{Fate, JobState};
use spin_run::graph::Graph;
use spin_run::plan::{Plan, State, Survey, shell_line};

use super::{What, open, slurm};

/// Flags of `status`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    what: What,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Look again every so many seconds until no job is left; at least 30, for the sake of others who ask Slurm
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(30..))]
    watch: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Says how a run is, once or until its jobs are over.
pub fn status(args: &Args) -> anyhow::Result<Exit> {
    let Some(seconds) = args.watch else {
        look(args)?;
        return Ok(Exit::Done);
    };
    let stop = stop_flag()?;
    while look(args)? {
        for _ in 0..seconds {
            if stopping(&stop) {
                return Ok(Exit::Again);
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    Ok(Exit::Done)
}

/// Says how a run is; whether a job of it is in the queue.
fn look(args: &Args) -> anyhow::Result<bool> {
    let Args { what, format, .. } = args;
    let (run, store) = open(&what.run)?;
    let graph = Graph::new(&run, &store);
    let plan = Plan::new(&graph, &what.options())?;
    let survey = Survey::new(&graph, &plan);
    let places = slurm::places(&run, None)?;
    // Who never submitted anything is not told of Slurm.
    let jobs = if places.jobs.exists() { Some(slurm::jobs(&places)?) } else { None };
    let (mut states, mut is_live) = (Vec::new(), false);
    if let Some((mut jobs, problem)) = jobs {
        if let Some(problem) = problem {
            say(&format!("warning: what jobs are doing is not known: {problem}"));
        }
        is_live = jobs.all_live().next().is_some();
        states = jobs.states(&plan);
        if states.iter().any(|state| matches!(state.fate, Fate::Gone(_))) {
            slurm::accounts(&mut jobs);
            states = jobs.states(&plan);
        }
        // Worth a line: what is in the queue, and what it was for and is not there.
        let open: BTreeSet<&str> = plan
            .steps
            .iter()
            .zip(need::steps(&plan, &survey))
            .filter(|(_, open)| *open)
            .map(|(s, _)| s.name.as_str())
            .collect();
        states.retain(|state| open.contains(state.step.as_str()) || jobs.live(&state.step, state.element).is_some());
    }
    let nodes = || plan.steps.iter().flat_map(|step| step.makes.iter().map(move |node| (step, node)));
    if *format == Format::Json {
        let artifacts = nodes().map(|(step, node)| {
            let mut value = survey.state(&node.product).to_json();
            value["artifact"] = json!(node.name);
            value["step"] = json!(step.name);
            value
        });
        let mut value = json!({"run": run.run, "artifacts": artifacts.collect::<Value>()});
        if !states.is_empty() {
            value["jobs"] = states.iter().map(JobState::to_json).collect();
        }
        out(&format!("{}\n", serde_json::to_string_pretty(&value)?));
        return Ok(is_live);
    }
    let width = nodes().map(|(_, node)| node.name.len() + 4).max().unwrap_or(0);
    let mut counts = [0_usize; 3];
    for (_, node) in nodes() {
        let state = survey.state(&node.product);
        counts[match state {
            State::Done { .. } => 0,
            State::Stale { .. } => 1,
            State::Missing | State::Unknown { .. } => 2,
        }] += 1;
        let name = match state {
            State::Done { reference } | State::Stale { reference, .. } => reference,
            _ => &node.name,
        };
        let line = format!("{:8}{name:width$}  {}", state.word(), state.why().join("; "));
        out(&format!("{}\n", printable(line.trim_end())));
    }
    tell_jobs(&states);
    let [done, stale, missing] = counts;
    let file = shell_line(&[what.run.run.display().to_string()]);
    let rest = match stale + missing {
        0 => String::new(),
        _ if is_live => "; its jobs make the rest".into(),
        _ if !states.is_empty() => format!("; `spin-run submit {file}` makes the rest"),
        _ => format!("; `spin-run run {file}` makes the rest"),
    };
    out(&format!("{done} done, {stale} stale, {missing} missing{rest}\n"));
    Ok(is_live)
}

/// A line for each job; elements of an array that are alike share one.
fn tell_jobs(states: &[JobState]) {
    let mut lines: Vec<(&JobState, Vec<u32>, String)> = Vec::new();
    for state in states {
        let line = state.line();
        match lines.last_mut() {
            Some((first, elements, of)) if first.step == state.step && first.job == state.job && *of == line => {
                elements.extend(state.element);
            }
            _ => lines.push((state, state.element.into_iter().collect(), line)),
        }
    }
    let name = |(state, elements, _): &(&JobState, Vec<u32>, String)| match elements.as_slice() {
        [] => state.step.clone(),
        elements => format!("{} [{}]", state.step, ranges(elements)),
    };
    let width = lines.iter().map(|line| name(line).len()).max().unwrap_or(0);
    for line in &lines {
        let text = format!("job {:8} {:width$}  {}", line.0.job, name(line), line.2);
        out(&format!("{}\n", printable(&text)));
    }
}
