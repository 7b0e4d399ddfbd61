//! Attention over rows that share prompts, and norms and rotations of heads.

use std::sync::{Arc, Mutex, PoisonError};

use spin_cuda::{
    AttentionPlan, AttentionViews, Known, Machine, Memory, Norm, Normed, RotatedHeads, Rotation, Strided, StridedMut,
};

use super::set::{Buffer, Cuda, attention_of, whole};
use super::weight::Weight;
use crate::batch::Group;
use crate::error::Result;
use crate::ops::{Attended, Heads, Region, RmsNorm, View};
use crate::rope::RopeTable;

/// What is made once for each width of heads.
pub(super) struct PerWidth<T>(Mutex<Vec<(usize, Arc<T>)>>);

impl<T> Default for PerWidth<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> PerWidth<T> {
    pub fn get(&self, dim: usize, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = made.iter().find(|(width, _)| *width == dim) {
            return Ok(known.clone());
        }
        let new = Arc::new(make()?);
        made.push((dim, new.clone()));
        Ok(new)
    }
}

/// Cosines and sines of positions, on a machine.
pub(crate) struct DeviceRope<M: Machine> {
    cos: Memory<M, f32>,
    sin: Memory<M, f32>,
    half: usize,
}

impl<M: Machine> DeviceRope<M> {
    pub fn new(set: &Cuda<M>, table: &RopeTable) -> Result<Self> {
        let [cos, sin] = [&table.cos, &table.sin].map(|values| Memory::upload(set.machine(), values));
        Ok(Self { cos: cos?, sin: sin?, half: table.half })
    }
}

/// Groups of rows, on a machine.
pub(crate) struct DeviceGroups<M: Machine> {
    groups: Vec<Vec<spin_cuda::Span>>,
    /// Of each row.
    positions: Memory<M, u32>,
    plans: PerWidth<Plan<M>>,
}

/// [`AttentionPlan`] on a machine.
struct Plan<M: Machine> {
    spans: Memory<M, u32>,
    tiles: Memory<M, u32>,
    wide_tiles: Memory<M, u32>,
    key_tiles: Memory<M, u32>,
    rows: usize,
    dim: usize,
}

impl<M: Machine> Plan<M> {
    fn views(&self) -> AttentionViews<'_> {
        AttentionViews {
            spans: self.spans.view(),
            tiles: self.tiles.view(),
            wide_tiles: self.wide_tiles.view(),
            key_tiles: self.key_tiles.view(),
            rows: self.rows,
            dim: self.dim,
        }
    }
}

impl<M: Machine> DeviceGroups<M> {
    pub fn new(set: &Cuda<M>, groups: &[Group]) -> Result<Self> {
        let mut positions = vec![0; groups.iter().map(|group| group.rows.end).max().unwrap_or(0)];
        for span in groups.iter().flat_map(|group| &group.spans) {
            let own = span.own.clone().zip(span.shared.len() as u32..);
            own.for_each(|(row, position)| positions[row] = position);
        }
        let span = |span: &crate::batch::Span| spin_cuda::Span {
            shared: span.shared.start,
            shared_len: span.shared.len(),
            own: span.own.start,
            own_len: span.own.len(),
        };
        let groups = groups.iter().map(|group| group.spans.iter().map(span).collect()).collect();
        Ok(Self { groups, positions: set.list(&positions)?, plans: PerWidth::default() })
    }

    fn plan(&self, set: &Cuda<M>, dim: usize) -> Result<Arc<Plan<M>>> {
        self.plans.get(dim, || {
            let plan = AttentionPlan::new(&self.groups, dim)?;
            Ok(Plan {
                spans: set.list(&plan.spans)?,
                tiles: set.list(&plan.tiles)?,
                wide_tiles: set.list(&plan.wide_tiles)?,
                key_tiles: set.list(&plan.key_tiles)?,
                rows: plan.rows,
                dim,
            })
        })
    }
}

/// A norm, as kernels take it.
pub(super) fn norm_of<M: Machine>(norm: &RmsNorm<Weight<M>>) -> Norm<'_, f32> {
    Norm { weight: norm.weight.wide(), offset: norm.offset as f32, eps: norm.eps as f32 }
}

/// The heads in some columns of rows.
pub(super) fn heads_in(at: Region, width: usize) -> Normed {
    Normed { rows: at.rows, heads: at.columns / width, width }
}

