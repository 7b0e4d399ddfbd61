//! Operations as launches.

use spin_cuda::{
    ChunkSlopes, DropoutMask, Gate, Machine, Memory, NormGrads, NormScratch, Normed, Strided, StridedMut, weight_parts,
};

use super::attention::{DeviceGroups, DeviceRope, heads_in, norm_of};
use super::set::{Buffer, Cuda, Indices, part, whole};
use super::weight::{DeviceNumbers, Weight};
use crate::batch::Group;
use crate::config::Activation;
use crate::dropout::Mask;
use crate::error::Result;
use crate::ops::{Attended, Heads, LogitsHeld, Operations, Projection, RmsNorm, Targets, View, ViewMut, Write};
use crate::params::{Form, Param};
use crate::rope::RopeTable;

/// Logits held at once: 256 MiB. A few in tests, so that there are several chunks.
pub(super) const LOGITS: usize = if cfg!(test) { 1 << 9 } else { 1 << 26 };

fn gate(activation: Activation) -> Gate {
    match activation {
        Activation::Silu => Gate::Silu,
        Activation::GeluTanh => Gate::GeluTanh,
    }
}

fn head(targets: &Targets<'_, impl Sized>, softcap: Option<f32>) -> spin_cuda::Head {
    spin_cuda::Head { vocab: targets.vocab, softcap, smoothing: targets.smoothing }
}

/// As many whole rows as there are.
fn rows_of<M: Machine>(buffer: &Buffer<M>, width: usize) -> usize {
    buffer.len() / width * width
}

impl<M: Machine> Cuda<M> {
    /// Adds rows to those with their numbers.
    fn add_rows(
        &self,
        values: &Buffer<M>,
        width: usize,
        rows: &Indices<M>,
        scale: f32,
        to: &mut Buffer<M>,
    ) -> Result<()> {
        let all = rows_of(to, width);
        let (segments, mut to) = (rows.segments(self)?, to.view_mut().slice(0..all));
        Ok(spin_cuda::add_segments(self.machine(), values.view(), &segments, &mut to, width, scale, true)?)
    }

    /// The gradients of normalised rows or heads, and of the weight.
    fn normalise_backward(
        &self,
        of: Normed,
        norm: &RmsNorm<Weight<M>>,
        x: Strided<'_, f32>,
        mut grads: NormGrads<'_, f32, f32>,
        sum: Option<&mut Buffer<M>>,
    ) -> Result<()> {
        let parts = if sum.is_some() { weight_parts(of) } else { 0 };
        let (mut inverses, mut parts) =
            (Memory::room(self.machine(), of.count())?, Memory::room(self.machine(), parts)?);
        let mut scratch = NormScratch { inverses: inverses.view_mut(), parts: parts.view_mut() };
        let mut sum = sum.map(Memory::view_mut);
        let norm = norm_of(norm);
        spin_cuda::rms_norm_backward(self.machine(), of, x, &norm, &mut grads, sum.as_mut(), &mut scratch)?;
        Ok(())
    }
}

impl<M: Machine> Operations for Cuda<M> {
    type Buffer = Buffer<M>;
    type Indices = Indices<M>;
    type Weight<'a> = Weight<M>;
    type Rope = DeviceRope<M>;
    type Groups = DeviceGroups<M>;

    fn zeros(&self, len: usize) -> Result<Buffer<M>> {
        Ok(Memory::zeros(self.machine(), len)?)
    }

    fn room(&self, len: usize) -> Result<Buffer<M>> {
        Ok(Memory::room(self.machine(), len)?)
    }

    fn at_least(&self, buffer: &mut Buffer<M>, len: usize) -> Result<()> {
        if buffer.len() < len {
            // What is there goes before the new comes.
            *buffer = self.room(0)?;
            *buffer = self.room(len)?;
        }
        Ok(())
    }

    fn copied(&self, x: View<'_, Buffer<M>>) -> Result<Buffer<M>> {
        self.copy_of(whole(x))
    }

    fn download(&self, x: View<'_, Buffer<M>>) -> Result<Vec<f32>> {
        Ok(x.buffer.download(self.machine(), x.at.whole())?)
    }

    fn room_in(&self, _: Vec<f32>, len: usize) -> Result<Buffer<M>> {
        self.room(len)
    }

    fn taken(&self, x: Buffer<M>, len: usize) -> Result<Vec<f32>> {
        Ok(x.download(self.machine(), 0..len)?)
    }

    fn indices(&self, values: &[u32]) -> Result<Indices<M>> {
        Indices::new(self, values)
    }

    fn rope(&self, table: RopeTable) -> Result<DeviceRope<M>> {
        DeviceRope::new(self, &table)
    }

