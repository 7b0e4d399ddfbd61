//! Operations as a textbook has them: one loop each, sums in f64, on a buffer
//! that nobody else can look into. What is not written is NaN. They are the oracle
//! of other sets of operations, and show that the orchestration needs nothing of
//! the CPU's.

mod attention;
mod growing;
mod loss;
mod trees;

use std::collections::BTreeMap;

use super::{Attended, Heads, LogitsHeld, Operations, Projection, RmsNorm, Sums, Targets, View, ViewMut, Write};
use crate::batch::Group;
use crate::config::Activation;
use crate::dropout::Mask;
use crate::error::Result;
use crate::params::{Kept, Param};
use crate::rope::RopeTable;

/// The set of operations.
pub(crate) struct Plain;

/// Numbers.
pub(crate) struct Numbers(Vec<f32>);

/// Ids.
pub(crate) struct Ids(Vec<u32>);

/// A weight, and whether products with it round to bf16.
pub(crate) struct Weight {
    values: Vec<f32>,
    rounds: bool,
}

/// Sums of gradients by name.
pub(crate) struct PlainSums(BTreeMap<String, Numbers>);

impl PlainSums {
    /// Zeros for tensors of so many numbers.
    pub fn zeros<'a>(sizes: impl IntoIterator<Item = (&'a String, usize)>) -> Self {
        Self(sizes.into_iter().map(|(name, size)| (name.clone(), Numbers(vec![0.0; size]))).collect())
    }

    pub fn read(&self, name: &str) -> &[f32] {
        &self.0[name].0
    }
}

impl Sums<Numbers> for PlainSums {
    fn wants(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn sum(&mut self, name: &str) -> Option<&mut Numbers> {
        self.0.get_mut(name)
    }
}

impl View<'_, Numbers> {
    fn get(&self, row: usize, column: usize) -> f64 {
        assert!(row < self.at.rows && column < self.at.columns);
        f64::from(self.buffer.0[self.at.first + row * self.at.stride + column])
    }

    fn row(&self, row: usize) -> Vec<f64> {
        (0..self.at.columns).map(|column| self.get(row, column)).collect()
    }
}

impl ViewMut<'_, Numbers> {
    fn at(&mut self, row: usize, column: usize) -> &mut f32 {
        assert!(row < self.at.rows && column < self.at.columns);
        &mut self.buffer.0[self.at.first + row * self.at.stride + column]
    }

    fn set_row(&mut self, row: usize, values: &[f64]) {
        assert_eq!(values.len(), self.at.columns);
        values.iter().enumerate().for_each(|(column, value)| *self.at(row, column) = *value as f32);
    }
}

fn rounded(x: f64, rounds: bool) -> f64 {
    if rounds { half::bf16::from_f32(x as f32).to_f64() } else { x }
}

/// 1 / sqrt(mean(x^2) + eps).
fn inverse(x: &[f64], eps: f64) -> f64 {
    1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt()
}

impl RmsNorm<Weight> {
    fn scale(&self, index: usize) -> f64 {
        f64::from(self.weight.values[index]) + self.offset
    }

    fn width(&self) -> usize {
        self.weight.values.len()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let r = inverse(x, self.eps);
        x.iter().enumerate().map(|(i, x)| self.scale(i) * x * r).collect()
    }

    /// The gradient of x, and what each number adds to that of the weight.
    fn backward(&self, x: &[f64], grad: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (r, width) = (inverse(x, self.eps), x.len());
        let mean = (0..width).map(|i| self.scale(i) * grad[i] * x[i] * r).sum::<f64>() / width as f64;
        let x_grad = (0..width).map(|i| r * (self.scale(i) * grad[i] - x[i] * r * mean));
        (x_grad.collect(), (0..width).map(|i| grad[i] * x[i] * r).collect())
    }
}

fn activation(kind: Activation, gate: f64) -> f64 {
    match kind {
        Activation::Silu => gate / (1.0 + (-gate).exp()),
        Activation::GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            0.5 * gate * (1.0 + (c * (gate + 0.044_715 * gate.powi(3))).tanh())
        }
    }
}

