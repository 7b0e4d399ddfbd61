//! The prompts of a task with what each of them is to get.

use spin_store::Artifact;
use spin_store::graph::Graph;
use spin_store::run::{Overlong, SampleConfig};
use spin_store::schema::{Demonstration, RequestRow, Row as _};
use spin_text::Codec;

use crate::choose::Decoding;
use crate::error::{Result, SampleError};

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
        /// Element type of weights and activations: `f32`, `bf16` or `f16`.
        dtype: String,
        /// Answers per part.
        rows_per_part: usize,
    },
}

/// A row to answer.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub row_id: String,
    pub ids: Vec<u32>,
    pub decoding: Decoding,
    pub max_new_tokens: usize,
    pub until: Vec<String>,
}

impl Prompts {
    /// Element type of weights and activations.
    pub fn dtype(&self) -> &str {
        match self {
            Prompts::Demonstrations { config, .. } => &config.dtype,
            Prompts::Requests { dtype, .. } => dtype,
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

    /// All rows for a model that reads `context` tokens; `None` for a row that
    /// is left out because it is too long.
    pub(crate) fn read(&self, graph: &Graph<'_>, codec: &Codec, context: usize) -> Result<Vec<Option<Row>>> {
        match self {
            Prompts::Demonstrations { table, config } => {
                let rows = Demonstration::read_all(table)?.into_iter();
                rows.map(|row| demonstration(graph, table, config, codec, context, row)).collect()
            }
            Prompts::Requests { table, .. } => {
                let rows = RequestRow::read_all(table)?.into_iter();
                rows.map(|row| request(table, context, row).map(Some)).collect()
            }
        }
    }
}

fn bad_row(table: &Artifact, row_id: &str, problem: impl Into<String>, remedy: &str) -> SampleError {
    SampleError::Row { row_id: row_id.into(), table: table.reference(), problem: problem.into(), remedy: remedy.into() }
}

fn demonstration(
    graph: &Graph<'_>,
    table: &Artifact,
    config: &SampleConfig,
    codec: &Codec,
    context: usize,
    row: Demonstration,
) -> Result<Option<Row>> {
    let template = &graph.run.template;
    let ids = codec.prompt_ids(&row.prompt)?;
    if ids.is_empty() {
        let remedy = "remove the row, or use a template that writes something around it";
        return Err(bad_row(table, &row.row_id, "its prompt gives no tokens", remedy));
    }
    if ids.len() <= template.max_prompt_length.min(context - 1) {
        return Ok(Some(Row {
            row_id: row.row_id,
            decoding: Decoding { temperature: config.temperature, top_k: config.top_k, top_p: config.top_p },
            max_new_tokens: config.max_new_tokens.min(context - ids.len()),
            ids,
            until: Vec::new(),
        }));
    }
    match template.overlong {
        Overlong::Drop => Ok(None),
        Overlong::Error => {
            let problem = format!(
                "its prompt has {} tokens, more than template.max_prompt_length = {} or the model's context of {context} allow",
                ids.len(),
                template.max_prompt_length
            );
            let remedy = "raise the length, remove the row, or set template.overlong = \"drop\"";
            Err(bad_row(table, &row.row_id, problem, remedy))
        }
    }
}

fn request(table: &Artifact, context: usize, row: RequestRow) -> Result<Row> {
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
    if !(row.temperature >= 0.0 && row.temperature.is_finite()) {
        let problem = format!("its temperature is {}", row.temperature);
        return Err(bad_row(table, &row.row_id, problem, "give 0 for greedy, or a positive number"));
    }
    let room = (context - length).max(1);
    Ok(Row {
        row_id: row.row_id,
        ids: row.prompt_ids,
        decoding: Decoding { temperature: row.temperature, top_k: 0, top_p: 1.0 },
        max_new_tokens: (row.max_new_tokens as usize).min(room),
        until: row.until,
    })
}
