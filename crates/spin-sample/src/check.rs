//! What is checked before answers are published: that the trainer gives them
//! the same log-probabilities, and that they come out again.
//!
//! A generator that computes another model than the trainer is a difference
//! that SPIN would train on.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device};
use serde_json::{Value, json};
use spin_model::{CausalLm, ModelConfig, ScoreOptions, ScoreRequest};
use spin_run::run::Dtype;
use spin_run::schema::Sample;

use crate::answer::Wanted;
use crate::engine::{self, Engine};
use crate::error::{Result, SampleError};
use crate::parts::Job;
use crate::prompts::Row;

/// The largest difference of a token's log-probability, at temperature 1, that
/// rounding in f32 explains.
const TOLERANCE: f32 = 1e-3;

/// A few of all samples, chosen by their ids, whatever the order they are
/// shown in.
pub(crate) struct Chosen {
    count: usize,
    picks: BTreeMap<[u8; 32], Pick>,
}

/// A sample that was chosen.
pub(crate) struct Pick {
    pub part: usize,
    /// What it answers.
    pub job: Job,
    pub sample: Sample,
}

impl Chosen {
    pub fn new(count: usize) -> Self {
        Self { count, picks: BTreeMap::new() }
    }

    /// Considers a sample of a part.
    pub fn see(&mut self, part: usize, job: Job, sample: &Sample) {
        if self.count == 0 || sample.finish_reason == "error" {
            return;
        }
        let mut hasher = blake3::Hasher::new_derive_key("spin-sample check v1");
        hasher.update(sample.row_id.as_bytes());
        hasher.update(&sample.sample_index.to_le_bytes());
        let hash = *hasher.finalize().as_bytes();
        if self.picks.len() == self.count && self.picks.last_key_value().is_some_and(|(last, _)| *last < hash) {
            return;
        }
        self.picks.insert(hash, Pick { part, job, sample: sample.clone() });
        if self.picks.len() > self.count {
            self.picks.pop_last();
        }
    }

    /// Those chosen.
    pub fn picks(&self) -> impl Iterator<Item = &Pick> {
        self.picks.values()
    }
}

/// What is known of the answers to check.
pub(crate) struct Checked<'a> {
    pub chosen: &'a Chosen,
    /// All rows of the task.
    pub rows: &'a [Row],
    pub work: &'a Path,
    /// Who generated.
    pub engine: &'a str,
}

/// Compares log-probabilities with those that the trainer computes on the CPU;
/// in f32 a difference is an error.
pub(crate) fn logps(dir: &Path, dtype: Dtype, checked: &Checked<'_>) -> Result<Value> {
    if let Err(error) = ModelConfig::load(dir) {
        return Ok(json!({"rows": 0, "not_checked": error.to_string()}));
    }
    let (candle_dtype, tolerance) = match dtype {
        Dtype::Bf16 => (DType::BF16, f32::INFINITY),
        Dtype::F16 => (DType::F16, f32::INFINITY),
        Dtype::F32 => (DType::F32, TOLERANCE),
    };
    let failed = |source| SampleError::Model { dir: dir.into(), source };
    let model = CausalLm::load(dir, &Device::Cpu, candle_dtype).map_err(failed)?;
    let (mut rows, mut tokens, mut largest) = (0, 0, 0.0_f32);
    // A temperature holds for a pass.
    let mut by_temperature: BTreeMap<u64, Vec<(&Sample, Vec<u32>)>> = BTreeMap::new();
    for Pick { job, sample, .. } in checked.chosen.picks() {
        let temperature = checked.rows[job.row].decoding.temperature;
        let temperature = if temperature == 0.0 { 1.0 } else { temperature };
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
    wanted: impl Fn(&Job) -> Wanted,
    exact: impl Fn(usize) -> bool,
) -> Result<Value> {
    let again = checked.chosen.picks().map(|pick| wanted(&pick.job)).collect();
    let answers = engine::answer_all(engine, again, &|_| {});
    let (mut rows, mut tokens, mut flipped) = (0, 0, 0);
    for (Pick { part, sample, .. }, answer) in checked.chosen.picks().zip(answers) {
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

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
