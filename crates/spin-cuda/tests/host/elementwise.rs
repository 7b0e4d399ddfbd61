use half::bf16;
use spin_cuda::{add_bias, add_scaled, convert, scale};

use crate::library::host;
use crate::memory::{Memory, Tested, as_f64, assert_close, numbers};

const SIZES: [usize; 6] = [1, 7, 33, 129, 1_030, 9_001];

fn scaled<T: Tested>() {
    let Some(host) = host() else { return };
    for (len, shift) in SIZES.into_iter().flat_map(|len| [(len, 0), (len, 1)]) {
        let values = numbers::<T>(1, len);
        let mut memory = Memory::shifted(&values, shift);
        scale(host, &mut memory.view_mut(), -1.5).unwrap();
        let wanted: Vec<T> = values.iter().map(|value| T::of(value.get() as f32 * -1.5)).collect();
        assert_eq!(as_f64(&memory.read()), as_f64(&wanted), "{len} {shift}");
    }
}

#[test]
fn values_are_scaled() {
    scaled::<f32>();
    scaled::<bf16>();
}

fn added<S: Tested, T: Tested>() {
    let Some(host) = host() else { return };
    for len in SIZES {
        let (sums, values) = (numbers::<S>(2, len), numbers::<T>(3, len));
        let mut memory = Memory::of(&sums);
        add_scaled(host, &mut memory.view_mut(), Memory::of(&values).view(), 0.25).unwrap();
        let wanted: Vec<f64> = sums.iter().zip(&values).map(|(sum, value)| sum.get() + 0.25 * value.get()).collect();
        assert_close(&memory.read(), &wanted, 1.0);
    }
}

#[test]
fn values_are_added_times_a_factor() {
    added::<f32, f32>();
    added::<f32, bf16>();
    added::<bf16, f32>();
    added::<bf16, bf16>();
}

#[test]
fn bf16_is_rounded_as_half_does_it() {
    let Some(host) = host() else { return };
    // Ties, overflow, numbers below the normal ones, both zeros, infinities, NaN.
    let mut values = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN, 1e-40, -3e-39];
    values.extend([0x3F80_8000, 0x3F81_8000, 0x3F80_8001, 0x7F80_0001, 0xFFFF_FFFF].map(f32::from_bits));
    values.extend((0..40_000).map(|at| f32::from_bits(spin_noise::nth(9, at) as u32)));
    for shift in [0, 3] {
        let from = Memory::shifted(&values, shift);
        let mut to = Memory::<bf16>::poisoned(values.len());
        convert(host, from.view(), &mut to.view_mut()).unwrap();
        for (value, found) in values.iter().zip(to.read()) {
            assert_eq!(found.to_bits(), bf16::from_f32(*value).to_bits(), "{value} {:#x}", value.to_bits());
        }
        let mut back = Memory::<f32>::poisoned(values.len());
        convert(host, to.view(), &mut back.view_mut()).unwrap();
        for (found, wanted) in back.read().iter().zip(to.read()) {
            assert_eq!(found.to_bits(), u32::from(wanted.to_bits()) << 16);
        }
    }
}

#[test]
fn copies_are_copies() {
    let Some(host) = host() else { return };
    for len in SIZES {
        let values = numbers::<f32>(5, len);
        let mut to = Memory::<f32>::poisoned(len);
        convert(host, Memory::of(&values).view(), &mut to.view_mut()).unwrap();
        assert_eq!(to.read(), values);
    }
}

#[test]
fn a_bias_is_added_to_each_row() {
    let Some(host) = host() else { return };
    for (rows, width) in [(1, 1), (3, 7), (33, 129)] {
        let (values, bias) = (numbers::<f32>(6, rows * width), numbers::<f32>(7, width));
        let mut memory = Memory::of(&values);
        add_bias(host, &mut memory.view_mut(), Memory::of(&bias).view()).unwrap();
        let wanted: Vec<f32> = values.iter().enumerate().map(|(at, value)| value + bias[at % width]).collect();
        assert_eq!(memory.read(), wanted);
    }
    let mut memory = Memory::of(&[0.0_f32; 5]);
    assert!(add_bias(host, &mut memory.view_mut(), Memory::of(&[0.0_f32; 2]).view()).is_err());
}
