use half::bf16;

use super::factor::round;
use super::*;
use crate::init::standard_normal;

#[test]
fn rounding_is_that_of_half() {
    for x in standard_normal(1, "x", 10_000).into_iter().chain([0.0, -0.0, f32::MAX, f32::INFINITY, 1e-40]) {
        assert_eq!(round(x), bf16::from_f32(x).to_bits(), "{x}");
    }
    assert!(bf16::from_bits(round(f32::NAN)).is_nan());
}

/// Numbers of every size, so that sums round, cancel and vanish.
fn wild(seed: u64, count: usize) -> Vec<f32> {
    let sizes = standard_normal(seed, "sizes", count);
    let values = standard_normal(seed, "values", count);
    values.iter().zip(sizes).map(|(value, size)| value * (size * 30.0).exp2()).collect()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn instructions_do_what_is_done_step_by_step() {
    if !has_instructions() {
        return;
    }
    for (seed, scale) in [(1, 1.0_f32), (2, 1e-30), (3, 1e15)] {
        let pairs = 37;
        let pair = |x: &[f32]| Pair::from(round(x[0] * scale)) | Pair::from(round(x[1] * scale)) << 16;
        let a: Vec<Pair> = wild(seed, 2 * pairs * ROWS).chunks_exact(2).map(pair).collect();
        let b: Vec<Pair> = wild(seed + 10, 2 * pairs * COLUMNS).chunks_exact(2).map(pair).collect();
        for (steps, is_sum) in [(Steps { pair: ROWS, row: 1 }, true), (Steps { pair: 1, row: pairs }, false)] {
            let a = TilePart { pairs: &a, steps };
            let (mut one, mut other) = ([[0.5; COLUMNS]; ROWS], [[0.5; COLUMNS]; ROWS]);
            // SAFETY: the processor has them.
            unsafe { with_instructions(a, &b, &mut one.each_mut(), is_sum) };
            step_by_step(a, &b, &mut other.each_mut(), is_sum);
            // What is no number has more than one way to say so.
            let bits =
                |sums: [[f32; COLUMNS]; ROWS]| sums.map(|row| row.map(|x| if x.is_nan() { 0 } else { x.to_bits() }));
            assert!(bits(one) == bits(other), "scale {scale}");
        }
    }
}

/// Factors of every shape and both types, against where each pair belongs.
#[test]
fn factors_are_laid_out_pair_by_pair() {
    let special = [0.0, -0.0, f32::NAN, f32::INFINITY, 1e-40, -1e-45, f32::MAX, 1.003_906_2];
    for (rows, columns) in [(1, 1), (6, 64), (49, 33), (100, 130), (131, 70), (48, 32), (64, 31)] {
        let mut values = wild(3, rows * columns);
        values.iter_mut().step_by(7).zip(special.iter().cycle()).for_each(|(value, special)| *value = *special);
        let narrow: Vec<bf16> = values.iter().map(|x| bf16::from_bits(round(*x))).collect();
        for numbers in [Numbers::F32(&values), Numbers::Bf16(&narrow)] {
            let rows_of = Factor::new(numbers, rows, columns);
            let columns_of = Factor::new(numbers, columns, rows).transposed();
            for factor in [rows_of, columns_of] {
                let pairs = columns.div_ceil(2);
                let wanted = |row: usize, pair: usize| {
                    let bits = |column: usize| {
                        if row < rows && column < columns { Pair::from(factor.bits(row, column)) } else { 0 }
                    };
                    bits(2 * pair) | bits(2 * pair + 1) << 16
                };
                let panels = layout::panels(factor);
                assert_eq!(panels.0.len(), rows.div_ceil(COLUMNS) * pairs * COLUMNS);
                for (at, found) in panels.0.iter().enumerate() {
                    let (panel, pair, line) = (at / COLUMNS / pairs, at / COLUMNS % pairs, at % COLUMNS);
                    assert_eq!(*found, wanted(panel * COLUMNS + line, pair), "{rows} {columns} panels {at}");
                }
                let (tiles, steps) = layout::tiles(factor);
                assert_eq!(tiles.0.len(), rows.div_ceil(ROWS) * pairs * ROWS);
                for row in 0..rows.div_ceil(ROWS) * ROWS {
                    for pair in 0..pairs {
                        let at = row / ROWS * ROWS * pairs + row % ROWS * steps.row + pair * steps.pair;
                        assert_eq!(tiles.0[at], wanted(row, pair), "{rows} {columns} tiles {row} {pair}");
                    }
                }
            }
        }
    }
}

/// All shapes and strides against sums in f64, and rows by themselves against rows in
/// company.
#[test]
fn products_are_right_and_rows_do_not_depend_on_their_company() {
    for (rows, inputs, outputs) in [(1, 1, 1), (7, 5, 3), (13, 64, 130), (100, 2100, 65), (6, 3, 64)] {
        let a = standard_normal(1, "a", rows * inputs);
        let b = standard_normal(2, "b", inputs * outputs);
        let exact: Vec<f64> = (0..rows * outputs)
            .map(|at| {
                let (row, output) = (at / outputs, at % outputs);
                let product = |i: usize| {
                    let [x, y] = [a[row * inputs + i], b[i * outputs + output]].map(|x| bf16::from_f32(x).to_f64());
                    x * y
                };
                (0..inputs).map(product).sum()
            })
            .collect();
        let b_rows = Factor::new(Numbers::F32(&b), inputs, outputs);
        let a_rows = Factor::new(Numbers::F32(&a), rows, inputs);
        // The same numbers, the other way round.
        let turned: Vec<f32> = (0..inputs * rows).map(|at| a[at % rows * inputs + at / rows]).collect();
        let a_turned = Factor::new(Numbers::F32(&turned), inputs, rows).transposed();
        let narrow: Vec<bf16> = b.iter().map(|x| bf16::from_f32(*x)).collect();
        let b_narrow = Factor::new(Numbers::Bf16(&narrow), inputs, outputs);
        let mut out = vec![7.0; rows * outputs];
        matmul(MatrixMut::new(&mut out, rows, outputs), a_rows, b_rows, Write::Over);
        for (value, exact) in out.iter().zip(&exact) {
            assert!((f64::from(*value) - exact).abs() < 1e-5 * inputs as f64, "{value} {exact}");
        }
        for (a, b) in [(a_turned, b_rows), (a_rows, b_narrow), (a_turned, b_narrow)] {
            let mut again = vec![0.0; rows * outputs];
            matmul(MatrixMut::new(&mut again, rows, outputs), a, b, Write::Over);
            assert_eq!(again, out);
        }
        let panels = Panels::new(b_rows);
        for row in [0, rows - 1] {
            let mut alone = vec![0.0; outputs];
            let own = Factor::new(Numbers::F32(&a[row * inputs..(row + 1) * inputs]), 1, inputs);
            panels.multiply(MatrixMut::new(&mut alone, 1, outputs), own, Write::Over);
            assert_eq!(alone, out[row * outputs..(row + 1) * outputs]);
        }
        let mut column = vec![0.0; inputs];
        panels.read(outputs - 1, &mut column);
        let expected: Vec<f32> = (0..inputs).map(|i| narrow[i * outputs + outputs - 1].to_f32()).collect();
        assert_eq!(column, expected);
        // Into columns of wider rows, added.
        let mut wide = vec![1.0; rows * (outputs + 5)];
        matmul(MatrixMut::columns(&mut wide, outputs + 5, 2..outputs + 2), a_rows, b_rows, Write::Add);
        for (wide, exact) in wide.chunks(outputs + 5).zip(exact.chunks(outputs)) {
            assert!(wide[..2] == [1.0; 2] && wide[outputs + 2..] == [1.0; 3]);
            let near = |(value, exact): (&f32, &f64)| (f64::from(*value) - exact - 1.0).abs() < 1e-5 * inputs as f64;
            assert!(wide[2..].iter().zip(exact).all(near));
        }
    }
}
