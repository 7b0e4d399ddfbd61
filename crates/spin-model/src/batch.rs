//! Prompts with their answers, and how their tokens become rows of a tensor.

use std::ops::Range;

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
    dropout_seed: Option<u64>,
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
        let mut batch =
            Self { sequences: Vec::new(), prompt_lengths: Vec::new(), group_sizes: Vec::new(), dropout_seed: None };
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

    /// The same batch with the dropout of adapters, which is off otherwise.
    /// Equal seeds drop the same elements.
    pub fn with_dropout_seed(self, seed: u64) -> Self {
        Self { dropout_seed: Some(seed), ..self }
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

    /// Number of tokens in all sequences, padding not counted.
    pub fn num_tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
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

/// How rows of a batch are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One sequence after the other, without padding.
    Packed,
    /// As packed, with the prompt of a group's sequences once.
    SharedPrompts,
    /// All sequences padded on the right to equal lengths, for operations that
    /// need rectangles.
    Padded,
}

/// How the tokens of a batch become rows of a `[rows, hidden]` tensor.
///
/// A sequence's last token predicts nothing and has no row.
#[derive(Debug, Clone)]
pub(crate) struct RowPlan {
    /// The input token of each row.
    pub ids: Vec<u32>,
    /// Rows that see each other, in order.
    pub groups: Vec<Group>,
    /// Rows whose output predicts a response token, sequence by sequence. With
    /// shared prompts the last row of a prompt is here for each response.
    pub response_rows: Vec<u32>,
    /// The token each of those rows has to predict.
    pub targets: Vec<u32>,
    /// How many of those rows belong to each sequence.
    pub responses: Vec<usize>,
    /// Number of sequences of each group of the batch.
    pub group_sizes: Vec<usize>,
    /// What decides which elements adapters drop.
    pub dropout_seed: Option<u64>,
}

/// Rows that only see each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// All rows of the spans, each of which is some span's own.
    pub rows: Range<usize>,
    /// Sequences, of which later ones may share rows with the first.
    pub spans: Vec<Span>,
}

/// One sequence: rows computed for another, then its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    /// Keys and values come from here, queries do not.
    pub shared: Range<usize>,
    /// Keys, values and queries.
    pub own: Range<usize>,
}

impl Span {
    /// Rows of the sequence by position.
    pub fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        self.shared.clone().chain(self.own.clone())
    }

    /// Length of the sequence.
    pub fn len(&self) -> usize {
        self.shared.len() + self.own.len()
    }
}

impl RowPlan {
    pub fn new(batch: &Batch, layout: Layout) -> Self {
        let longest = batch.sequences.iter().map(Vec::len).max().unwrap_or(1) - 1;
        let mut plan = Self {
            ids: Vec::new(),
            groups: Vec::new(),
            response_rows: Vec::new(),
            targets: Vec::new(),
            responses: batch.response_lengths(),
            group_sizes: batch.group_sizes.clone(),
            dropout_seed: batch.dropout_seed,
        };
        let mut next = 0;
        for size in &batch.group_sizes {
            let members = next..next + size;
            next += size;
            match layout {
                Layout::SharedPrompts => plan.add_group(batch, members),
                Layout::Packed => members.for_each(|member| plan.add_group(batch, member..member + 1)),
                Layout::Padded => members.for_each(|member| {
                    plan.add_group(batch, member..member + 1);
                    let group = plan.groups.last_mut().expect("just added");
                    group.rows.end = group.rows.start + longest;
                    group.spans[0].own = group.rows.clone();
                    plan.ids.resize(group.rows.end, 0);
                }),
            }
        }
        plan
    }

    /// Adds sequences with one prompt, which is computed once.
    fn add_group(&mut self, batch: &Batch, members: Range<usize>) {
        let start = self.ids.len();
        let prompt = batch.prompt_lengths[members.start];
        let mut spans = Vec::with_capacity(members.len());
        for member in members {
            let sequence = &batch.sequences[member];
            // A prompt's last row predicts the first token of every response.
            let shared = if spans.is_empty() { start..start } else { start..start + prompt };
            let first = self.ids.len();
            self.ids.extend_from_slice(&sequence[shared.len()..sequence.len() - 1]);
            let row_of = |position: usize| {
                if position < shared.len() { start + position } else { first + position - shared.len() }
            };
            for (position, &target) in sequence.iter().enumerate().skip(prompt) {
                self.response_rows.push(row_of(position - 1) as u32);
                self.targets.push(target);
            }
            spans.push(Span { shared, own: first..self.ids.len() });
        }
        self.groups.push(Group { rows: start..self.ids.len(), spans });
    }

    /// All rows of one sequence, every one of them an output.
    pub fn every_row(ids: &[u32]) -> Self {
        let rows = 0..ids.len();
        Self {
            ids: ids.to_vec(),
            groups: vec![Group { rows: rows.clone(), spans: vec![Span { shared: 0..0, own: rows }] }],
            response_rows: (0..ids.len() as u32).collect(),
            targets: Vec::new(),
            responses: Vec::new(),
            group_sizes: Vec::new(),
            dropout_seed: None,
        }
    }

