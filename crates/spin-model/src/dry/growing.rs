//! The operations of sequences that grow.

use super::{Counted, Dry};
use crate::error::Result;
use crate::ops::{GrowingOperations, Heads, NewRows, RmsNorm, View, Write};
use crate::params::Param;

/// Projections of the same rows.
#[derive(Debug)]
pub(super) struct FewRows {
    inputs: usize,
    outputs: usize,
}

impl GrowingOperations for Dry {
    type FewRows = FewRows;
    /// Keys and values.
    type LayerCache = [Counted; 2];

    fn few_rows(
        &self,
        weights: &[&Param],
        biases: &[Option<&Param>],
        outputs: &[usize],
        inputs: usize,
    ) -> Result<FewRows> {
        weights.iter().chain(biases.iter().flatten()).for_each(|param| {
            self.used(param);
        });
        Ok(FewRows { inputs, outputs: outputs.iter().sum() })
    }

    fn project_few(&self, out: &mut Counted, x: View<'_, Counted>, by: &FewRows, _write: Write) -> Result<()> {
        assert_eq!(x.at.columns, by.inputs);
        x.buffer.has_all_of(x.at);
        out.has(x.at.rows * by.outputs);
        Ok(())
    }

    fn embed_few(&self, table: &FewRows, ids: &Counted, width: usize, _scale: f32, out: &mut Counted) -> Result<()> {
        assert_eq!(table.inputs, width);
        out.has(ids.len * width);
        Ok(())
    }

    fn layer_cache(&self, heads: &Heads, room: usize) -> Result<[Counted; 2]> {
        let room = heads.kv_width() * room;
        Ok([Counted::new(&self.cached, room), Counted::new(&self.cached, room)])
    }

    fn copy_cache(&self, heads: &Heads, from: &[Counted; 2], len: usize, to: &mut [Counted; 2]) -> Result<()> {
        from.iter().chain(to.iter()).for_each(|part| part.has(len * heads.kv_width()));
        Ok(())
    }

    fn attend_cached(
        &self,
        heads: &Heads,
        _rope: &Counted,
        qkv: View<'_, Counted>,
        _norms: Option<&[RmsNorm<Self::Weight<'_>>; 2]>,
        parts: &mut [NewRows<'_, [Counted; 2]>],
        out: &mut Counted,
    ) -> Result<()> {
        qkv.buffer.has_all_of(qkv.at);
        for NewRows { cache, rows, position, wanted, out_row } in parts {
            cache.iter().for_each(|part| part.has((*position + rows.len()) * heads.kv_width()));
            out.has((*out_row + wanted.len()) * heads.out_width());
        }
        Ok(())
    }
}
