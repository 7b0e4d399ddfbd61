//! One measurement of an engine.

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use spin_sample::answer::{Generated, Wanted};
use spin_sample::choose::SamplingParams;
use spin_sample::engine::{CachedEngine, Device, Engine, EngineKind, EngineOptions, Memory, MistralEngine, answer_all};
use spin_sample::loadable;
use spin_sample::noise::Key;
use spin_tests::measure::memory;

use crate::plan::{Side, Spec};

fn mistral(spec: &Spec, links: &Path) -> anyhow::Result<MistralEngine> {
    // Its configuration is of transformers 5.
    let model = if loadable::link(&std::fs::canonicalize(&spec.model)?, links)? { links } else { &spec.model };
    let options = EngineOptions {
        kind: EngineKind::Mistralrs,
        device: Device::Cpu,
        batch_size: spec.batch_size,
        copies: 2 * spec.threads,
        memory: Memory::Bytes(0),
        gpu_memory_utilization: 0.9,
    };
    match spec.side {
        Side::MistralrsQueued => {
            Ok(MistralEngine::load_batched(model, spin_run::run::Dtype::F32, &options, spec.count)?)
        }
        _ => Ok(MistralEngine::load(model, spin_run::run::Dtype::F32, &options)?),
    }
}

pub fn run(spec: &Path) -> anyhow::Result<()> {
    let spec: Spec = serde_json::from_slice(&std::fs::read(spec)?)?;
    let prompts: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(&spec.prompts)?)?;
    let every = (prompts.len() / spec.count.max(1)).max(1);
    let links = tempfile::tempdir()?;
    let start = Instant::now();
    let engine: Box<dyn Engine> = match spec.side {
        Side::SpinModel => {
            Box::new(CachedEngine::load(&spec.model, spec.dtype, spec.batch_size, Memory::Bytes(8 << 30))?)
        }
        Side::Mistralrs | Side::MistralrsQueued => Box::new(mistral(&spec, links.path())?),
        Side::Transformers => anyhow::bail!("transformers is not in this program"),
    };
    let loading = start.elapsed().as_secs_f64();
    let chosen: Vec<&Vec<u32>> = prompts.iter().step_by(every).take(spec.count).collect();
    let mut jobs: Vec<(usize, Wanted)> = chosen
        .iter()
        .enumerate()
        .map(|(number, ids)| {
            let wanted = Wanted {
                row_id: number.to_string(),
                prompt_ids: ids.as_slice().into(),
                key: Key::new(1, "bench", &number.to_string(), 0),
                decoding: SamplingParams { temperature: spec.temperature, ..SamplingParams::PLAIN },
                max_new_tokens: spec.new_tokens,
                // Every answer has its full length.
                stop_ids: [].into(),
                stop: None,
            };
            (number, wanted)
        })
        .collect();
    if spec.side != Side::MistralrsQueued {
        jobs.sort_by_key(|(_, wanted)| std::cmp::Reverse(wanted.prompt_ids.len()));
    }
    let (numbers, wanted): (Vec<usize>, Vec<Wanted>) = jobs.into_iter().unzip();
    let start = Instant::now();
    let outcomes = answer_all(engine.as_ref(), wanted, &|text| eprintln!("{text}"));
    let seconds = start.elapsed().as_secs_f64();
    let mut answers: Vec<(usize, Generated)> = numbers
        .into_iter()
        .zip(outcomes)
        .map(|(number, answer)| Ok((number, answer?)))
        .collect::<anyhow::Result<_>>()?;
    answers.sort_by_key(|(number, _)| *number);
    if let Some(path) = &spec.answers {
        let ids: Vec<&[u32]> = answers.iter().map(|(_, answer)| answer.ids.as_slice()).collect();
        std::fs::write(path, serde_json::to_vec(&ids)?)?;
    }
    let tokens: usize = answers.iter().map(|(_, answer)| answer.ids.len()).sum();
    let result = json!({
        "seconds": seconds,
        "loading_seconds": loading,
        "tokens": tokens,
        "prompt_tokens": chosen.iter().map(|ids| ids.len()).sum::<usize>(),
        "peak_rss_bytes": memory("VmHWM")?,
        "engine": engine.describe(),
    });
    println!("{result}");
    Ok(())
}
