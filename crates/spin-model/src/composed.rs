//! The decoder composed of candle's differentiable operations.
//!
//! This runs on every device and in every type, rounding where transformers
//! rounds: normalisation, softmax and log-probabilities are computed in f32.
//! It is the oracle of [`crate::cpu`]'s tests, and computes models that are not
//! on the CPU. With recomputation the graph of one segment of blocks exists at
//! a time.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::ops::{log_softmax, sigmoid, softmax};

use crate::batch::{Chunk, RowPlan};
use crate::config::Activation;
use crate::decoder::{Adapter, Decoder, Layer, Linear};
use crate::dropout::Mask;
use crate::error;
use crate::gradients::Gradients;
use crate::params::Param;
use crate::rope::RopeTable;

/// Logits held at once: 256 MiB in f32.
const LOGITS: usize = 1 << 26;

/// A decoder with the rows it is to compute, which must be padded.
struct Pass<'a> {
    decoder: &'a Decoder,
    plan: &'a RowPlan,
    /// Which tensors are tracked.
    tracks: &'a dyn Fn(&str) -> bool,
    device: Device,
    dtype: DType,
    /// Cosines and sines, `[seq, rope dim / 2]`.
    rope: (Tensor, Tensor),
    /// 0 where a query sees a key and minus infinity elsewhere, `[seq, seq]`
    /// f32, by window.
    masks: HashMap<Option<usize>, Tensor>,
}

/// The normalised hidden states of the plan's response rows,
/// `[response rows, hidden]`, without gradients.
fn hidden_states(decoder: &Decoder, plan: &RowPlan) -> Result<Tensor> {
    let pass = Pass::new(decoder, plan, &|_| false)?;
    let layers: Vec<usize> = (0..decoder.layers.len()).collect();
    pass.final_norm(&pass.blocks(&layers, pass.embed()?)?)
}

/// The logits after the plan's response rows, `[response rows, vocab]` f32.
pub(crate) fn logits(decoder: &Decoder, plan: &RowPlan) -> Result<Tensor> {
    Pass::new(decoder, plan, &|_| false)?.logits(&hidden_states(decoder, plan)?)
}

/// The log-probability of each of the plan's targets.
pub(crate) fn row_logps(decoder: &Decoder, plan: &RowPlan) -> Result<Vec<f32>> {
    let pass = Pass::new(decoder, plan, &|_| false)?;
    pass.detached_logps(&hidden_states(decoder, plan)?, 0..plan.targets.len(), 0.0)
}

/// As [`crate::cpu::accumulate_gradients`].
pub(crate) fn accumulate_gradients(
    decoder: &Decoder,
    plan: &RowPlan,
    smoothing: f64,
    recompute_every: usize,
    slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
    grads: &mut Gradients,
) -> error::Result<Vec<f64>> {
    let wanted: std::collections::HashSet<String> = grads.names().map(str::to_owned).collect();
    let tracks = |name: &str| wanted.contains(name);
    let pass = Pass::new(decoder, plan, &tracks)?;
    let detached = Pass::new(decoder, plan, &|_| false)?;
    let layers: Vec<usize> = (0..decoder.layers.len()).collect();
    if recompute_every == 0 {
        let x = pass.final_norm(&pass.blocks(&layers, pass.embed()?)?)?;
        let (sums, grad) = pass.head(&x, smoothing, slopes, grads)?;
        pass.backward(&x, &grad, None, grads)?;
        return Ok(sums);
    }
    let mut inputs = vec![detached.embed()?];
    for segment in layers.chunks(recompute_every) {
        let input = inputs.last().expect("the embeddings at least");
        inputs.push(detached.blocks(segment, input.clone())?.detach());
    }
    // The cut before the final norm is a segment of its own.
    let input = Var::from_tensor(&inputs.pop().expect("the last block's output"))?;
    let x = pass.final_norm(&input)?;
    let (sums, grad) = pass.head(&x, smoothing, slopes, grads)?;
    let mut grad = pass.backward(&x, &grad, Some(&input), grads)?;
    let first = decoder.first_trained(tracks);
    for (segment, input) in layers.chunks(recompute_every).zip(inputs).rev() {
        if segment.last().is_some_and(|last| *last < first) {
            return Ok(sums);
        }
        let Some(out_grad) = grad else { return Ok(sums) };
        let input = Var::from_tensor(&input)?;
        let out = pass.blocks(segment, input.as_tensor().clone())?;
        grad = pass.backward(&out, &out_grad, Some(&input), grads)?;
    }
    if let Some(grad) = grad
        && tracks(&decoder.embedding.name)
    {
        pass.backward(&pass.embed()?, &grad, None, grads)?;
    }
    Ok(sums)
}

