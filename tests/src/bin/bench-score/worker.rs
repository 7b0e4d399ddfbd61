//! One measurement of spin-bench: the stage itself, on a fresh store.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use candle_core::Device;
use serde_json::json;
use spin_bench::harness::evaluator::Evaluator;
use spin_bench::harness::registry::Registry;
use spin_fit::metrics::flops;
use spin_report::evaluations::Results;
use spin_run::graph::{Graph, ModelId, Product};
use spin_run::import;
use spin_run::run::{EvalConfig, Init, ModelSource, RunFile};
use spin_store::{Context, Outcome, Store};
use spin_tests::measure::{element, memory};

use crate::plan::Spec;

pub fn run(path: &Path) -> anyhow::Result<()> {
    let spec: Spec = serde_json::from_slice(&std::fs::read(path)?)?;
    // As the program does.
    spin_cli::keep_freed_memory();
    rayon::ThreadPoolBuilder::new().num_threads(spec.threads).build_global()?;
    let mut ceiling = 0.0_f64;
    for _ in 0..20 {
        ceiling = ceiling.max(flops::measure_peak(&Device::Cpu, element(spec.dtype))?);
    }
    let dir = tempfile::tempdir()?;
    let eval = EvalConfig {
        data: std::path::absolute(&spec.data)?,
        limit: spec.docs,
        num_fewshot: spec.shots,
        dtype: spec.dtype,
        ..EvalConfig::default()
    };
    let model = ModelSource { path: std::path::absolute(&spec.model)?, init: Init::Pretrained };
    let run = RunFile::for_model("bench", model.clone(), dir.path().join("store"), eval.clone());
    let store = Store::open(&run.store_dir())?;
    let graph = Graph::new(&run, &store);
    let context = Context::silent(&store);
    import::model(&context, &graph.recipe(&Product::Base)?, &model.path)?;
    let id = ModelId::Iteration(0);
    let registry = Registry::new(eval.profile, &eval.data, &[])?;
    let unit = registry.units(std::slice::from_ref(&spec.task))?.remove(0);
    let evaluator = Evaluator::new(&graph, &id, Device::Cpu)?;
    let unit = evaluator.prepare(unit)?;
    let name = unit.name.clone();
    // VmHWM starts again from what is resident now.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let start = Instant::now();
    let (outcome, stats) = evaluator.evaluate(&unit, &context)?;
    let seconds = start.elapsed().as_secs_f64();
    let Outcome::Made(artifact) = outcome else { anyhow::bail!("the store was not fresh") };
    let results = Results::read("bench", eval.profile, json!({}), &[(name, artifact.clone())])?;
    let config = spin_model::ModelConfig::load(&model.path)?;
    let tables = |name: &str| name.contains("embed_tokens") || name.contains("lm_head");
    let sizes = config.param_shapes();
    let size = |own: &dyn Fn(&str) -> bool| -> usize {
        sizes.iter().filter(|(name, _)| own(name)).map(|(_, shape)| shape.iter().product::<usize>()).sum()
    };
    let head = (config.vocab_size * config.hidden_size) as f64;
    let blocks = size(&|name| !tables(name)) as f64;
    let products = 2.0 * (blocks * stats.tokens_computed as f64 + head * stats.predictions_computed as f64);
    let line = json!({
        "seconds": seconds,
        "documents": artifact.manifest.rows(),
        "requests": stats_requests(&artifact)?,
        "peak_rss_bytes": memory("VmHWM")?,
        "metrics": results.to_json()["results"],
        "tokens_given": stats.tokens_given,
        "tokens_computed": stats.tokens_computed,
        "tokens_distinct": stats.tokens_distinct,
        "products_gflops": products / seconds / 1e9,
        "matmul_gflops": ceiling / 1e9,
        "parameters": size(&|_| true),
        "threads": rayon::current_num_threads(),
        "versions": {"spin-bench": env!("CARGO_PKG_VERSION")},
    });
    println!("{line}");
    Ok(())
}

fn stats_requests(artifact: &spin_store::Artifact) -> anyhow::Result<usize> {
    use spin_run::schema::{EvaluationRow, Row};
    let rows = EvaluationRow::read_all(artifact).context("just written")?;
    Ok(rows.iter().map(|row| row.logps.len()).sum())
}
