//! Prompts with their answers, and how their tokens become rows of a tensor.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// Sequences of prompt and response tokens, to be scored together.
///
/// Sequences come in groups that share a prompt: a pair's two answers, or one
/// answer alone. Sequences are numbered group by group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    sequences: Vec<Vec<u32>>,
    prompt_lengths: Vec<usize>,
    group_sizes: Vec<usize>,
}

impl Batch {
    /// Joins each prompt with its response; every sequence is its own group.
    ///
    /// # Errors
    ///
    /// If there is no sequence, a prompt is empty (the first response token
    /// would have no prefix to be predicted from; begin prompts with the BOS
    /// token) or a response is empty.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a [u32], &'a [u32])>) -> Result<Self> {
        Self::grouped(pairs.into_iter().map(|(prompt, response)| (prompt, [response])))
    }

    /// Joins each prompt with each of its responses.
    ///
    /// # Errors
    ///
    /// As [`Batch::new`], and if a prompt has no responses.
    pub fn grouped<'a, R>(groups: impl IntoIterator<Item = (&'a [u32], R)>) -> Result<Self>
    where
        R: IntoIterator<Item = &'a [u32]>,
    {
        let mut batch = Self { sequences: Vec::new(), prompt_lengths: Vec::new(), group_sizes: Vec::new() };
        for (prompt, responses) in groups {
            let first = batch.sequences.len();
            for response in responses {
                for (part, what) in [(prompt, "prompt"), (response, "response")] {
                    if part.is_empty() {
                        return Err(Error::Batch {
                            sequence: batch.sequences.len(),
                            message: format!("the {what} has no tokens; it needs at least one"),
                        });
                    }
                }
                batch.sequences.push([prompt, response].concat());
                batch.prompt_lengths.push(prompt.len());
            }
            batch.group_sizes.push(batch.sequences.len() - first);
        }
        match batch.group_sizes.iter().position(|size| *size == 0) {
            Some(group) => Err(Error::Batch {
                sequence: batch.group_sizes[..group].iter().sum(),
                message: "a prompt has no responses".to_owned(),
            }),
            None if batch.sequences.is_empty() => {
                Err(Error::Batch { sequence: 0, message: "there are no sequences".to_owned() })
            }
            None => Ok(batch),
        }
    }

    /// Number of sequences of each group, in order.
    pub fn group_sizes(&self) -> &[usize] {
        &self.group_sizes
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there are no sequences; never true.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Tokens of prompt and response, per sequence.
    pub fn lengths(&self) -> Vec<usize> {
        self.sequences.iter().map(Vec::len).collect()
    }

    /// Tokens of the prompt, per sequence.
    pub fn prompt_lengths(&self) -> &[usize] {
        &self.prompt_lengths
    }

    /// Tokens of the response, per sequence.
    pub fn response_lengths(&self) -> Vec<usize> {
        self.sequences.iter().zip(&self.prompt_lengths).map(|(sequence, prompt)| sequence.len() - prompt).collect()
    }

    /// Number of response tokens in all sequences.
    pub fn num_response_tokens(&self) -> usize {
        self.response_lengths().iter().sum()
    }

    /// Number of tokens in all sequences, padding not counted.
    pub fn num_tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// The tokens as `[batch, seq]` u32, padded with 0 on the right.
    ///
    /// # Errors
    ///
    /// If the device cannot hold the tensor.
    pub fn input_ids(&self, device: &Device) -> Result<Tensor> {
        let longest = self.sequences.iter().map(Vec::len).max().unwrap_or(0);
        let ids = self.padded(longest);
        Ok(Tensor::from_vec(ids, (self.len(), longest), device)?)
    }

    fn padded(&self, longest: usize) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.len() * longest);
        for (index, sequence) in self.sequences.iter().enumerate() {
            ids.extend_from_slice(sequence);
            ids.resize((index + 1) * longest, 0);
        }
        ids
    }

    /// Checks the tokens against a model's vocabulary and longest sequence.
    pub(crate) fn check(&self, vocab_size: usize, max_length: usize) -> Result<()> {
        for (index, sequence) in self.sequences.iter().enumerate() {
            if sequence.len() > max_length {
                return Err(Error::Batch {
                    sequence: index,
                    message: format!(
                        "{} tokens are more than the model's max_position_embeddings \
                         {max_length}; shorten or drop the row",
                        sequence.len()
                    ),
                });
            }
            if let Some(id) = sequence.iter().find(|id| **id as usize >= vocab_size) {
                return Err(Error::Batch {
                    sequence: index,
                    message: format!(
                        "token id {id} is outside the vocabulary of {vocab_size}; \
                         the tokenizer does not belong to this model"
                    ),
                });
            }
        }
        Ok(())
    }
}

