//! The browser of pairs in a report: its rows, with the texts of their tokens.
//! All else of a report is `spin-report`'s.

mod pieces;

use std::collections::{BTreeMap, HashMap, HashSet};

use spin_noise::{fnv1a, mix};
use spin_report::names::{LOGP_MARGIN, NLL_PER_TOKEN};
use spin_report::report::browser::{Cell, Reply, Row, Source};
use spin_report::report::data::Run;
use spin_report::report::gather::{self, optional};
use spin_run::ModelShape;
use spin_run::graph::{Decoding, Graph, ModelId, Split};
use spin_run::run::{MARGIN, NLL};
use spin_run::schema::{Demonstration, Message, Pair, ReferenceRow, Row as _, Sample};
use spin_text::Codec;

use crate::error::Result;
use pieces::pieces;

/// The rows of a run to browse: held-out ones, and pairs that were trained on;
/// at most `limit` of each, chosen by a hash of their ids. `number` counts the
/// runs of the report.
///
/// # Errors
/// When what the store has of them is damaged.
pub fn sources(graph: &Graph<'_>, run: &Run, number: usize, limit: usize) -> Result<Vec<Source>> {
    if graph.run.data.is_none() {
        return Ok(Vec::new());
    }
    let Some(first) = optional(graph.model(&ModelId::Iteration(0)))? else { return Ok(Vec::new()) };
    let first = first.verified_where(ModelShape::is_beside_weights)?;
    let reader = Reader { graph, codec: Codec::of_run(first.dir(), graph.chat()?)?, limit };
    let found = [reader.held_out(run, number)?, reader.trained_on(run, number)?];
    Ok(found.into_iter().flatten().collect())
}

/// The first pair of each row in a round.
struct Round {
    /// The opponent.
    label: String,
    /// Its answers by row.
    samples: HashMap<String, Sample>,
    /// What it made of both answers, by row.
    reference: HashMap<String, ReferenceRow>,
}

struct Reader<'a> {
    graph: &'a Graph<'a>,
    codec: Codec,
    limit: usize,
}

/// A number that says which rows stay when not all can.
fn rank(row_id: &str) -> u64 {
    mix(fnv1a(row_id))
}

fn shown_row(row: &Demonstration, models: Vec<Cell>) -> Row {
    Row {
        id: row.row_id.clone(),
        rank: rank(&row.row_id),
        prompt: turns(&row.prompt),
        real: row.response.clone(),
        models,
    }
}

fn turns(messages: &[Message]) -> Vec<(String, String)> {
    messages.iter().map(|message| (message.role.clone(), message.content.clone())).collect()
}

