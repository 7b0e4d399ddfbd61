//! From parts that are all there to an artifact.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use spin_run::schema::{Row as _, Sample};
use spin_store::work::Found;
use spin_store::{Making, Staged, StoreError, table};

use crate::check::{self, Checked, Chosen};
use crate::engine::{Engine, Replay};
use crate::error::{Result, SampleError};
use crate::task::{Prepared, Shared};

/// Who made a part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MadeBy {
    engine: String,
    processor: String,
    replay: String,
}

impl MadeBy {
    /// From what is noted beside a part.
    fn of(facts: &Value) -> MadeBy {
        let text = |key: &str| facts[key].as_str().unwrap_or("unknown").to_owned();
        MadeBy { engine: text("engine"), processor: text("processor"), replay: text("replay") }
    }
}

/// What all parts say together.
struct Summary {
    makers: Vec<MadeBy>,
    tokens: u64,
    finish: BTreeMap<String, u64>,
    chosen: Chosen,
}

impl Shared<'_, '_> {
    /// All parts as an artifact, after a check of some answers.
    pub fn assemble(&self, engine: Option<Box<dyn Engine>>, making: &Making<'_>) -> Result<Staged> {
        let Prepared { rows, plan, work, .. } = &self.prepared;
        let source = self.prepared.source(self.graph, self.task);
        let summary = self.summary()?;
        let makers: BTreeSet<&MadeBy> = summary.makers.iter().collect();
        let is_exact = makers.len() == 1 && makers.iter().all(|maker| maker.replay == Replay::Exact.name());
        let mut facts = Map::new();
        facts.insert("samples".into(), json!(plan.iter().map(Vec::len).sum::<usize>()));
        facts.insert("response_tokens".into(), json!(summary.tokens));
        facts.insert("finish_reasons".into(), json!(summary.finish));
        facts.insert("dropped_overlong_prompts".into(), json!(rows.dropped));
        facts.insert("truncated_prompts".into(), json!(rows.truncated));
        let of = |part: fn(&MadeBy) -> &str| match makers.iter().map(|maker| part(maker)).collect::<BTreeSet<_>>() {
            all if all.len() == 1 => json!(all.first()),
            all => json!(all),
        };
        facts.insert("engine".into(), of(|maker| &maker.engine));
        facts.insert("processor".into(), of(|maker| &maker.processor));
        let replay = if is_exact { Replay::Exact } else { Replay::Statistical };
        facts.insert("replay".into(), json!(replay.name()));
        if summary.chosen.picks().next().is_some() {
            let (replayed, logps) = self.check(engine, &summary)?;
            facts.insert("replayed".into(), replayed);
            facts.insert("logps_check".into(), logps);
        }
        let staged = making.staging()?;
        for part in 0..plan.len() {
            let name = table::part_name(part);
            let to = staged.path().join(&name);
            let copied = work.copy_part(&name, &to)?;
            self.whole(part, copied)?;
            if !source.is_planned(part, &Sample::read_part(&to)?) {
                let why = "a run with other rows_per_part wrote it".into();
                return Err(SampleError::Changed { path: work.path(&name), why });
            }
        }
        Ok(Staged::new(staged, facts))
    }

    /// Reads all parts. Those with answers that failed are removed when there
    /// are too many, so that another call tries again.
    fn summary(&self) -> Result<Summary> {
        let Prepared { plan, work, .. } = &self.prepared;
        let source = self.prepared.source(self.graph, self.task);
        let mut summary = Summary {
            makers: Vec::new(),
            tokens: 0,
            finish: BTreeMap::new(),
            chosen: Chosen::new(self.task.prompts.check_rows(self.graph)),
        };
        let (mut failed, mut with_failures) = (Vec::new(), BTreeSet::new());
        for (part, jobs) in plan.iter().enumerate() {
            let found = self.whole(part, source.look(work, part)?)?;
            for (job, sample) in jobs.iter().zip(found.rows) {
                summary.tokens += sample.response_ids.len() as u64;
                summary.chosen.see(part, *job, &sample);
                if sample.finish_reason == "error" {
                    failed.push(sample.row_id);
                    with_failures.insert(part);
                }
                *summary.finish.entry(sample.finish_reason).or_default() += 1;
            }
            summary.makers.push(MadeBy::of(&found.facts));
        }
        let all = plan.iter().map(Vec::len).sum();
        if failed.len() as f64 > self.task.prompts.max_failed() * all as f64 {
            for part in with_failures {
                let path = work.path(&table::part_name(part));
                std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            }
            let (row_id, problem) = (failed[0].clone(), "its part says so and is removed".into());
            return Err(SampleError::Failed { failed: failed.len(), all, row_id, problem });
        }
        Ok(summary)
    }

    /// A part that was whole a moment ago.
    fn whole<T>(&self, part: usize, found: Found<T>) -> Result<T> {
        let path = self.prepared.work.path(&table::part_name(part));
        match found {
            Found::Whole(whole) => Ok(whole),
            Found::Absent => Err(StoreError::io("read", path)(std::io::ErrorKind::NotFound.into()).into()),
            Found::Unusable(why) => Err(SampleError::Changed { path, why }),
        }
    }

    /// Answers asked again, then their log-probabilities: one model after the
    /// other in memory.
    fn check(&self, engine: Option<Box<dyn Engine>>, summary: &Summary) -> Result<(Value, Value)> {
        let engine = match engine {
            Some(engine) => engine,
            None => self.loader.engine()?,
        };
        let own = MadeBy {
            engine: engine.describe(),
            processor: self.options.processor.clone(),
            replay: Replay::Exact.name().into(),
        };
        let source = self.prepared.source(self.graph, self.task);
        let work = self.prepared.work.path("");
        let checked = Checked { chosen: &summary.chosen, rows: source.rows, work: &work, engine: &own.engine };
        let is_exact = |part: usize| summary.makers[part] == own && engine.replay() == Replay::Exact;
        let replayed = check::replayed(engine.as_ref(), &checked, |job| source.wanted(job), is_exact)?;
        drop(engine);
        let logps = check::logps(self.loader.dir(), self.task.prompts.dtype(), &checked)?;
        Ok((replayed, logps))
    }
}
