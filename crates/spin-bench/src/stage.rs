//! The stage: score one model of the run on the tasks of `[bench]`.

use candle_core::{DType, Device};
use serde_json::{Map, json};
use spin_model::CausalLm;
use spin_report::table as report;
use spin_run::graph::{Decoding, Graph, ModelId, Product, Split};
use spin_run::run::{CER, EXACT_MATCH, GSM8K, MARGIN, NLL, OF_ANSWERS, OF_FIRST_ANSWERS, PREFERENCE, WER};
use spin_run::schema::{Demonstration, Row, Sample, ScoreRow};
use spin_store::{Artifact, Context, Making, Staged, StoreError, table};
use spin_text::Codec;

use crate::error::Result;
use crate::heldout;

/// Scores a model, which is computed on `device`; the flag is false when the scores
/// were there.
///
/// # Errors
/// Missing inputs, rows that cannot be scored, a full disk.
pub fn run(graph: &Graph<'_>, id: &ModelId, device: &Device, context: &Context<'_>) -> Result<(Artifact, bool)> {
    context.make(&graph.recipe(&Product::Scores(id.clone()))?, |making| assemble(graph, id, device, making))
}

fn assemble(graph: &Graph<'_>, id: &ModelId, device: &Device, making: &Making<'_>) -> Result<Staged> {
    let bench = &graph.run.bench;
    let tasks = graph.bench_tasks()?;
    let wants = |task: &str| tasks.iter().any(|t| t == task);
    let artifact = graph.demonstrations(Split::Test)?;
    let rows = Demonstration::read_all(&artifact)?;
    let mut scores: Vec<ScoreRow> = Vec::new();
    if OF_ANSWERS.into_iter().any(wants) {
        let wrong = |problem| StoreError::run(&graph.run.path, problem);
        let normaliser = bench.exact_match.compile().map_err(wrong)?;
        for decoding in [Decoding::Sampled, Decoding::Greedy] {
            let samples = Sample::read_all(&graph.bench_samples(id, decoding)?)?;
            if wants(GSM8K) {
                scores.extend(heldout::gsm8k(&rows, &samples, decoding, &artifact.reference())?);
            }
            if wants(EXACT_MATCH) {
                scores.extend(heldout::exact_match(&rows, &samples, decoding, &normaliser));
            }
            for task in [WER, CER].into_iter().filter(|task| wants(task)) {
                scores.extend(heldout::error_rate(task, &rows, &samples, decoding, &normaliser));
            }
        }
    }
    let of_first_answers = OF_FIRST_ANSWERS.into_iter().any(wants);
    if wants(NLL) || of_first_answers {
        let verified = graph.model(id)?.verified()?;
        let codec = Codec::of_run(verified.dir(), graph.chat()?)?;
        let model = CausalLm::load(verified.dir(), device, DType::F32)?;
        codec.check_vocab(model.config().vocab_size)?;
        let generated = match of_first_answers {
            true => Sample::read_all(&graph.bench_samples(&ModelId::Iteration(0), Decoding::Sampled)?)?,
            false => Vec::new(),
        };
        let temperatures = if wants(NLL) { bench.temperatures.as_slice() } else { &[] };
        let (mut done, total) = (0, (rows.len() * (1 + temperatures.len()) + generated.len()) as u64);
        let mut advance = |n: u64| {
            done += n;
            making.context.watch.progress(done, total);
        };
        let (nll, real) = heldout::nll(&model, &codec, &rows, bench.batch_size, &mut advance)?;
        if wants(NLL) {
            scores.extend(nll);
        }
        if !temperatures.is_empty() {
            scores.extend(heldout::at_temperatures(&model, &codec, &rows, &real, temperatures, &mut advance)?);
        }
        let pairs = heldout::beside_generated(&model, &real, &generated, bench.batch_size, &mut advance)?;
        if wants(PREFERENCE) {
            scores.extend(heldout::preference(&pairs));
        }
        if wants(MARGIN) {
            scores.extend(heldout::margin(&pairs));
        }
    }
    let staged = making.staging()?;
    ScoreRow::write_part(&staged.path().join(table::part_name(0)), &scores, &making.recipe.identity(), 0)?;
    let results = report::summarise(&scores);
    let path = staged.path().join("results.json");
    let text = serde_json::to_string_pretty(&json!({"model": id.to_string(), "results": results}))
        .expect("results are plain numbers");
    std::fs::write(&path, text + "\n").map_err(StoreError::io("write", &path))?;
    let mut facts = Map::new();
    facts.insert("results".into(), results);
    Ok(Staged::new(staged, facts))
}
