//! What a tree of sequences is scored with: forward alone, over sequences that
//! share what they begin with.

use super::{Heads, Operations, Projection, TreeInputs, View};
use crate::error::Result;
use crate::request::{ScoreOptions, Target, TargetScore, TreeRows};

/// Operations over the rows of a tree.
pub(crate) trait TreeOperations: Operations {
    /// What rows of a tree of sequences see.
    type Tree;
    /// Keys and values of all layers for the path to a tree's next rows.
    type TreeCache;

    /// What the rows of a tree see; those that are wanted apart.
    fn tree(&self, rows: &TreeRows<'_>) -> Result<Self::Tree>;

    /// Room for paths of at most `longest` rows in each of the layers.
    fn tree_cache(&self, layers: &[Heads], longest: usize) -> Result<Self::TreeCache>;

    /// The scores of targets after rows of `hidden` `[rows, inputs]`, several of
    /// which may be after the same row; targets and scores are in the order of the
    /// rows. Logits are z = cap tanh(x W^T / cap) / temperature, rounded as the
    /// options say; a score is z_target - max - log(sum of e^(z - max)), rounded
    /// likewise, and whether no token before the target has as large a logit and
    /// none after it a larger one.
    fn score(
        &self,
        hidden: View<'_, Self::Buffer>,
        by: Projection<'_, Self::Weight<'_>>,
        softcap: Option<f32>,
        targets: &[Target],
        options: &ScoreOptions,
    ) -> Result<Vec<TargetScore>>;

    /// Writes the heads' outputs `[queries, out_width]` to `out`: attention as in
    /// [`Operations::attention`], of each row of the tree, or of those that are wanted, to the path in
    /// the cache and to the rows above it in the tree, at the tree's positions.
    /// Heads are normalised first, if norms are given. The layer's path becomes
    /// that to the next tree: its first `kept` rows, then the rows that are `added`.
    #[expect(clippy::too_many_arguments, reason = "the operands of one operation")]
    fn attend_tree(
        &self,
        heads: &Heads,
        rope: &Self::Rope,
        tree: &Self::Tree,
        inputs: &TreeInputs<'_, Self::Buffer, Self::Weight<'_>>,
        layer: usize,
        cache: &mut Self::TreeCache,
        out: &mut Self::Buffer,
    ) -> Result<()>;
}