impl<M: Machine> Cuda<M> {
    /// Normalises heads in some columns of rows, in place.
    pub(super) fn normalise(&self, norm: &RmsNorm<Weight<M>>, rows: &mut Buffer<M>, at: Region) -> Result<()> {
        let (of, norm) = (heads_in(at, norm.weight.wide().len()), norm_of(norm));
        let before = self.copy_of(rows.view().slice(at.range()))?;
        let x = Strided { numbers: before.view(), stride: at.stride };
        let mut y = StridedMut { numbers: rows.view_mut().slice(at.range()), stride: at.stride };
        Ok(spin_cuda::rms_norm(self.machine(), of, x, &norm, &mut y, false)?)
    }

    /// Rotates heads in some columns of rows, in place, or `back`.
    pub(super) fn rotate(
        &self,
        rope: &DeviceRope<M>,
        positions: &Memory<M, u32>,
        rows: &mut Buffer<M>,
        at: Region,
        dim: usize,
        back: bool,
    ) -> Result<()> {
        let rotation = Rotation { cos: rope.cos.view(), sin: rope.sin.view(), half: rope.half };
        let of = RotatedHeads { heads: at.columns / dim, dim, stride: at.stride };
        let mut rows = rows.view_mut().slice(at.range());
        Ok(spin_cuda::rotate(self.machine(), &mut rows, positions.view(), &rotation, of, back)?)
    }

    /// A copy of queries, keys and values with queries and keys rotated; `None` where
    /// nothing is.
    fn rotated(
        &self,
        heads: &Heads,
        rope: &DeviceRope<M>,
        groups: &DeviceGroups<M>,
        qkv: spin_cuda::View<'_, f32>,
    ) -> Result<Option<Buffer<M>>> {
        if !heads.rotates {
            return Ok(None);
        }
        let mut rotated = self.copy_of(qkv)?;
        self.rotate(rope, &groups.positions, &mut rotated, queries_and_keys(heads, groups), heads.head_dim, false)?;
        Ok(Some(rotated))
    }

    /// As [`crate::ops::Operations::attention`].
    pub(super) fn attend(
        &self,
        heads: &Heads,
        rope: &DeviceRope<M>,
        groups: &DeviceGroups<M>,
        qkv: View<'_, Buffer<M>>,
        out: &mut Buffer<M>,
        log_sums: &mut Buffer<M>,
    ) -> Result<()> {
        let plan = groups.plan(self, heads.head_dim)?;
        let rotated = self.rotated(heads, rope, groups, whole(qkv))?;
        let qkv = rotated.as_ref().map_or(whole(qkv), Memory::view);
        let (mut out, mut log_sums) = (out.view_mut(), log_sums.view_mut());
        let of = attention_of(heads);
        Ok(spin_cuda::attention(self.machine(), &of, &plan.views(), qkv, &mut out, &mut log_sums)?)
    }

    /// As [`crate::ops::Operations::attention_backward`].
    pub(super) fn attend_backward(
        &self,
        heads: &Heads,
        rope: &DeviceRope<M>,
        groups: &DeviceGroups<M>,
        known: &Attended<'_, Buffer<M>>,
        out_grad: View<'_, Buffer<M>>,
        qkv_grad: &mut Buffer<M>,
    ) -> Result<()> {
        let plan = groups.plan(self, heads.head_dim)?;
        let qkv = known.qkv.view().slice(0..plan.rows * heads.qkv_width());
        let rotated = self.rotated(heads, rope, groups, qkv)?;
        let known = Known {
            qkv: rotated.as_ref().map_or(qkv, Memory::view),
            out: known.out.view(),
            log_sums: known.log_sums.view(),
            out_grad: whole(out_grad),
        };
        let mut delta = Memory::room(self.machine(), plan.rows * heads.heads)?;
        let (of, mut to) = (attention_of(heads), qkv_grad.view_mut());
        let delta = &mut delta.view_mut();
        spin_cuda::attention_backward(self.machine(), &of, &plan.views(), &known, delta, &mut to)?;
        if heads.rotates {
            self.rotate(rope, &groups.positions, qkv_grad, queries_and_keys(heads, groups), heads.head_dim, true)?;
        }
        Ok(())
    }
}

/// Where all query and key heads are in rows of queries, keys and values.
fn queries_and_keys<M: Machine>(heads: &Heads, groups: &DeviceGroups<M>) -> Region {
    Region::rows(groups.positions.len(), heads.qkv_width()).columns(0..heads.out_width() + heads.kv_width())
}
