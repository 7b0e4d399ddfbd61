//! The prompts of a task with what each of them is to get.

use std::sync::Arc;

use spin_run::ModelShape;
use spin_run::graph::Graph;
use spin_run::run::{Dtype, EngineKind, PromptFate, SampleConfig};
use spin_run::schema::{Demonstration, RequestRow, Row as _};
use spin_store::Artifact;
use spin_text::Codec;

use crate::choose::SamplingParams;
use crate::error::{Result, SampleError};
use crate::stop::StopTexts;

/// Where the prompts of a task are from.
#[derive(Clone, Debug)]
pub enum Prompts {
    /// Conversations of a human, all answered in the same way.
    Demonstrations {
        /// The table.
        table: Artifact,
        /// How.
        config: SampleConfig,
    },
    /// Token ids of leaderboard tasks; each row says how it is answered.
    Requests {
        /// The table.
        table: Artifact,
        /// Element type of weights and activations.
        dtype: Dtype,
        /// Answers per part.
        rows_per_part: usize,
    },
}

/// A row to answer.
#[derive(Clone)]
pub(crate) struct Row {
    pub row_id: String,
    pub ids: Arc<[u32]>,
    pub decoding: SamplingParams,
    pub max_new_tokens: usize,
    pub stop_ids: Arc<[u32]>,
    pub stop: Option<Arc<StopTexts>>,
}

/// The rows of a task.
#[derive(Default)]
pub(crate) struct Rows {
    /// In the order of their table.
    pub rows: Vec<Row>,
    /// Rows that were left out as their prompts are too long.
    pub dropped: usize,
    /// Prompts that were cut.
    pub truncated: usize,
    /// Rows whose human answer fits into `template.max_length` behind its prompt.
    pub fitting: usize,
}

impl Prompts {
    /// Element type of weights and activations.
    pub fn dtype(&self) -> Dtype {
        match self {
            Prompts::Demonstrations { config, .. } => config.dtype,
            Prompts::Requests { dtype, .. } => *dtype,
        }
    }

    /// Answers to each prompt.
    pub fn samples_per_prompt(&self) -> u32 {
        match self {
            Prompts::Demonstrations { config, .. } => config.samples_per_prompt,
            Prompts::Requests { .. } => 1,
        }
    }

    /// Answers per part.
    pub fn rows_per_part(&self) -> usize {
        match self {
            Prompts::Demonstrations { config, .. } => config.rows_per_part,
            Prompts::Requests { rows_per_part, .. } => *rows_per_part,
        }
    }

    /// Share of the answers that may fail.
    pub fn max_failed(&self) -> f64 {
        match self {
            Prompts::Demonstrations { config, .. } => config.max_failed,
            // A score needs them all.
            Prompts::Requests { .. } => 0.0,
        }
    }

    /// Answers to be checked.
    pub fn check_rows(&self, graph: &Graph<'_>) -> usize {
        match self {
            Prompts::Demonstrations { config, .. } => config.check_rows,
            Prompts::Requests { .. } => graph.run.sample.check_rows,
        }
    }

    /// Who generates, as in `sample.engine`.
    pub fn engine(&self, graph: &Graph<'_>) -> EngineKind {
        match self {
            Prompts::Demonstrations { config, .. } => config.engine,
            Prompts::Requests { .. } => graph.run.sample.engine,
        }
    }

    /// All rows for a model of this shape.
    pub(crate) fn read(&self, graph: &Graph<'_>, codec: &Arc<Codec>, shape: ModelShape) -> Result<Rows> {
        let mut rows = Rows::default();
        match self {
            Prompts::Demonstrations { table, config } => {
                let stop = StopTexts::new(codec, &config.stop).map(Arc::new);
                let stop_ids = codec.eos_ids().iter().chain(&config.stop_token_ids).copied().collect();
                let shared = Shared { graph, table, config, codec, context: shape.context, stop, stop_ids };
                for row in Demonstration::read_all(table)? {
                    shared.add(row, &mut rows)?;
                }
            }
            Prompts::Requests { table, .. } => {
                let stop_ids: Arc<[u32]> = codec.eos_ids().into();
                for row in RequestRow::read_all(table)? {
                    rows.rows.push(request(table, codec, shape, &stop_ids, row)?);
                }
            }
        }
        Ok(rows)
    }
}