/// How the tokens of a batch become rows of a `[rows, hidden]` tensor.
///
/// A sequence's last token predicts nothing and has no row. Rows are either
/// packed (no padding; sequences follow each other) or padded on the right to
/// equal lengths, for operations that need rectangles.
#[derive(Debug, Clone)]
pub(crate) struct RowPlan {
    /// The input token of each row.
    pub ids: Vec<u32>,
    /// Rows that belong to each sequence, padding included.
    pub lengths: Vec<usize>,
    /// Rows whose output predicts a response token, sequence by sequence.
    pub response_rows: Vec<u32>,
    /// The token each of those rows has to predict.
    pub targets: Vec<u32>,
    /// The sequence each of those rows belongs to.
    pub owners: Vec<u32>,
}

impl RowPlan {
    pub fn new(batch: &Batch, packed: bool) -> Self {
        let longest = batch.sequences.iter().map(Vec::len).max().unwrap_or(1) - 1;
        let mut plan = Self {
            ids: Vec::new(),
            lengths: Vec::new(),
            response_rows: Vec::new(),
            targets: Vec::new(),
            owners: Vec::new(),
        };
        for (owner, (sequence, &prompt)) in batch.sequences.iter().zip(&batch.prompt_lengths).enumerate() {
            let start = plan.ids.len();
            let rows = if packed { sequence.len() - 1 } else { longest };
            plan.ids.extend_from_slice(&sequence[..sequence.len() - 1]);
            plan.ids.resize(start + rows, 0);
            plan.lengths.push(rows);
            for (position, &target) in sequence.iter().enumerate().skip(prompt) {
                plan.response_rows.push((start + position - 1) as u32);
                plan.targets.push(target);
                plan.owners.push(owner as u32);
            }
        }
        plan
    }

    /// All rows of one sequence, every one of them an output.
    pub fn every_row(ids: &[u32]) -> Self {
        Self {
            ids: ids.to_vec(),
            lengths: vec![ids.len()],
            response_rows: (0..ids.len() as u32).collect(),
            targets: Vec::new(),
            owners: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let pairs: [(&[u32], &[u32]); 2] = [(&[1, 2], &[3]), (&[4], &[5, 6, 7])];
        Batch::new(pairs).unwrap()
    }

    #[test]
    fn padded_and_packed_rows_predict_the_same_tokens() {
        let packed = RowPlan::new(&batch(), true);
        assert_eq!(packed.ids, [1, 2, 4, 5, 6]);
        assert_eq!(packed.lengths, [2, 3]);
        assert_eq!(packed.response_rows, [1, 2, 3, 4]);
        let padded = RowPlan::new(&batch(), false);
        assert_eq!(padded.ids, [1, 2, 0, 4, 5, 6]);
        assert_eq!(padded.response_rows, [1, 3, 4, 5]);
        for plan in [packed, padded] {
            assert_eq!(plan.targets, [3, 5, 6, 7]);
            assert_eq!(plan.owners, [0, 1, 1, 1]);
        }
    }

    #[test]
    fn input_ids_are_padded_on_the_right() {
        let ids = batch().input_ids(&Device::Cpu).unwrap();
        assert_eq!(ids.to_vec2::<u32>().unwrap(), [[1, 2, 3, 0], [4, 5, 6, 7]]);
        assert_eq!(batch().num_response_tokens(), 4);
        assert_eq!(batch().num_tokens(), 7);
    }

    #[test]
    fn empty_parts_and_foreign_tokens_are_named() {
        let empty: [(&[u32], &[u32]); 1] = [(&[], &[3])];
        assert!(Batch::new(empty).unwrap_err().to_string().contains("prompt"));
        let text = batch().check(7, 10).unwrap_err().to_string();
        assert!(text.contains("sequence 1") && text.contains("token id 7"));
        assert!(batch().check(8, 3).unwrap_err().to_string().contains("4 tokens"));
    }
}
