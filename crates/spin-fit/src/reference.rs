//! The opponent's log-probabilities, computed once before the first update
//! and stored, so that the opponent is never a second model in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};
use spin_model::{Batch, CausalLm};
use spin_store::graph::Graph;
use spin_store::schema::{Pair, ReferenceRow, Row};
use spin_store::{Artifact, table};

use crate::error::Result;

/// Pairs per part: what a restart may lose.
const PAIRS_PER_PART: usize = 4096;

/// Summed log-probabilities of answers, in order.
///
/// # Errors
/// When an answer does not fit the model.
pub fn logps(model: &CausalLm, answers: &[(&[u32], &[u32])], micro_batch: usize) -> Result<Vec<f64>> {
    let mut out = Vec::with_capacity(answers.len());
    for chunk in answers.chunks(micro_batch) {
        let batch = Batch::new(chunk.iter().copied())?;
        let tokens = model.response_token_logps(&batch)?;
        out.extend(tokens.into_iter().map(|t| t.into_iter().map(f64::from).sum::<f64>()));
    }
    Ok(out)
}

/// Computes or reads back the reference of iteration `t`. `None` when a stop
/// was asked for; the parts so far are kept.
///
/// # Errors
/// When an answer does not fit the model, or the disk is full.
pub fn run(
    graph: &Graph<'_>,
    t: usize,
    model: &CausalLm,
    pairs: &[Pair],
    stop: &AtomicBool,
    environment: &dyn Fn() -> Map<String, Value>,
    on_progress: &mut dyn FnMut(u64, u64),
) -> Result<Option<Artifact>> {
    let recipe = graph.reference_recipe(t)?;
    let identity = recipe.identity();
    if let Some(found) = graph.store.find(&recipe)? {
        graph.store.discard_work(&identity)?;
        return Ok(Some(found));
    }
    let micro_batch = graph.run.fit_at(t)?.micro_batch_size;
    let work = graph.store.work(&identity)?;
    let mut parts = Vec::new();
    for (i, chunk) in pairs.chunks(PAIRS_PER_PART).enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        on_progress((i * PAIRS_PER_PART) as u64, pairs.len() as u64);
        let name = table::part_name(i);
        let path = work.path(&name);
        if !(work.has(&name) && ReferenceRow::read_part(&path).is_ok_and(|rows| rows.len() == chunk.len())) {
            ReferenceRow::write_part(&path, &rows_of(model, chunk, micro_batch)?, &identity, i)?;
        }
        parts.push((name, path));
    }
    let staged = graph.store.staging()?;
    for (name, path) in parts {
        std::fs::copy(&path, staged.path().join(name)).map_err(spin_store::StoreError::io("copy", &path))?;
    }
    let mut facts = Map::new();
    facts.insert("pairs".into(), json!(pairs.len()));
    let artifact = graph.store.publish(staged, &recipe, facts, environment())?;
    graph.store.discard_work(&identity)?;
    Ok(Some(artifact))
}

/// One part. A row's real answer stands in many pairs and is computed once.
fn rows_of(model: &CausalLm, pairs: &[Pair], micro_batch: usize) -> Result<Vec<ReferenceRow>> {
    let mut real_index: HashMap<&str, usize> = HashMap::new();
    let mut real: Vec<(&[u32], &[u32])> = Vec::new();
    for pair in pairs {
        real_index.entry(&pair.row_id).or_insert_with(|| {
            real.push((&pair.prompt_ids, &pair.real_ids));
            real.len() - 1
        });
    }
    let generated: Vec<(&[u32], &[u32])> =
        pairs.iter().map(|p| (p.prompt_ids.as_slice(), p.generated_ids.as_slice())).collect();
    let real = logps(model, &real, micro_batch)?;
    let generated = logps(model, &generated, micro_batch)?;
    Ok(pairs
        .iter()
        .zip(generated)
        .map(|(pair, generated_logps)| ReferenceRow {
            row_id: pair.row_id.clone(),
            iteration: pair.iteration,
            sample_index: pair.sample_index,
            real_logps: real[real_index[pair.row_id.as_str()]],
            generated_logps,
        })
        .collect())
}