/// What the rows of a table of demonstrations share.
struct Shared<'a> {
    graph: &'a Graph<'a>,
    table: &'a Artifact,
    config: &'a SampleConfig,
    codec: &'a Codec,
    context: usize,
    stop: Option<Arc<StopTexts>>,
    stop_ids: Arc<[u32]>,
}

fn bad_row(table: &Artifact, row_id: &str, problem: impl Into<String>, remedy: &str) -> SampleError {
    SampleError::Row { row_id: row_id.into(), table: table.reference(), problem: problem.into(), remedy: remedy.into() }
}

impl Shared<'_> {
    fn add(&self, row: Demonstration, rows: &mut Rows) -> Result<()> {
        let Shared { graph, table, config, codec, context, stop, stop_ids } = self;
        // The human answer is looked at, too: what later stages would refuse is refused before
        // anything is generated.
        let (ids, answer) = codec
            .exchange_ids(&row.prompt, &row.response)
            .map_err(|error| error.in_row(&row.row_id, &table.reference()))?;
        let (ids, cut) = match graph.run.template.prompt(ids, *context) {
            PromptFate::Used(ids, cut) => (ids, cut),
            PromptFate::Dropped => {
                rows.dropped += 1;
                return Ok(());
            }
            PromptFate::TooLong(problem, remedy) => return Err(bad_row(table, &row.row_id, problem, remedy)),
        };
        if ids.is_empty() {
            let remedy = "remove the row, or use a template that writes something around it";
            return Err(bad_row(table, &row.row_id, "its prompt gives no tokens", remedy));
        }
        rows.truncated += usize::from(cut);
        rows.fitting += usize::from(ids.len() + answer.len() <= graph.run.template.max_length.min(*context));
        rows.rows.push(Row {
            row_id: row.row_id,
            decoding: SamplingParams {
                temperature: config.temperature,
                top_k: config.top_k,
                top_p: config.top_p,
                min_p: config.min_p,
                repetition_penalty: config.repetition_penalty,
            },
            max_new_tokens: config.max_new_tokens.min(context - ids.len()),
            ids: ids.into(),
            stop_ids: stop_ids.clone(),
            stop: stop.clone(),
        });
        Ok(())
    }
}

fn request(
    table: &Artifact,
    codec: &Arc<Codec>,
    shape: ModelShape,
    stop_ids: &Arc<[u32]>,
    row: RequestRow,
) -> Result<Row> {
    let context = shape.context;
    let length = row.prompt_ids.len();
    if length == 0 || length > context {
        // Prompts are cut to the context when they are published.
        let problem = format!("its prompt has {length} tokens, and the model reads 1 to {context}");
        let remedy = "publish the requests of this model again with `spin-bench eval --requests`";
        return Err(bad_row(table, &row.row_id, problem, remedy));
    }
    if row.max_new_tokens == 0 {
        return Err(bad_row(table, &row.row_id, "it asks for no tokens", "give max_new_tokens of at least 1"));
    }
    if let Some(id) = row.prompt_ids.iter().find(|id| **id as usize >= shape.vocab_size) {
        let problem = format!("its prompt has token {id}, and the model knows {}", shape.vocab_size);
        let remedy = "publish the requests of this model again with `spin-bench eval --requests`";
        return Err(bad_row(table, &row.row_id, problem, remedy));
    }
    if !(row.temperature == 0.0 || row.temperature >= 1e-6 && row.temperature.is_finite()) {
        let problem = format!("its temperature is {}", row.temperature);
        return Err(bad_row(table, &row.row_id, problem, "give 0 for greedy, or a positive number"));
    }
    let room = (context - length).max(1);
    Ok(Row {
        row_id: row.row_id,
        ids: row.prompt_ids.into(),
        decoding: SamplingParams { temperature: row.temperature, ..SamplingParams::PLAIN },
        max_new_tokens: (row.max_new_tokens as usize).min(room),
        stop_ids: stop_ids.clone(),
        stop: StopTexts::new(codec, &row.until).map(Arc::new),
    })
}
