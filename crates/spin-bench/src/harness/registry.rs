//! Tasks and groups by name.

use std::path::{Path, PathBuf};

use spin_report::names::MMLU_SUBJECTS;
use spin_run::run::{BBH, GROUPS, MMLU, MT_BENCH, SPIN_PAPER, units_of};

use super::tasks::{arc, bbh, custom, gsm8k, hellaswag, mmlu, openbookqa, truthfulqa, winogrande};
use super::{Metric, Profile, Task};
use crate::error::{BenchError, Result};

/// Tasks that are scored and stored together.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Name of the task or group.
    pub name: String,
    /// Its tasks.
    pub tasks: Vec<Task>,
}

/// What there is to score.
pub struct Registry {
    profile: Profile,
    data: PathBuf,
    custom: Vec<Task>,
}

/// The single tasks that stand for themselves.
const SINGLE: [&str; 7] =
    ["arc_challenge", "hellaswag", "truthfulqa_mc1", "truthfulqa_mc2", "winogrande", "gsm8k", "openbookqa"];

/// The names of all built-in tasks.
pub fn all_names() -> Vec<String> {
    let subjects = MMLU_SUBJECTS.iter().flat_map(|(_, subjects)| *subjects).map(|name| format!("mmlu_{name}"));
    let chains = bbh::names().map(|name| format!("bbh_cot_fewshot_{name}"));
    SINGLE.iter().map(|name| (*name).to_owned()).chain(subjects).chain(chains).collect()
}

impl Registry {
    /// The built-in tasks and those of task files (`*.toml`) in `include`.
    ///
    /// # Errors
    /// When a task file is wrong or takes a name that is taken.
    pub fn new(profile: Profile, data: &Path, include: &[PathBuf]) -> Result<Self> {
        let mut all = Self { profile, data: data.into(), custom: Vec::new() };
        for dir in include {
            for task in custom::read_dir(dir)? {
                let taken = all_names().contains(&task.name) || GROUPS.contains(&task.name.as_str());
                if taken || all.custom.iter().any(|other| other.name == task.name) {
                    return Err(BenchError::TaskFile {
                        path: dir.clone(),
                        problem: format!("two tasks are called {:?}; rename one", task.name),
                    });
                }
                all.custom.push(task);
            }
        }
        Ok(all)
    }

    /// The units that names of tasks and groups stand for, each once.
    ///
    /// # Errors
    /// An unknown name, with the nearest ones that are known.
    pub fn units(&self, names: &[String]) -> Result<Vec<Unit>> {
        let mut units: Vec<Unit> = Vec::new();
        let mut add = |name: &str, tasks: Vec<Task>| match units.iter_mut().find(|unit| unit.name == name) {
            // A group's own number of examples wins over the task's.
            Some(unit) if tasks.iter().zip(&unit.tasks).any(|(a, b)| a.num_fewshot > b.num_fewshot) => {
                unit.tasks = tasks;
            }
            Some(_) => {}
            None => units.push(Unit { name: name.into(), tasks }),
        };
        for name in names {
            for unit in units_of(name) {
                let tasks = match unit {
                    MMLU => self.mmlu(),
                    BBH => {
                        let tasks = bbh::names().map(|task| bbh::task(task, self.profile, &self.data));
                        tasks.collect::<Result<_>>()?
                    }
                    MT_BENCH => Vec::new(),
                    // The paper's 45.4 is 227 of 500, with one example.
                    "openbookqa" if name == SPIN_PAPER => vec![Task { num_fewshot: 1, ..openbookqa::openbookqa() }],
                    other => vec![self.task(other)?],
                };
                add(unit, tasks);
            }
        }
        Ok(units)
    }

    /// All tasks that names stand for.
    ///
    /// # Errors
    /// As [`Registry::units`].
    pub fn tasks(&self, names: &[String]) -> Result<Vec<Task>> {
        Ok(self.units(names)?.into_iter().flat_map(|unit| unit.tasks).collect())
    }

    fn mmlu(&self) -> Vec<Task> {
        MMLU_SUBJECTS.iter().flat_map(|(_, subjects)| *subjects).map(|name| mmlu::subject(name)).collect()
    }

    fn task(&self, name: &str) -> Result<Task> {
        let profile = self.profile;
        let found = match name {
            "arc_challenge" => Some(arc::arc_challenge()),
            "hellaswag" => Some(hellaswag::hellaswag(profile)),
            "truthfulqa_mc1" => Some(truthfulqa::mc1()),
            "truthfulqa_mc2" => Some(truthfulqa::mc2()),
            "winogrande" => Some(winogrande::winogrande(profile)),
            "gsm8k" => Some(gsm8k::gsm8k(profile)),
            "openbookqa" => Some(openbookqa::openbookqa()),
            _ => None,
        };
        if let Some(task) = found {
            return Ok(task);
        }
        if let Some(task) = self.custom.iter().find(|task| task.name == name) {
            return Ok(task.clone());
        }
        if let Some(subject) = name.strip_prefix("mmlu_")
            && MMLU_SUBJECTS.iter().any(|(_, subjects)| subjects.contains(&subject))
        {
            return Ok(mmlu::subject(subject));
        }
        if let Some(task) = name.strip_prefix("bbh_cot_fewshot_")
            && bbh::names().any(|name| name == task)
        {
            return bbh::task(task, profile, &self.data);
        }
        Err(self.unknown(name))
    }

    fn unknown(&self, name: &str) -> BenchError {
        let mut known = all_names();
        known.extend(GROUPS.map(str::to_owned));
        known.extend(self.custom.iter().map(|task| task.name.clone()));
        known.sort_by(|a, b| strsim::jaro_winkler(name, b).total_cmp(&strsim::jaro_winkler(name, a)));
        known.truncate(3);
        BenchError::UnknownTask { name: name.into(), nearest: known }
    }
}

/// The task's contribution to an average: its first metric.
pub fn headline(task: &Task) -> String {
    task.metric_names().into_iter().next().unwrap_or_else(|| format!("{},none", Metric::Acc.name()))
}

#[cfg(test)]
mod tests {
    use spin_run::run::LEADERBOARD;

    use super::*;

    #[test]
    fn unknown_names_get_the_nearest() {
        let registry = Registry::new(Profile::Current, Path::new("none"), &[]).unwrap();
        let error = registry.units(&["arc_chalenge".into()]).unwrap_err().to_string();
        assert!(error.contains("arc_challenge"), "{error}");
    }

    #[test]
    fn groups_hold_each_task_once() {
        let registry = Registry::new(Profile::Current, Path::new("none"), &[]).unwrap();
        let names = [LEADERBOARD, "gsm8k", "mmlu"].map(str::to_owned);
        let units = registry.units(&names).unwrap();
        let names: Vec<_> = units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(names, ["arc_challenge", "hellaswag", "truthfulqa_mc2", "winogrande", "gsm8k", "mmlu"]);
        assert_eq!(units[5].tasks.len(), 57);
    }
}
