//! Trees, row by row.

use super::attention::columns;
use super::{Numbers, Plain, Weight, loss};
use crate::error::Result;
use crate::ops::{Heads, Operations, Projection, RmsNorm, TreeInputs, TreeOperations, View, ViewMut, Write};
use crate::request::{ScoreOptions, Target, TargetScore, TreeRows};
use crate::rope::RopeTable;

/// What rows of a tree see.
pub struct Tree {
    positions: Vec<u32>,
    ends: Vec<u32>,
    cached_ends: Vec<u32>,
    wanted: Vec<u32>,
    kept: usize,
    added: Vec<u32>,
}

/// Keys and values of the path, all heads side by side.
#[derive(Default)]
pub struct Path(Vec<(Vec<f64>, Vec<f64>)>);

impl Tree {
    pub fn new(rows: &TreeRows<'_>) -> Self {
        Self {
            positions: rows.positions.to_vec(),
            ends: rows.ends.clone(),
            cached_ends: rows.cached_ends.clone(),
            wanted: rows.wanted.clone(),
            kept: rows.kept,
            added: rows.added.clone(),
        }
    }
}

/// All heads of a row, normalised and rotated.
pub fn placed(
    heads: &Heads,
    rope: &RopeTable,
    norm: Option<&RmsNorm<Weight>>,
    row: &[f64],
    position: usize,
) -> Vec<f64> {
    let head = |head: &[f64]| match norm {
        Some(norm) => heads.place(&norm.apply(head), rope, position),
        None => heads.place(head, rope, position),
    };
    row.chunks(heads.head_dim).flat_map(head).collect()
}

pub fn over_tree(
    heads: &Heads,
    rope: &RopeTable,
    tree: &Tree,
    inputs: &TreeInputs<'_, Numbers, Weight>,
    path: &mut Path,
    out: &mut Numbers,
) {
    let norm = |at: usize| inputs.norms.as_ref().map(|norms| &norms[at]);
    let position = |row: usize| tree.positions[row] as usize;
    let own: Vec<(Vec<f64>, Vec<f64>)> = (0..tree.positions.len())
        .map(|row| (placed(heads, rope, norm(1), &inputs.keys.row(row), position(row)), inputs.values.row(row)))
        .collect();
    assert_eq!(path.0.len(), tree.cached_ends.len());
    let queries: Vec<usize> = match inputs.only_wanted {
        true => tree.wanted.iter().map(|row| *row as usize).collect(),
        false => (0..own.len()).collect(),
    };
    assert_eq!(queries.len(), inputs.queries.at.rows);
    let mut out = ViewMut::new(out, queries.len(), heads.out_width());
    for (index, row) in queries.into_iter().enumerate() {
        let query = placed(heads, rope, norm(0), &inputs.queries.row(index), position(row));
        let before = (0..path.0.len())
            .filter(|at| row < tree.cached_ends[*at] as usize && heads.near(position(row), *at))
            .map(|at| &path.0[at]);
        let above = (0..=row)
            .filter(|key| row < tree.ends[*key] as usize && heads.near(position(row), position(*key)))
            .map(|key| &own[key]);
        let seen: Vec<_> = before.chain(above).collect();
        let dim = heads.head_dim;
        let mut all = Vec::new();
        for head in 0..heads.heads {
            let part = columns(0, head / (heads.heads / heads.kv_heads), dim);
            let seen: Vec<_> = seen.iter().map(|(key, value)| (&key[part.clone()], &value[part.clone()])).collect();
            all.extend(heads.attend(&query[columns(0, head, dim)], &seen).0);
        }
        out.set_row(index, &all);
    }
    path.0.truncate(tree.kept);
    path.0.extend(tree.added.iter().map(|row| own[*row as usize].clone()));
}

impl TreeOperations for Plain {
    type Tree = Tree;
    type TreeCache = Vec<Path>;

    fn tree(&self, rows: &TreeRows<'_>) -> Result<Tree> {
        Ok(Tree::new(rows))
    }

    fn tree_cache(&self, layers: &[Heads], _longest: usize) -> Result<Vec<Path>> {
        Ok(layers.iter().map(|_| Path::default()).collect())
    }

    fn score(
        &self,
        hidden: View<'_, Numbers>,
        by: Projection<'_, Weight>,
        softcap: Option<f32>,
        targets: &[Target],
        options: &ScoreOptions,
    ) -> Result<Vec<TargetScore>> {
        let (rows, vocab) = (hidden.at.rows, by.outputs);
        let mut logits = self.room(rows * vocab)?;
        self.project(ViewMut::new(&mut logits, rows, vocab), hidden, by, Write::Over)?;
        softcap.into_iter().for_each(|cap| loss::soft_cap(&mut logits.0, f64::from(cap)));
        Ok(loss::scores(&logits.0, vocab, targets, options))
    }

    fn attend_tree(
        &self,
        heads: &Heads,
        rope: &RopeTable,
        tree: &Tree,
        inputs: &TreeInputs<'_, Numbers, Weight>,
        layer: usize,
        cache: &mut Vec<Path>,
        out: &mut Numbers,
    ) -> Result<()> {
        over_tree(heads, rope, tree, inputs, &mut cache[layer], out);
        Ok(())
    }
}
