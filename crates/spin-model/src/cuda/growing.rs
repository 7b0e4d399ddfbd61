//! Sequences that grow.

use half::bf16;
use spin_cuda::{Factor, Machine, Memory, NO_ROW, PagedScratch, attention_paged, cache_append, splits};

use super::attention::DeviceRope;
use super::pages::{PAGE, Pages, Slab};
use super::set::{Buffer, Cuda, Indices, attention_of, whole};
use super::weight::{DeviceNumbers, Weight, with_numbers};
use crate::error::Result;
use crate::ops::{GrowingOperations, Heads, NewRows, Operations, Region, RmsNorm, View, Write};
use crate::params::{Form, Numbers, Param};

/// Rows of every product: a library takes another algorithm, with other last bits,
/// for another number of rows, and a sequence's numbers must not depend on how many
/// share its step.
const ROWS: usize = if cfg!(test) { 16 } else { 128 };

/// Projections of the same rows, as one matrix `[outputs, inputs]`.
pub(crate) struct DeviceRows<M: Machine> {
    weight: Weight<M>,
    /// `[outputs]`, zeros where a projection has none.
    bias: Option<Memory<M, f32>>,
    outputs: usize,
    inputs: usize,
}

/// New rows of a step, as lists for kernels.
struct Lists {
    /// Of each row.
    sequences: Vec<u32>,
    positions: Vec<u32>,
    /// Rows whose outputs are wanted, in the order of these.
    wanted: Vec<u32>,
    /// Pages of each sequence.
    tables: Vec<u32>,
    table_len: usize,
    longest: usize,
}

impl Lists {
    fn new<M: Machine>(parts: &[NewRows<'_, Pages<M>>], rows: usize) -> Self {
        let (mut sequences, mut positions) = (vec![0; rows], vec![NO_ROW; rows]);
        let mut wanted = vec![0; parts.iter().map(|part| part.wanted.len()).sum()];
        let table_len = parts.iter().map(|part| part.cache.numbers.len()).max().unwrap_or(0).max(1);
        let mut tables = vec![0; parts.len() * table_len];
        let mut longest = 0;
        for ((sequence, part), table) in parts.iter().enumerate().zip(tables.chunks_exact_mut(table_len)) {
            for (row, position) in part.rows.clone().zip(part.position as u32..) {
                (sequences[row], positions[row]) = (sequence as u32, position);
            }
            let rows = part.wanted.clone().map(|row| (part.rows.start + row) as u32);
            wanted[part.out_row..][..part.wanted.len()].iter_mut().zip(rows).for_each(|(to, row)| *to = row);
            table[..part.cache.numbers.len()].copy_from_slice(&part.cache.numbers);
            longest = longest.max(part.position + part.rows.len());
        }
        assert!(positions.iter().all(|position| *position != NO_ROW), "every row is of a sequence");
        Self { sequences, positions, wanted, tables, table_len, longest }
    }

    fn all_wanted(&self) -> bool {
        self.wanted.iter().copied().eq(0..self.positions.len() as u32)
    }
}

impl<M: Machine> Cuda<M> {
    /// out = x W^T for [`ROWS`] rows, of which x has some.
    fn product_of_rows(
        &self,
        out: &mut spin_cuda::ViewMut<'_, f32>,
        x: spin_cuda::View<'_, f32>,
        by: &DeviceRows<M>,
    ) -> Result<()> {
        let (machine, len) = (self.machine(), ROWS * by.inputs);
        match &*by.weight {
            DeviceNumbers::F32(values) => {
                let weight = Factor::new(values.view(), by.outputs, by.inputs).transposed(true);
                let padded = if x.len() == len { None } else { Some(self.padded::<f32>(x, len)?) };
                let x = Factor::new(padded.as_ref().map_or(x, Memory::view), ROWS, by.inputs);
                machine.product(&x, &weight, out, by.outputs, 1.0, false)?;
            }
            DeviceNumbers::Bf16(values) => {
                let weight = Factor::new(values.view(), by.outputs, by.inputs).transposed(true);
                let x = self.padded::<bf16>(x, len)?;
                machine.product(&Factor::new(x.view(), ROWS, by.inputs), &weight, out, by.outputs, 1.0, false)?;
            }
        }
        Ok(())
    }

