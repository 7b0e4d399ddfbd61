//! The stage: tokenise the demonstrations, join, publish, a part of the demonstrations
//! at a time.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use spin_run::ModelShape;
use spin_run::graph::{Graph, ModelId, PairsOf, Product, Split};
use spin_run::schema::{Demonstration, Pair, PairColumns, PairKey, Pairs};
use spin_store::{Artifact, Context, Making, Staged, table};
use spin_text::Codec;

use crate::chunks::{Chunk, Chunks, InTokens, Spread, check_counted};
use crate::error::{PairError, Result};
use crate::join::{self, FATES, JoinResult, Rules, SampleTable};

/// Fates of samples whose row no demonstration has.
const FAILED: &str = FATES[0];
const NO_DEMONSTRATION: &str = FATES[1];

/// Rows per part.
const ROWS_PER_PART: usize = 65_536;

/// Makes the pairs of iteration `t`; the flag is false when they were there.
///
/// # Errors
/// Missing inputs, rows that cannot be tokenised, nothing left to learn from.
pub fn run(graph: &Graph<'_>, t: usize, context: &Context<'_>) -> Result<(Artifact, bool)> {
    run_with(graph, t, context, None)
}

/// The same where somebody has the demonstrations in tokens; benchmarks ask what the rest takes.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    graph: &Graph<'_>,
    t: usize,
    context: &Context<'_>,
    in_tokens: Option<&InTokens<'_>>,
) -> Result<(Artifact, bool)> {
    graph.run.check_iteration(t)?;
    let recipe = graph.recipe(&Product::Pairs(PairsOf::Iteration(t)))?;
    context.make(&recipe, |making| assemble(graph, t, making, in_tokens))
}

fn assemble(graph: &Graph<'_>, t: usize, making: &Making<'_>, in_tokens: Option<&InTokens<'_>>) -> Result<Staged> {
    let model = graph.model(&ModelId::Iteration(t))?.verified_where(ModelShape::is_beside_weights)?;
    let codec = Codec::of_run(model.dir(), graph.chat()?)?;
    let context = ModelShape::read(model.dir())?.context;
    let demonstrations = graph.demonstrations(Split::Train)?;
    let template = &graph.run.template;
    let parts = demonstrations.verified()?.parts();
    let own = |row: &Demonstration| codec.exchange_ids(&row.prompt, &row.response);
    let mut chunks = Chunks::new(parts, in_tokens.unwrap_or(&own), template, context, demonstrations.reference());
    // Samples of one chunk need no places.
    let places = if chunks.count() > 1 { Some(chunks.places()?) } else { None };
    let pair = graph.run.pair_at(t)?;
    let rules = Rules {
        eos: codec.eos_ids(),
        max_length: template.max_length,
        of_these_rows: places.is_some(),
        min_identical: pair.min_identical,
    };
    let mut counts: BTreeMap<String, u64> = FATES.map(|fate| (fate.to_owned(), 0)).into();
    let mut overlong = vec![0; chunks.count()];
    let mut writer = Writer::new(making)?;
    for i in graph.window(t)? {
        let samples = graph.samples(i)?.verified()?;
        let iteration = u32::try_from(i).expect("few iterations");
        let table = SampleTable { iteration, reference: samples.reference(), parts: samples.parts() };
        let spread = match &places {
            Some(places) => places.spread(&table, chunks.count())?,
            None => Spread { parts: vec![table.parts.clone()], ..Spread::default() },
        };
        let before: u64 = counts.values().sum();
        for (number, parts) in spread.parts.into_iter().enumerate() {
            let chunk = chunks.get(number)?;
            overlong[number] = chunk.overlong;
            if parts.is_empty() {
                continue;
            }
            let joined = join::join(&chunk.real, &SampleTable { parts, ..table.clone() }, rules)?;
            for (fate, count) in &joined.counts {
                *counts.entry(fate.clone()).or_default() += count;
            }
            writer.extend(&Kept { iteration, chunk, joined: &joined }, joined.pairs.len())?;
        }
        let (unknown, failed) = spread.unknown;
        *counts.entry(NO_DEMONSTRATION.into()).or_default() += unknown;
        *counts.entry(FAILED.into()).or_default() += failed;
        if places.is_some() {
            check_counted(&table.reference, counts.values().sum::<u64>() - before, spread.samples)?;
        }
    }
    let samples: u64 = counts.values().sum();
    if writer.rows == 0 {
        return Err(PairError::NothingLeft { samples, drops: drops(&counts) });
    }
    let mut facts = Map::new();
    facts.insert("samples".into(), json!(samples));
    facts.insert("fates".into(), json!(counts));
    let overlong: u64 = overlong.iter().sum();
    facts.insert("demonstrations_without_sample_prompt_overlong".into(), json!(overlong));
    // The natural stopping signal of the game: an opponent that says what the
    // human said leaves nothing to tell apart.
    facts.insert("identical_share".into(), json!(counts["identical"] as f64 / samples.max(1) as f64));
    writer.staged(facts)
}

