//! Which rows make which update.

use spin_store::run::Overlong;
use spin_store::schema::{Demonstration, Pair, ReferenceRow};
use spin_text::Codec;

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
    pub ref_real: f32,
    /// log p_θt of the generated answer.
    pub ref_generated: f32,
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
                    ref_real: r.real_logps as f32,
                    ref_generated: r.generated_logps as f32,
                }),
            })
        })
        .collect()
}

/// Limits on a row's length.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// Longest prompt in tokens.
    pub max_prompt_length: usize,
    /// Longest prompt and answer in tokens.
    pub max_length: usize,
    /// What to do with a longer prompt.
    pub overlong: Overlong,
}

/// Demonstrations as examples, and how many were left out as too long.
///
/// # Errors
/// When a row cannot be tokenised, or its prompt is too long and that is an
/// error.
pub fn of_demonstrations(
    rows: &[Demonstration],
    codec: &Codec,
    lengths: Lengths,
    table: &str,
) -> Result<(Vec<Example>, usize)> {
    let mut examples = Vec::with_capacity(rows.len());
    let mut dropped = 0;
    for row in rows {
        let prompt_ids = codec.prompt_ids(&row.prompt)?;
        let real_ids = codec.response_ids(&row.prompt, &row.response)?;
        if prompt_ids.len() > lengths.max_prompt_length && lengths.overlong == Overlong::Error {
            return Err(FitError::Row {
                row_id: row.row_id.clone(),
                table: table.into(),
                problem: format!(
                    "its prompt has {} tokens, more than template.max_prompt_length = {} or the model's context allow",
                    prompt_ids.len(),
                    lengths.max_prompt_length
                ),
                remedy: "raise the length, remove the row, or set template.overlong = \"drop\"".into(),
            });
        }
        if prompt_ids.len() > lengths.max_prompt_length || prompt_ids.len() + real_ids.len() > lengths.max_length {
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
    let mut order: Vec<usize> = (0..rows).collect();
    let mut state = seed ^ (epoch as u64 + 1).wrapping_mul(0xD1B5_4A32_D192_ED03);
    // Fisher–Yates with SplitMix64 (Steele, Lea & Flood 2014). The bias of the
    // multiply-shift reduction is below rows / 2⁶⁴.
    let mut next = move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    for i in (1..rows).rev() {
        let j = ((u128::from(next()) * (i as u128 + 1)) >> 64) as usize;
        order.swap(i, j);
    }
    order
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
}