    /// Numbers in a type at the beginning of more, which are zeros.
    fn padded<T: spin_cuda::Number + spin_cuda::Plain>(
        &self,
        x: spin_cuda::View<'_, f32>,
        len: usize,
    ) -> Result<Memory<M, T>> {
        let mut padded = Memory::zeros(self.machine(), len)?;
        spin_cuda::convert(self.machine(), x, &mut padded.view_mut().slice(0..x.len()))?;
        Ok(padded)
    }
}

/// The numbers of weights, one after the other, in the type of all, or f32.
enum Joined {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Joined {
    fn new(weights: &[&Param]) -> Result<Self> {
        let mut all = Self::Bf16(Vec::new());
        if weights.iter().any(|weight| weight.var.dtype() != candle_core::DType::BF16) {
            all = Self::F32(Vec::new());
        }
        for weight in weights {
            let form = if matches!(all, Self::F32(_)) { Form::Wide } else { Form::Kept };
            with_numbers(weight, form, |numbers| {
                match (&mut all, numbers) {
                    (Self::F32(all), Numbers::F32(values)) => all.extend_from_slice(values),
                    (Self::Bf16(all), Numbers::Bf16(values)) => all.extend_from_slice(values),
                    _ => unreachable!("of the form that was asked for"),
                }
                Ok(())
            })?;
        }
        Ok(all)
    }
}

impl<M: Machine> GrowingOperations for Cuda<M> {
    type FewRows = DeviceRows<M>;
    type LayerCache = Pages<M>;

    fn free_memory(&self) -> Option<u64> {
        self.machine().free()
    }

    fn few_rows(
        &self,
        weights: &[&Param],
        biases: &[Option<&Param>],
        outputs: &[usize],
        inputs: usize,
    ) -> Result<DeviceRows<M>> {
        let numbers = match Joined::new(weights)? {
            Joined::F32(values) => DeviceNumbers::upload(self, Numbers::F32(&values))?,
            Joined::Bf16(values) => DeviceNumbers::upload(self, Numbers::Bf16(&values))?,
        };
        let all: usize = outputs.iter().sum();
        let mut bias = biases.iter().any(Option::is_some).then(|| Vec::with_capacity(all));
        for (param, outputs) in biases.iter().zip(outputs) {
            let Some(bias) = &mut bias else { break };
            match param {
                Some(param) => bias.extend_from_slice(&with_numbers(param, Form::Wide, |numbers| {
                    let mut values = vec![0.0; *outputs];
                    numbers.read(0, &mut values);
                    Ok(values)
                })?),
                None => bias.resize(bias.len() + outputs, 0.0),
            }
        }
        let bias = bias.map(|bias| Memory::upload(self.machine(), &bias)).transpose()?;
        Ok(DeviceRows { weight: numbers.into(), bias, outputs: all, inputs })
    }

    fn project_few(&self, out: &mut Buffer<M>, x: View<'_, Buffer<M>>, by: &DeviceRows<M>, write: Write) -> Result<()> {
        let (machine, rows, from) = (self.machine(), x.at.rows, whole(x));
        let mut to = out.view_mut().slice(0..rows * by.outputs);
        let mut between = None;
        for first in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - first);
            let x = from.slice(first * by.inputs..(first + count) * by.inputs);
            let mut own = to.reborrow().slice(first * by.outputs..(first + count) * by.outputs);
            if count == ROWS && write == Write::Over {
                self.product_of_rows(&mut own, x, by)?;
                continue;
            }
            // Also where all rows are there: what is added is rounded before, for whichever number of rows.
            let between = match &mut between {
                Some(between) => between,
                None => between.insert(Memory::<M, f32>::room(machine, ROWS * by.outputs)?),
            };
            self.product_of_rows(&mut between.view_mut(), x, by)?;
            match write {
                Write::Over => spin_cuda::convert(machine, between.view(), &mut own)?,
                Write::Add => spin_cuda::add_scaled(machine, &mut own, between.view(), 1.0)?,
            }
        }
        if let Some(bias) = &by.bias {
            spin_cuda::add_bias(machine, &mut to, bias.view())?;
        }
        Ok(())
    }

