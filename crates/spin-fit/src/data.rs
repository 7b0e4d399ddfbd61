//! Which rows make which update.

use std::collections::{BTreeSet, HashMap};

use spin_noise::SplitMix64;
use spin_run::run::{PromptFate, TemplateConfig};
use spin_run::schema::{Demonstration, Pair, ReferenceRow, Sample};
use spin_text::{Codec, TextError};

use crate::error::{FitError, Result};

/// A row to train on.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// For messages.
    pub row_id: String,
    /// Token ids of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Token ids of the human answer with its EOS.
    pub real_ids: Vec<u32>,
    /// The opponent's answer; absent in supervised training.
    pub opponent: Option<Opponent>,
}

/// The opponent's answer with the opponent's view of both answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Opponent {
    /// Token ids as sampled.
    pub generated_ids: Vec<u32>,
    /// log p_θt of the real answer, summed over its tokens.
    pub ref_real: f64,
    /// log p_θt of the generated answer.
    pub ref_generated: f64,
    /// Token ids of θ0's answer to the same prompt, where it is in the loss.
    pub initial_ids: Option<Vec<u32>>,
}

impl Example {
    /// The answers: the real one, then the generated one and θ0's, as far as
    /// there are.
    pub fn answers(&self) -> impl Iterator<Item = &[u32]> {
        let generated = self.opponent.as_ref().map(|o| o.generated_ids.as_slice());
        let initial = self.opponent.as_ref().and_then(|o| o.initial_ids.as_deref());
        std::iter::once(self.real_ids.as_slice()).chain(generated).chain(initial)
    }

    /// Number of sequences, each the prompt with an answer.
    pub fn sequences(&self) -> usize {
        self.answers().count()
    }

    /// Tokens of its longest sequence.
    pub fn longest(&self) -> usize {
        self.prompt_ids.len() + self.answers().map(<[u32]>::len).max().unwrap_or(0)
    }

    /// Tokens of its sequences, the prompt counted in each.
    pub fn tokens(&self) -> usize {
        self.answers().map(|answer| self.prompt_ids.len() + answer.len()).sum()
    }
}

/// Checks that a model can read all pairs, before any work is done.
///
/// # Errors
/// The first row with an id beyond the vocabulary, more tokens than the
/// model's context, or nothing in a prompt or an answer.
pub fn check_pairs(pairs: &[Pair], vocab: usize, context: usize, table: &str) -> Result<()> {
    for pair in pairs {
        let bad = |problem: String, remedy: &str| FitError::Row {
            row_id: pair.row_id.clone(),
            table: table.into(),
            problem,
            remedy: remedy.into(),
        };
        let parts = [("prompt", &pair.prompt_ids), ("real", &pair.real_ids), ("generated", &pair.generated_ids)];
        for (what, ids) in parts {
            if ids.is_empty() {
                return Err(bad(format!("its {what}_ids are empty"), "make the pairs again with spin-pair"));
            }
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
                return Err(bad(
                    format!("its {what}_ids hold token {id}, beyond the model's vocabulary of {vocab}"),
                    "the pairs were made with another model's tokenizer; make them again with spin-pair",
                ));
            }
        }
        let longest = pair.prompt_ids.len() + pair.real_ids.len().max(pair.generated_ids.len());
        if longest > context {
            return Err(bad(
                format!("it has {longest} tokens, more than the {context} of the model's context"),
                "lower template.max_length and make the pairs again with spin-pair",
            ));
        }
    }
    Ok(())
}

/// Splits off the last `rows` rows, each with all its examples, so that no
/// other sample of a held-out row is trained on.
pub fn hold_out(examples: Vec<Example>, rows: usize) -> (Vec<Example>, Vec<Example>) {
    let mut order = BTreeSet::new();
    let mut ids: Vec<&str> = examples.iter().map(|e| e.row_id.as_str()).filter(|id| order.insert(*id)).collect();
    let held_out: BTreeSet<String> = ids.drain(ids.len().saturating_sub(rows)..).map(str::to_owned).collect();
    examples.into_iter().partition(|e| !held_out.contains(&e.row_id))
}

