//! The whole model, forward and backward.
//!
//! The backward pass keeps each block's intermediate results, or only the
//! inputs of every k-th block, from which it computes the rest again (Chen et
//! al. 2016): a third more work for memory that hardly grows with depth.

use super::block::{Block, Saved, norm};
use super::head::Head;
use crate::batch::RowPlan;
use crate::decoder::Decoder;
use crate::error::Result;
use crate::ops::{Operations, RmsNorm, Sums, View};
use crate::rope::RopeTable;

/// A decoder with the rows it is to compute.
struct Pass<'a, O: Operations> {
    ops: &'a O,
    decoder: &'a Decoder,
    plan: &'a RowPlan,
    rope: O::Rope,
    groups: O::Groups,
    ids: O::Indices,
    response_rows: O::Indices,
}

/// Blocks whose intermediate results are kept or computed again together.
enum Segment<B> {
    Kept(Vec<Saved<B>>),
    /// The first block's input.
    Input(B),
}

/// The logits after the plan's response rows, `[response rows, vocab]`.
pub(crate) fn logits<O: Operations>(ops: &O, decoder: &Decoder, plan: &RowPlan) -> Result<Vec<f32>> {
    let (rows, vocab) = (plan.response_rows.len(), decoder.config.vocab_size);
    let hidden = hidden_states(ops, decoder, plan)?;
    let head = Head::new(ops, decoder, 0.0, false)?;
    let mut logits = ops.room(rows * vocab)?;
    head.logits(View::new(&hidden, rows, decoder.config.hidden_size), &mut logits)?;
    ops.taken(logits, rows * vocab)
}

/// The log-probability of each of the plan's targets.
pub(crate) fn row_logps<O: Operations>(ops: &O, decoder: &Decoder, plan: &RowPlan) -> Result<Vec<f32>> {
    let hidden = hidden_states(ops, decoder, plan)?;
    let targets = ops.indices(&plan.targets)?;
    let hidden = View::new(&hidden, plan.targets.len(), decoder.config.hidden_size);
    Head::new(ops, decoder, 0.0, false)?.logps(hidden, &targets, 0)
}

/// The normalised hidden states of the plan's response rows,
/// `[response rows, hidden]`.
fn hidden_states<O: Operations>(ops: &O, decoder: &Decoder, plan: &RowPlan) -> Result<O::Buffer> {
    let pass = Pass::new(ops, decoder, plan)?;
    let mut x = pass.embed()?;
    for layer in 0..decoder.layers.len() {
        x = pass.block(layer).forward(&pass.groups, x, pass.rows())?.0;
    }
    let responses = pass.responses(&x)?;
    let rows = plan.response_rows.len() * decoder.config.hidden_size;
    let mut hidden = ops.room(rows)?;
    ops.norm(&final_norm(ops, decoder)?, pass.response_view(&responses), &mut hidden)?;
    Ok(hidden)
}

