//! The stage: evaluate one model of a run on leaderboard tasks.
//!
//! A unit (a task, or a group that is stored together) is scored in parts of
//! whole documents. Parts are fixed ahead of time and written one by one, so a
//! killed run carries on, and publishes what an undisturbed one would have.

use std::cell::OnceCell;
use std::ops::Range;

use candle_core::{DType, Device};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use spin_model::{CausalLm, Rounding, ScoreOptions, ScoreRequest, ScoreStats};
use spin_report::evaluations;
use spin_run::graph::{Graph, ModelId, UnitInputs};
use spin_run::run::{EvalConfig, SoftmaxDtype};
use spin_run::schema::{EvaluationRow, RequestRow, Row, Sample};
use spin_store::manifest::Parent;
use spin_store::work::{Found, WorkDir, WorkPart};
use spin_store::{Artifact, Context, Left, Making, Outcome, Staged, Step, StoreError, digest, table};
use spin_text::Codec;

use super::dataset::{self, Split};
use super::encode::{Encoded, Encoder};
use super::prompt::{self, Prompt, Style, Turn};
use super::registry::Unit;
use super::{Doc, Examples, Generation, Task, filter, measure};
use crate::error::{BenchError, Result};

/// Evaluates one model; loads its weights when the first part is missing.
pub struct Evaluator<'a> {
    graph: &'a Graph<'a>,
    id: &'a ModelId,
    model: Artifact,
    codec: Codec,
    context: usize,
    weights: OnceCell<CausalLm>,
}

/// A unit with its data, ready to be scored.
pub struct Prepared {
    /// Its name.
    pub name: String,
    /// Warnings about its data, for people.
    pub warnings: Vec<String>,
    tasks: Vec<PreparedTask>,
}

struct PreparedTask {
    task: Task,
    shots: usize,
    docs: Split,
    pool: Option<Split>,
    turns: Vec<Turn>,
}

impl PreparedTask {
    fn example(&self, index: usize) -> &Doc {
        match (&self.task.examples, &self.pool) {
            (Examples::Given(own), _) => &own[index],
            (_, Some(pool)) => &pool.docs[index],
            (_, None) => unreachable!("examples are drawn from a pool"),
        }
    }

    fn prompt(&self, style: &Style<'_>, turn: &Turn) -> Result<Prompt> {
        let examples: Vec<&Doc> = turn.examples.iter().map(|i| self.example(*i)).collect();
        let doc = &self.docs.docs[turn.row];
        let written = prompt::write(&self.task, style, &examples, doc)?;
        if let super::Answer::Choices { choices, .. } | super::Answer::Labels { choices, .. } = &doc.answer
            && let Some(empty) = choices.iter().position(String::is_empty)
        {
            return Err(self.bad_doc(turn.row, format!("has an empty choice {empty}")));
        }
        Ok(written)
    }

    /// Digest of the examples that the task brings along, with what stands
    /// before them.
    fn own_examples(&self) -> Option<String> {
        let Examples::Given(own) = &self.task.examples else { return None };
        let value = json!({"description": self.task.description, "examples": own});
        Some(digest::of_json(&value))
    }

    fn bad_doc(&self, row: usize, problem: String) -> BenchError {
        BenchError::Doc { path: self.docs.path.clone(), row, task: self.task.name.clone(), problem }
    }

    /// Says which row an error is about.
    fn at_row<T>(&self, row: usize, result: Result<T>) -> Result<T> {
        result.map_err(|error| match error {
            BenchError::Continuation { text, problem } => {
                self.bad_doc(row, format!("has the answer {text:?}, which {problem}"))
            }
            BenchError::Text(error) => self.bad_doc(row, format!("does not fit the chat template ({error})")),
            other => other,
        })
    }
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<'a> Evaluator<'a> {
    /// Finds the model and reads its tokenizer.
    ///
    /// # Errors
    /// When the model is missing or its files are damaged.
    pub fn new(graph: &'a Graph<'a>, id: &'a ModelId) -> Result<Self> {
        let model = graph.model(id)?;
        model.verify()?;
        let codec = match graph.run.eval.apply_chat_template {
            true => Codec::of_run(&model.dir, graph.chat()?)?,
            false => Codec::plain(&model.dir)?,
        };
        let config = spin_model::ModelConfig::load(&model.dir)?;
        codec.check_vocab(config.vocab_size)?;
        Ok(Self { graph, id, model, codec, context: config.max_position_embeddings, weights: OnceCell::new() })
    }

    fn config(&self) -> &EvalConfig {
        &self.graph.run.eval
    }

    fn weights(&self) -> Result<&CausalLm> {
        if let Some(weights) = self.weights.get() {
            return Ok(weights);
        }
        let dtype = match self.config().dtype.as_str() {
            "bf16" => DType::BF16,
            "f16" => DType::F16,
            _ => DType::F32,
        };
        let model = CausalLm::load(&self.model.dir, &Device::Cpu, dtype)?;
        Ok(self.weights.get_or_init(|| model))
    }

    fn style(&self) -> Style<'_> {
        let config = self.config();
        Style {
            chat: config.apply_chat_template.then_some(&self.codec),
            multiturn: config.fewshot_as_multiturn,
            system_instruction: &config.system_instruction,
        }
    }

