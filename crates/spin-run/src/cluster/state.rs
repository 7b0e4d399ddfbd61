//! What became of the jobs of a run: the list of what was submitted, the queue, and
//! what the jobs left behind, together.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::need;
use super::queue::{self, Queued};
use super::record::Record;
use super::script::Places;
use crate::plan::{Plan, Step};

/// A run's jobs as far as somebody knows.
#[derive(Debug)]
pub struct Jobs<'a> {
    /// Where they lie.
    pub places: &'a Places,
    /// What was submitted.
    pub record: Record,
    /// This run's jobs in the queue, over or not.
    pub queue: Vec<Queued>,
    /// How jobs ended, by number, where accounts are kept.
    pub accounts: BTreeMap<String, String>,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs; for how long, where, and what it said last.
    Running {
        /// As Slurm writes it.
        time: String,
        /// Nodes.
        nodes: String,
        /// The last line of its log.
        says: String,
    },
    /// It is in the queue, for a reason.
    Waiting(String),
    /// It ended with success.
    Ended,
    /// It ended otherwise; how, and what it said last.
    Failed {
        /// In words.
        how: String,
        /// The last line of its log.
        says: String,
    },
    /// It never began, because this one before it failed.
    NeverBegan(String),
    /// It is not in the queue and left no word.
    Gone(String),
}

/// A job, or an element of an array, with how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobState {
    /// The step.
    pub step: String,
    /// Which element.
    pub element: Option<u32>,
    /// Slurm's number.
    pub job: String,
    /// Where it writes.
    pub log: PathBuf,
    /// How far it is.
    pub fate: Fate,
}

impl Fate {
    /// In a word.
    pub fn word(&self) -> &'static str {
        match self {
            Fate::Running { .. } => "running",
            Fate::Waiting(_) => "waiting",
            Fate::Ended => "ended",
            Fate::Failed { .. } => "failed",
            Fate::NeverBegan(_) => "cancelled",
            Fate::Gone(_) => "gone",
        }
    }

    /// Whether it is over and was no success.
    pub fn is_bad(&self) -> bool {
        matches!(self, Fate::Failed { .. } | Fate::NeverBegan(_) | Fate::Gone(_))
    }
}

impl JobState {
    /// For people.
    pub fn line(&self) -> String {
        let log = self.log.display();
        match &self.fate {
            Fate::Running { time, nodes, says } => format!("running for {time} on {nodes}: {says}"),
            Fate::Waiting(reason) => format!("waiting: {reason}"),
            Fate::Ended => "ended".into(),
            Fate::Failed { how, says } => format!("failed: {how}: {says} (log: {log})"),
            Fate::NeverBegan(before) => format!("cancelled: {before} did not succeed"),
            Fate::Gone(how) => format!("gone: {how} (log: {log})"),
        }
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let mut value = json!({"step": self.step, "element": self.element, "job": self.job,
            "state": self.fate.word(), "log": self.log.display().to_string()});
        match &self.fate {
            Fate::Running { time, nodes, says } => {
                (value["time"], value["nodes"], value["says"]) = (json!(time), json!(nodes), json!(says));
            }
            Fate::Waiting(reason) | Fate::Gone(reason) => value["reason"] = json!(reason),
            Fate::Failed { how, says } => (value["reason"], value["says"]) = (json!(how), json!(says)),
            Fate::NeverBegan(before) => value["reason"] = json!(format!("{before} did not succeed")),
            Fate::Ended => {}
        }
        value
    }
}

