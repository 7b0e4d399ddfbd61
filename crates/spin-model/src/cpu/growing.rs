//! The operations of the CPU for sequences that grow.

use rayon::prelude::*;

use super::attention::{Attention, SharedRows};
use super::cached::{HeadCache, LayerCache, NewQkv, Scratch};
use super::few_rows::FewRows;
use super::operations::{Cpu, norm_of, slice};
use super::weight::CpuWeight;
use crate::error::{Error, Result};
use crate::ops::{GrowingOperations, Heads, NewRows, RmsNorm, View, Write};
use crate::params::Param;
use crate::rope::RopeTable;

fn zeros(len: usize) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| Error::Memory { bytes: len * size_of::<f32>() })?;
    values.resize(len, 0.0);
    Ok(values)
}

impl GrowingOperations for Cpu {
    type FewRows = FewRows;
    type LayerCache = LayerCache;

    fn few_rows(
        &self,
        weights: &[&Param],
        biases: &[Option<&Param>],
        outputs: &[usize],
        inputs: usize,
    ) -> Result<FewRows> {
        FewRows::new(weights, biases, inputs, outputs)
    }

    fn project_few(&self, out: &mut Vec<f32>, x: View<'_, Vec<f32>>, by: &FewRows, write: Write) -> Result<()> {
        by.forward(slice(x), &mut out[..x.at.rows * by.outputs()], write);
        Ok(())
    }

    fn embed_few(&self, table: &FewRows, ids: &Vec<u32>, width: usize, scale: f32, out: &mut Vec<f32>) -> Result<()> {
        for (row, id) in out.chunks_exact_mut(width).zip(ids) {
            table.read_row(*id as usize, row);
            row.iter_mut().for_each(|value| *value *= scale);
        }
        Ok(())
    }

    fn layer_cache(&self, heads: &Heads, room: usize) -> Result<LayerCache> {
        let len = heads.kv_width() * room;
        Ok(LayerCache { keys: zeros(len)?, values: zeros(len)? })
    }

    fn copy_cache(&self, heads: &Heads, from: &LayerCache, len: usize, to: &mut LayerCache) -> Result<()> {
        let len = len * heads.head_dim;
        for (to, from) in [(&mut to.keys, &from.keys), (&mut to.values, &from.values)] {
            let (own, other) = (to.len() / heads.kv_heads, from.len() / heads.kv_heads);
            for (to, from) in to.chunks_exact_mut(own).zip(from.chunks_exact(other)) {
                to[..len].copy_from_slice(&from[..len]);
            }
        }
        Ok(())
    }

    fn attend_cached(
        &self,
        heads: &Heads,
        rope: &RopeTable,
        qkv: View<'_, Vec<f32>>,
        norms: Option<&[RmsNorm<CpuWeight<'_>>; 2]>,
        parts: &mut [NewRows<'_, LayerCache>],
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let norms = norms.map(|norms| norms.each_ref().map(norm_of));
        let (attention, width, qkv) = (Attention::new(heads, rope), heads.qkv_width(), slice(qkv));
        let shared = SharedRows::new(out, heads.out_width());
        let mut tasks = Vec::with_capacity(parts.len() * heads.kv_heads);
        for NewRows { cache, rows, position, wanted, out_row } in parts {
            let new = NewQkv {
                qkv: &qkv[rows.start * width..rows.end * width],
                position: *position,
                wanted: wanted.clone(),
                out_row: *out_row,
            };
            let LayerCache { keys, values } = &mut **cache;
            let len = keys.len() / heads.kv_heads;
            for (head, (keys, values)) in keys.chunks_exact_mut(len).zip(values.chunks_exact_mut(len)).enumerate() {
                tasks.push((new.clone(), head, HeadCache { keys, values }));
            }
        }
        tasks.into_par_iter().for_each_init(Scratch::default, |scratch, (new, head, mut cache)| {
            attention.forward_cached(&new, head, norms.as_ref(), &mut cache, &shared, scratch);
        });
        Ok(())
    }
}