/// Sums of the sequences' log-probabilities, and the gradient of the loss
/// added to `grads`: see [`crate::CausalLm::accumulate_gradients`].
/// Intermediate results are kept every `recompute_every` blocks, all of them
/// with 0.
pub(crate) fn accumulate_gradients<O: Operations>(
    ops: &O,
    decoder: &Decoder,
    plan: &RowPlan,
    smoothing: f64,
    recompute_every: usize,
    slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
    grads: &mut impl Sums<O::Buffer>,
) -> Result<Vec<f64>> {
    let pass = Pass::new(ops, decoder, plan)?;
    let rows = pass.rows();
    let first = decoder.first_trained(|name| grads.wants(name));
    let mut x = pass.embed()?;
    for layer in 0..first {
        x = pass.block(layer).forward(&pass.groups, x, rows)?.0;
    }
    let mut segments = Vec::new();
    let trained: Vec<usize> = (first..decoder.layers.len()).collect();
    for layers in trained.chunks(recompute_every.max(1)) {
        if recompute_every == 0 {
            let (out, saved) = pass.segment(layers, x)?;
            segments.push((layers, Segment::Kept(saved)));
            x = out;
        } else {
            segments.push((layers, Segment::Input(ops.copied(View::new(&x, rows, pass.width()))?)));
            for layer in layers {
                x = pass.block(*layer).forward(&pass.groups, x, rows)?.0;
            }
        }
    }

    let responses = pass.responses(&x)?;
    drop(x);
    let len = plan.response_rows.len() * pass.width();
    let norm = final_norm(ops, decoder)?;
    let mut hidden = ops.room(len)?;
    ops.norm(&norm, pass.response_view(&responses), &mut hidden)?;
    let head = Head::new(ops, decoder, smoothing, true)?;
    let sum = grads.sum(&decoder.output.name);
    let (sums, hidden_grad) = head.backward(&hidden, plan, slopes, sum)?;
    drop((head, hidden));
    let mut response_grad = ops.zeros(len)?;
    let sum = grads.sum(&decoder.norm.name);
    ops.norm_backward(&norm, pass.response_view(&responses), &hidden_grad, &mut response_grad, sum)?;
    let mut grad = ops.zeros(rows * pass.width())?;
    ops.scatter_add(&response_grad, pass.width(), &pass.response_rows, &mut grad)?;
    drop((responses, hidden_grad, response_grad));

    while let Some((layers, segment)) = segments.pop() {
        let saved = match segment {
            Segment::Kept(saved) => saved,
            Segment::Input(x) => pass.segment(layers, x)?.1,
        };
        for (layer, saved) in layers.iter().zip(saved).rev() {
            grad = pass.block(*layer).backward(&pass.groups, saved, grad, rows, grads)?;
        }
    }
    if let Some(sum) = grads.sum(&decoder.embedding.name) {
        ops.embed_backward(&grad, &pass.ids, pass.width(), decoder.config.embedding_scale as f32, sum)?;
    }
    Ok(sums)
}

/// The norm before the output projection.
pub(super) fn final_norm<'a, O: Operations>(ops: &O, decoder: &'a Decoder) -> Result<RmsNorm<O::Weight<'a>>> {
    norm(ops, &decoder.config, &decoder.norm)
}

impl<'a, O: Operations> Pass<'a, O> {
    fn new(ops: &'a O, decoder: &'a Decoder, plan: &'a RowPlan) -> Result<Self> {
        Ok(Self {
            ops,
            decoder,
            plan,
            rope: ops.rope(RopeTable::new(&decoder.config.rope, plan.longest()))?,
            groups: ops.groups(&plan.groups)?,
            ids: ops.indices(&plan.ids)?,
            response_rows: ops.indices(&plan.response_rows)?,
        })
    }

    fn rows(&self) -> usize {
        self.plan.ids.len()
    }

    fn width(&self) -> usize {
        self.decoder.config.hidden_size
    }

    fn block(&self, layer: usize) -> Block<'_, O> {
        Block {
            ops: self.ops,
            config: &self.decoder.config,
            layer: &self.decoder.layers[layer],
            rope: &self.rope,
            dropout_seed: self.plan.dropout_seed,
        }
    }

    /// The embeddings of the tokens, `[rows, hidden]`.
    fn embed(&self) -> Result<O::Buffer> {
        let mut x = self.ops.room(self.rows() * self.width())?;
        let table = self.ops.weight(&self.decoder.embedding)?;
        let scale = self.decoder.config.embedding_scale as f32;
        self.ops.embed(&table, &self.ids, self.width(), scale, &mut x)?;
        Ok(x)
    }

    /// The response rows of all rows.
    fn responses(&self, x: &O::Buffer) -> Result<O::Buffer> {
        let mut responses = self.ops.room(self.plan.response_rows.len() * self.width())?;
        self.ops.gather(x, self.width(), &self.response_rows, &mut responses)?;
        Ok(responses)
    }

    fn response_view<'b>(&self, buffer: &'b O::Buffer) -> View<'b, O::Buffer> {
        View::new(buffer, self.plan.response_rows.len(), self.width())
    }

    /// Runs some blocks and keeps what their backward passes need.
    #[expect(clippy::type_complexity, reason = "the rows, and what is kept of each block")]
    fn segment(&self, layers: &[usize], mut x: O::Buffer) -> Result<(O::Buffer, Vec<Saved<O::Buffer>>)> {
        let mut all = Vec::with_capacity(layers.len());
        for layer in layers {
            let (out, saved) = self.block(*layer).forward(&self.groups, x, self.rows())?;
            all.push(saved);
            x = out;
        }
        Ok((x, all))
    }
}