    /// The longest sequence, in rows.
    pub fn longest(&self) -> usize {
        self.groups.iter().flat_map(|group| &group.spans).map(Span::len).max().unwrap_or(0)
    }

    /// Cuts the groups of the batch into runs of at least one group whose
    /// response rows together are at most `limit`, or one group with more.
    pub fn chunks(&self, limit: usize) -> Vec<Chunk> {
        let mut chunks: Vec<Chunk> = Vec::new();
        let (mut sequence, mut row) = (0, 0);
        for (group, size) in self.group_sizes.iter().enumerate() {
            let rows: usize = self.responses[sequence..sequence + size].iter().sum();
            match chunks.last_mut() {
                Some(last) if last.rows.len() + rows <= limit => {
                    last.groups.end = group + 1;
                    last.sequences.end = sequence + size;
                    last.rows.end = row + rows;
                }
                _ => chunks.push(Chunk {
                    groups: group..group + 1,
                    sequences: sequence..sequence + size,
                    rows: row..row + rows,
                }),
            }
            sequence += size;
            row += rows;
        }
        chunks
    }

    /// The derivative of the loss by the log-probability of each response row
    /// of a chunk, from the log-probabilities of those rows; the sums of each
    /// sequence are added to `sums`.
    pub fn slopes_of(
        &self,
        chunk: &Chunk,
        row_logps: &[f32],
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
        sums: &mut Vec<f64>,
    ) -> Vec<f32> {
        let mut rows = row_logps;
        let mut out = Vec::with_capacity(row_logps.len());
        let mut sequence = chunk.sequences.start;
        for group in chunk.groups.clone() {
            let members = sequence..sequence + self.group_sizes[group];
            sequence = members.end;
            let first = sums.len();
            for length in &self.responses[members.clone()] {
                let (own, others) = rows.split_at(*length);
                rows = others;
                sums.push(own.iter().copied().map(f64::from).sum());
            }
            let slopes = slopes(group, &sums[first..]);
            for (slope, length) in slopes.into_iter().zip(&self.responses[members]) {
                out.extend(std::iter::repeat_n(slope as f32, *length));
            }
        }
        out
    }
}

/// Consecutive groups of a batch whose output projection is computed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Numbers of the groups.
    pub groups: Range<usize>,
    /// Numbers of their sequences.
    pub sequences: Range<usize>,
    /// Their response rows, as positions in [`RowPlan::response_rows`].
    pub rows: Range<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let pairs: [(&[u32], &[u32]); 2] = [(&[1, 2], &[3]), (&[4], &[5, 6, 7])];
        Batch::new(pairs).unwrap()
    }

    #[test]
    fn all_layouts_predict_the_same_tokens() {
        let packed = RowPlan::new(&batch(), Layout::Packed);
        assert_eq!(packed.ids, [1, 2, 4, 5, 6]);
        assert_eq!(packed.response_rows, [1, 2, 3, 4]);
        let padded = RowPlan::new(&batch(), Layout::Padded);
        assert_eq!(padded.ids, [1, 2, 0, 4, 5, 6]);
        assert_eq!(padded.response_rows, [1, 3, 4, 5]);
        for plan in [packed, padded, RowPlan::new(&batch(), Layout::SharedPrompts)] {
            assert_eq!(plan.targets, [3, 5, 6, 7]);
            assert_eq!(plan.responses, [1, 3]);
        }
    }

    #[test]
    fn a_shared_prompt_is_computed_once() {
        let responses: [&[u32]; 2] = [&[4, 5], &[6]];
        let single: [&[u32]; 1] = [&[9]];
        let groups = [([1, 2, 3].as_slice(), responses.to_vec()), ([7, 8].as_slice(), single.to_vec())];
        let plan = RowPlan::new(&Batch::grouped(groups).unwrap(), Layout::SharedPrompts);
        assert_eq!(plan.ids, [1, 2, 3, 4, 7, 8]);
        assert_eq!(plan.response_rows, [2, 3, 2, 5]);
        assert_eq!(plan.targets, [4, 5, 6, 9]);
        let spans = vec![Span { shared: 0..0, own: 0..4 }, Span { shared: 0..3, own: 4..4 }];
        assert_eq!(plan.groups[0], Group { rows: 0..4, spans });
        assert_eq!(plan.longest(), 4);

        let chunk = |groups, sequences, rows| Chunk { groups, sequences, rows };
        assert_eq!(plan.chunks(1), [chunk(0..1, 0..2, 0..3), chunk(1..2, 2..3, 3..4)]);
        assert_eq!(plan.chunks(4), [chunk(0..2, 0..3, 0..4)]);
        let mut sums = Vec::new();
        let mut seen = Vec::new();
        let mut slopes = |group: usize, logps: &[f64]| {
            seen.push((group, logps.to_vec()));
            logps.iter().map(|logp| logp * 10.0).collect()
        };
        let slopes = plan.slopes_of(&plan.chunks(4)[0], &[1.0, 2.0, 4.0, 8.0], &mut slopes, &mut sums);
        assert_eq!(slopes, [30.0, 30.0, 40.0, 80.0]);
        assert_eq!(sums, [3.0, 4.0, 8.0]);
        assert_eq!(seen, [(0, vec![3.0, 4.0]), (1, vec![8.0])]);
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