    fn groups(&self, groups: &[Group]) -> Result<DeviceGroups<M>> {
        DeviceGroups::new(self, groups)
    }

    fn weight<'a>(&self, param: &'a Param) -> Result<Self::Weight<'a>> {
        self.copy_of_weight(param, Form::Kept)
    }

    fn wide<'a>(&self, param: &'a Param) -> Result<Self::Weight<'a>> {
        self.copy_of_weight(param, Form::Wide)
    }

    fn prepare(&self, _: &mut Weight<M>, _: [usize; 2], _: bool) -> Result<()> {
        Ok(())
    }

    fn logits_held(&self, _: &Weight<M>) -> LogitsHeld {
        LogitsHeld { forward: LOGITS, together: LOGITS, most: LOGITS }
    }

    fn embed(&self, table: &Weight<M>, ids: &Indices<M>, width: usize, scale: f32, out: &mut Buffer<M>) -> Result<()> {
        let (ids, mut out) = (ids.device.view(), out.view_mut());
        match &**table {
            DeviceNumbers::F32(values) => {
                spin_cuda::gather(self.machine(), values.view(), ids, &mut out, width, scale)?;
            }
            DeviceNumbers::Bf16(values) => {
                spin_cuda::gather(self.machine(), values.view(), ids, &mut out, width, scale)?;
            }
        }
        Ok(())
    }

    fn embed_backward(
        &self,
        grad: &Buffer<M>,
        ids: &Indices<M>,
        width: usize,
        scale: f32,
        sum: &mut Buffer<M>,
    ) -> Result<()> {
        self.add_rows(grad, width, ids, scale, sum)
    }

    fn gather(&self, x: &Buffer<M>, width: usize, rows: &Indices<M>, out: &mut Buffer<M>) -> Result<()> {
        let (from, rows) = (x.view().slice(0..rows_of(x, width)), rows.device.view());
        Ok(spin_cuda::gather(self.machine(), from, rows, &mut out.view_mut(), width, 1.0)?)
    }

    fn scatter_add(&self, values: &Buffer<M>, width: usize, rows: &Indices<M>, x: &mut Buffer<M>) -> Result<()> {
        self.add_rows(values, width, rows, 1.0, x)
    }

    fn add_scaled(&self, sums: &mut Buffer<M>, values: &Buffer<M>, len: usize, scale: f32) -> Result<()> {
        let mut sums = sums.view_mut().slice(0..len);
        Ok(spin_cuda::add_scaled(self.machine(), &mut sums, values.view(), scale)?)
    }

    fn project(
        &self,
        out: ViewMut<'_, Buffer<M>>,
        x: View<'_, Buffer<M>>,
        by: Projection<'_, Weight<M>>,
        write: Write,
    ) -> Result<()> {
        self.multiply(out, x, &by, write)
    }

    fn add_outer(
        &self,
        sum: &mut Buffer<M>,
        a: View<'_, Buffer<M>>,
        b: View<'_, Buffer<M>>,
        scale: f32,
        like: Option<&Weight<M>>,
    ) -> Result<()> {
        self.add_product(sum, a, b, scale, like.is_some_and(|weight| weight.rounds()))
    }

    fn add_bias(&self, out: ViewMut<'_, Buffer<M>>, bias: &Weight<M>) -> Result<()> {
        self.add_to_rows(out, bias.wide())
    }

    fn add_column_sums(&self, grad: View<'_, Buffer<M>>, sum: &mut Buffer<M>) -> Result<()> {
        self.add_sums_of_rows(grad, sum)
    }

    fn drop_out(&self, values: &mut Buffer<M>, len: usize, mask: &Mask) -> Result<()> {
        let mask = DropoutMask { key: mask.key, threshold: mask.threshold, kept: mask.kept };
        Ok(spin_cuda::dropout(self.machine(), &mut values.view_mut().slice(0..len), 0, &mask)?)
    }

    fn activate(
        &self,
        activation: Activation,
        gate_up: &Buffer<M>,
        rows: usize,
        width: usize,
        out: &mut Buffer<M>,
    ) -> Result<()> {
        let mut out = out.view_mut().slice(0..rows * width);
        Ok(spin_cuda::gated(self.machine(), gate(activation), gate_up.view(), &mut out, width)?)
    }

    fn activate_backward(
        &self,
        activation: Activation,
        gate_up: &mut Buffer<M>,
        rows: usize,
        width: usize,
        grad: &Buffer<M>,
    ) -> Result<()> {
        let grad = grad.view().slice(0..rows * width);
        Ok(spin_cuda::gated_backward(self.machine(), gate(activation), &mut gate_up.view_mut(), grad, width)?)
    }

    fn norm(&self, norm: &RmsNorm<Weight<M>>, x: View<'_, Buffer<M>>, out: &mut Buffer<M>) -> Result<()> {
        let (of, stride) = (heads_in(x.at, x.at.columns), x.at.stride);
        let mut y = StridedMut { numbers: out.view_mut(), stride };
        let x = Strided { numbers: whole(x), stride };
        Ok(spin_cuda::rms_norm(self.machine(), of, x, &norm_of(norm), &mut y, false)?)
    }

    fn norm_backward(
        &self,
        norm: &RmsNorm<Weight<M>>,
        x: View<'_, Buffer<M>>,
        grad: &Buffer<M>,
        x_grad: &mut Buffer<M>,
        sum: Option<&mut Buffer<M>>,
    ) -> Result<()> {
        let (of, stride) = (heads_in(x.at, x.at.columns), x.at.stride);
        let grads = NormGrads::To {
            grad: Strided { numbers: grad.view(), stride },
            x_grad: StridedMut { numbers: x_grad.view_mut(), stride },
            add: true,
        };
        self.normalise_backward(of, norm, Strided { numbers: whole(x), stride }, grads, sum)
    }

    fn norm_heads(&self, norm: &RmsNorm<Weight<M>>, x: ViewMut<'_, Buffer<M>>) -> Result<()> {
        self.normalise(norm, x.buffer, x.at)
    }

    fn norm_heads_backward(
        &self,
        norm: &RmsNorm<Weight<M>>,
        x: View<'_, Buffer<M>>,
        grad: ViewMut<'_, Buffer<M>>,
        sum: Option<&mut Buffer<M>>,
    ) -> Result<()> {
        assert_eq!(x.at, grad.at, "the same columns");
        let (of, at) = (heads_in(x.at, norm.weight.wide().len()), grad.at);
        let grads =
            NormGrads::Over(StridedMut { numbers: grad.buffer.view_mut().slice(at.range()), stride: at.stride });
        self.normalise_backward(of, norm, Strided { numbers: part(x), stride: at.stride }, grads, sum)
    }

    fn attention(
        &self,
        heads: &Heads,
        rope: &DeviceRope<M>,
        groups: &DeviceGroups<M>,
        qkv: View<'_, Buffer<M>>,
        out: &mut Buffer<M>,
        log_sums: &mut Buffer<M>,
    ) -> Result<()> {
        self.attend(heads, rope, groups, qkv, out, log_sums)
    }

    fn attention_backward(
        &self,
        heads: &Heads,
        rope: &DeviceRope<M>,
        groups: &DeviceGroups<M>,
        known: Attended<'_, Buffer<M>>,
        out_grad: View<'_, Buffer<M>>,
        qkv_grad: &mut Buffer<M>,
    ) -> Result<()> {
        self.attend_backward(heads, rope, groups, &known, out_grad, qkv_grad)
    }

    /// By the kernel of log-probabilities, which caps before it looks: of any tokens.
    fn soft_cap(&self, logits: &mut Buffer<M>, rows: usize, vocab: usize, cap: f32) -> Result<()> {
        let of = spin_cuda::Head { vocab, softcap: Some(cap), smoothing: 0.0 };
        let targets = Memory::zeros(self.machine(), rows)?;
        let [mut logps, mut log_sums] = [self.room(rows)?, self.room(rows)?];
        let (to, sums) = (&mut logps.view_mut(), &mut log_sums.view_mut());
        Ok(spin_cuda::head_logps(self.machine(), &of, &mut logits.view_mut(), targets.view(), to, sums)?)
    }

    fn log_probs(
        &self,
        logits: &Buffer<M>,
        targets: &Targets<'_, Indices<M>>,
        logps: &mut Buffer<M>,
        log_sums: &mut Buffer<M>,
    ) -> Result<()> {
        let ids = targets.ids.device.view().slice(targets.part.clone());
        let (to, sums) = (&mut logps.view_mut(), &mut log_sums.view_mut());
        Ok(spin_cuda::capped_logps(self.machine(), &head(targets, None), logits.view(), ids, to, sums)?)
    }

    fn log_probs_backward(
        &self,
        logits: &mut Buffer<M>,
        targets: &Targets<'_, Indices<M>>,
        log_sums: &Buffer<M>,
        slopes: &[f32],
    ) -> Result<()> {
        let slopes = Memory::upload(self.machine(), slopes)?;
        let of = ChunkSlopes {
            targets: targets.ids.device.view().slice(targets.part.clone()),
            slopes: slopes.view(),
            log_sums: log_sums.view(),
        };
        let head = head(targets, targets.softcap);
        Ok(spin_cuda::head_gradient_over(self.machine(), &head, &mut logits.view_mut(), &of)?)
    }
}
