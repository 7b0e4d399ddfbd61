//! Log-probabilities of continuations, with everything that several sequences
//! begin with computed once.
//!
//! The inputs of all requests, sorted, are the paths of a tree of tokens in
//! depth-first order. The tree is computed in that order, a batch of rows at a
//! time; what a batch needs of those before it is one path, whose keys and
//! values are kept. So every row of the tree is computed exactly once, in
//! memory for one batch and one path.

use std::ops::Range;

use crate::backend::TreeScorer;
use crate::cpu::score_row;
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::request::{ScoreOptions, Target, TargetScore, TreeRows};

/// A sequence whose last tokens are to be scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreRequest<'a> {
    /// Context and continuation.
    pub tokens: &'a [u32],
    /// How many of the tokens, at the end, belong to the continuation: at least
    /// one, and not all.
    pub continuation: usize,
}

/// What a model makes of a continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct ContinuationScore {
    /// The natural logarithm of the probability of each of its tokens, given
    /// those before.
    pub token_logps: Vec<f32>,
    /// Whether each of them is the likeliest one, or the first of several.
    pub is_greedy: bool,
}

/// How much was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScoreStats {
    /// Input tokens of all requests; the last token of each is none.
    pub tokens_given: u64,
    /// Input tokens that were computed.
    pub tokens_computed: u64,
    /// Input tokens that differ, in themselves or in what is before them: the
    /// fewest that can be computed.
    pub tokens_distinct: u64,
    /// Tokens of all continuations.
    pub predictions_given: u64,
    /// Input tokens whose output was asked for: each takes one product with
    /// the output projection.
    pub predictions_computed: u64,
    /// Forward passes.
    pub batches: u64,
}

/// A token to score after a node.
#[derive(Debug, Clone, Copy)]
struct Prediction {
    node: u32,
    token: u32,
    /// Number of the request.
    request: u32,
    /// Number of the token in the continuation.
    index: u32,
}

/// The inputs of requests as a tree, in depth-first order.
#[derive(Debug, Default)]
struct Tree {
    ids: Vec<u32>,
    /// Depth of each node.
    positions: Vec<u32>,
    /// The node after the last below each node.
    ends: Vec<u32>,
    /// In the order of the nodes.
    predictions: Vec<Prediction>,
}

impl Tree {
    fn new(requests: &[ScoreRequest<'_>]) -> Self {
        let input = |request: usize| {
            let tokens = requests[request].tokens;
            &tokens[..tokens.len() - 1]
        };
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|request| input(*request));
        let mut tree = Self::default();
        // The nodes of the input before.
        let mut path: Vec<u32> = Vec::new();
        for request in order {
            let ids = input(request);
            let shared = path.iter().zip(ids).take_while(|(node, id)| tree.ids[**node as usize] == **id).count();
            let next = tree.ids.len() as u32;
            path.drain(shared..).for_each(|node| tree.ends[node as usize] = next);
            path.extend(next..next + (ids.len() - shared) as u32);
            tree.ids.extend_from_slice(&ids[shared..]);
            tree.positions.extend(shared as u32..ids.len() as u32);
            tree.ends.resize(tree.ids.len(), 0);
            let ScoreRequest { tokens, continuation } = requests[request];
            let first = tokens.len() - continuation;
            tree.predictions.extend(tokens[first..].iter().enumerate().map(|(index, token)| Prediction {
                node: path[first - 1 + index],
                token: *token,
                request: request as u32,
                index: index as u32,
            }));
        }
        let count = tree.ids.len() as u32;
        path.into_iter().for_each(|node| tree.ends[node as usize] = count);
        tree.predictions.sort_by_key(|prediction| prediction.node);
        tree
    }

    /// Batches of about equally many nodes.
    fn batches(&self, max_rows: usize) -> Vec<Range<usize>> {
        let count = self.ids.len();
        let rows = count.div_ceil(count.div_ceil(max_rows.max(1)).max(1)).max(1);
        (0..count).step_by(rows).map(|start| start..(start + rows).min(count)).collect()
    }

    /// The rows of a batch after a path of nodes, which becomes that to the
    /// next batch.
    fn rows<'a>(&'a self, batch: &Range<usize>, path: &mut Vec<u32>, predictions: &[Prediction]) -> TreeRows<'a> {
        let local = |end: u32| (end as usize).min(batch.end) as u32 - batch.start as u32;
        let cached_ends = path.iter().map(|node| local(self.ends[*node as usize])).collect();
        let mut wanted: Vec<u32> = predictions.iter().map(|prediction| prediction.node - batch.start as u32).collect();
        wanted.dedup();
        // The nodes above the next batch.
        let mut added: Vec<u32> = Vec::new();
        path.truncate(self.positions.get(batch.end).map_or(0, |position| *position as usize));
        for node in batch.clone().filter(|node| self.ends[*node] as usize > batch.end) {
            path.truncate(self.positions[node] as usize);
            path.push(node as u32);
            added.push((node - batch.start) as u32);
        }
        TreeRows {
            ids: &self.ids[batch.clone()],
            positions: &self.positions[batch.clone()],
            ends: self.ends[batch.clone()].iter().map(|end| local(*end)).collect(),
            cached_ends,
            wanted,
            kept: path.len() - added.len(),
            added,
        }
    }
}

/// Results in the order of the requests, as they come in.
struct Results {
    scores: Vec<ContinuationScore>,
    /// Tokens of each that are missing.
    missing: Vec<usize>,
    done: usize,
}

