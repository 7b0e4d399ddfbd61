//! Reads a run's part of a report out of the store.

use std::collections::BTreeMap;

use spin_run::graph::{Decoding, Graph, ModelId, PairsOf, Product, Split};
use spin_run::plan::{Options, Plan, shell_line};
use spin_run::schema::{Demonstration, MetricsRow, Row, Sample, ScoreRow};
use spin_store::{Artifact, StoreError};

use super::answers;
use super::data::{Answers, Model, Run, Training};
use super::leaderboard;
use super::lineage::{Lineages, Link};
use super::scores::Board;
use crate::error::Result;

/// What an artifact that need not be there is.
///
/// # Errors
/// When it is there and cannot be used.
pub fn optional<T>(found: std::result::Result<T, StoreError>) -> std::result::Result<Option<T>, StoreError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The samples that round `t` is paired from, where there are any: pairs of
/// demonstrations alone have none.
///
/// # Errors
/// When they are there and cannot be used.
pub fn samples(graph: &Graph<'_>, t: usize) -> std::result::Result<Option<Artifact>, StoreError> {
    let inputs = graph.planned_inputs(&Product::Pairs(PairsOf::Iteration(t)))?;
    match inputs.iter().any(|input| input.product == Product::Samples(t)) {
        true => optional(graph.samples(t)),
        false => Ok(None),
    }
}

/// Reads a run; what stands behind its numbers is added to `lineages`. `set` are
/// the overrides that its commands need.
///
/// # Errors
/// When nothing of it is scored yet, or what there is is damaged.
pub fn run(graph: &Graph<'_>, set: &[String], lineages: &mut Lineages) -> Result<Run> {
    let plan = Plan::new(graph, &Options { set: set.to_vec(), ..Options::default() })?;
    let makers: BTreeMap<String, String> = plan
        .steps
        .iter()
        .flat_map(|step| step.makes.iter().map(|node| (node.name.clone(), shell_line(&step.command))))
        .collect();
    let command = |name: &str| makers.get(name).cloned();
    let mut roots = Vec::new();
    let (models, missing) = scored(graph, &mut roots)?;
    let leaderboard = leaderboard::read(graph, &graph.models())?;
    if models.is_empty() && leaderboard.entries.is_empty() {
        // Says what is missing, and what makes it.
        graph.scores(&ModelId::Iteration(0))?;
    }
    let trainings = trainings(graph, &mut roots)?;
    let answers = answers(graph, &mut roots)?;
    roots.extend(leaderboard.artifacts.iter().cloned());
    for root in &roots {
        lineages.add(graph.store, root, &command)?;
    }
    let rows: Vec<&[ScoreRow]> = models.iter().map(|model| model.rows.as_slice()).collect();
    let board = Board::of(&rows);
    let beta = if graph.run.rounds() > 0 { graph.run.fit_at(0)?.beta } else { graph.run.fit.beta };
    Ok(Run {
        name: graph.run.run.clone(),
        file: graph.run.path.display().to_string(),
        seed: graph.run.seed,
        beta,
        models,
        missing,
        board,
        trainings,
        answers,
        leaderboard,
        commands: plan.commands().iter().map(|words| shell_line(words)).collect(),
    })
}

type Missing = (String, String);

fn scored(graph: &Graph<'_>, roots: &mut Vec<Artifact>) -> Result<(Vec<Model>, Vec<Missing>)> {
    let (mut models, mut missing) = (Vec::new(), Vec::new());
    if graph.run.data.is_none() {
        return Ok((models, missing));
    }
    for id in graph.models() {
        let label = id.to_string();
        let Some(artifact) = optional(graph.scores(&id))? else {
            missing.push((label, graph.command("spin-bench", &id.flags())));
            continue;
        };
        let iteration = match id {
            ModelId::Iteration(t) => Some(t),
            ModelId::Baseline(_) => None,
        };
        let (scores, rows) = (Link::of(&artifact), ScoreRow::read_all(&artifact)?);
        models.push(Model { label, iteration, scores, rows });
        roots.push(artifact);
    }
    Ok((models, missing))
}

fn trainings(graph: &Graph<'_>, roots: &mut Vec<Artifact>) -> Result<Vec<Training>> {
    let mut out = Vec::new();
    for id in graph.models() {
        if id == ModelId::Iteration(0) && graph.run.sft.is_none() {
            continue;
        }
        let Some(artifact) = optional(graph.artifact(&Product::Metrics(id.clone())))? else { continue };
        let rows = MetricsRow::read_all(&artifact)?;
        let paired = rows.iter().any(|row| row.rewards_margins.is_some());
        out.push(Training {
            label: id.to_string(),
            paired,
            is_first: id == ModelId::Iteration(0),
            link: Link::of(&artifact),
            rows,
        });
        roots.push(artifact);
    }
    Ok(out)
}

/// What answers look like, of all tables of answers that the run has.
fn answers(graph: &Graph<'_>, roots: &mut Vec<Artifact>) -> Result<Vec<Answers>> {
    let mut out = Vec::new();
    if graph.run.data.is_none() {
        return Ok(out);
    }
    let mut add = |label: String, of: &str, artifact: Artifact, human: &[Demonstration]| -> Result<()> {
        let human = human.iter().map(|row| (row.row_id.as_str(), row.response.as_str())).collect();
        let measured = answers::measure(&Sample::read_all(&artifact)?, &human);
        out.push(Answers { label, of: of.into(), link: Link::of(&artifact), measured });
        roots.push(artifact);
        Ok(())
    };
    if let Some(test) = optional(graph.demonstrations(Split::Test))? {
        let human = Demonstration::read_all(&test)?;
        for (decoding, of) in [(Decoding::Sampled, "held-out, sampled"), (Decoding::Greedy, "held-out, greedy")] {
            for id in graph.models() {
                if let Some(artifact) = optional(graph.bench_samples(&id, decoding))? {
                    add(id.to_string(), of, artifact, &human)?;
                }
            }
        }
    }
    if let Some(train) = optional(graph.demonstrations(Split::Train))? {
        let human = Demonstration::read_all(&train)?;
        for t in 0..graph.run.rounds() {
            if let Some(artifact) = samples(graph, t)? {
                add(ModelId::Iteration(t).to_string(), "training prompts", artifact, &human)?;
            }
        }
    }
    Ok(out)
}
