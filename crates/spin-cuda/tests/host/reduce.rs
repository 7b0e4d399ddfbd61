use half::bf16;
use spin_cuda::{add_column_sums, column_parts};

use crate::library::host;
use crate::memory::{Memory, Tested, assert_close, numbers};

fn summed<T: Tested>() {
    let Some(host) = host() else { return };
    for (rows, width) in [(1, 1), (7, 33), (64, 129), (65, 7), (200, 130)] {
        let (values, before) = (numbers::<T>(1, rows * width), numbers::<f32>(2, width));
        let mut parts = Memory::<f32>::poisoned(column_parts(rows, width));
        let mut sums = Memory::of(&before);
        add_column_sums(host, Memory::of(&values).view(), &mut parts.view_mut(), &mut sums.view_mut()).unwrap();
        let column = |c: usize| (0..rows).map(|row| values[row * width + c].get()).sum::<f64>();
        let wanted: Vec<f64> = before.iter().enumerate().map(|(c, before)| f64::from(*before) + column(c)).collect();
        assert_close(&sums.read(), &wanted, 20.0);
        parts.read();
    }
}

#[test]
fn columns_are_added_up() {
    summed::<f32>();
    summed::<bf16>();
}

#[test]
fn parts_must_be_there() {
    let Some(host) = host() else { return };
    let (values, mut parts, mut sums) =
        (Memory::of(&[1.0_f32; 130]), Memory::<f32>::poisoned(1), Memory::of(&[0.0_f32; 2]));
    let error = add_column_sums(host, values.view(), &mut parts.view_mut(), &mut sums.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "column_parts_float: parts has 1 numbers where 4 belong");
}
