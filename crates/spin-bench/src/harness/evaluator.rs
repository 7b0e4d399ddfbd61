//! One model, and what it makes of documents.

use std::cell::OnceCell;

use candle_core::{DType, Device};
use rayon::prelude::*;
use spin_model::{CausalLm, Rounding, ScoreOptions, ScoreRequest, ScoreStats};
use spin_run::graph::{Graph, ModelId};
use spin_run::run::{Dtype, EvalConfig, SoftmaxDtype};
use spin_run::schema::{EvaluationRow, Sample};
use spin_store::{Verified, digest};
use spin_text::Codec;

use super::encode::{Encoded, Encoder};
use super::prepared::{Prepared, PreparedTask, row_id};
use super::prompt::{Prompt, Style, Turn};
use super::registry::Unit;
use super::{Generation, filter, measure};
use crate::error::{BenchError, Result};

/// Evaluates one model; loads its weights when the first part is missing.
pub struct Evaluator<'a> {
    pub(super) graph: &'a Graph<'a>,
    pub(super) id: &'a ModelId,
    model: Verified,
    pub(super) codec: Codec,
    pub(super) context: usize,
    device: Device,
    weights: OnceCell<CausalLm>,
}

impl<'a> Evaluator<'a> {
    /// Finds the model, which is to be computed on `device`, and reads its tokenizer.
    ///
    /// # Errors
    /// When the model is missing or its files are damaged.
    pub fn new(graph: &'a Graph<'a>, id: &'a ModelId, device: Device) -> Result<Self> {
        let model = graph.model(id)?.verified()?;
        let codec = match graph.run.eval.apply_chat_template {
            true => Codec::of_run(model.dir(), graph.chat()?)?,
            false => Codec::plain(model.dir())?,
        };
        let config = spin_model::ModelConfig::load(model.dir())?;
        codec.check_vocab(config.vocab_size)?;
        let (context, weights) = (config.max_position_embeddings, OnceCell::new());
        Ok(Self { graph, id, model, codec, context, device, weights })
    }

    pub(super) fn config(&self) -> &EvalConfig {
        &self.graph.run.eval
    }

    fn weights(&self) -> Result<&CausalLm> {
        if let Some(weights) = self.weights.get() {
            return Ok(weights);
        }
        let dtype = match self.config().dtype {
            Dtype::Bf16 => DType::BF16,
            Dtype::F16 => DType::F16,
            Dtype::F32 => DType::F32,
        };
        let model = CausalLm::load(self.model.dir(), &self.device, dtype)?;
        Ok(self.weights.get_or_init(|| model))
    }

    pub(super) fn style(&self) -> Style<'_> {
        let config = self.config();
        Style {
            chat: config.apply_chat_template.then_some(&self.codec),
            multiturn: config.fewshot_as_multiturn,
            system_instruction: &config.system_instruction,
        }
    }

    pub(super) fn encoder(&self) -> Result<Encoder<'_>> {
        Encoder::new(&self.codec, self.config().profile, self.context)
    }

    /// Reads a unit's data and draws its examples.
    ///
    /// # Errors
    /// When data is missing or has a bad row.
    pub fn prepare(&self, unit: Unit) -> Result<Prepared> {
        Prepared::read(self.graph.run, unit)
    }

    pub(super) fn max_gen_toks(&self, generation: &Generation) -> usize {
        self.config().max_gen_toks.unwrap_or(generation.max_gen_toks)
    }

    /// Scores documents by the likelihood of their choices.
    pub(super) fn score(
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
                prompt_hash: digest::sha256(written.contexts[0].as_bytes()),
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

    /// Measures documents by the answers that were generated for them.
    pub(super) fn read_answers(
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
                prompt_hash: digest::sha256(written.contexts[0].as_bytes()),
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
}
