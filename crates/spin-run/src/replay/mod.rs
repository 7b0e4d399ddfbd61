//! Doing again what the manifests of a store say was done.
//!
//! A stage is repeated from the artifacts that its own was made from, by the run
//! file in its manifest, in a store of its own; what comes out is held against
//! what is recorded. Each is repeated from *recorded* inputs, so that one
//! difference does not show in all that follows from it.

mod likeness;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::Maker;
use crate::graph::{Graph, Product};
use crate::plan::{Options, Plan};
use crate::recovery::{Recovered, model_in};
use crate::run::{MT_BENCH, RunFile};
use spin_store::error::{Result, StoreError};
use spin_store::{Artifact, Kind, Manifest, Store};

pub use likeness::{Likeness, compare};

/// A command that is repeated, for all artifacts that it made.
#[derive(Debug)]
pub struct Job {
    /// What it made.
    pub outputs: Vec<Artifact>,
    /// The run file.
    run: Recovered,
    /// The step of the plan, or what stands for one.
    step: String,
}

/// An artifact that is not repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// `kind/name@vN`.
    pub artifact: String,
    /// Why.
    pub why: String,
    /// Whether nothing could repeat it: what came from outside.
    pub is_import: bool,
}

/// What of these artifacts is to be repeated, parents before their children as far
/// as the order of plans goes, and what is not.
pub fn jobs(store: &Store, artifacts: &[Artifact]) -> (Vec<Job>, Vec<LeftOut>) {
    let (mut jobs, mut left_out): (Vec<(usize, Job)>, Vec<LeftOut>) = Default::default();
    for artifact in artifacts {
        let m = &artifact.manifest;
        let mut leave = |why: String, is_import| {
            left_out.push(LeftOut { artifact: artifact.reference(), why, is_import });
        };
        // What says so must look so: made of files from outside alone.
        let is_import = matches!(m.kind, Kind::Demonstrations | Kind::Preferences | Kind::Model)
            && m.stage.name == Maker::ImportRows.name()
            && m.parents.iter().all(spin_store::Parent::is_outside);
        if is_import {
            let from: Vec<String> = m.parents.iter().map(|parent| parent.origin.to_string()).collect();
            leave(format!("was imported from {}", from.join(", ")), true);
            continue;
        }
        if m.kind == Kind::Judgments {
            leave("is what a judge said, who may say something else now".into(), false);
            continue;
        }
        if let Some(known) = Maker::ALL.iter().find(|maker| maker.name() == m.stage.name)
            && known.version() != m.stage.version
        {
            let now = known.version();
            leave(
                format!("was made by {} version {}, this one is version {now}", m.stage.name, m.stage.version),
                false,
            );
            continue;
        }
        let run = match Recovered::of(artifact) {
            Ok(run) => run,
            Err(error) => {
                leave(error.to_string(), false);
                continue;
            }
        };
        let (place, step) = match step_of(&run.run, store, m) {
            Some(step) => step,
            None => {
                leave("is nothing that the run file in its manifest makes".into(), false);
                continue;
            }
        };
        let is_there =
            |job: &Job| job.outputs.iter().any(|other| other.manifest.kind == m.kind && other.manifest.name == m.name);
        let same = jobs.iter_mut().map(|(_, job)| job).find(|job| {
            (job.run.digest.as_str(), job.step.as_str()) == (run.digest.as_str(), step.as_str()) && !is_there(job)
        });
        match same {
            Some(job) => job.outputs.push(artifact.clone()),
            None => jobs.push((place, Job { outputs: vec![artifact.clone()], run, step })),
        }
    }
    jobs.sort_by_key(|(place, _)| *place);
    (jobs.into_iter().map(|(_, job)| job).collect(), left_out)
}

/// The step of the plan that makes an artifact, with its place; steps on the way
/// to evaluations make nothing that a plan knows.
fn step_of(run: &RunFile, store: &Store, m: &Manifest) -> Option<(usize, String)> {
    if m.kind == Kind::Requests || (m.kind == Kind::Samples && m.name.ends_with("/eval")) {
        return Some((usize::MAX, format!("{}/{}", m.kind, m.name)));
    }
    let plan = Plan::new(&Graph::new(run, store), &Options::default()).ok()?;
    let name = format!("{}/{}", m.kind, m.name);
    let place = plan.steps.iter().position(|step| step.makes.iter().any(|node| node.name == name))?;
    let step = &plan.steps[place].name;
    // Units of an evaluation are repeated one by one.
    Some((place, if m.kind == Kind::Evaluations { name } else { step.clone() }))
}

impl Job {
    /// What it is, in a few words.
    pub fn name(&self) -> String {
        let first = &self.outputs[0].manifest;
        match self.outputs.len() {
            1 => first.reference(),
            more => format!("{} and {} more", first.reference(), more - 1),
        }
    }