impl Operations for Plain {
    type Buffer = Numbers;
    type Indices = Ids;
    type Weight<'a> = Weight;
    type Rope = RopeTable;
    type Groups = Vec<Group>;

    fn zeros(&self, len: usize) -> Result<Numbers> {
        Ok(Numbers(vec![0.0; len]))
    }

    fn room(&self, len: usize) -> Result<Numbers> {
        Ok(Numbers(vec![f32::NAN; len]))
    }

    fn at_least(&self, buffer: &mut Numbers, len: usize) -> Result<()> {
        buffer.0 = vec![f32::NAN; len.max(buffer.0.len())];
        Ok(())
    }

    fn copied(&self, x: View<'_, Numbers>) -> Result<Numbers> {
        Ok(Numbers(x.buffer.0[x.at.whole()].to_vec()))
    }

    fn download(&self, x: View<'_, Numbers>) -> Result<Vec<f32>> {
        Ok(self.copied(x)?.0)
    }

    fn room_in(&self, _memory: Vec<f32>, len: usize) -> Result<Numbers> {
        self.room(len)
    }

    fn taken(&self, x: Numbers, len: usize) -> Result<Vec<f32>> {
        Ok(x.0[..len].to_vec())
    }

    fn indices(&self, values: &[u32]) -> Result<Ids> {
        Ok(Ids(values.to_vec()))
    }

    fn rope(&self, table: RopeTable) -> Result<RopeTable> {
        Ok(table)
    }

    fn groups(&self, groups: &[Group]) -> Result<Vec<Group>> {
        Ok(groups.to_vec())
    }

