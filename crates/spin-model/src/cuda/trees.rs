//! Trees of sequences: what their rows see, the path that leads to them, and scores
//! of tokens.

use std::sync::Arc;

use spin_cuda::{Machine, Memory, Scoring, TreePlan, TreeViews, attention_tree, gather, score_targets};

use super::attention::{DeviceRope, PerWidth};
use super::operations::LOGITS;
use super::set::{Buffer, Cuda, attention_of, part, rows_around};
use super::weight::Weight;
use crate::error::Result;
use crate::ops::{Heads, Operations, Projection, Region, RmsNorm, TreeInputs, TreeOperations, View, ViewMut, Write};
use crate::request::{Rounding, ScoreOptions, Target, TargetScore, TreeRows};

/// What the rows of a tree see, on a machine.
pub(crate) struct DeviceTree<M: Machine> {
    host_ends: Vec<u32>,
    host_path_ends: Vec<u32>,
    positions: Memory<M, u32>,
    ends: Memory<M, u32>,
    path_ends: Memory<M, u32>,
    all: Queries<M>,
    wanted: Queries<M>,
    kept: usize,
    added: Vec<u32>,
}

/// Rows whose outputs are computed.
struct Queries<M: Machine> {
    host: Vec<u32>,
    rows: Memory<M, u32>,
    positions: Memory<M, u32>,
    plans: PerWidth<Plan<M>>,
}

/// [`TreePlan`] on a machine.
struct Plan<M: Machine> {
    stretches: Memory<M, u32>,
    tiles: Memory<M, u32>,
}

/// Keys, rotated, and values of the path in each layer, `[positions, kv_width]`.
pub(crate) struct DeviceTreeCache<M: Machine>(Vec<[Buffer<M>; 2]>);

impl<M: Machine> Queries<M> {
    fn new(set: &Cuda<M>, host: Vec<u32>, positions: &[u32]) -> Result<Self> {
        let own: Vec<u32> = host.iter().map(|row| positions[*row as usize]).collect();
        Ok(Self { rows: set.list(&host)?, positions: set.list(&own)?, host, plans: PerWidth::default() })
    }

    fn plan(&self, set: &Cuda<M>, tree: &DeviceTree<M>, dim: usize) -> Result<Arc<Plan<M>>> {
        self.plans.get(dim, || {
            let plan = TreePlan::new(&tree.host_ends, &tree.host_path_ends, &self.host, dim)?;
            Ok(Plan { stretches: set.list(&plan.stretches)?, tiles: set.list(&plan.tiles)? })
        })
    }
}

impl<M: Machine> Cuda<M> {
    /// A copy of the rows that a view has columns of, with the heads in these columns
    /// normalised and rotated; and where they are in it.
    fn heads_of(
        &self,
        heads: &Heads,
        rope: &DeviceRope<M>,
        view: View<'_, Buffer<M>>,
        norm: Option<&RmsNorm<Weight<M>>>,
        positions: &Memory<M, u32>,
    ) -> Result<(Buffer<M>, Region)> {
        let (rows, column) = rows_around(view.at);
        let at = Region { first: column, ..view.at };
        let mut own = self.copy_of(part(View { buffer: view.buffer, at: rows }))?;
        if let Some(norm) = norm {
            self.normalise(norm, &mut own, at)?;
        }
        if heads.rotates {
            self.rotate(rope, positions, &mut own, at, heads.head_dim, false)?;
        }
        Ok((own, at))
    }

    /// Continues a path of keys or values by rows of which these columns are the heads'.
    fn extend(
        &self,
        heads: &Heads,
        path: &mut Buffer<M>,
        tree: &DeviceTree<M>,
        from: &Buffer<M>,
        at: Region,
    ) -> Result<()> {
        // Rows of the kernel are heads here: whole rows have other columns, too.
        let dim = heads.head_dim;
        let head = |row: &u32, head: usize| (*row as usize * at.stride + at.first) / dim + head;
        let numbers: Vec<u32> =
            tree.added.iter().flat_map(|row| (0..heads.kv_heads).map(move |kv| head(row, kv) as u32)).collect();
        let len = path.len();
        let mut to = path.view_mut().slice(tree.kept * heads.kv_width()..len);
        Ok(gather(self.machine(), from.view(), self.list(&numbers)?.view(), &mut to, dim, 1.0)?)
    }

    /// Scores after some rows, whose logits are held at once.
    fn score_chunk(
        &self,
        hidden: View<'_, Buffer<M>>,
        by: &Projection<'_, Weight<M>>,
        scoring: &Scoring,
        targets: &[Target],
        first: usize,
    ) -> Result<Vec<TargetScore>> {
        let rows = hidden.at.rows;
        let mut logits = self.room(rows * by.outputs)?;
        self.multiply(ViewMut::new(&mut logits, rows, by.outputs), hidden, by, Write::Over)?;
        let before = |row: usize| targets.partition_point(|target| (target.row as usize) < row) as u32;
        let starts: Vec<u32> = (first..=first + rows).map(before).collect();
        let tokens: Vec<u32> = targets.iter().map(|target| target.token).collect();
        let (starts, tokens) = (self.list(&starts)?, self.list(&tokens)?);
        let mut logps = self.room(targets.len())?;
        let mut greedy = Memory::zeros(self.machine(), targets.len())?;
        let (to, also) = (&mut logps.view_mut(), &mut greedy.view_mut());
        score_targets(self.machine(), scoring, logits.view(), starts.view(), tokens.view(), to, also)?;
        let all = 0..targets.len();
        let logps = logps.download(self.machine(), all.clone())?.into_iter();
        let greedy: Vec<u32> = greedy.download(self.machine(), all)?;
        Ok(logps.zip(greedy).map(|(logp, greedy)| TargetScore { logp, is_greedy: greedy != 0 }).collect())
    }
}

