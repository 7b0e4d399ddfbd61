//! The stage: evaluate one model of a run on leaderboard tasks.
//!
//! A unit (a task, or a group that is stored together) is scored in parts of
//! whole documents. Parts are fixed ahead of time and written one by one, so a
//! killed run carries on, and publishes what an undisturbed one would have.

use std::ops::Range;

use serde_json::{Map, Value, json};
use spin_model::ScoreStats;
use spin_report::evaluations;
use spin_run::schema::{EvaluationRow, RequestRow, Row, Sample};
use spin_store::work::{Found, WorkDir, WorkPart};
use spin_store::{Artifact, Context, Ending, Left, Making, Outcome, Staged, StoreError, table};

use super::dataset::DocSet;
use super::evaluator::Evaluator;
use super::prepared::{Prepared, row_id};
use super::prompt::Turn;
use crate::error::Result;

impl Evaluator<'_> {
    /// Makes the prompts of a unit that needs generated answers, for
    /// `spin-sample --eval`; the flag is false when they were there.
    ///
    /// # Errors
    /// When a prompt cannot be written, or the disk is full.
    pub fn requests(&self, unit: &Prepared, context: &Context<'_>) -> Result<(Artifact, bool)> {
        let recipe = self.graph.requests_recipe(self.id, &unit.inputs())?;
        context.make(&recipe, |making| self.assemble_requests(unit, making))
    }

    fn assemble_requests(&self, unit: &Prepared, making: &Making<'_>) -> Result<Staged> {
        let (style, encoder) = (self.style(), self.encoder()?);
        let mut rows = Vec::new();
        for task in &unit.tasks {
            let Some(generation) = &task.task.generation else { continue };
            let tokens = self.max_gen_toks(generation);
            for turn in &task.turns {
                let written = task.at_row(turn.row, task.prompt(&style, turn))?;
                let (prompt_ids, _) = encoder.generation(&written.contexts[0], tokens)?;
                rows.push(RequestRow {
                    row_id: row_id(&task.task, turn.row),
                    prompt_ids,
                    until: generation.until.clone(),
                    max_new_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
                    temperature: 0.0,
                });
            }
        }
        let staged = making.staging()?;
        RequestRow::write_part(&staged.path().join(table::part_name(0)), &rows, &making.recipe.identity(), 0)?;
        let mut facts = Map::new();
        facts.insert("requests".into(), json!(rows.len()));
        Ok(Staged::new(staged, facts))
    }

    /// Evaluates a unit; also gives what computing it took: nothing for tasks
    /// whose answers were generated. Progress is in documents.
    ///
    /// # Errors
    /// Bad documents, missing answers, a broken model, a full disk; finished
    /// parts stay.
    pub fn evaluate(&self, unit: &Prepared, context: &Context<'_>) -> Result<(Outcome, ScoreStats)> {
        let inputs = unit.inputs();
        let answers = if inputs.generates {
            let requests = self.graph.requests_recipe(self.id, &inputs)?;
            let requests = self.graph.store.find(&requests)?.ok_or_else(|| StoreError::Missing {
                reference: format!("{}/{}", requests.kind, requests.name),
                store: self.graph.store.root().to_path_buf(),
                remedy: format!("make it with `{} --requests`", self.graph.eval_command(self.id)),
            })?;
            Some(self.graph.answers(self.id, &requests)?)
        } else {
            None
        };
        let recipe = self.graph.evaluation_recipe(self.id, &inputs, answers.as_ref())?;
        let mut stats = ScoreStats::default();
        let outcome =
            context.make_or_leave(&recipe, |making| self.in_parts(unit, answers.as_ref(), &mut stats, making))?;
        Ok((outcome, stats))
    }

    /// The parts that are missing, then all of them.
    fn in_parts(
        &self,
        unit: &Prepared,
        answers: Option<&Artifact>,
        stats: &mut ScoreStats,
        making: &Making<'_>,
    ) -> Result<Ending> {
        let (work, watch) = (&making.work, making.context.watch);
        let plan = self.parts(unit);
        let total: u64 = plan.iter().map(|(_, turns)| turns.len() as u64).sum();
        let mut done = 0;
        let answers = match answers {
            Some(artifact) => Sample::read_all(artifact)?,
            None => Vec::new(),
        };
        for (part, (task, turns)) in plan.iter().enumerate() {
            let task = &unit.tasks[*task];
            let planned = &task.turns[turns.clone()];
            let found = look(work, part, &task.task.name, planned)?;
            if let Found::Unusable(why) = &found {
                watch.note(&format!("part {part} is made again: {why}"));
            }
            if found.whole().is_none() {
                if making.is_stopped() {
                    return Ok(Ending::Leave(Left::Stopped(format!("{done} of {total} documents"))));
                }
                let rows = match &task.task.generation {
                    Some(generation) => self.read_answers(task, generation, planned, &answers)?,
                    None => {
                        let mut progress = |rows: usize| watch.progress(done + rows as u64, total);
                        let (rows, spent) = self.score(task, planned, &mut progress)?;
                        *stats = add(*stats, spent);
                        rows
                    }
                };
                work.write_part(&table::part_name(part), part, &rows, &Value::Null)?;
            }
            done += turns.len() as u64;
            watch.progress(done, total);
        }
        self.assemble(unit, plan.len(), making).map(Ending::Publish)
    }

    /// Which documents stand in which part: a task and a range of its turns.
    fn parts(&self, unit: &Prepared) -> Vec<(usize, Range<usize>)> {
        let size = self.config().docs_per_part;
        let mut parts = Vec::new();
        for (i, task) in unit.tasks.iter().enumerate() {
            let count = task.turns.len();
            parts.extend((0..count).step_by(size).map(|at| (i, at..count.min(at + size))));
        }
        parts
    }

    fn assemble(&self, unit: &Prepared, parts: usize, making: &Making<'_>) -> Result<Staged> {
        let (staged, work) = (making.staging()?, &making.work);
        let mut rows = Vec::new();
        for part in 0..parts {
            let name = table::part_name(part);
            let to = staged.path().join(&name);
            if work.copy_part(&name, &to)?.whole().is_none() {
                let problem = "changed while it was published";
                return Err(StoreError::corrupt(&work.path(&name), problem, "run this again").into());
            }
            rows.extend(EvaluationRow::read_part(&to)?);
        }
        let mut facts = Map::new();
        let counts: Map<String, Value> =
            unit.tasks.iter().map(|task| (task.task.name.clone(), json!(task.docs.docs.len()))).collect();
        facts.insert("documents".into(), Value::Object(counts));
        let data: Map<String, Value> = unit
            .tasks
            .iter()
            .flat_map(|task| {
                let named =
                    |split: &DocSet, name: &str| (format!("{}/{name}", task.task.name), json!(split.docs_digest));
                let pool = task.pool.as_ref().zip(task.task.fewshot_split.as_deref());
                [Some(named(&task.docs, &task.task.split)), pool.map(|(split, name)| named(split, name))]
            })
            .flatten()
            .collect();
        facts.insert("data".into(), Value::Object(data));
        facts.insert("data_warnings".into(), json!(unit.warnings));
        facts.insert("max_length".into(), json!(self.context));
        let mut tokenizer = self.codec.describe();
        if !self.config().apply_chat_template {
            tokenizer["template"] = Value::Null;
        }
        facts.insert("tokenizer".into(), tokenizer);
        let mut sums = Map::new();
        for task in &unit.tasks {
            let own: Vec<&EvaluationRow> = rows.iter().filter(|row| row.task == task.task.name).collect();
            let summary = evaluations::summarise(&task.task.name, Value::Null, &own);
            let metrics: Map<String, Value> = summary
                .metrics
                .iter()
                .map(|(name, e)| (name.clone(), json!({"value": e.value, "stderr": e.stderr, "rows": e.rows})))
                .collect();
            let counted = json!({"truncated": summary.truncated, "merged": summary.merged});
            sums.insert(task.task.name.clone(), json!({"metrics": metrics, "requests": counted}));
        }
        facts.insert("results".into(), Value::Object(sums));
        Ok(Staged::new(staged, facts))
    }
}

/// A part as it was written, if it holds the documents that the plan has
/// there: an earlier run may have cut its parts otherwise.
fn look(work: &WorkDir, part: usize, task: &str, planned: &[Turn]) -> Result<Found<WorkPart<EvaluationRow>>> {
    let found = work.read_part::<EvaluationRow>(&table::part_name(part), part)?;
    let is_planned = |found: &WorkPart<EvaluationRow>| {
        found.rows.len() == planned.len()
            && found.rows.iter().zip(planned).all(|(row, turn)| row.task == task && row.doc_id as usize == turn.row)
    };
    Ok(found.check(is_planned, "it holds other documents"))
}

fn add(a: ScoreStats, b: ScoreStats) -> ScoreStats {
    ScoreStats {
        tokens_given: a.tokens_given + b.tokens_given,
        tokens_computed: a.tokens_computed + b.tokens_computed,
        tokens_distinct: a.tokens_distinct + b.tokens_distinct,
        predictions_given: a.predictions_given + b.predictions_given,
        predictions_computed: a.predictions_computed + b.predictions_computed,
        batches: a.batches + b.batches,
    }
}