/// Counts by reason, for a message.
pub(crate) fn drops(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(fate, count)| format!("{fate} {count}")).collect::<Vec<_>>().join(", ")
}

/// Pairs in parts, with one part in memory.
struct Writer {
    dir: tempfile::TempDir,
    identity: String,
    waiting: PairColumns,
    parts: usize,
    rows: u64,
}

impl Writer {
    fn new(making: &Making<'_>) -> Result<Self> {
        let (dir, identity) = (making.staging()?, making.recipe.identity());
        Ok(Writer { dir, identity, waiting: PairColumns::default(), parts: 0, rows: 0 })
    }

    /// Adds so many pairs, and writes what makes a part.
    fn extend<P: Pairs + ?Sized>(&mut self, pairs: &P, count: usize) -> Result<()> {
        let mut done = 0;
        while done < count {
            let some = (ROWS_PER_PART - self.waiting.len()).min(count - done);
            self.waiting.extend(pairs, done..done + some);
            done += some;
            if self.waiting.len() == ROWS_PER_PART {
                self.write()?;
            }
        }
        self.rows += count as u64;
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        if !self.waiting.is_empty() {
            let path = self.dir.path().join(table::part_name(self.parts));
            self.waiting.write_part(&path, &self.identity, self.parts)?;
            self.parts += 1;
        }
        Ok(())
    }

    fn staged(mut self, facts: Map<String, Value>) -> Result<Staged> {
        self.write()?;
        Ok(Staged::new(self.dir, facts))
    }
}

/// What a join kept, as pairs.
struct Kept<'a> {
    iteration: u32,
    chunk: &'a Chunk,
    joined: &'a JoinResult,
}

impl Kept<'_> {
    fn with<'a>(&'a self, number: usize, answer: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.chunk.prompt(self.joined.pairs[number].row).chain([("assistant", answer)])
    }
}

impl Pairs for Kept<'_> {
    fn key(&self, number: usize) -> PairKey<'_> {
        let pair = &self.joined.pairs[number];
        let row_id = self.chunk.real.row_ids.value(pair.row);
        PairKey { row_id, iteration: self.iteration, sample_index: pair.sample_index }
    }

    fn real(&self, number: usize) -> impl Iterator<Item = (&str, &str)> {
        self.with(number, self.chunk.response(self.joined.pairs[number].row))
    }

    fn generated(&self, number: usize) -> impl Iterator<Item = (&str, &str)> {
        self.with(number, self.joined.response(&self.joined.pairs[number]))
    }

    fn ids(&self, number: usize) -> [&[u32]; 3] {
        let (pair, real) = (&self.joined.pairs[number], &self.chunk.real);
        [real.prompt_ids.get(pair.row), real.real_ids.get(pair.row), self.joined.generated_ids(pair)]
    }
}

/// Pairs that are there already, in parts.
pub(crate) fn staged(making: &Making<'_>, pairs: &[Pair], facts: Map<String, Value>) -> Result<Staged> {
    let mut writer = Writer::new(making)?;
    writer.extend(pairs, pairs.len())?;
    writer.staged(facts)
}