impl<M: Machine> TreeOperations for Cuda<M> {
    type Tree = DeviceTree<M>;
    type TreeCache = DeviceTreeCache<M>;

    fn tree(&self, rows: &TreeRows<'_>) -> Result<DeviceTree<M>> {
        let all = (0..rows.ids.len() as u32).collect();
        Ok(DeviceTree {
            positions: self.list(rows.positions)?,
            ends: self.list(&rows.ends)?,
            path_ends: self.list(&rows.cached_ends)?,
            all: Queries::new(self, all, rows.positions)?,
            wanted: Queries::new(self, rows.wanted.clone(), rows.positions)?,
            host_ends: rows.ends.clone(),
            host_path_ends: rows.cached_ends.clone(),
            kept: rows.kept,
            added: rows.added.clone(),
        })
    }

    fn tree_cache(&self, layers: &[Heads], longest: usize) -> Result<DeviceTreeCache<M>> {
        let path = |heads: &Heads| {
            let len = heads.kv_width() * longest;
            Ok([self.room(len)?, self.room(len)?])
        };
        Ok(DeviceTreeCache(layers.iter().map(path).collect::<Result<_>>()?))
    }

    fn score(
        &self,
        hidden: View<'_, Buffer<M>>,
        by: Projection<'_, Weight<M>>,
        softcap: Option<f32>,
        targets: &[Target],
        options: &ScoreOptions,
    ) -> Result<Vec<TargetScore>> {
        let rounding = match options.rounding {
            Rounding::None => spin_cuda::Rounding::None,
            Rounding::BFloat16 => spin_cuda::Rounding::BFloat16,
            Rounding::Float16 => spin_cuda::Rounding::Float16,
        };
        let scoring = Scoring { vocab: by.outputs, softcap, temperature: options.temperature, rounding };
        let (rows, at_once) = (hidden.at.rows, (LOGITS / by.outputs).max(1));
        let mut scores = Vec::with_capacity(targets.len());
        let mut rest = targets;
        for first in (0..rows).step_by(at_once) {
            let last = (first + at_once).min(rows);
            let (own, others) = rest.split_at(rest.partition_point(|target| (target.row as usize) < last));
            rest = others;
            scores.extend(self.score_chunk(hidden.part(first..last), &by, &scoring, own, first)?);
        }
        Ok(scores)
    }

    fn attend_tree(
        &self,
        heads: &Heads,
        rope: &DeviceRope<M>,
        tree: &DeviceTree<M>,
        inputs: &TreeInputs<'_, Buffer<M>, Weight<M>>,
        layer: usize,
        cache: &mut DeviceTreeCache<M>,
        out: &mut Buffer<M>,
    ) -> Result<()> {
        assert_eq!(inputs.keys.at.stride, inputs.values.at.stride, "keys and values are side by side");
        let wanted = if inputs.only_wanted { &tree.wanted } else { &tree.all };
        let plan = wanted.plan(self, tree, heads.head_dim)?;
        let [query_norm, key_norm] = [0, 1].map(|at| inputs.norms.as_ref().map(|norms| &norms[at]));
        let (queries, query_at) = self.heads_of(heads, rope, inputs.queries, query_norm, &wanted.positions)?;
        let (rows, keys) = self.heads_of(heads, rope, inputs.keys, key_norm, &tree.positions)?;
        let values = Region { first: inputs.values.at.first % keys.stride, ..keys };
        let views = TreeViews {
            stretches: plan.stretches.view(),
            tiles: plan.tiles.view(),
            wanted: wanted.rows.view(),
            positions: tree.positions.view(),
            ends: tree.ends.view(),
            path_ends: tree.path_ends.view(),
            dim: heads.head_dim,
        };
        let [path_keys, path_values] = &mut cache.0[layer];
        let given = spin_cuda::TreeRows {
            queries: queries.view().slice(query_at.range()),
            query_stride: query_at.stride,
            rows: rows.view(),
            row_stride: keys.stride,
            key_column: keys.first,
            value_column: values.first,
            path_keys: path_keys.view(),
            path_values: path_values.view(),
        };
        attention_tree(self.machine(), &attention_of(heads), &views, &given, &mut out.view_mut())?;
        if !tree.added.is_empty() {
            self.extend(heads, path_keys, tree, &rows, keys)?;
            self.extend(heads, path_values, tree, &rows, values)?;
        }
        Ok(())
    }
}
