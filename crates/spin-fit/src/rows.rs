//! The rows of a training, read and checked.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use spin_model::ModelConfig;
use spin_run::graph::{Graph, ModelId, Split};
use spin_run::run::FitConfig;
use spin_run::schema::{Demonstration, Pair, Row, Sample};
use spin_store::{Artifact, Verified};
use spin_text::Codec;

use crate::data::{self, Example};
use crate::error::{FitError, Result};

/// What is trained on, and the table it is from.
pub(crate) enum Rows {
    /// Pairs, without their reference yet.
    Pairs(Vec<Pair>, String),
    /// Rows of a supervised training.
    Examples(Vec<Example>, String),
}

impl Rows {
    /// Checks that something is left to train on.
    pub(crate) fn check(&self, config: &FitConfig, facts: &Map<String, Value>) -> Result<()> {
        let (ids, table): (BTreeSet<&str>, _) = match self {
            Rows::Pairs(rows, table) => (rows.iter().map(|p| p.row_id.as_str()).collect(), table),
            Rows::Examples(rows, table) => (rows.iter().map(|e| e.row_id.as_str()).collect(), table),
        };
        let held_out = if config.eval_every > 0 { config.eval_rows } else { 0 };
        if ids.len() > held_out {
            return Ok(());
        }
        let dropped = facts.get("dropped_over_length").map_or_else(String::new, |n| format!(", {n} too long"));
        Err(FitError::NoRows {
            table: table.clone(),
            why: format!("{} rows fit{dropped}, {held_out} are to be held out", ids.len()),
            remedy: if ids.is_empty() { "raise template.max_length" } else { "lower eval_rows" }.into(),
        })
    }
}

/// Pairs that the model can read.
pub(crate) fn read_pairs(pairs: &Artifact, model: &Verified) -> Result<Vec<Pair>> {
    let rows = Pair::read_all(pairs)?;
    let config = ModelConfig::load(model.dir())?;
    data::check_pairs(&rows, config.vocab_size, config.max_position_embeddings, &pairs.reference())?;
    Ok(rows)
}

/// Pairs of an objective without a reference, with θ0's answers where those
/// are in the loss.
pub(crate) fn without_reference(
    graph: &Graph<'_>,
    id: &ModelId,
    start: &Verified,
    pairs: Vec<Pair>,
    facts: &mut Map<String, Value>,
) -> Result<Vec<Example>> {
    if !graph.has_initial(id)? {
        return Ok(data::of_pairs_alone(pairs, Vec::new(), 0).0);
    }
    let samples = graph.samples(0)?;
    let context = ModelConfig::load(start.dir())?.max_position_embeddings;
    let (examples, with) = data::of_pairs_alone(pairs, Sample::read_all(&samples)?, context);
    facts.insert("pairs_with_initial_answer".into(), json!(with));
    Ok(examples)
}

/// Rows of a supervised training, and the table they are from.
pub(crate) fn demonstrations(graph: &Graph<'_>, start: &Verified, facts: &mut Map<String, Value>) -> Result<Rows> {
    let artifact = graph.demonstrations(Split::Train)?;
    let config = ModelConfig::load(start.dir())?;
    let codec = Codec::of_run(start.dir(), graph.chat()?)?;
    codec.check_vocab(config.vocab_size)?;
    let template = &graph.run.template;
    let context = config.max_position_embeddings;
    let rows = Demonstration::read_all(&artifact)?;
    let (examples, dropped) = data::of_demonstrations(&rows, &codec, template, context, &artifact.reference())?;
    facts.insert("dropped_over_length".into(), json!(dropped));
    Ok(Rows::Examples(examples, artifact.reference()))
}

/// Rows to train on and rows held out.
pub(crate) fn split(
    examples: Vec<Example>,
    config: &FitConfig,
    facts: &mut Map<String, Value>,
) -> (Vec<Example>, Vec<Example>) {
    if config.eval_every == 0 {
        return (examples, Vec::new());
    }
    let (examples, held_out) = data::hold_out(examples, config.eval_rows);
    facts.insert("held_out".into(), json!(held_out.len()));
    (examples, held_out)
}