/// Pairs with their reference log-probabilities as examples.
///
/// # Errors
/// When the two tables do not have the same rows.
pub fn of_pairs(pairs: Vec<Pair>, reference: &[ReferenceRow], table: &str) -> Result<Vec<Example>> {
    let mismatch = |row_id: &str| FitError::Row {
        row_id: row_id.into(),
        table: table.into(),
        problem: "has no reference log-probabilities of the same pair".into(),
        remedy: "delete the reference artifact and run spin-fit again".into(),
    };
    if pairs.len() != reference.len() {
        return Err(mismatch("(count)"));
    }
    pairs
        .into_iter()
        .zip(reference)
        .map(|(p, r)| {
            if (&p.row_id, p.iteration, p.sample_index) != (&r.row_id, r.iteration, r.sample_index) {
                return Err(mismatch(&p.row_id));
            }
            Ok(Example {
                row_id: p.row_id,
                prompt_ids: p.prompt_ids,
                real_ids: p.real_ids,
                opponent: Some(Opponent {
                    generated_ids: p.generated_ids,
                    ref_real: r.real_logps,
                    ref_generated: r.generated_logps,
                    initial_ids: None,
                }),
            })
        })
        .collect()
}

/// Pairs without a reference as examples, each with θ0's answer of the same
/// number where `initial` has one that can be used; and how many have one.
pub fn of_pairs_alone(pairs: Vec<Pair>, initial: Vec<Sample>, context: usize) -> (Vec<Example>, usize) {
    let usable = |s: &Sample| !s.response_ids.is_empty() && s.prompt_ids.len() + s.response_ids.len() <= context;
    let initial: HashMap<(String, u32), Vec<u32>> = initial
        .into_iter()
        .filter(usable)
        .map(|sample| ((sample.row_id, sample.sample_index), sample.response_ids))
        .collect();
    let mut with = 0;
    let example = |p: Pair| {
        let initial_ids = initial.get(&(p.row_id.clone(), p.sample_index)).cloned();
        with += usize::from(initial_ids.is_some());
        let opponent = Opponent { generated_ids: p.generated_ids, ref_real: 0.0, ref_generated: 0.0, initial_ids };
        Example { row_id: p.row_id, prompt_ids: p.prompt_ids, real_ids: p.real_ids, opponent: Some(opponent) }
    };
    (pairs.into_iter().map(example).collect(), with)
}

/// Demonstrations as examples, and how many were left out as too long.
///
/// # Errors
/// When a row cannot be tokenised, or its prompt is too long and that is an
/// error.
pub fn of_demonstrations(
    rows: &[Demonstration],
    codec: &Codec,
    template: &TemplateConfig,
    context: usize,
    table: &str,
) -> Result<(Vec<Example>, usize)> {
    let mut examples = Vec::with_capacity(rows.len());
    let mut dropped = 0;
    for row in rows {
        let in_row = |error: TextError| error.in_row(&row.row_id, table);
        let (prompt_ids, real_ids) = codec.exchange_ids(&row.prompt, &row.response).map_err(in_row)?;
        let prompt_ids = match template.prompt(prompt_ids, context) {
            PromptFate::Used(ids, _) => ids,
            PromptFate::Dropped => {
                dropped += 1;
                continue;
            }
            PromptFate::TooLong(problem, remedy) => {
                return Err(FitError::Row {
                    row_id: row.row_id.clone(),
                    table: table.into(),
                    problem,
                    remedy: remedy.into(),
                });
            }
        };
        if prompt_ids.len() + real_ids.len() > template.max_length.min(context) {
            dropped += 1;
            continue;
        }
        examples.push(Example { row_id: row.row_id.clone(), prompt_ids, real_ids, opponent: None });
    }
    Ok((examples, dropped))
}

/// The order of the rows in an epoch: a permutation that depends on seed and
/// epoch alone.
pub fn epoch_order(rows: usize, seed: u64, epoch: usize) -> Vec<usize> {
    SplitMix64::new(seed ^ (epoch as u64 + 1).wrapping_mul(0xD1B5_4A32_D192_ED03)).permutation(rows)
}

/// How many updates there are and which rows each takes.
#[derive(Clone, Debug)]
pub struct Epochs {
    rows: usize,
    batch_size: usize,
    seed: u64,
}

impl Epochs {
    /// Updates over `rows` rows.
    pub fn new(rows: usize, batch_size: usize, seed: u64) -> Epochs {
        Epochs { rows, batch_size, seed }
    }

    /// Updates per epoch; the last one may be smaller.
    pub fn updates_per_epoch(&self) -> usize {
        self.rows.div_ceil(self.batch_size)
    }

    /// Updates in a number of epochs, which may be fractional.
    pub fn updates_in(&self, epochs: f64) -> usize {
        ((self.updates_per_epoch() as f64 * epochs).ceil() as usize).max(1)
    }