    fn encoder(&self) -> Result<Encoder<'_>> {
        Encoder::new(&self.codec, self.config().profile, self.context)
    }

    /// Reads a unit's data and draws its examples.
    ///
    /// # Errors
    /// When data is missing or has a bad row.
    pub fn prepare(&self, unit: Unit) -> Result<Prepared> {
        let config = self.config();
        let data = self.graph.run.resolve(&config.data);
        let mut warnings = Vec::new();
        let mut tasks = Vec::with_capacity(unit.tasks.len());
        for task in unit.tasks {
            let shots = config.num_fewshot.filter(|_| !task.fixed_shots).unwrap_or(task.num_fewshot);
            let docs = dataset::read_split(&task, &data, &task.split)?;
            let pool = match (&task.examples, &task.fewshot_split) {
                (Examples::Given(_), _) => None,
                _ if shots == 0 => None,
                (_, Some(split)) => Some(dataset::read_split(&task, &data, split)?),
                (_, None) => None,
            };
            for split in [Some(&docs), pool.as_ref()].into_iter().flatten() {
                if let Some(warning) = &split.warning {
                    warnings.push(format!("{}: {} {warning}", task.name, split.path.display()));
                }
            }
            let pool_rows = pool.as_ref().map(|pool| pool.row_digests.as_slice()).unwrap_or_default();
            let turns = prompt::turns(&task, config.profile, &docs.row_digests, pool_rows, shots, config.limit)?;
            tasks.push(PreparedTask { task, shots, docs, pool, turns });
        }
        Ok(Prepared { name: unit.name, warnings, tasks })
    }

    /// What decides a unit's prompts and results, beside run file and model.
    fn inputs<'u>(unit: &'u Prepared) -> UnitInputs<'u> {
        let tasks = unit.tasks.iter().map(|task| {
            json!({
                "name": task.task.name,
                "version": task.task.version,
                "num_fewshot": task.shots,
                "declaration": task.task.declaration,
                "examples": task.own_examples(),
            })
        });
        let mut data = Vec::new();
        for task in &unit.tasks {
            for split in [Some(&task.docs), task.pool.as_ref()].into_iter().flatten() {
                let name = split.path.file_name().map_or_else(|| "-".into(), |n| n.to_string_lossy().into_owned());
                data.push(Parent {
                    role: format!("data {}", task.task.name),
                    reference: format!("file:{name}"),
                    content: split.file_digest.clone(),
                });
            }
        }
        UnitInputs {
            name: &unit.name,
            tasks: tasks.collect(),
            data,
            generates: Self::generates(unit),
            is_whole: unit.tasks.iter().all(|task| task.turns.len() == task.docs.docs.len()),
        }
    }

    /// Whether a unit needs generated answers.
    pub fn generates(unit: &Prepared) -> bool {
        unit.tasks.iter().any(|task| task.task.generation.is_some())
    }

    /// Makes the prompts of a unit that needs generated answers, for
    /// `spin-sample --eval`; the flag is false when they were there.
    ///
    /// # Errors
    /// When a prompt cannot be written, or the disk is full.
    pub fn requests(&self, unit: &Prepared, context: &Context<'_>) -> Result<(Artifact, bool)> {
        let recipe = self.graph.requests_recipe(self.id, &Self::inputs(unit))?;
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

    fn max_gen_toks(&self, generation: &Generation) -> usize {
        self.config().max_gen_toks.unwrap_or(generation.max_gen_toks)
    }

    /// Evaluates a unit; also gives what computing it took: nothing for tasks
    /// whose answers were generated. Progress is in documents.
    ///
    /// # Errors
    /// Bad documents, missing answers, a broken model, a full disk; finished
    /// parts stay.
    pub fn evaluate(&self, unit: &Prepared, context: &Context<'_>) -> Result<(Outcome, ScoreStats)> {
        let inputs = Self::inputs(unit);
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
    ) -> Result<Step> {
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
                    return Ok(Step::Leave(Left::Stopped(format!("{done} of {total} documents"))));
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
        self.assemble(unit, plan.len(), making).map(Step::Publish)
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

    fn score(
        &self,
        task: &PreparedTask,
        turns: &[Turn],
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<(Vec<EvaluationRow>, ScoreStats)> {
        let (style, encoder) = (self.style(), self.encoder()?);
        let encode = |turn: &Turn| {
            let written = task.prompt(&style, turn).and_then(|written| {
                let encoded = encoder.requests(written.requests())?;
                Ok((written, encoded))
            });
            task.at_row(turn.row, written)
        };
        let encoded: Vec<(Prompt, Vec<Encoded>)> = turns.par_iter().map(encode).collect::<Result<_>>()?;
        let requests: Vec<ScoreRequest<'_>> = encoded
            .iter()
            .flat_map(|(_, requests)| requests)
            .map(|request| ScoreRequest { tokens: &request.tokens, continuation: request.continuation })
            .collect();
        let config = self.config();
        let rounding = match config.softmax_dtype {
            SoftmaxDtype::Float32 => Rounding::None,
            SoftmaxDtype::Bfloat16 => Rounding::BFloat16,
            SoftmaxDtype::Float16 => Rounding::Float16,
        };
        let options = ScoreOptions { max_rows: config.max_batch_tokens, rounding, ..ScoreOptions::default() };
        // Requests are done in the tree's order, so documents are counted by
        // their share.
        let (all, docs) = (requests.len().max(1), turns.len());
        let mut progress = |requests: usize| on_progress(requests * docs / all);
        let (scores, stats) = self.weights()?.score(&requests, &options, &mut progress)?;
        let mut scores = scores.into_iter();
        let mut rows = Vec::with_capacity(turns.len());
        for (turn, (written, encoded)) in turns.iter().zip(&encoded) {
            let doc = &task.docs.docs[turn.row];
            let mut row = EvaluationRow {
                task: task.task.name.clone(),
                doc_id: u32::try_from(turn.row).unwrap_or(u32::MAX),
                prompt_hash: sha256(&written.contexts[0]),
                continuations: written.continuations.clone(),
                dropped_system: written.dropped_system,
                metrics: task.task.metric_names(),
                merged_boundaries: encoded.iter().filter(|request| request.merged).count() as u32,
                ..EvaluationRow::default()
            };
            for request in encoded {
                let score = scores.next().expect("one score for each request");
                row.context_tokens.push((request.tokens.len() - request.continuation) as u32);
                row.truncated_tokens.push(request.truncated as u32);
                row.continuation_tokens.push(request.continuation as u32);
                row.logps.push(rounding.sum(&score.token_logps));
                row.is_greedy.push(score.is_greedy);
            }
            if row.logps.iter().any(|logp| !logp.is_finite()) {
                let doc = format!("document {}", turn.row);
                return Err(BenchError::NotFinite { task: task.task.name.clone(), doc });
            }
            let measured = measure::choices(&task.task, config.profile, doc, &row.logps);
            (row.prediction, row.gold, row.values) = (measured.prediction, measured.gold, measured.values);
            rows.push(row);
        }
        Ok((rows, stats))
    }

    fn read_answers(
        &self,
        task: &PreparedTask,
        generation: &Generation,
        turns: &[Turn],
        answers: &[Sample],
    ) -> Result<Vec<EvaluationRow>> {
        let (style, encoder) = (self.style(), self.encoder()?);
        // The harness also cuts at the text of the end-of-sequence token.
        let mut until = generation.until.clone();
        until.push(self.codec.decode_all(&[self.codec.primary_eos()])?);
        let by_row: std::collections::HashMap<&str, &Sample> = answers.iter().map(|s| (s.row_id.as_str(), s)).collect();
        let mut rows = Vec::with_capacity(turns.len());
        for turn in turns {
            let written = task.at_row(turn.row, task.prompt(&style, turn))?;
            let id = row_id(&task.task, turn.row);
            let answer = by_row.get(id.as_str()).ok_or_else(|| BenchError::Row {
                row_id: id.clone(),
                table: "the generated answers".into(),
                problem: "is missing".into(),
                remedy: "run spin-sample --eval again".into(),
            })?;
            let (prompt_ids, truncated) = encoder.generation(&written.contexts[0], self.max_gen_toks(generation))?;
            if answer.prompt_ids != prompt_ids {
                return Err(BenchError::Row {
                    row_id: id,
                    table: "the generated answers".into(),
                    problem: "answers another prompt".into(),
                    remedy: "publish the prompts again with --requests, then run spin-sample --eval".into(),
                });
            }
            let text = self.codec.decode(&answer.response_ids)?;
            let text = filter::cut(&text, &until);
            let measured = measure::generated(generation, &task.docs.docs[turn.row], text);
            rows.push(EvaluationRow {
                task: task.task.name.clone(),
                doc_id: u32::try_from(turn.row).unwrap_or(u32::MAX),
                prompt_hash: sha256(&written.contexts[0]),
                context_tokens: vec![prompt_ids.len() as u32],
                truncated_tokens: vec![truncated as u32],
                continuation_tokens: vec![answer.response_ids.len() as u32],
                response: Some(text.to_owned()),
                dropped_system: written.dropped_system,
                prediction: measured.prediction,
                gold: measured.gold,
                metrics: task.task.metric_names(),
                values: measured.values,
                ..EvaluationRow::default()
            });
        }
        Ok(rows)
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
                    |split: &Split, name: &str| (format!("{}/{name}", task.task.name), json!(split.docs_digest));
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

/// Names a document's prompt.
fn row_id(task: &Task, row: usize) -> String {
    format!("{}/{row}", task.name)
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
