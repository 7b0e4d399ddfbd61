//! The plan for schedulers other than Slurm: make, and PBS.

use std::fmt::Write as _;

use super::need::elements;
use super::script::{Places, called, cases};
use super::site::{Site, seconds};
use crate::plan::{Plan, Step, shell_line};

/// A makefile: a target for each step, and for each share of one. Steps that are
/// done end at once, so that `make -j` goes on where it was stopped.
pub fn makefile(plan: &Plan) -> String {
    let mut text = format!("# The plan of {}: make -j N -f THIS\n", plan.run);
    let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
    writeln!(text, "all: {}", names.join(" ")).expect("a string takes everything");
    let mut targets = Vec::new();
    for step in &plan.steps {
        let after: String = step.after.iter().map(|&i| format!(" {}", names[i])).collect();
        let commands = step.commands();
        // What make reads as its own is written twice.
        let line = |words: &Vec<String>| shell_line(words).replace('$', "$$");
        if let [command] = commands.as_slice() {
            write!(text, "{}:{after}\n\t{}\n", step.name, line(command)).expect("a string takes everything");
        } else {
            let shares: Vec<String> = (1..=commands.len()).map(|k| format!("{}.{k}", step.name)).collect();
            writeln!(text, "{}: {}", step.name, shares.join(" ")).expect("a string takes everything");
            for (share, command) in shares.iter().zip(&commands) {
                write!(text, "{share}:{after}\n\t{}\n", line(command)).expect("a string takes everything");
            }
            targets.extend(shares);
        }
    }
    targets.extend(names.iter().map(|name| (*name).to_owned()));
    writeln!(text, ".PHONY: all {}", targets.join(" ")).expect("a string takes everything");
    text
}

/// A shell script that submits the steps by `qsub`, as PBS Professional and OpenPBS
/// have it. Stopped jobs (exit code 75) are not queued again by themselves.
pub fn pbs(plan: &Plan, site: &Site, places: &Places) -> String {
    let mut text = format!("#!/bin/sh\n# Submits the plan of {} to PBS.\nset -eu\n", plan.run);
    writeln!(text, "cd {}", shell_line(&[places.start.display().to_string()])).expect("a string takes everything");
    for (index, step) in plan.steps.iter().enumerate() {
        let after: String = step.after.iter().map(|i| format!(":$job{i}")).collect();
        let depend = if after.is_empty() { String::new() } else { format!(" -W depend=afterok{after}") };
        write!(text, "job{index}=$(qsub{depend} <<'END'\n{}END\n)\n", pbs_script(plan, step, site, places))
            .expect("a string takes everything");
        writeln!(text, "echo {}: \"$job{index}\"", step.name).expect("a string takes everything");
    }
    text
}

fn pbs_script(plan: &Plan, step: &Step, site: &Site, places: &Places) -> String {
    let elements = elements(step);
    let ask = site.ask(step, elements.len());
    let mut lines = vec!["#!/bin/bash".to_owned(), format!("#PBS -N {}.{}", plan.run, step.name), "#PBS -j oe".into()];
    let memory = ask.memory.as_ref().map_or_else(String::new, |memory| {
        let unit = if memory.ends_with(|c: char| c.is_ascii_digit()) { "mb" } else { "b" };
        format!(":mem={}{unit}", memory.to_lowercase())
    });
    lines.push(format!("#PBS -l select={}:ncpus={}{memory}", ask.nodes.unwrap_or(1), ask.cpus.unwrap_or(1)));
    if let Some(seconds) = ask.time.as_deref().and_then(seconds) {
        lines.push(format!("#PBS -l walltime={}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60));
    }
    for (option, value) in [("-q", &ask.partition), ("-A", &ask.account)] {
        lines.extend(value.as_ref().map(|value| format!("#PBS {option} {value}")));
    }
    if !elements.is_empty() {
        lines.push(format!("#PBS -J 1-{}", elements.len()));
    }
    lines.push(format!("cd {}", shell_line(&[places.start.display().to_string()])));
    lines.extend(site.modules.iter().map(|module| format!("module load {}", shell_line(std::slice::from_ref(module)))));
    lines.extend(
        site.environment
            .iter()
            .map(|(name, value)| format!("export {name}={}", shell_line(std::slice::from_ref(value)))),
    );
    lines.extend(site.setup.iter().cloned());
    let words = called(step, site, places);
    if elements.is_empty() {
        lines.push(format!("exec {}", shell_line(&words)));
    } else {
        lines.push("case $PBS_ARRAY_INDEX in".into());
        lines.extend(cases(&elements));
        lines.push("esac".into());
        lines.push(format!("exec {} \"$@\"", shell_line(&words)));
    }
    lines.join("\n") + "\n"
}