    /// The rows of an update, counted from 0 over all epochs.
    pub fn rows_of(&self, update: usize) -> Vec<usize> {
        let per_epoch = self.updates_per_epoch();
        let order = epoch_order(self.rows, self.seed, update / per_epoch);
        let start = update % per_epoch * self.batch_size;
        order[start..(start + self.batch_size).min(self.rows)].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By an implementation of its own in Python: published weights follow from the order.
    #[test]
    fn the_order_of_an_epoch_is_the_published_one() {
        assert_eq!(epoch_order(10, 7, 0), [6, 4, 5, 0, 9, 8, 1, 2, 7, 3]);
        assert_eq!(epoch_order(10, 7, 1), [8, 1, 4, 5, 9, 0, 7, 3, 6, 2]);
    }

    #[test]
    fn an_epoch_takes_every_row_once() {
        let epochs = Epochs::new(103, 10, 7);
        assert_eq!((epochs.updates_per_epoch(), epochs.updates_in(2.5), epochs.updates_in(0.001)), (11, 28, 1));
        for epoch in 0..3 {
            let mut seen: Vec<usize> = (0..11).flat_map(|u| epochs.rows_of(epoch * 11 + u)).collect();
            assert_ne!(seen, (0..103).collect::<Vec<_>>(), "not shuffled");
            seen.sort_unstable();
            assert_eq!(seen, (0..103).collect::<Vec<_>>());
        }
        assert_ne!(epochs.rows_of(0), epochs.rows_of(11));
        assert_ne!(epochs.rows_of(0), Epochs::new(103, 10, 8).rows_of(0));
    }

    fn pair(row_id: &str, sample_index: u32) -> Pair {
        Pair {
            row_id: row_id.into(),
            iteration: 0,
            sample_index,
            real: Vec::new(),
            generated: Vec::new(),
            prompt_ids: vec![1, 2],
            real_ids: vec![3],
            generated_ids: vec![4, 9],
        }
    }

    fn reference(pairs: &[Pair]) -> Vec<ReferenceRow> {
        let row = |p: &Pair| ReferenceRow {
            row_id: p.row_id.clone(),
            iteration: p.iteration,
            sample_index: p.sample_index,
            real_logps: -1.0,
            generated_logps: -2.0,
        };
        pairs.iter().map(row).collect()
    }

    #[test]
    fn pairs_that_a_model_cannot_read_name_table_and_row() {
        let pairs = [pair("a", 0), Pair { real_ids: vec![10], ..pair("b", 0) }];
        check_pairs(&pairs, 11, 4, "pairs/t@v1").unwrap();
        let said = |vocab, context| check_pairs(&pairs, vocab, context, "pairs/t@v1").unwrap_err().to_string();
        for (vocab, context, parts) in [
            (10, 4, ["\"b\"", "real_ids hold token 10", "vocabulary of 10"]),
            (9, 4, ["\"a\"", "generated_ids hold token 9", "vocabulary of 9"]),
            (11, 3, ["\"a\"", "4 tokens", "3 of the model's context"]),
        ] {
            let said = said(vocab, context);
            assert!(said.contains("pairs/t@v1") && parts.iter().all(|part| said.contains(part)), "{said}");
        }
        let empty = [Pair { generated_ids: Vec::new(), ..pair("c", 0) }];
        assert!(check_pairs(&empty, 11, 4, "t").unwrap_err().to_string().contains("generated_ids are empty"));
    }

    #[test]
    fn a_held_out_row_takes_all_its_pairs_along() {
        let pairs: Vec<Pair> = [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1)].map(|(id, i)| pair(id, i)).into();
        let reference = reference(&pairs);
        let examples = of_pairs(pairs, &reference, "t").unwrap();
        let ids = |examples: &[Example]| examples.iter().map(|e| e.row_id.clone()).collect::<Vec<_>>();
        let (kept, held_out) = hold_out(examples.clone(), 2);
        assert_eq!(
            (ids(&kept), ids(&held_out)),
            (vec!["a".into(), "a".into()], vec!["b".into(), "c".into(), "c".into()])
        );
        assert_eq!(hold_out(examples.clone(), 9).0, []);
        assert_eq!(hold_out(examples.clone(), 0).0, examples);
    }

    #[test]
    fn a_reference_of_other_rows_is_refused() {
        let pairs = vec![pair("a", 0), pair("b", 1)];
        let mut other = reference(&pairs);
        other[1].sample_index = 0;
        assert!(of_pairs(pairs.clone(), &other, "t").unwrap_err().to_string().contains("\"b\""));
        assert!(of_pairs(pairs.clone(), &other[..1], "t").is_err());
        let examples = of_pairs(pairs.clone(), &reference(&pairs), "t").unwrap();
        let first = &examples[0];
        assert_eq!((first.sequences(), first.longest(), first.tokens()), (2, 4, 7));
    }
}
