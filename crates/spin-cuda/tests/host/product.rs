use half::bf16;
use spin_cuda::{Factor, product};

use crate::library::host;
use crate::memory::{Memory, Tested, assert_close, numbers};

fn multiplied<T: Tested>() {
    let Some(host) = host() else { return };
    for (m, n, k) in [(1, 1, 1), (7, 33, 5), (33, 7, 129)] {
        for bits in 0..8 {
            let (left, right, add) = (bits & 1 == 1, bits & 2 == 2, bits & 4 == 4);
            let (a, b, before) = (numbers::<T>(1, m * k), numbers::<T>(2, k * n), numbers::<f32>(3, m * n));
            let (a_memory, b_memory) = (Memory::of(&a), Memory::of(&b));
            let factor = |numbers, rows, columns, transposed| {
                let [rows, columns] = if transposed { [columns, rows] } else { [rows, columns] };
                Factor::new(numbers, rows, columns).transposed(transposed)
            };
            let mut out = if add { Memory::of(&before) } else { Memory::poisoned(m * n) };
            let (a_factor, b_factor) = (factor(a_memory.view(), m, k, left), factor(b_memory.view(), k, n, right));
            product(host, &a_factor, &b_factor, &mut out.view_mut(), add).unwrap();
            let at = |i: usize, j: usize, rows: usize, columns: usize, transposed| {
                if transposed { j * rows + i } else { i * columns + j }
            };
            let element = |place: usize| {
                let (i, j) = (place / n, place % n);
                let term = |x: usize| a[at(i, x, m, k, left)].get() * b[at(x, j, k, n, right)].get();
                (0..k).map(term).sum::<f64>() + if add { f64::from(before[place]) } else { 0.0 }
            };
            assert_close(&out.read(), &(0..m * n).map(element).collect::<Vec<_>>(), 20.0);
        }
    }
}

#[test]
fn products_and_transposes() {
    multiplied::<f32>();
    multiplied::<bf16>();
}

#[test]
fn factors_that_do_not_fit_are_refused() {
    let Some(host) = host() else { return };
    let (numbers, mut out) = (Memory::of(&[0.0_f32; 6]), Memory::of(&[0.0_f32; 6]));
    let factor = Factor::new(numbers.view(), 2, 3);
    assert!(product(host, &factor, &factor, &mut out.view_mut(), false).is_err());
    let more = Factor::new(numbers.view(), 3, 3);
    assert!(product(host, &factor, &more, &mut out.view_mut(), false).is_err());
    let apart = Factor { stride: 2, ..factor };
    assert!(product(host, &apart, &factor.transposed(true), &mut out.view_mut(), false).is_err());
}

#[test]
fn columns_of_wider_rows_are_a_factor() {
    let Some(host) = host() else { return };
    // The last two of four columns.
    let (all, b) = (Memory::of(&numbers::<f32>(1, 12)), Memory::of(&numbers::<f32>(2, 6)));
    let mut out = Memory::<f32>::poisoned(9);
    let a = Factor { stride: 4, ..Factor::new(all.view().slice(2..12), 3, 2) };
    product(host, &a, &Factor::new(b.view(), 2, 3), &mut out.view_mut(), false).unwrap();
    let (a, b) = (all.read(), b.read());
    let element = |(i, j): (usize, usize)| (0..2).map(|x| f64::from(a[4 * i + 2 + x]) * f64::from(b[3 * x + j])).sum();
    let wanted: Vec<f64> = (0..9).map(|at| element((at / 3, at % 3))).collect();
    assert_close(&out.read(), &wanted, 4.0);
}
