//! Sequences that grow, token by token.

use super::attention::columns;
use super::trees::placed;
use super::{Ids, Numbers, Plain, Weight};
use crate::error::Result;
use crate::ops::{GrowingOperations, Heads, NewRows, Operations, Projection, RmsNorm, View, ViewMut, Write};
use crate::params::Param;
use crate::rope::RopeTable;

/// Projections with their biases and numbers of outputs.
pub struct FewRows {
    parts: Vec<(Weight, Option<Weight>, usize)>,
    inputs: usize,
}

/// Keys and values of tokens, all heads side by side.
pub struct Cache {
    tokens: Vec<(Vec<f64>, Vec<f64>)>,
    room: usize,
}

impl GrowingOperations for Plain {
    type FewRows = FewRows;
    type LayerCache = Cache;

    fn few_rows(
        &self,
        weights: &[&Param],
        biases: &[Option<&Param>],
        outputs: &[usize],
        inputs: usize,
    ) -> Result<FewRows> {
        let part = |((weight, bias), outputs): ((&&Param, &Option<&Param>), &usize)| {
            Ok((self.weight(weight)?, bias.map(|bias| self.wide(bias)).transpose()?, *outputs))
        };
        Ok(FewRows { parts: weights.iter().zip(biases).zip(outputs).map(part).collect::<Result<_>>()?, inputs })
    }

    fn project_few(&self, out: &mut Numbers, x: View<'_, Numbers>, by: &FewRows, write: Write) -> Result<()> {
        let width = by.parts.iter().map(|(_, _, outputs)| outputs).sum();
        let mut first = 0;
        for (weight, bias, outputs) in &by.parts {
            let mut out = ViewMut::new(out, x.at.rows, width).columns(first..first + outputs);
            let by = Projection { weight, outputs: *outputs, inputs: by.inputs, back: false, scale: 1.0 };
            self.project(out.again(), x, by, write)?;
            bias.as_ref().map_or(Ok(()), |bias| self.add_bias(out, bias))?;
            first += outputs;
        }
        Ok(())
    }

    fn embed_few(&self, table: &FewRows, ids: &Ids, width: usize, scale: f32, out: &mut Numbers) -> Result<()> {
        self.embed(&table.parts[0].0, ids, width, scale, out)
    }

    fn layer_cache(&self, _heads: &Heads, room: usize) -> Result<Cache> {
        Ok(Cache { tokens: Vec::new(), room })
    }

    fn copy_cache(&self, _heads: &Heads, from: &Cache, len: usize, to: &mut Cache) -> Result<()> {
        to.tokens = from.tokens[..len].to_vec();
        Ok(())
    }

    fn attend_cached(
        &self,
        heads: &Heads,
        rope: &RopeTable,
        qkv: View<'_, Numbers>,
        norms: Option<&[RmsNorm<Weight>; 2]>,
        parts: &mut [NewRows<'_, Cache>],
        out: &mut Numbers,
    ) -> Result<()> {
        let count = parts.iter().map(|part| part.out_row + part.wanted.len()).max().unwrap_or(0);
        let mut out = ViewMut::new(out, count, heads.out_width());
        let (first_key, first_value) = (heads.out_width(), heads.out_width() + heads.kv_width());
        let [queries, keys, values] =
            [0..first_key, first_key..first_value, first_value..heads.qkv_width()].map(|part| qkv.columns(part));
        let norm = |at: usize| norms.map(|norms| &norms[at]);
        for NewRows { cache, rows, position: before, wanted, out_row } in parts {
            assert_eq!(cache.tokens.len(), *before);
            for (index, row) in rows.clone().enumerate() {
                let position = *before + index;
                let key = placed(heads, rope, norm(1), &keys.row(row), position);
                cache.tokens.push((key, values.row(row)));
                assert!(cache.tokens.len() <= cache.room);
                if !wanted.contains(&index) {
                    continue;
                }
                let query = placed(heads, rope, norm(0), &queries.row(row), position);
                let seen = (0..=position).filter(|key| heads.near(position, *key)).map(|key| &cache.tokens[key]);
                let seen: Vec<_> = seen.collect();
                let mut all = Vec::new();
                for head in 0..heads.heads {
                    let part = columns(0, head / (heads.heads / heads.kv_heads), heads.head_dim);
                    let seen: Vec<_> =
                        seen.iter().map(|(key, value)| (&key[part.clone()], &value[part.clone()])).collect();
                    all.extend(heads.attend(&query[columns(0, head, heads.head_dim)], &seen).0);
                }
                out.set_row(*out_row + index - wanted.start, &all);
            }
        }
        Ok(())
    }
}