    /// Lays out in `dir` a run file and a store that has what is needed, and says
    /// by which command the outputs are made there.
    ///
    /// # Errors
    /// When something that is needed is missing, or cannot be put there.
    pub fn prepare(&self, store: &Store, dir: &Path) -> Result<(Store, Vec<String>)> {
        let scratch = Store::open(&dir.join("store"))?;
        for needed in self.needed(store)?.values() {
            link(needed, &scratch)?;
        }
        let run = self.run.clone().write(&dir.join("run.toml"), &scratch)?;
        let graph = Graph::new(&run, &scratch);
        let first = &self.outputs[0].manifest;
        let device = first.environment.get("device").and_then(|device| device.as_str()).unwrap_or("cpu");
        let options = Options { device: device.into(), ..Options::default() };
        let plan = Plan::new(&graph, &options)?;
        let run_file = run.path.display().to_string();
        let flags = || model_in(&first.name).map(|model| model.flags()).unwrap_or_default();
        let unit = first.name.split('/').nth(2).unwrap_or_default();
        let unit = if unit.starts_with(MT_BENCH) { MT_BENCH } else { unit };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
        let command = match first.kind {
            Kind::Requests => {
                [words(&["spin-bench", "eval", &run_file]), flags(), words(&["--requests", "--tasks", unit])].concat()
            }
            Kind::Samples if first.name.ends_with("/eval") => {
                [words(&["spin-sample", &run_file]), flags(), words(&["--eval"])].concat()
            }
            Kind::Evaluations => {
                [words(&["spin-bench", "eval", &run_file]), flags(), words(&["--tasks", unit])].concat()
            }
            _ => {
                let step = plan.steps.iter().find(|step| step.name == self.step);
                step.expect("the same run file gives the same steps").command.clone()
            }
        };
        Ok((scratch, command))
    }

    /// All that the outputs are made from, without them.
    fn needed(&self, store: &Store) -> Result<BTreeMap<String, Artifact>> {
        let mut needed = BTreeMap::new();
        for output in &self.outputs {
            needed.extend(needed_of(store, output)?.into_iter().map(|artifact| (artifact.reference(), artifact)));
        }
        for output in &self.outputs {
            needed.remove(&output.reference());
        }
        Ok(needed)
    }
}

/// An artifact and all that is needed to make it again: what it was made from, and
/// what its training counted.
///
/// # Errors
/// When something of it is missing or damaged.
pub fn needed_of(store: &Store, artifact: &Artifact) -> Result<Vec<Artifact>> {
    let (mut needed, mut waiting) = (BTreeMap::new(), vec![artifact.clone()]);
    while let Some(next) = waiting.pop() {
        if needed.contains_key(&next.reference()) {
            continue;
        }
        for parent in next.manifest.parents.iter().filter(|parent| !parent.is_outside()) {
            let found = store.parent(parent)?;
            if found.manifest.content != parent.content {
                let problem = format!("its parent {} has other content than it was made from", parent.origin);
                return Err(StoreError::corrupt(next.place(), problem, "restore the parent"));
            }
            waiting.push(found);
        }
        if let Ok(run) = Recovered::of(&next) {
            waiting.extend(counted(store, &run.run, &next)?);
        }
        needed.insert(next.reference(), next);
    }
    Ok(needed.into_values().collect())
}

/// The models that a training counts the updates of: no parents, and needed all the
/// same. Of several versions the newest.
fn counted(store: &Store, run: &RunFile, output: &Artifact) -> Result<Vec<Artifact>> {
    let m = &output.manifest;
    let Some(model) = model_in(&m.name).filter(|_| [Kind::Model, Kind::Metrics].contains(&m.kind)) else {
        return Ok(Vec::new());
    };
    let graph = Graph::new(run, store);
    let mut found = Vec::new();
    for product in graph.counted_by(&Product::Model(model)).unwrap_or_default() {
        let (kind, name) = (product.kind(), graph.name_of(&product));
        if let Some(version) = store.versions(kind, &name)?.last() {
            found.push(store.load_listed(&(kind, name, *version))?);
        }
    }
    Ok(found)
}

/// Puts an artifact into another store, by links to its files where both are on
/// one disk.
fn link(artifact: &Artifact, into: &Store) -> Result<()> {
    let m = &artifact.manifest;
    let to = into.root().join(m.kind.dir()).join(&m.name).join(format!("v{}", m.version));
    let files = m.files.iter().map(|file| file.path.as_str()).chain([spin_store::manifest::FILE_NAME]);
    for file in files {
        let (from, to) = (artifact.place().join(file), to.join(file));
        let parent = to.parent().unwrap_or(&to);
        fs::create_dir_all(parent).map_err(StoreError::io("create", parent))?;
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).map_err(StoreError::io("copy", &from))?;
        }
    }
    Ok(())
}
