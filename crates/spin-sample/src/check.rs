//! What is checked before answers are published: that the trainer gives them
//! the same log-probabilities, and that they come out again.
//!
//! A generator that computes another model than the trainer is a difference
//! that SPIN would train on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device};
use serde_json::{Value, json};
use spin_model::{CausalLm, ModelConfig, ScoreOptions, ScoreRequest};
use spin_store::schema::Sample;

use crate::answer::{Generated, Wanted};
use crate::engine::{Engine, Job, Jobs};
use crate::error::{Result, SampleError};
use crate::prompts::Row;

/// The largest difference of a token's log-probability, at temperature 1, that
/// rounding in f32 explains.
pub const TOLERANCE: f32 = 1e-3;

/// A few of all samples, chosen by their ids, whatever the order they are
/// shown in.
pub(crate) struct Chosen {
    count: usize,
    samples: BTreeMap<[u8; 32], (usize, Sample)>,
}

impl Chosen {
    pub fn new(count: usize) -> Self {
        Self { count, samples: BTreeMap::new() }
    }

    /// Considers a sample of a part.
    pub fn see(&mut self, part: usize, sample: &Sample) {
        if self.count == 0 || sample.finish_reason == "error" {
            return;
        }
        let mut hasher = blake3::Hasher::new_derive_key("spin-sample check v1");
        hasher.update(sample.row_id.as_bytes());
        hasher.update(&sample.sample_index.to_le_bytes());
        let hash = *hasher.finalize().as_bytes();
        if self.samples.len() == self.count && self.samples.last_key_value().is_some_and(|(last, _)| *last < hash) {
            return;
        }
        self.samples.insert(hash, (part, sample.clone()));
        if self.samples.len() > self.count {
            self.samples.pop_last();
        }
    }

    /// Those chosen, with their parts.
    pub fn samples(&self) -> impl Iterator<Item = &(usize, Sample)> {
        self.samples.values()
    }
}

/// What is known of the answers to check.
pub(crate) struct Checked<'a> {
    pub chosen: &'a Chosen,
    pub rows: &'a BTreeMap<&'a str, &'a Row>,
    pub work: &'a Path,
    /// Who generated.
    pub engine: &'a str,
}

/// Compares log-probabilities with those that the trainer computes on the CPU;
/// in f32 a difference is an error.
pub(crate) fn logps(dir: &Path, dtype: &str, checked: &Checked<'_>) -> Result<Value> {
    if let Err(error) = ModelConfig::load(dir) {
        return Ok(json!({"rows": 0, "not_checked": error.to_string()}));
    }
    let (candle_dtype, tolerance) = match dtype {
        "bf16" => (DType::BF16, f32::INFINITY),
        "f16" => (DType::F16, f32::INFINITY),
        _ => (DType::F32, TOLERANCE),
    };
    let failed = |source| SampleError::Model { dir: dir.into(), source };
    let model = CausalLm::load(dir, &Device::Cpu, candle_dtype).map_err(failed)?;
    let (mut rows, mut tokens, mut largest) = (0, 0, 0.0_f32);
    // A temperature holds for a pass.
    let mut by_temperature: BTreeMap<u64, Vec<(&Sample, Vec<u32>)>> = BTreeMap::new();
    for (_, sample) in checked.chosen.samples() {
        let Some(row) = checked.rows.get(sample.row_id.as_str()) else { continue };
        let temperature = if row.decoding.temperature == 0.0 { 1.0 } else { row.decoding.temperature };
        let all = [sample.prompt_ids.as_slice(), &sample.response_ids].concat();
        by_temperature.entry(temperature.to_bits()).or_default().push((sample, all));
    }
    for (temperature, samples) in by_temperature {
        let requests: Vec<ScoreRequest<'_>> = samples
            .iter()
            .map(|(sample, all)| ScoreRequest { tokens: all, continuation: sample.response_ids.len() })
            .collect();
        let temperature = f64::from_bits(temperature);
        let options = ScoreOptions { temperature, ..ScoreOptions::default() };
        // What logits are divided by, their differences are.
        let tolerance = tolerance / temperature.min(1.0) as f32;
        let (scores, _) = model.score(&requests, &options, &mut |_| {}).map_err(failed)?;
        for ((sample, _), score) in samples.iter().zip(scores) {
            for (token, (theirs, ours)) in sample.token_logps.iter().zip(score.token_logps).enumerate() {
                let difference = (theirs - ours).abs();
                // NaN is a difference, too.
                if !(difference <= tolerance || tolerance == f32::INFINITY) {
                    return Err(SampleError::Disagree {
                        engine: checked.engine.into(),
                        row_id: sample.row_id.clone(),
                        sample_index: sample.sample_index,
                        token,
                        theirs: *theirs,
                        ours,
                        work: checked.work.into(),
                    });
                }
                largest = largest.max(difference);
            }
            rows += 1;
            tokens += sample.response_ids.len();
        }
    }
    Ok(json!({"rows": rows, "tokens": tokens, "largest_difference": largest}))
}

/// Generates the chosen samples again, in other company, and counts what is
/// different. `exact` says for a part whether nothing may be.
pub(crate) fn replayed(
    engine: &dyn Engine,
    checked: &Checked<'_>,
    wanted: impl Fn(&Sample) -> Option<Wanted>,
    exact: impl Fn(usize) -> bool,
) -> Result<Value> {
    let chosen: Vec<&(usize, Sample)> = checked.chosen.samples().collect();
    let jobs = chosen.iter().enumerate().filter_map(|(number, (_, sample))| {
        let wanted = wanted(sample)?;
        Some(Job { number, wanted })
    });
    let again = Again { jobs: Mutex::new(jobs.collect()), answers: Mutex::default(), tried: Mutex::default() };
    // An engine may leave while a job is on its way back.
    while again.has_work() {
        engine.run(&again);
    }
    let answers = again.answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (mut rows, mut tokens, mut flipped) = (0, 0, 0);
    for (number, answer) in answers {
        let (part, sample) = chosen[number];
        let answer = answer?;
        let same = answer.ids.iter().zip(&sample.response_ids).take_while(|(a, b)| a == b).count();
        let differs = answer.ids != sample.response_ids;
        if differs && exact(*part) {
            return Err(SampleError::NotReplayed {
                engine: checked.engine.into(),
                row_id: sample.row_id.clone(),
                sample_index: sample.sample_index,
                token: same,
                work: checked.work.into(),
            });
        }
        // What follows a flip is another text.
        (rows, tokens, flipped) = (rows + 1, tokens + same + usize::from(differs), flipped + usize::from(differs));
    }
    Ok(json!({"rows": rows, "tokens": tokens, "flipped_tokens": flipped}))
}

/// Work whose outcomes are kept in memory.
struct Again {
    jobs: Mutex<Vec<Job>>,
    answers: Mutex<Vec<(usize, Result<Generated>)>>,
    tried: Mutex<BTreeSet<usize>>,
}

impl Again {
    fn has_work(&self) -> bool {
        !self.jobs.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Jobs for Again {
    fn next(&self) -> Option<Job> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn done(&self, job: Job, outcome: Result<Generated>) {
        if outcome.is_err() && self.tried.lock().unwrap_or_else(PoisonError::into_inner).insert(job.number) {
            self.put_back(job);
            return;
        }
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push((job.number, outcome));
    }

    fn put_back(&self, job: Job) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).push(job);
    }

    fn stopped(&self) -> bool {
        false
    }

    fn note(&self, _text: &str) {}
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
