//! The stage: which rows, which parts, who makes them.

use std::sync::atomic::Ordering;

use serde_json::json;
use spin_run::graph::Graph;
use spin_store::work::Found;
use spin_store::{Context, Left, Making, Outcome, Share, StoreError};

use crate::engine::Engine;
use crate::error::{Result, SampleError};
use crate::parts::Shard;
use crate::queue::{self, Queue, Worker};
use crate::task::{Loader, Options, Prepared, Shared, Task, prepare};

pub use crate::queue::{GenerationWatch, PartDone};

/// A part that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its number.
    pub part: usize,
    /// Its answers.
    pub rows: usize,
    /// Who makes it, if somebody does.
    pub holder: Option<String>,
}

/// The parts of a shard that are not there; none once the artifact is.
///
/// # Errors
/// As [`run`].
pub fn missing(graph: &Graph<'_>, task: &Task, shard: Shard) -> Result<Vec<Missing>> {
    if graph.store.find(&task.recipe)?.is_some() {
        return Ok(Vec::new());
    }
    let prepared = prepare(graph, task)?;
    let source = prepared.source(graph, task);
    let mut parts = Vec::new();
    for part in (0..prepared.plan.len()).filter(|part| shard.has(*part)) {
        if source.look(&prepared.work, part)?.whole().is_none() {
            parts.push(part);
        }
    }
    parts
        .into_iter()
        .map(|part| {
            let holder = match prepared.work.lock(&queue::lock_name(part)) {
                Ok(_) => None,
                Err(StoreError::Locked { holder, .. }) => Some(holder),
                Err(error) => return Err(error.into()),
            };
            Ok(Missing { part, rows: prepared.plan[part].len(), holder })
        })
        .collect()
}

/// Generates this shard's missing parts, and publishes when all parts are
/// there.
///
/// # Errors
/// Bad rows, a model that cannot be loaded, answers that fail, a full disk.
/// Finished parts stay.
pub fn run(
    graph: &Graph<'_>,
    task: &Task,
    options: &Options,
    context: &Context<'_>,
    watch: &dyn GenerationWatch,
) -> Result<Outcome> {
    context.make_together(
        &task.recipe,
        is_taken_away,
        |making| {
            let loader = Loader::new(graph, task, &options.engine)?;
            let prepared = prepare(graph, task)?;
            let shared = Shared { graph, task, options, prepared, loader };
            let mut engine = None;
            Ok(match work(&shared, &mut engine, making, watch)? {
                // What the parts were made with is used again to check them.
                Ok(place) => Share::Whole { place, with: (shared, engine) },
                Err(left) => Share::Left(left),
            })
        },
        |making, (shared, engine)| shared.assemble(engine, making),
    )
}

/// Whether an error is one of those that come when another process clears the
/// work away.
fn is_taken_away(error: &SampleError) -> bool {
    match error {
        SampleError::Store(StoreError::Io { source, .. }) => source.kind() == std::io::ErrorKind::NotFound,
        SampleError::Store(StoreError::Locked { .. }) | SampleError::Changed { .. } => true,
        _ => false,
    }
}

/// Makes the parts of this shard that are missing: where all parts are there,
/// how many, else what is left.
fn work(
    shared: &Shared<'_, '_>,
    engine: &mut Option<Box<dyn Engine>>,
    making: &Making<'_>,
    watch: &dyn GenerationWatch,
) -> Result<std::result::Result<String, Left>> {
    let Shared { graph, task, options, prepared, loader } = shared;
    let stop = making.context.stop;
    let source = prepared.source(graph, task);
    let Prepared { plan, work, .. } = prepared;
    let mine: Vec<usize> = (0..plan.len()).filter(|&part| options.shard.has(part)).collect();
    let (mut missing, mut there) = (Vec::new(), Vec::new());
    for &part in &mine {
        match source.look(work, part)? {
            Found::Whole(_) => there.push(part),
            Found::Absent => missing.push(part),
            Found::Unusable(why) => {
                watch.note(&format!("part {part} is made again: {why}"));
                missing.push(part);
            }
        }
    }
    let count = |parts: &[usize]| parts.iter().map(|&part| plan[part].len() as u64).sum::<u64>();
    let (done, all) = (count(&there), count(&there) + count(&missing));
    watch.progress(done, all, 0);
    let (mut held, mut stopped) = (Vec::new(), false);
    if !missing.is_empty() {
        let engine = engine.insert(loader.engine()?);
        let facts =
            json!({"engine": engine.describe(), "processor": options.processor, "replay": engine.replay().name()});
        let samples: usize = plan.iter().map(Vec::len).sum();
        let allowed = (task.prompts.max_failed() * samples as f64) as usize;
        let worker = Worker { work, holder: making.context.holder, facts, allowed };
        let queue = Queue::new(&source, worker, missing, (done, all), stop, watch);
        // An engine may leave while a job is on its way back.
        while queue.has_work() {
            engine.run(&queue);
        }
        let ended = queue.end();
        if let Some(error) = ended.error {
            return Err(error);
        }
        (held, stopped) = (ended.held, stop.load(Ordering::Relaxed));
    }
    let is_there = |part| Ok(source.look(work, part)?.whole().is_some());
    let there: Vec<bool> = (0..plan.len()).map(is_there).collect::<Result<_>>()?;
    let present = there.iter().filter(|there| **there).count();
    let place = format!("{present} of {} parts", plan.len());
    if stopped {
        return Ok(Err(Left::Stopped(place)));
    }
    if let Some(part) = mine.iter().copied().find(|&part| !there[part]) {
        let who = match held.into_iter().find(|(other, _)| *other == part) {
            Some((part, holder)) => format!("part {part} is held by {holder}"),
            None => format!("part {part} was taken away or written anew by another process"),
        };
        return Ok(Err(Left::Held(format!("{place} are there, {who}"))));
    }
    Ok(if present < plan.len() { Err(Left::Partial(place)) } else { Ok(place) })
}