impl Jobs<'_> {
    /// The job of a step, or of its element, that is in the queue and not over.
    pub fn live(&self, step: &str, element: Option<u32>) -> Option<&Queued> {
        let comment = self.places.comment(step);
        self.queue.iter().find(|job| job.is_live() && job.comment == comment && job.element == element)
    }

    /// All that are in the queue and not over.
    pub fn all_live(&self) -> impl Iterator<Item = &Queued> {
        self.queue.iter().filter(|job| job.is_live())
    }

    /// How far the last jobs of the steps are, of those that were submitted.
    pub fn states(&self, plan: &Plan) -> Vec<JobState> {
        let mut states: Vec<JobState> = Vec::new();
        for step in &plan.steps {
            let elements = self.elements_of(step);
            for element in elements {
                states.extend(self.state(plan, step, element, &states));
            }
        }
        states
    }

    /// The elements that were ever submitted, or the one job.
    fn elements_of(&self, step: &Step) -> Vec<Option<u32>> {
        let mut elements: Vec<Option<u32>> =
            need::elements(step).into_iter().map(|element| Some(element.number)).collect();
        for job in self.record.jobs.iter().filter(|job| job.step == step.name) {
            elements.extend(job.elements.iter().map(|element| Some(*element)));
        }
        elements.sort_unstable();
        elements.dedup();
        // A step that was once one job, and once an array, is what it was last.
        let was_one = self.record.jobs.iter().rev().find(|job| job.step == step.name);
        if elements.is_empty() || was_one.is_some_and(|job| job.elements.is_empty()) { vec![None] } else { elements }
    }

    fn state(&self, plan: &Plan, step: &Step, element: Option<u32>, before: &[JobState]) -> Option<JobState> {
        let live = self.live(&step.name, element);
        let recorded = self.record.last(&step.name, element);
        let job = live.map(|job| job.job.clone()).or_else(|| recorded.map(|job| job.job.clone()))?;
        let log = self.places.log(&step.name, &job, element);
        let fate = match live {
            Some(live) if live.waits() => Fate::Waiting(match live.reason.as_str() {
                "Dependency" => format!("for {}", self.awaited(plan, step).join(", ")),
                "BeginTime" => "back in the queue, to go on shortly".into(),
                reason => reason.to_owned(),
            }),
            Some(live) => Fate::Running { time: live.time.clone(), nodes: live.nodes.clone(), says: last_line(&log) },
            None => self.fate_of_what_is_over(plan, step, element, &job, &log, before),
        };
        Some(JobState { step: step.name.clone(), element, job, log, fate })
    }

    /// The steps before one that have jobs in the queue.
    fn awaited<'p>(&self, plan: &'p Plan, step: &Step) -> Vec<&'p str> {
        let names = step.after.iter().map(|&before| plan.steps[before].name.as_str());
        names.filter(|name| self.all_live().any(|job| job.comment == self.places.comment(name))).collect()
    }

    fn fate_of_what_is_over(
        &self,
        plan: &Plan,
        step: &Step,
        element: Option<u32>,
        job: &str,
        log: &Path,
        before: &[JobState],
    ) -> Fate {
        let id = queue::id(job, element);
        let left = std::fs::read_to_string(self.places.ended(&step.name, element)).unwrap_or_default();
        match left.trim().split_once(' ') {
            Some((of, "0")) if of == id => return Fate::Ended,
            Some((of, "75")) if of == id => {
                let how = "stopped with its work kept, and not queued again; submit again".into();
                return Fate::Failed { how, says: last_line(log) };
            }
            Some((of, code)) if of == id => {
                return Fate::Failed { how: format!("exit code {code}"), says: last_line(log) };
            }
            _ => {}
        }
        let has_failed = |name: &str| before.iter().any(|other| other.step == name && other.fate.is_bad());
        let first = step.after.iter().map(|&index| &plan.steps[index].name).find(|name| has_failed(name));
        match first {
            Some(first) if !log.exists() => Fate::NeverBegan(first.clone()),
            _ => Fate::Gone(match self.accounts.get(&id) {
                Some(words) => words.clone(),
                None => "it is not in the queue and left no exit code: cancelled, or killed with its node".into(),
            }),
        }
    }
}

/// The last line of a log that says something; its end is read, however long it is.
fn last_line(path: &Path) -> String {
    const END: u64 = 8192;
    let read = || {
        let mut file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(END))).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    };
    read().unwrap_or_else(|| "nothing said yet".into())
}