/// Root-mean-square normalisation of `x` `[.., width]` in f32; Gemma scales
/// before it rounds, the others after.
fn rms_norm(x: &Tensor, weight: &Tensor, offset: f64, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let normed = x.broadcast_div(&scale)?;
    if offset == 0.0 {
        return normed.to_dtype(dtype)?.broadcast_mul(weight);
    }
    normed.broadcast_mul(&(weight.to_dtype(DType::F32)? + offset)?)?.to_dtype(dtype)
}

fn soft_cap(x: &Tensor, cap: f64) -> Result<Tensor> {
    (x / cap)?.tanh()? * cap
}

/// The mean over the vocabulary of each row's logits exceeds the target's by
/// what label smoothing adds.
fn smoothed(logps: &Tensor, targets: &Tensor, smoothing: f64) -> Result<Tensor> {
    let at_target = logps.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?;
    if smoothing == 0.0 {
        return Ok(at_target);
    }
    (at_target * (1.0 - smoothing))? + (logps.mean(1)? * smoothing)?
}

fn mask(seq: usize, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let seen = |query: usize, key: usize| key <= query && window.is_none_or(|window| key + window > query);
    let mask: Vec<f32> = (0..seq)
        .flat_map(|query| (0..seq).map(move |key| if seen(query, key) { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    Tensor::from_vec(mask, (seq, seq), device)
}

impl<'a> Pass<'a> {
    fn new(decoder: &'a Decoder, plan: &'a RowPlan, tracks: &'a dyn Fn(&str) -> bool) -> Result<Self> {
        let seq = plan.longest();
        if plan.groups.iter().any(|group| group.spans.len() != 1 || group.rows.len() != seq) {
            candle_core::bail!("composed kernels need sequences padded to equal lengths");
        }
        let device = decoder.embedding.var.device().clone();
        let dtype = decoder.embedding.var.dtype();
        let mut masks = HashMap::new();
        for layer in &decoder.layers {
            let window = layer.config.window;
            if let std::collections::hash_map::Entry::Vacant(entry) = masks.entry(window) {
                entry.insert(mask(seq, window, &device)?);
            }
        }
        let rope = RopeTable::new(&decoder.config.rope, seq).tensors(seq, &device, dtype)?;
        Ok(Self { decoder, plan, tracks, device, dtype, rope, masks })
    }

    fn param(&self, param: &Param) -> Tensor {
        param.tensor((self.tracks)(&param.name))
    }

    fn norm(&self, x: &Tensor, param: &Param) -> Result<Tensor> {
        let config = &self.decoder.config;
        rms_norm(x, &self.param(param), config.norm_offset, config.rms_norm_eps)
    }

    fn embed(&self) -> Result<Tensor> {
        let ids = Tensor::new(self.plan.ids.as_slice(), &self.device)?;
        let x = self.param(&self.decoder.embedding).index_select(&ids, 0)?;
        match self.decoder.config.embedding_scale {
            1.0 => Ok(x),
            // transformers rounds the factor to the type of the states.
            scale => x.broadcast_mul(&Tensor::new(scale as f32, &self.device)?.to_dtype(self.dtype)?),
        }
    }

    /// Keep `x` two-dimensional: the gradient of a weight that meets a batch
    /// dimension would get that dimension too.
    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        let mut out = x.matmul(&self.param(&linear.weight).t()?)?;
        if let Some(bias) = &linear.bias {
            out = out.broadcast_add(&self.param(bias))?;
        }
        match &linear.adapter {
            None => Ok(out),
            Some(adapter) => out + self.adapter(x, adapter)?,
        }
    }

    fn adapter(&self, x: &Tensor, adapter: &Adapter) -> Result<Tensor> {
        let mask = self.plan.dropout_seed.and_then(|seed| Mask::new(adapter.dropout, seed, &adapter.down.name));
        let x = match mask {
            None => x.clone(),
            Some(mask) => {
                let factors = Tensor::from_vec(mask.factors(x.elem_count()), x.shape(), &self.device)?;
                (x * factors.to_dtype(self.dtype)?)?
            }
        };
        // Adapters may be kept in f32 beside a base of another type.
        let x = x.to_dtype(adapter.down.var.dtype())?;
        let low = x.matmul(&self.param(&adapter.down).t()?)?;
        (low.matmul(&self.param(&adapter.up).t()?)? * adapter.scale)?.to_dtype(self.dtype)
    }

    /// Several projections side by side.
    fn project(&self, x: &Tensor, linears: &[Linear]) -> Result<Tensor> {
        let parts = linears.iter().map(|linear| self.linear(x, linear)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&parts, 1)
    }

    fn blocks(&self, layers: &[usize], mut x: Tensor) -> Result<Tensor> {
        for layer in layers {
            x = self.block(&self.decoder.layers[*layer], &x)?;
        }
        Ok(x)
    }

    fn block(&self, layer: &Layer, x: &Tensor) -> Result<Tensor> {
        let post = |x: Tensor, norm: &Option<Param>| match norm {
            Some(norm) => self.norm(&x, norm),
            None => Ok(x),
        };
        let qkv = self.project(&self.norm(x, &layer.attention_norm)?, &layer.qkv)?;
        let attended = self.linear(&self.attention(layer, &qkv)?, &layer.attention_output)?;
        let x = (x + post(attended, &layer.attention_post_norm)?)?;

        let gate_up = self.project(&self.norm(&x, &layer.feed_forward_norm)?, &layer.gate_up)?;
        let width = self.decoder.config.intermediate_size;
        let gate = gate_up.narrow(1, 0, width)?.contiguous()?;
        let up = gate_up.narrow(1, width, width)?.contiguous()?;
        let activated = match self.decoder.config.activation {
            Activation::Silu => (sigmoid(&gate)? * &gate)?,
            Activation::GeluTanh => gate.gelu()?,
        };
        let fed = self.linear(&(activated * up)?, &layer.down)?;
        x + post(fed, &layer.feed_forward_post_norm)?
    }

    fn attention(&self, layer: &Layer, qkv: &Tensor) -> Result<Tensor> {
        let config = &self.decoder.config;
        let (heads, kv_heads, dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let (batch, seq) = (self.plan.groups.len(), self.plan.longest());
        let group = heads / kv_heads;
        // [batch, heads + 2 kv_heads, seq, dim]
        let qkv = qkv.reshape((batch, seq, heads + 2 * kv_heads, dim))?.transpose(1, 2)?;
        let part = |start: usize, count: usize, norm: usize| -> Result<Tensor> {
            let part = qkv.narrow(1, start, count)?.contiguous()?;
            let part = match &layer.head_norms {
                Some(norms) => self.norm(&part, &norms[norm])?,
                None => part,
            };
            if layer.config.rope { self.rotate(&part) } else { Ok(part) }
        };
        let query = part(0, heads, 0)?;
        let key = part(heads, kv_heads, 1)?;
        let value = qkv.narrow(1, heads + kv_heads, kv_heads)?.contiguous()?;
        let repeat = |x: &Tensor| {
            let x = x.unsqueeze(2)?.broadcast_as((batch, kv_heads, group, seq, dim))?.contiguous()?;
            x.reshape((batch * heads, seq, dim))
        };
        let query = query.reshape((batch * heads, seq, dim))?;
        let (key, value) = (repeat(&key)?, repeat(&value)?);

        let mut scores = (query.matmul(&key.transpose(1, 2)?.contiguous()?)? * config.attention_scale)?;
        if let Some(cap) = config.attention_softcap {
            scores = soft_cap(&scores, cap)?;
        }
        let scores = scores.to_dtype(DType::F32)?.broadcast_add(&self.masks[&layer.config.window])?;
        let weights = softmax(&scores, D::Minus1)?.to_dtype(self.dtype)?;
        weights
            .matmul(&value)?
            .reshape((batch, heads, seq, dim))?
            .transpose(1, 2)?
            .contiguous()?
            .reshape((batch * seq, heads * dim))
    }

    /// Rotates `x` `[batch, heads, seq, dim]` by position.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (cos, sin) = &self.rope;
        let half = cos.dim(1)?;
        let first = x.narrow(D::Minus1, 0, half)?.contiguous()?;
        let second = x.narrow(D::Minus1, half, half)?.contiguous()?;
        let mut parts = vec![
            (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?,
            (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?,
        ];
        let rest = x.dim(D::Minus1)? - 2 * half;
        if rest > 0 {
            parts.push(x.narrow(D::Minus1, 2 * half, rest)?.contiguous()?);
        }
        Tensor::cat(&parts, D::Minus1)
    }

    fn final_norm(&self, x: &Tensor) -> Result<Tensor> {
        let rows = Tensor::new(self.plan.response_rows.as_slice(), &self.device)?;
        self.norm(&x.index_select(&rows, 0)?, &self.decoder.norm)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = hidden.matmul(&self.param(&self.decoder.output).t()?)?.to_dtype(DType::F32)?;
        match self.decoder.config.final_softcap {
            Some(cap) => soft_cap(&logits, cap),
            None => Ok(logits),
        }
    }

    /// Log-probabilities of the targets of some response rows.
    fn logps(&self, hidden: &Tensor, rows: std::ops::Range<usize>, smoothing: f64) -> Result<Tensor> {
        let targets = Tensor::new(&self.plan.targets[rows.clone()], &self.device)?;
        let logits = self.logits(&hidden.narrow(0, rows.start, rows.len())?)?;
        smoothed(&log_softmax(&logits, D::Minus1)?, &targets, smoothing)
    }

    /// Rows whose logits are held at once.
    fn limit(&self) -> usize {
        (LOGITS / self.decoder.config.vocab_size).max(64)
    }

    fn detached_logps(&self, hidden: &Tensor, rows: std::ops::Range<usize>, smoothing: f64) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(rows.len());
        for start in rows.clone().step_by(self.limit()) {
            let part = start..(start + self.limit()).min(rows.end);
            out.extend(self.logps(&hidden.detach(), part, smoothing)?.detach().to_vec1::<f32>()?);
        }
        Ok(out)
    }

    /// Sums of log-probabilities and the gradient of `hidden`; that of the
    /// output weight is added.
    fn head(
        &self,
        hidden: &Tensor,
        smoothing: f64,
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
        grads: &mut Gradients,
    ) -> error::Result<(Vec<f64>, Tensor)> {
        let mut sums = Vec::new();
        let mut parts = Vec::new();
        for chunk in self.plan.chunks(self.limit()) {
            let row_slopes = self.row_slopes(hidden, &chunk, smoothing, slopes, &mut sums)?;
            // A group with more rows than the limit is cut here.
            for start in (0..chunk.rows.len()).step_by(self.limit()) {
                let count = self.limit().min(chunk.rows.len() - start);
                let rows = chunk.rows.start + start..chunk.rows.start + start + count;
                let input = Var::from_tensor(&hidden.detach().narrow(0, rows.start, count)?.contiguous()?)?;
                let targets = Tensor::new(&self.plan.targets[rows], &self.device)?;
                let logps = smoothed(&log_softmax(&self.logits(&input)?, D::Minus1)?, &targets, smoothing)?;
                let slopes = Tensor::new(&row_slopes[start..start + count], &self.device)?;
                let grad = self.backward(&logps, &slopes, Some(&input), grads)?;
                parts.push(grad.unwrap_or(input.zeros_like()?));
            }
        }
        Ok((sums, Tensor::cat(&parts, 0)?))
    }

    fn row_slopes(
        &self,
        hidden: &Tensor,
        chunk: &Chunk,
        smoothing: f64,
        slopes: &mut dyn FnMut(usize, &[f64]) -> Vec<f64>,
        sums: &mut Vec<f64>,
    ) -> Result<Vec<f32>> {
        let logps = self.detached_logps(hidden, chunk.rows.clone(), smoothing)?;
        Ok(self.plan.slopes_of(chunk, &logps, slopes, sums))
    }

    /// Adds the gradients of everything tracked behind `out` and returns that
    /// of `input`.
    fn backward(
        &self,
        out: &Tensor,
        out_grad: &Tensor,
        input: Option<&Var>,
        grads: &mut Gradients,
    ) -> error::Result<Option<Tensor>> {
        let mut store = (out * out_grad.to_dtype(out.dtype())?)?.sum_all()?.backward()?;
        let tied = [&self.decoder.embedding, &self.decoder.norm, &self.decoder.output];
        let mut seen = std::collections::HashSet::new();
        for param in tied.into_iter().chain(self.decoder.layers.iter().flat_map(Layer::params)) {
            if (self.tracks)(&param.name)
                && seen.insert(param.name.as_str())
                && let Some(grad) = store.remove(&param.var)
            {
                grads.add(&param.name, &grad)?;
            }
        }
        Ok(input.and_then(|input| store.remove(input)).map(|grad| grad.detach()))
    }
}
