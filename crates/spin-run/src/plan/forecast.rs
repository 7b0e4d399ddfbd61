//! What a step will take, reckoned before anything like it was computed.
//!
//! A token of a decoder takes two operations for each weight forward, four more
//! backward, and none for its row of the embedding. How much of a machine's peak
//! of matrix products the programs reach was measured for models of 0.3 to 135
//! million weights (`docs/bench`); what a run takes is within a factor of two of
//! this, mostly because nobody knows how long answers will be.

use serde_json::Value;

use super::Step;
use crate::graph::{Graph, ModelId, PairsOf, Product, Split};
use crate::run::{FitConfig, ObjectiveKind};
use crate::schema::{Demonstration, Row};

/// Shares of the peak that training, generation and scoring reach.
const TRAINING: f64 = 0.5;
const GENERATING: f64 = 0.35;
const SCORING: f64 = 0.5;

/// Characters of a token where the vocabulary is of words; of a small one each
/// character is a token.
const CHARACTERS: f64 = 3.6;
const WORDS: u64 = 1000;

/// Generated answers are about as long as people's, and some do not end.
const LONGER: f64 = 1.25;

/// Number of weights of a decoder with the shapes in a `config.json`: embedding
/// and head, and of each layer four projections of attention, three of the
/// feed-forward network and two norms. `None` where it does not say.
///
/// Biases and further norms of some architectures, thousandths of the whole, are
/// left out.
pub fn parameters(config: &Value) -> Option<u64> {
    let number = |key: &str| config[key].as_u64().filter(|n| *n > 0);
    let (hidden, layers, vocab) = (number("hidden_size")?, number("num_hidden_layers")?, number("vocab_size")?);
    let (inner, heads) = (number("intermediate_size")?, number("num_attention_heads")?);
    let groups = number("num_key_value_heads").unwrap_or(heads);
    let head = number("head_dim").unwrap_or(hidden / heads);
    let ties = matches!(config["model_type"].as_str(), Some("gemma2" | "smollm3"));
    let tables = if config["tie_word_embeddings"].as_bool().unwrap_or(ties) { 1 } else { 2 };
    let layer = 2 * hidden * head * (heads + groups) + 3 * hidden * inner + 2 * hidden;
    Some(tables * vocab * hidden + layers * layer + hidden)
}

/// Rows of a split in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Lengths {
    rows: f64,
    prompt: f64,
    answer: f64,
}

/// What is known of a run for reckoning.
pub(super) struct Forecast<'a> {
    graph: &'a Graph<'a>,
    /// Products per second.
    speed: f64,
    /// Weights that a token is multiplied with.
    weights: f64,
    train: Option<Lengths>,
    test: Option<Lengths>,
}

