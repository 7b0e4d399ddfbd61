//! Weights laid out for few rows at a time.
//!
//! A product of few rows reads each weight about once, so it is as fast as
//! memory is, if the weights come in the order in which they are used. Here
//! they are panels of [`PANEL`] outputs, each `[inputs, outputs]`; a task is one
//! panel with all rows.
//!
//! A row's outputs do not depend on the other rows: the matrix product adds up
//! over the inputs in blocks whose length depends on their number alone, as
//! long as there are at least two rows and more than [`NARROW`] outputs (gemm
//! 0.19, `gemm_basic_generic`). A test compares bit for bit.

use rayon::prelude::*;

use super::attention::SharedRows;
use super::math::{Matrix, MatrixMut, Write, matmul_here, transpose};

/// Outputs per panel: a multiple of the rows of gemm's kernels. The second is for more
/// threads than there are panels of the first; bits do not depend on it.
const PANEL: usize = 192;
const SMALL_PANEL: usize = 96;
/// Rows of a product: with more, gemm lays out the weights once more.
const ROWS: usize = 48;
/// gemm takes another way with this many outputs or fewer.
const NARROW: usize = 64;

/// Projections of the same rows whose outputs stand side by side.
pub(crate) struct Packed {
    inputs: usize,
    outputs: usize,
    /// First outputs of the panels.
    starts: Vec<usize>,
    /// Panel by panel.
    values: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Packed {
    /// Makes room for projections with `outputs` outputs in all.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self::for_threads(inputs, outputs, rayon::current_num_threads())
    }

    /// Makes room for them, in as many panels as so many threads can share.
    fn for_threads(inputs: usize, outputs: usize, threads: usize) -> Self {
        let panel = if outputs.div_ceil(PANEL) < threads { SMALL_PANEL } else { PANEL };
        let mut starts: Vec<usize> = (0..outputs).step_by(panel).collect();
        if starts.len() > 1 && !outputs.is_multiple_of(panel) && outputs % panel <= NARROW {
            starts.pop();
        }
        Self { inputs, outputs, starts, values: vec![0.0; inputs * outputs], bias: None }
    }

    fn end(&self, panel: usize) -> usize {
        self.starts.get(panel + 1).copied().unwrap_or(self.outputs)
    }

    /// Writes a projection's weight `[outputs, inputs]` to the outputs from
    /// `first` on.
    pub fn set(&mut self, first: usize, weight: &[f32]) {
        let (inputs, count) = (self.inputs, weight.len() / self.inputs);
        for panel in 0..self.starts.len() {
            let (start, end) = (self.starts[panel], self.end(panel));
            let (from, to) = (first.max(start), (first + count).min(end));
            if from >= to {
                continue;
            }
            let rows = &weight[(from - first) * inputs..(to - first) * inputs];
            let mut columns = vec![0.0; rows.len()];
            transpose(rows, inputs, &mut columns);
            let (at, width) = (from - start, end - start);
            let panel = &mut self.values[start * inputs..end * inputs];
            for (to_row, row) in panel.chunks_exact_mut(width).zip(columns.chunks_exact(to - from)) {
                to_row[at..at + row.len()].copy_from_slice(row);
            }
        }
    }

