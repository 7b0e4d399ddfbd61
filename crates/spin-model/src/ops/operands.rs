//! What operations are given: places in buffers, and the shapes and constants
//! of the formulas.

use std::ops::Range;

use crate::config::{LayerConfig, ModelConfig};

/// A rectangle of a buffer's numbers: consecutive columns of consecutive rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    /// The number that is first.
    pub first: usize,
    pub rows: usize,
    pub columns: usize,
    /// From the first number of a row to that of the next.
    pub stride: usize,
}

impl Region {
    /// The first `rows` whole rows of `width`.
    pub fn rows(rows: usize, width: usize) -> Self {
        Self { first: 0, rows, columns: width, stride: width }
    }

    /// Some of its columns.
    pub fn columns(self, columns: Range<usize>) -> Self {
        assert!(columns.start <= columns.end && columns.end <= self.columns);
        Self { first: self.first + columns.start, columns: columns.len(), ..self }
    }

    /// Some of its rows.
    pub fn part(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        Self { first: self.first + rows.start * self.stride, rows: rows.len(), ..self }
    }

    /// Its numbers, and those between them, in the buffer.
    pub fn range(self) -> Range<usize> {
        match self.rows {
            0 => self.first..self.first,
            rows => self.first..self.first + (rows - 1) * self.stride + self.columns,
        }
    }

    /// The same, where nothing may be between them.
    ///
    /// # Panics
    ///
    /// If these are not whole rows: only products and biases take columns.
    pub fn whole(self) -> Range<usize> {
        assert_eq!(self.columns, self.stride, "whole rows");
        self.range()
    }
}

/// Numbers to read.
pub(crate) struct View<'a, B> {
    pub buffer: &'a B,
    pub at: Region,
}

impl<B> Clone for View<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for View<'_, B> {}

impl<'a, B> View<'a, B> {
    /// The first `rows` rows of `width`.
    pub fn new(buffer: &'a B, rows: usize, width: usize) -> Self {
        Self { buffer, at: Region::rows(rows, width) }
    }

    /// As [`Region::columns`].
    pub fn columns(self, columns: Range<usize>) -> Self {
        Self { at: self.at.columns(columns), ..self }
    }

    /// As [`Region::part`].
    pub fn part(self, rows: Range<usize>) -> Self {
        Self { at: self.at.part(rows), ..self }
    }
}

/// Numbers to write.
pub(crate) struct ViewMut<'a, B> {
    pub buffer: &'a mut B,
    pub at: Region,
}

impl<'a, B> ViewMut<'a, B> {
    /// The first `rows` rows of `width`.
    pub fn new(buffer: &'a mut B, rows: usize, width: usize) -> Self {
        Self { buffer, at: Region::rows(rows, width) }
    }

    /// As [`Region::columns`].
    pub fn columns(self, columns: Range<usize>) -> Self {
        Self { at: self.at.columns(columns), ..self }
    }

    /// As [`Region::part`].
    pub fn part(self, rows: Range<usize>) -> Self {
        Self { at: self.at.part(rows), ..self }
    }

    /// The same place for a shorter time.
    pub fn again(&mut self) -> ViewMut<'_, B> {
        ViewMut { buffer: self.buffer, at: self.at }
    }
}

/// What becomes of the numbers that a product is written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    /// They are replaced, whatever they are.
    Over,
    /// The product is added to them.
    Add,
}

/// A weight `[outputs, inputs]` as the second factor of a product.
pub(crate) struct Projection<'a, W> {
    pub weight: &'a W,
    pub outputs: usize,
    pub inputs: usize,
    /// Whether rows of outputs become rows of inputs, as gradients do, rather
    /// than rows of inputs rows of outputs.
    pub back: bool,
    /// What the product is multiplied with; 1 but for adapters, which are f32.
    pub scale: f32,
}

/// A root-mean-square norm: `(weight + offset) x / sqrt(mean(x^2) + eps)`.
pub(crate) struct RmsNorm<W> {
    /// `[width]`.
    pub weight: W,
    pub offset: f64,
    pub eps: f64,
}

/// The shape of one layer's attention.
///
/// A row of queries, keys and values holds all query heads, then all key heads,
/// then all value heads, each `head_dim` wide; query head `h` attends with key
/// and value head `h / (heads / kv_heads)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Scores s become c tanh(s / c).
    pub softcap: Option<f32>,
    /// How many keys a query sees, its own among them; all before it if none.
    pub window: Option<usize>,
    /// Whether queries and keys are rotated by their positions.
    pub rotates: bool,
}

impl Heads {
    pub fn new(config: &ModelConfig, layer: LayerConfig) -> Self {
        Self {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale as f32,
            softcap: config.attention_softcap.map(|cap| cap as f32),
            window: layer.window,
            rotates: layer.rope,
        }
    }

    /// Numbers of a row of queries, keys and values.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Numbers of a row of queries, or of outputs.
    pub fn out_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Numbers of a row of keys, or of values.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Columns of the queries and of the keys in a row of queries, keys and
    /// values.
    pub fn query_and_key_columns(&self) -> [Range<usize>; 2] {
        [0..self.out_width(), self.out_width()..self.out_width() + self.kv_width()]
    }
}

/// What attention was given and gave, for its backward pass.
pub(crate) struct Attended<'a, B> {
    /// `[rows, qkv_width]`, as attention was given it.
    pub qkv: &'a B,
    /// `[rows, out_width]`.
    pub out: &'a B,
    /// `[rows, heads]`.
    pub log_sums: &'a B,
}

/// What attention over a tree is given.
pub(crate) struct TreeInputs<'a, B, W> {
    /// Of all rows, or of those that are wanted.
    pub queries: View<'a, B>,
    pub only_wanted: bool,
    /// Of all rows.
    pub keys: View<'a, B>,
    pub values: View<'a, B>,
    /// Of each head's queries and keys.
    pub norms: Option<[RmsNorm<W>; 2]>,
}

/// Which targets a chunk of logits has to predict, and what counts of them.
#[derive(Debug, Clone)]
pub(crate) struct Targets<'a, I> {
    pub ids: &'a I,
    /// Those of the chunk's rows, in their order.
    pub part: Range<usize>,
    pub vocab: usize,
    /// Of torch's `cross_entropy(label_smoothing=smoothing)`.
    pub smoothing: f32,
    /// What logits were bent by.
    pub softcap: Option<f32>,
}

/// How many logits there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogitsHeld {
    /// Numbers at once in forward passes.
    pub forward: usize,
    /// Numbers up to which groups of sequences go together in backward passes.
    pub together: usize,
    /// Numbers at once where a single group has more.
    pub most: usize,
}