    fn embed_few(
        &self,
        table: &DeviceRows<M>,
        ids: &Indices<M>,
        width: usize,
        scale: f32,
        out: &mut Buffer<M>,
    ) -> Result<()> {
        self.embed(&table.weight, ids, width, scale, out)
    }

    fn layer_cache(&self, heads: &Heads, room: usize) -> Result<Pages<M>> {
        Pages::new(self.machine(), self.pools(), heads.kv_width(), room)
    }

    fn copy_cache(&self, _: &Heads, from: &Pages<M>, len: usize, to: &mut Pages<M>) -> Result<()> {
        to.copy(self.machine(), from, len)
    }

    fn attend_cached(
        &self,
        heads: &Heads,
        rope: &DeviceRope<M>,
        qkv: View<'_, Buffer<M>>,
        norms: Option<&[RmsNorm<Weight<M>>; 2]>,
        parts: &mut [NewRows<'_, Pages<M>>],
        out: &mut Buffer<M>,
    ) -> Result<()> {
        let Some(pool) = parts.first().map(|part| part.cache.pool.clone()) else { return Ok(()) };
        let (machine, of) = (self.machine(), attention_of(heads));
        let lists = Lists::new(parts, qkv.at.rows);
        let (sequences, positions) = (self.list(&lists.sequences)?, self.list(&lists.positions)?);
        let tables = self.list(&lists.tables)?;
        let pages = spin_cuda::Pages { tables: tables.view(), table_len: lists.table_len, page: PAGE };

        let mut own = self.copied(qkv)?;
        let at = Region::rows(qkv.at.rows, heads.qkv_width());
        let [queries, keys] = heads.query_and_key_columns();
        if let Some([query_norm, key_norm]) = norms {
            self.normalise(query_norm, &mut own, at.columns(queries.clone()))?;
            self.normalise(key_norm, &mut own, at.columns(keys.clone()))?;
        }
        if heads.rotates {
            self.rotate(rope, &positions, &mut own, at.columns(queries.start..keys.end), heads.head_dim, false)?;
        }
        let mut slab = pool.lock();
        let Slab { keys, values, .. } = &mut *slab;
        let new = spin_cuda::NewRows { qkv: own.view(), sequences: sequences.view(), positions: positions.view() };
        cache_append(machine, &of, &new, &pages, &mut keys.view_mut(), &mut values.view_mut())?;

        // Of those that are wanted, where they are not all.
        let few = if lists.all_wanted() { None } else { Some(self.wanted_rows(heads, &lists, &own)?) };
        let new = few.as_ref().map_or(new, |(rows, sequences, positions)| spin_cuda::NewRows {
            qkv: rows.view(),
            sequences: sequences.view(),
            positions: positions.view(),
        });
        let (rows, longest) = (lists.wanted.len(), lists.longest);
        let mut outs = self.room(splits(longest) * rows * heads.out_width())?;
        let mut sums = self.room(splits(longest) * rows * heads.heads * 2)?;
        let mut scratch = PagedScratch { outs: outs.view_mut(), sums: sums.view_mut() };
        let (keys, values, mut out) = (keys.view(), values.view(), out.view_mut());
        Ok(attention_paged(machine, &of, &new, &pages, keys, values, longest, &mut scratch, &mut out)?)
    }
}

impl<M: Machine> Cuda<M> {
    /// The wanted rows with their sequences and positions.
    #[expect(clippy::type_complexity, reason = "rows, sequences and positions")]
    fn wanted_rows(
        &self,
        heads: &Heads,
        lists: &Lists,
        own: &Buffer<M>,
    ) -> Result<(Buffer<M>, Memory<M, u32>, Memory<M, u32>)> {
        let of = |list: &[u32]| lists.wanted.iter().map(|row| list[*row as usize]).collect::<Vec<u32>>();
        let mut rows = self.room(lists.wanted.len() * heads.qkv_width())?;
        self.gather(own, heads.qkv_width(), &self.indices(&lists.wanted)?, &mut rows)?;
        Ok((rows, self.list(&of(&lists.sequences))?, self.list(&of(&lists.positions))?))
    }
}