    fn weight<'a>(&self, param: &'a Param) -> Result<Self::Weight<'a>> {
        let rounds = matches!(param.kept()?, Kept::Bf16 { .. });
        Ok(Weight { rounds, ..self.wide(param)? })
    }

    fn wide<'a>(&self, param: &'a Param) -> Result<Self::Weight<'a>> {
        Ok(Weight { values: param.read()?.to_vec(), rounds: false })
    }

    fn prepare(&self, _weight: &mut Weight, _shape: [usize; 2], _back: bool) -> Result<()> {
        Ok(())
    }

    /// As few as there can be.
    fn logits_held(&self, _weight: &Weight) -> LogitsHeld {
        LogitsHeld { forward: 1, together: 1, most: 1 }
    }

    fn embed(&self, table: &Weight, ids: &Ids, width: usize, scale: f32, out: &mut Numbers) -> Result<()> {
        for (row, id) in ids.0.iter().enumerate() {
            for column in 0..width {
                out.0[row * width + column] = scale * table.values[*id as usize * width + column];
            }
        }
        Ok(())
    }

    fn embed_backward(&self, grad: &Numbers, ids: &Ids, width: usize, scale: f32, sum: &mut Numbers) -> Result<()> {
        for (row, id) in ids.0.iter().enumerate() {
            for column in 0..width {
                sum.0[*id as usize * width + column] += scale * grad.0[row * width + column];
            }
        }
        Ok(())
    }

    fn gather(&self, x: &Numbers, width: usize, rows: &Ids, out: &mut Numbers) -> Result<()> {
        for (to, from) in rows.0.iter().enumerate() {
            for column in 0..width {
                out.0[to * width + column] = x.0[*from as usize * width + column];
            }
        }
        Ok(())
    }

    fn scatter_add(&self, values: &Numbers, width: usize, rows: &Ids, x: &mut Numbers) -> Result<()> {
        self.embed_backward(values, rows, width, 1.0, x)
    }

    fn add_scaled(&self, sums: &mut Numbers, values: &Numbers, len: usize, scale: f32) -> Result<()> {
        (0..len).for_each(|index| sums.0[index] += scale * values.0[index]);
        Ok(())
    }

    fn project(
        &self,
        mut out: ViewMut<'_, Numbers>,
        x: View<'_, Numbers>,
        by: Projection<'_, Weight>,
        write: Write,
    ) -> Result<()> {
        let (from, to) = if by.back { (by.outputs, by.inputs) } else { (by.inputs, by.outputs) };
        assert_eq!((x.at.rows, x.at.columns, out.at.columns), (out.at.rows, from, to));
        assert_eq!(by.weight.values.len(), by.outputs * by.inputs);
        for row in 0..x.at.rows {
            for column in 0..to {
                let weight = |index: usize| {
                    let (output, input) = if by.back { (index, column) } else { (column, index) };
                    f64::from(by.weight.values[output * by.inputs + input])
                };
                let sum: f64 = (0..from).map(|i| rounded(x.get(row, i), by.weight.rounds) * weight(i)).sum();
                let sum = f64::from(by.scale) * sum;
                let to = out.at(row, column);
                *to = if write == Write::Add { (f64::from(*to) + sum) as f32 } else { sum as f32 };
            }
        }
        Ok(())
    }

    fn add_outer(
        &self,
        sum: &mut Numbers,
        a: View<'_, Numbers>,
        b: View<'_, Numbers>,
        scale: f32,
        like: Option<&Weight>,
    ) -> Result<()> {
        assert_eq!((a.at.rows, sum.0.len()), (b.at.rows, a.at.columns * b.at.columns));
        let rounds = like.is_some_and(|weight| weight.rounds);
        for m in 0..a.at.columns {
            for n in 0..b.at.columns {
                let product = |row: usize| rounded(a.get(row, m), rounds) * rounded(b.get(row, n), rounds);
                let more: f64 = (0..a.at.rows).map(product).sum();
                sum.0[m * b.at.columns + n] += (f64::from(scale) * more) as f32;
            }
        }
        Ok(())
    }

    fn add_bias(&self, mut out: ViewMut<'_, Numbers>, bias: &Weight) -> Result<()> {
        for row in 0..out.at.rows {
            (0..out.at.columns).for_each(|column| *out.at(row, column) += bias.values[column]);
        }
        Ok(())
    }

    fn add_column_sums(&self, grad: View<'_, Numbers>, sum: &mut Numbers) -> Result<()> {
        for column in 0..grad.at.columns {
            sum.0[column] += (0..grad.at.rows).map(|row| grad.get(row, column)).sum::<f64>() as f32;
        }
        Ok(())
    }

    fn drop_out(&self, values: &mut Numbers, len: usize, mask: &Mask) -> Result<()> {
        values.0[..len].iter_mut().zip(mask.factors(len)).for_each(|(value, factor)| *value *= factor);
        Ok(())
    }

    fn activate(
        &self,
        kind: Activation,
        gate_up: &Numbers,
        rows: usize,
        width: usize,
        out: &mut Numbers,
    ) -> Result<()> {
        let x = View::new(gate_up, rows, 2 * width);
        for row in 0..rows {
            for i in 0..width {
                out.0[row * width + i] = (activation(kind, x.get(row, i)) * x.get(row, width + i)) as f32;
            }
        }
        Ok(())
    }

    fn activate_backward(
        &self,
        kind: Activation,
        gate_up: &mut Numbers,
        rows: usize,
        width: usize,
        grad: &Numbers,
    ) -> Result<()> {
        for row in 0..rows {
            for i in 0..width {
                let [gate, up] = [2 * row * width + i, (2 * row + 1) * width + i];
                let [g, u] = [gate, up].map(|at| f64::from(gate_up.0[at]));
                let own = f64::from(grad.0[row * width + i]);
                // The derivative by differences, good to about ten digits.
                let slope = (activation(kind, g + 1e-5) - activation(kind, g - 1e-5)) / 2e-5;
                gate_up.0[gate] = (own * u * slope) as f32;
                gate_up.0[up] = (own * activation(kind, g)) as f32;
            }
        }
        Ok(())
    }

    fn norm(&self, norm: &RmsNorm<Weight>, x: View<'_, Numbers>, out: &mut Numbers) -> Result<()> {
        let mut out = ViewMut::new(out, x.at.rows, norm.width());
        (0..x.at.rows).for_each(|row| out.set_row(row, &norm.apply(&x.row(row))));
        Ok(())
    }

    fn norm_backward(
        &self,
        norm: &RmsNorm<Weight>,
        x: View<'_, Numbers>,
        grad: &Numbers,
        x_grad: &mut Numbers,
        mut sum: Option<&mut Numbers>,
    ) -> Result<()> {
        let grad = View::new(grad, x.at.rows, norm.width());
        for row in 0..x.at.rows {
            let (own, weight) = norm.backward(&x.row(row), &grad.row(row));
            for i in 0..norm.width() {
                x_grad.0[row * norm.width() + i] += own[i] as f32;
                sum.iter_mut().for_each(|sum| sum.0[i] += weight[i] as f32);
            }
        }
        Ok(())
    }

    fn norm_heads(&self, norm: &RmsNorm<Weight>, mut x: ViewMut<'_, Numbers>) -> Result<()> {
        for start in (0..x.at.columns).step_by(norm.width()) {
            let mut head = x.again().columns(start..start + norm.width());
            for row in 0..head.at.rows {
                let values: Vec<f64> = (0..norm.width()).map(|column| f64::from(*head.at(row, column))).collect();
                head.set_row(row, &norm.apply(&values));
            }
        }
        Ok(())
    }

    fn norm_heads_backward(
        &self,
        norm: &RmsNorm<Weight>,
        x: View<'_, Numbers>,
        mut grad: ViewMut<'_, Numbers>,
        mut sum: Option<&mut Numbers>,
    ) -> Result<()> {
        for start in (0..x.at.columns).step_by(norm.width()) {
            let columns = start..start + norm.width();
            let (x, mut head) = (x.columns(columns.clone()), grad.again().columns(columns));
            for row in 0..x.at.rows {
                let values: Vec<f64> = (0..norm.width()).map(|column| f64::from(*head.at(row, column))).collect();
                let (own, weight) = norm.backward(&x.row(row), &values);
                head.set_row(row, &own);
                sum.iter_mut().for_each(|sum| sum.0.iter_mut().zip(&weight).for_each(|(to, w)| *to += *w as f32));
            }
        }
        Ok(())
    }

    fn attention(
        &self,
        heads: &Heads,
        rope: &RopeTable,
        groups: &Vec<Group>,
        qkv: View<'_, Numbers>,
        out: &mut Numbers,
        log_sums: &mut Numbers,
    ) -> Result<()> {
        attention::forward(heads, rope, groups, qkv, out, log_sums);
        Ok(())
    }

    fn attention_backward(
        &self,
        heads: &Heads,
        rope: &RopeTable,
        groups: &Vec<Group>,
        known: Attended<'_, Numbers>,
        out_grad: View<'_, Numbers>,
        qkv_grad: &mut Numbers,
    ) -> Result<()> {
        attention::backward(heads, rope, groups, &known, out_grad, qkv_grad);
        Ok(())
    }

    fn soft_cap(&self, logits: &mut Numbers, rows: usize, vocab: usize, cap: f32) -> Result<()> {
        loss::soft_cap(&mut logits.0[..rows * vocab], f64::from(cap));
        Ok(())
    }

    fn log_probs(
        &self,
        logits: &Numbers,
        targets: &Targets<'_, Ids>,
        logps: &mut Numbers,
        log_sums: &mut Numbers,
    ) -> Result<()> {
        loss::log_probs(logits, targets, logps, log_sums);
        Ok(())
    }

    fn log_probs_backward(
        &self,
        logits: &mut Numbers,
        targets: &Targets<'_, Ids>,
        log_sums: &Numbers,
        slopes: &[f32],
    ) -> Result<()> {
        loss::log_probs_backward(logits, targets, log_sums, slopes);
        Ok(())
    }
}