impl Results {
    fn new(requests: &[ScoreRequest<'_>]) -> Self {
        let score = |request: &ScoreRequest<'_>| ContinuationScore {
            token_logps: vec![0.0; request.continuation],
            is_greedy: true,
        };
        Self {
            scores: requests.iter().map(score).collect(),
            missing: requests.iter().map(|request| request.continuation).collect(),
            done: 0,
        }
    }

    fn set(&mut self, request: usize, index: usize, score: TargetScore) {
        let own = &mut self.scores[request];
        own.token_logps[index] = score.logp;
        own.is_greedy &= score.is_greedy;
        self.missing[request] -= 1;
        self.done += usize::from(self.missing[request] == 0);
    }
}

impl CausalLm {
    /// The log-probability of every token of the requests' continuations, in
    /// the order of the requests, and how much was computed for them.
    ///
    /// Whatever several requests begin with is computed once, whichever order
    /// they are in; so is the distribution that several of them ask about.
    /// `on_progress` is told now and then how many requests are done. With
    /// composed kernels nothing is shared, and every request is a batch.
    ///
    /// # Errors
    ///
    /// If a request has no context or no continuation, is longer than the
    /// model's positions (its last token needs none), or has a token outside
    /// the vocabulary.
    pub fn score(
        &self,
        requests: &[ScoreRequest<'_>],
        options: &ScoreOptions,
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<(Vec<ContinuationScore>, ScoreStats)> {
        self.check_requests(requests)?;
        let mut results = Results::new(requests);
        let inputs = requests.iter().map(|request| request.tokens.len() as u64 - 1);
        let predictions = requests.iter().map(|request| request.continuation as u64);
        let mut stats =
            ScoreStats { tokens_given: inputs.sum(), predictions_given: predictions.sum(), ..ScoreStats::default() };
        let tree = Tree::new(requests);
        stats.tokens_distinct = tree.ids.len() as u64;
        let batches = tree.batches(options.max_rows);
        let longest = tree.positions.iter().max().map_or(0, |position| *position as usize + 1);
        let longest_path = batches.iter().map(|batch| tree.positions[batch.start] as usize).max().unwrap_or(0);
        match self.backend()?.tree(self.decoder(), longest, longest_path)? {
            Some(mut pass) => {
                let pass = pass.as_mut();
                score_tree(pass, &tree, batches, options, &mut results, &mut stats, on_progress)?;
            }
            None => self.score_each(requests, options, &mut results, &mut stats, on_progress)?,
        }
        Ok((results.scores, stats))
    }

    fn check_requests(&self, requests: &[ScoreRequest<'_>]) -> Result<()> {
        let (vocab_size, max_length) = (self.config().vocab_size, self.config().max_position_embeddings);
        for (sequence, ScoreRequest { tokens, continuation }) in requests.iter().enumerate() {
            let error = |message: String| Err(Error::Batch { sequence, message });
            if *continuation == 0 {
                return error("the continuation has no tokens; it needs at least one".to_owned());
            }
            if *continuation >= tokens.len() {
                return error(format!(
                    "a continuation of {continuation} tokens leaves none of {} for its context; it needs at least one",
                    tokens.len()
                ));
            }
            if tokens.len() - 1 > max_length {
                return error(format!(
                    "{} tokens before the last are more than the model's max_position_embeddings {max_length}; \
                     shorten the context",
                    tokens.len() - 1
                ));
            }
            if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab_size) {
                return error(format!(
                    "token id {id} is outside the vocabulary of {vocab_size}; \
                     the tokenizer does not belong to this model"
                ));
            }
        }
        Ok(())
    }

    /// Computes every request on its own.
    fn score_each(
        &self,
        requests: &[ScoreRequest<'_>],
        options: &ScoreOptions,
        results: &mut Results,
        stats: &mut ScoreStats,
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        for (number, request) in requests.iter().enumerate() {
            let context = request.tokens.len() - request.continuation;
            let logits = self.logits(&request.tokens[..request.tokens.len() - 1])?;
            let logits = (logits.narrow(0, context - 1, request.continuation)? / options.temperature)?;
            let mut logits = logits.to_vec2::<f32>()?;
            for (index, (logits, token)) in logits.iter_mut().zip(&request.tokens[context..]).enumerate() {
                for score in score_row(logits, std::iter::once(*token), options.rounding) {
                    results.set(number, index, score);
                }
            }
            stats.tokens_computed += request.tokens.len() as u64 - 1;
            stats.predictions_computed += request.continuation as u64;
            stats.batches += 1;
            on_progress(results.done);
        }
        Ok(())
    }
}

/// Computes every row of the tree once.
fn score_tree(
    pass: &mut dyn TreeScorer,
    tree: &Tree,
    batches: Vec<Range<usize>>,
    options: &ScoreOptions,
    results: &mut Results,
    stats: &mut ScoreStats,
    on_progress: &mut dyn FnMut(usize),
) -> Result<()> {
    let mut path = Vec::new();
    let mut rest = tree.predictions.as_slice();
    for batch in batches {
        let (predictions, others) =
            rest.split_at(rest.partition_point(|prediction| (prediction.node as usize) < batch.end));
        rest = others;
        let rows = tree.rows(&batch, &mut path, predictions);
        let targets = predictions.chunk_by(|a, b| a.node == b.node).zip(0..);
        let targets: Vec<Target> = targets
            .flat_map(|(same, row)| same.iter().map(move |prediction| Target { row, token: prediction.token }))
            .collect();
        let scores = pass.score(&rows, &targets, options)?;
        for (prediction, score) in predictions.iter().zip(scores) {
            results.set(prediction.request as usize, prediction.index as usize, score);
        }
        stats.tokens_computed += rows.ids.len() as u64;
        stats.predictions_computed += rows.wanted.len() as u64;
        stats.batches += 1;
        on_progress(results.done);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
