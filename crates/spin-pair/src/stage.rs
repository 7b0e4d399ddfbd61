//! The stage: tokenise the demonstrations, join, publish.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use spin_run::ModelShape;
use spin_run::graph::{Graph, ModelId, PairsOf, Product, Split};
use spin_run::run::PromptFate;
use spin_run::schema::{Demonstration, Message, Pair, Row};
use spin_store::{Artifact, Context, Making, Staged, table};
use spin_text::{Codec, TextError};

use crate::error::{PairError, Result};
use crate::join::{self, Joined, RealAnswer, SampleTable};

/// Rows per part.
const ROWS_PER_PART: usize = 65_536;

/// Makes the pairs of iteration `t`; the flag is false when they were there.
///
/// # Errors
/// Missing inputs, rows that cannot be tokenised, nothing left to learn from.
pub fn run(graph: &Graph<'_>, t: usize, context: &Context<'_>) -> Result<(Artifact, bool)> {
    graph.run.check_iteration(t)?;
    context.make(&graph.recipe(&Product::Pairs(PairsOf::Iteration(t)))?, |making| assemble(graph, t, making))
}

fn assemble(graph: &Graph<'_>, t: usize, making: &Making<'_>) -> Result<Staged> {
    let model = graph.model(&ModelId::Iteration(t))?;
    let codec = Codec::of_run(&model.dir, graph.chat()?)?;
    let context = ModelShape::read(&model.dir)?.context;
    let demonstrations = graph.demonstrations(Split::Train)?;
    let table = demonstrations.reference();
    let demonstrations = Demonstration::read_all(&demonstrations)?;
    let mut tables = Vec::new();
    for i in graph.window(t)? {
        let samples = graph.samples(i)?;
        samples.verify()?;
        let iteration = u32::try_from(i).expect("few iterations");
        tables.push(SampleTable { iteration, reference: samples.reference(), parts: samples.parts() });
    }
    let template = &graph.run.template;
    let mut real = Vec::with_capacity(demonstrations.len());
    let mut overlong_prompts = 0u64;
    for row in &demonstrations {
        let in_row = |error: TextError| error.in_row(&row.row_id, &table);
        let (mut prompt_ids, real_ids) = codec.exchange_ids(&row.prompt, &row.response).map_err(in_row)?;
        match template.prompt(prompt_ids.clone(), context) {
            // What is cut was sampled from what is left of it.
            PromptFate::Used(cut, _) => prompt_ids = cut,
            PromptFate::Dropped => overlong_prompts += 1,
            // Such a row was refused when answers were sampled.
            PromptFate::TooLong(..) => {}
        }
        real.push(RealAnswer { row_id: row.row_id.clone(), prompt_ids, real_ids });
    }
    let joined = join::join(&real, &tables, codec.eos_ids(), template.max_length)?;
    let samples: u64 = joined.counts.values().sum();
    if joined.pairs.is_empty() {
        return Err(PairError::NothingLeft { samples, drops: drops(&joined.counts) });
    }
    let pairs = joined.pairs.iter().map(|j| pair(j, &real[j.row], &demonstrations[j.row]));
    let mut facts = Map::new();
    facts.insert("samples".into(), json!(samples));
    facts.insert("fates".into(), json!(joined.counts));
    facts.insert("demonstrations_without_sample_prompt_overlong".into(), json!(overlong_prompts));
    // The natural stopping signal of the game: an opponent that says what the
    // human said leaves nothing to tell apart.
    facts.insert("identical_share".into(), json!(joined.counts["identical"] as f64 / samples.max(1) as f64));
    staged(making, pairs, facts)
}

/// Counts by reason, for a message.
pub(crate) fn drops(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(fate, count)| format!("{fate} {count}")).collect::<Vec<_>>().join(", ")
}

/// Pairs in parts, with one part in memory.
pub(crate) fn staged(
    making: &Making<'_>,
    pairs: impl Iterator<Item = Pair>,
    facts: Map<String, Value>,
) -> Result<Staged> {
    let (staged, identity) = (making.staging()?, making.recipe.identity());
    let (mut pairs, mut part) = (pairs.peekable(), 0);
    while pairs.peek().is_some() {
        let rows: Vec<Pair> = pairs.by_ref().take(ROWS_PER_PART).collect();
        Pair::write_part(&staged.path().join(table::part_name(part)), &rows, &identity, part)?;
        part += 1;
    }
    Ok(Staged::new(staged, facts))
}

fn pair(joined: &Joined, real: &RealAnswer, demonstration: &Demonstration) -> Pair {
    let with = |answer: &str| {
        let mut messages = demonstration.prompt.clone();
        messages.push(Message::new("assistant", answer));
        messages
    };
    Pair {
        row_id: real.row_id.clone(),
        iteration: joined.iteration,
        sample_index: joined.sample_index,
        real: with(&demonstration.response),
        generated: with(&joined.response),
        prompt_ids: real.prompt_ids.clone(),
        real_ids: real.real_ids.clone(),
        generated_ids: joined.generated_ids.clone(),
    }
}