impl<'a> Forecast<'a> {
    /// From the model's `config.json`, and the machine's peak in operations per
    /// second.
    pub(super) fn new(graph: &'a Graph<'a>, config: &Value, speed: f64) -> Option<Forecast<'a>> {
        let number = |key: &str| config[key].as_u64();
        let (vocab, hidden) = (number("vocab_size")?, number("hidden_size")?);
        let tied = parameters(config)? == parameters_with_one_table(config)?;
        let weights = parameters(config)? - if tied { 0 } else { vocab * hidden };
        let lengths = |split| lengths(graph, split, vocab);
        let (train, test) = (lengths(Split::Train), lengths(Split::Test));
        Some(Forecast { graph, speed, weights: weights as f64, train, test })
    }

    /// Seconds of a step; `None` for what follows from things not known yet, as
    /// evaluations from their tasks.
    pub(super) fn seconds(&self, step: &Step) -> Option<f64> {
        let mut seconds = None;
        for node in &step.makes {
            if let Some(more) = self.of(&node.product) {
                *seconds.get_or_insert(0.0) += more;
            }
        }
        seconds
    }

    fn of(&self, product: &Product) -> Option<f64> {
        match product {
            Product::Samples(t) => {
                let config = self.graph.run.sample_at(*t).ok()?;
                let Lengths { rows, prompt, .. } = self.train?;
                let answer = self.generated(self.train?, config.max_new_tokens);
                Some(self.time(GENERATING, 2.0, rows * f64::from(config.samples_per_prompt) * (prompt + answer)))
            }
            Product::BenchSamples(..) => {
                let test = self.test?;
                let answer = self.generated(test, self.graph.run.bench.max_new_tokens);
                Some(self.time(GENERATING, 2.0, test.rows * (test.prompt + answer)))
            }
            Product::Reference(PairsOf::Iteration(t)) => {
                let (pairs, tokens) = self.pairs(*t)?;
                Some(self.time(SCORING, 2.0, pairs * tokens))
            }
            Product::Model(model) => {
                let fit = self.graph.fit_of(model).ok()?;
                Some(self.time(TRAINING, operations(&fit), self.trained(model, &fit)?))
            }
            Product::Scores(_) => {
                let test = self.test?;
                let bench = &self.graph.run.bench;
                let answers = test.answer + self.generated(test, bench.max_new_tokens);
                let passes = 1 + bench.temperatures.len();
                Some(self.time(SCORING, 2.0, test.rows * (test.prompt + answers) * passes as f64))
            }
            _ => None,
        }
    }

    fn time(&self, share: f64, operations: f64, tokens: f64) -> f64 {
        operations * self.weights * tokens / (share * self.speed)
    }

    fn generated(&self, lengths: Lengths, most: usize) -> f64 {
        (lengths.answer * LONGER).min(most as f64)
    }

    /// Pairs of a round, and the tokens of each: a prompt and two answers.
    fn pairs(&self, t: usize) -> Option<(f64, f64)> {
        let train = self.train?;
        let config = self.graph.run.sample_at(t).ok()?;
        let window = self.graph.run.pair_at(t).ok()?.window.min(u32::try_from(t).ok()? + 1);
        let pairs = train.rows * f64::from(config.samples_per_prompt) * f64::from(window);
        Some((pairs, train.prompt + train.answer + self.generated(train, config.max_new_tokens)))
    }

    /// Tokens that a training goes over.
    fn trained(&self, model: &ModelId, fit: &FitConfig) -> Option<f64> {
        let train = self.train?;
        let (rows, tokens) = match model {
            ModelId::Iteration(next) if *next > 0 => self.pairs(next - 1)?,
            _ if fit.objective == ObjectiveKind::Sft => (train.rows, train.prompt + train.answer),
            _ => (train.rows, train.prompt + 2.0 * train.answer),
        };
        let updates = match model {
            ModelId::Baseline(name) => self.graph.run.baseline_named(name).ok()?.match_iterations,
            ModelId::Iteration(_) => 0,
        };
        if updates == 0 {
            return Some(rows * tokens * fit.stop_epoch);
        }
        // As many updates as these rounds.
        let of_round = |t: usize| {
            let fit = self.graph.run.fit_at(t).ok()?;
            Some((self.pairs(t)?.0 * fit.stop_epoch / fit.batch_size as f64).ceil())
        };
        let all = (0..updates).map(of_round).sum::<Option<f64>>()?;
        Some(all * fit.batch_size as f64 * tokens)
    }
}

/// Operations for each weight and token of an update: two forward, two for the
/// gradient of what goes in, two for that of the weights where they are trained,
/// two more where the forward pass is made again.
fn operations(fit: &FitConfig) -> f64 {
    let weights = if fit.lora.is_some() { 0.0 } else { 2.0 };
    let again = if fit.recompute_every > 0 { 2.0 } else { 0.0 };
    4.0 + weights + again
}

fn parameters_with_one_table(config: &Value) -> Option<u64> {
    let mut tied = config.clone();
    tied["tie_word_embeddings"] = true.into();
    parameters(&tied)
}

/// The rows of a split as they were imported, their lengths by the first part.
fn lengths(graph: &Graph<'_>, split: Split, vocab: u64) -> Option<Lengths> {
    let artifact = graph.demonstrations(split).ok()?;
    let rows = Demonstration::read_part(artifact.verified().ok()?.parts().first()?).ok()?;
    let characters = if vocab < WORDS { 1.0 } else { CHARACTERS };
    let mean = |of: &dyn Fn(&Demonstration) -> usize| {
        rows.iter().map(of).sum::<usize>() as f64 / rows.len().max(1) as f64 / characters
    };
    let template = &graph.run.template;
    let prompt = mean(&|row| row.prompt.iter().map(|message| message.content.chars().count()).sum());
    let prompt = prompt.min(template.max_prompt_length as f64);
    let answer = mean(&|row| row.response.chars().count()).min(template.max_length as f64 - prompt);
    Some(Lengths { rows: artifact.manifest.rows() as f64, prompt, answer })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_update_takes_follows_from_what_is_trained() {
        let mut fit = FitConfig { recompute_every: 0, lora: None, ..FitConfig::default() };
        assert_eq!(operations(&fit), 6.0);
        fit.recompute_every = 1;
        assert_eq!(operations(&fit), 8.0);
        fit.lora = Some(serde_json::from_value(json!({"r": 4})).expect("a table"));
        assert_eq!(operations(&fit), 6.0);
    }
}