impl Reader<'_> {
    fn held_out(&self, run: &Run, number: usize) -> Result<Option<Source>> {
        let Some(test) = optional(self.graph.demonstrations(Split::Test))? else { return Ok(None) };
        let rows = Demonstration::read_all(&test)?;
        let all = rows.len();
        let rows = self.chosen(rows);
        let wanted: HashSet<&str> = rows.iter().map(|row| row.row_id.as_str()).collect();
        let decodings = [Decoding::Sampled, Decoding::Greedy];
        let mut answers: Vec<(usize, Vec<HashMap<String, Sample>>)> = Vec::new();
        for id in self.graph.models() {
            let label = id.to_string();
            let Some(at) = run.models.iter().position(|model| model.label == label) else { continue };
            let mut of_model = Vec::new();
            for decoding in decodings {
                let samples = match optional(self.graph.bench_samples(&id, decoding))? {
                    Some(artifact) => Sample::read_all(&artifact)?,
                    None => Vec::new(),
                };
                let own = samples.into_iter().filter(|sample| wanted.contains(sample.row_id.as_str()));
                of_model.push(own.map(|sample| (sample.row_id.clone(), sample)).collect::<HashMap<_, _>>());
            }
            answers.push((at, of_model));
        }
        let shown: Vec<usize> =
            (0..decodings.len()).filter(|d| answers.iter().any(|(_, of_model)| !of_model[*d].is_empty())).collect();
        if shown.is_empty() {
            return Ok(None);
        }
        let measured: Vec<[BTreeMap<&str, f64>; 2]> = answers
            .iter()
            .map(|(at, _)| [(NLL, NLL_PER_TOKEN), (MARGIN, LOGP_MARGIN)].map(|(t, m)| run.models[*at].values(t, m)))
            .collect();
        let marks: Vec<Vec<BTreeMap<&str, f64>>> = answers
            .iter()
            .map(|(at, _)| {
                let of = |d: &usize| {
                    let column = run.board.right_or_wrong(decodings[*d]).map(|column| &run.board.measures[column]);
                    column.map_or_else(BTreeMap::new, |m| run.models[*at].values(&m.task, &m.metric))
                };
                shown.iter().map(of).collect()
            })
            .collect();
        let mut out = Vec::with_capacity(rows.len());
        for row in &rows {
            let id = row.row_id.as_str();
            let mut models = Vec::with_capacity(answers.len());
            for (((_, of_model), measured), marks) in answers.iter().zip(&measured).zip(&marks) {
                let mut replies = Vec::with_capacity(shown.len());
                for (d, marks) in shown.iter().zip(marks) {
                    let right = marks.get(id).map(|value| *value == 1.0);
                    replies.push(of_model[*d].get(id).map(|sample| self.reply(sample, right)).transpose()?);
                }
                let [nll, margin] = measured;
                models.push(Cell { nll: nll.get(id).copied(), margin: margin.get(id).copied(), replies });
            }
            out.push(shown_row(row, models));
        }
        Ok(Some(Source {
            name: format!("{}: held-out rows", run.name),
            id: format!("held-out-{number}"),
            models: answers.iter().map(|(at, _)| run.models[*at].label.clone()).collect(),
            decodings: shown.iter().map(|d| decodings[*d].name().to_owned()).collect(),
            margin: Some("log p(human answer) − log p(θ0's sampled answer)".into()),
            rows: out,
            all,
        }))
    }

    /// Rows whose pairs were trained on: beside the human answer the first
    /// answer of each round's opponent, with what it made of both.
    fn trained_on(&self, run: &Run, number: usize) -> Result<Option<Source>> {
        let Some(train) = optional(self.graph.demonstrations(Split::Train))? else { return Ok(None) };
        let mut rounds: Vec<Round> = Vec::new();
        let mut ids: HashSet<String> = HashSet::new();
        for t in 0..self.graph.run.rounds() {
            let Some(samples) = gather::samples(self.graph, t)? else { continue };
            let Some(pairs) = optional(self.graph.pairs(t))? else { continue };
            let t32 = u32::try_from(t).unwrap_or(u32::MAX);
            let mut own: HashMap<String, Pair> = HashMap::new();
            for pair in Pair::read_all(&pairs)?.into_iter().filter(|pair| pair.iteration == t32) {
                let known = own.get(&pair.row_id).map(|known| known.sample_index);
                if known.is_none_or(|known| pair.sample_index < known) {
                    own.insert(pair.row_id.clone(), pair);
                }
            }
            let is_own = |id: &str, index: u32| own.get(id).is_some_and(|pair| pair.sample_index == index);
            let samples = Sample::read_all(&samples)?.into_iter().filter(|s| is_own(&s.row_id, s.sample_index));
            let samples = samples.map(|sample| (sample.row_id.clone(), sample)).collect();
            let reference = match self.graph.has_reference(&ModelId::Iteration(t + 1))? {
                true => optional(self.graph.reference(t))?,
                false => None,
            };
            let reference = reference.map_or_else(|| Ok(Vec::new()), |artifact| ReferenceRow::read_all(&artifact))?;
            let reference = reference
                .into_iter()
                .filter(|row| row.iteration == t32 && is_own(&row.row_id, row.sample_index))
                .map(|row| (row.row_id.clone(), row))
                .collect();
            ids.extend(own.keys().cloned());
            rounds.push(Round { label: ModelId::Iteration(t).to_string(), samples, reference });
        }
        let mut rows = Demonstration::read_all(&train)?;
        rows.retain(|row| ids.contains(&row.row_id));
        let all = rows.len();
        if all == 0 {
            return Ok(None);
        }
        let mut out = Vec::new();
        for row in self.chosen(rows) {
            let id = row.row_id.as_str();
            let mut models = Vec::new();
            for Round { samples, reference, .. } in &rounds {
                let sample = samples.get(id);
                let known = reference.get(id);
                models.push(Cell {
                    nll: known.map(|row| -row.real_logps),
                    margin: known.map(|row| row.real_logps - row.generated_logps),
                    replies: vec![sample.map(|sample| self.reply(sample, None)).transpose()?],
                });
            }
            out.push(shown_row(&row, models));
        }
        Ok(Some(Source {
            name: format!("{}: pairs trained on, the first of each row", run.name),
            id: format!("trained-on-{number}"),
            models: rounds.into_iter().map(|round| round.label).collect(),
            decodings: vec!["sampled".into()],
            margin: Some("log p(human answer) − log p(generated answer), both of the opponent".into()),
            rows: out,
            all,
        }))
    }

    /// As many rows as may be shown, in their order.
    fn chosen(&self, mut rows: Vec<Demonstration>) -> Vec<Demonstration> {
        if rows.len() > self.limit {
            let mut ranks: Vec<u64> = rows.iter().map(|row| rank(&row.row_id)).collect();
            ranks.sort_unstable();
            let limit = ranks[self.limit];
            rows.retain(|row| rank(&row.row_id) < limit);
        }
        rows
    }

    fn reply(&self, sample: &Sample, right: Option<bool>) -> Result<Reply> {
        let is_end = |id: &u32| self.codec.eos_ids().contains(id);
        let count = sample.response_ids.iter().position(is_end).unwrap_or(sample.response_ids.len());
        let pieces = pieces(&self.codec, &sample.prompt_ids, &sample.response_ids[..count], &sample.response)?;
        let mut logps = sample.token_logps.clone();
        logps.truncate(if pieces.is_empty() { 0 } else { pieces.len() + 1 });
        Ok(Reply {
            text: sample.response.clone(),
            pieces,
            logps,
            logp: sample.logps,
            finish: sample.finish_reason.clone(),
            right,
        })
    }
}