    /// The same for a bias.
    pub fn set_bias(&mut self, first: usize, bias: &[f32]) {
        let all = self.bias.get_or_insert_with(|| vec![0.0; self.outputs]);
        all[first..first + bias.len()].copy_from_slice(bias);
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The weights of one output, `[inputs]`.
    pub fn read_row(&self, output: usize, row: &mut [f32]) {
        let panel = self.starts.partition_point(|start| *start <= output) - 1;
        let (start, end) = (self.starts[panel], self.end(panel));
        let values = &self.values[start * self.inputs..end * self.inputs];
        let column = values[output - start..].iter().step_by(end - start);
        row.iter_mut().zip(column).for_each(|(to, value)| *to = *value);
    }

    /// Writes (or adds) the outputs for `x` `[rows, inputs]` to `out` `[rows,
    /// outputs]`.
    pub fn forward(&self, x: &[f32], out: &mut [f32], write: Write) {
        let rows = x.len() / self.inputs;
        if rows == 0 {
            return;
        }
        // A single row would take another way through gemm.
        let doubled;
        let (x, multiplied) = if rows == 1 {
            doubled = [x, x].concat();
            (doubled.as_slice(), 2)
        } else {
            (x, rows)
        };
        let shared = SharedRows::new(out, self.outputs);
        (0..self.starts.len()).into_par_iter().with_max_len(1).for_each_init(Vec::new, |scratch, panel| {
            let (start, end) = (self.starts[panel], self.end(panel));
            let width = end - start;
            scratch.resize(multiplied * width, 0.0);
            let weight = Matrix::new(&self.values[start * self.inputs..end * self.inputs], self.inputs, width);
            // Equally many but for one, so that none is single.
            let products = multiplied.div_ceil(ROWS);
            for number in 0..products {
                let rows = number * multiplied / products..(number + 1) * multiplied / products;
                let x = Matrix::new(&x[rows.start * self.inputs..rows.end * self.inputs], rows.len(), self.inputs);
                let product = &mut scratch[rows.start * width..rows.end * width];
                matmul_here(MatrixMut::new(product, rows.len(), width), x, weight, 1.0, Write::Over);
            }
            let bias = self.bias.as_ref().map(|bias| &bias[start..end]);
            for (row, product) in scratch.chunks_exact_mut(width).take(rows).enumerate() {
                if let Some(bias) = bias {
                    product.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
                }
                // SAFETY: these columns are this task's.
                let out = unsafe { shared.row(row, start..end) };
                match write {
                    Write::Over => out.copy_from_slice(product),
                    Write::Add => out.iter_mut().zip(product).for_each(|(out, value)| *out += *value),
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::standard_normal;

    /// A layer of SmolLM2-135M: `[576, 960]` is a task for 5 threads, or for 10.
    #[test]
    fn more_threads_get_more_panels_and_the_same_bits() {
        for (inputs, outputs, few, many) in [(576, 960, 5, 10), (576, 3072, 16, 32), (100, 260, 2, 3), (100, 96, 1, 1)]
        {
            let weight = standard_normal(1, "weight", outputs * inputs);
            let x = standard_normal(2, "x", 7 * inputs);
            let product = |threads: usize| {
                let mut packed = Packed::for_threads(inputs, outputs, threads);
                packed.set(0, &weight);
                let mut out = vec![0.0; 7 * outputs];
                packed.forward(&x, &mut out, Write::Over);
                (packed.starts.len(), out)
            };
            let ((on_one, expected), (on_many, out)) = (product(1), product(64));
            assert_eq!((on_one, on_many), (few, many), "{inputs} {outputs}");
            assert_eq!(out, expected, "{inputs} {outputs}");
        }
    }

    #[test]
    fn rows_do_not_depend_on_their_company() {
        for (inputs, outputs) in [(64, 40), (512, 700), (1408, 512), (2100, 260), (96, 193), (8, 3)] {
            let weight = standard_normal(1, "weight", outputs * inputs);
            let x = standard_normal(2, "x", 150 * inputs);
            let bias = standard_normal(3, "bias", outputs);
            let mut packed = Packed::new(inputs, outputs);
            // In two projections.
            let cut = outputs / 3;
            packed.set(0, &weight[..cut * inputs]);
            packed.set(cut, &weight[cut * inputs..]);
            packed.set_bias(0, &bias);
            let forward = |rows: std::ops::Range<usize>| {
                let mut out = vec![0.0; rows.len() * outputs];
                packed.forward(&x[rows.start * inputs..rows.end * inputs], &mut out, Write::Over);
                out
            };
            let all = forward(0..150);
            for count in [1, 2, 3, 7, 8, 9, 31, 32, 63, 64, 65, 100, 129] {
                for first in [0, 150 - count] {
                    let some = forward(first..first + count);
                    assert_eq!(some, all[first * outputs..(first + count) * outputs], "{inputs} {outputs} {count}");
                }
            }
            let mut row = vec![0.0; inputs];
            for output in [0, cut, outputs - 1] {
                packed.read_row(output, &mut row);
                assert_eq!(row, weight[output * inputs..(output + 1) * inputs]);
                let exact: f64 = row.iter().zip(&x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let value = f64::from(all[output]) - f64::from(bias[output]);
                assert!((value - exact).abs() < 1e-3, "{value} {exact}");
            }
        }
    }
}
