//! The operations of the CPU over trees of sequences.

use super::attention::Attention;
use super::branches::{HeadColumns, KeyValues};
use super::head::Head;
use super::operations::{Cpu, norm_of, slice};
use super::tree::{Segments, TileList};
use super::weight::CpuWeight as Weight;
use crate::error::Result;
use crate::ops::{Heads, Projection, TreeInputs, TreeOperations, View};
use crate::request::{ScoreOptions, Target, TargetScore, TreeRows};
use crate::rope::RopeTable;

/// What the rows of a tree see.
pub(crate) struct CpuTree {
    positions: Vec<u32>,
    all: TileList,
    wanted: TileList,
    kept: usize,
    added: Vec<u32>,
}

/// Keys and values of all layers.
pub(crate) struct CpuTreeCache {
    /// Of the rows of a tree, in one layer.
    own: KeyValues,
    /// Of the path, in each layer.
    paths: Vec<KeyValues>,
}

impl TreeOperations for Cpu {
    type Tree = CpuTree;
    type TreeCache = CpuTreeCache;

    fn tree(&self, rows: &TreeRows<'_>) -> Result<CpuTree> {
        let segments = Segments::new(rows);
        let all: Vec<u32> = (0..rows.ids.len() as u32).collect();
        Ok(CpuTree {
            positions: rows.positions.to_vec(),
            all: segments.tiles(&all),
            wanted: segments.tiles(&rows.wanted),
            kept: rows.kept,
            added: rows.added.clone(),
        })
    }

    fn tree_cache(&self, layers: &[Heads], longest: usize) -> Result<CpuTreeCache> {
        let path = |heads: &Heads| {
            let mut path = KeyValues::default();
            path.make_room(heads, longest);
            path
        };
        Ok(CpuTreeCache { own: KeyValues::default(), paths: layers.iter().map(path).collect() })
    }

    fn score(
        &self,
        hidden: View<'_, Vec<f32>>,
        by: Projection<'_, Weight<'_>>,
        softcap: Option<f32>,
        targets: &[Target],
        options: &ScoreOptions,
    ) -> Result<Vec<TargetScore>> {
        Ok(Head::new(&by, softcap).score(slice(hidden), targets, options))
    }

    fn attend_tree(
        &self,
        heads: &Heads,
        rope: &RopeTable,
        tree: &CpuTree,
        inputs: &TreeInputs<'_, Vec<f32>, Weight<'_>>,
        layer: usize,
        cache: &mut CpuTreeCache,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let attention = Attention::new(heads, rope);
        let norms = inputs.norms.as_ref().map(|norms| norms.each_ref().map(norm_of));
        let [query_norm, key_norm] = [0, 1].map(|at| norms.as_ref().map(|norms| &norms[at]));
        let CpuTreeCache { own, paths } = cache;
        own.make_room(heads, tree.positions.len());
        let [queries, keys, values] = [inputs.queries, inputs.keys, inputs.values].map(HeadColumns::of);
        attention.fill_tree(keys, values, &tree.positions, key_norm, own);
        let tiles = if inputs.only_wanted { &tree.wanted } else { &tree.all };
        let out = &mut out[..inputs.queries.at.rows * heads.out_width()];
        attention.forward_tree(tiles, queries, query_norm, own, &paths[layer], out);
        paths[layer].extend(tree.kept, own, &tree.added);
        Ok(())
    }
}
