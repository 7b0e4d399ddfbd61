//! Memory with guards, and numbers to fill it with.

use half::bf16;
use spin_cuda::{Number, View, ViewMut};

/// Bytes before and after.
const GUARD: usize = 256;
/// NaN as f32, bf16 and f64.
const POISON: u8 = 0xFF;

/// Values that a kernel reads and writes, aligned as a device's memory is, between guards.
pub struct Memory<T> {
    words: Vec<u128>,
    /// Bytes from the first word.
    start: usize,
    values: Vec<T>,
}

impl<T: Copy> Memory<T> {
    /// With these values.
    pub fn of(values: &[T]) -> Self {
        Self::shifted(values, 0)
    }

    /// So many values further than aligned.
    pub fn shifted(values: &[T], shift: usize) -> Self {
        let start = GUARD + shift * size_of::<T>();
        let bytes = start + size_of_val(values) + GUARD;
        let mut memory = Self { words: vec![u128::MAX; bytes.div_ceil(16)], start, values: values.to_vec() };
        memory.bytes_mut()[start..start + size_of_val(values)].copy_from_slice(bytes_of(values));
        memory
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.words.len() * 16;
        // SAFETY: all of the vector, as bytes.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), len) }
    }

    fn address(&self) -> u64 {
        self.words.as_ptr() as u64 + self.start as u64
    }

    pub fn view(&self) -> View<'_, T> {
        // SAFETY: the values lie there, and the host has computed when a launch returns.
        unsafe { View::new(self.address(), self.values.len()) }
    }

    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        self.bytes_mut();
        // SAFETY: as above, and borrowed exclusively.
        unsafe { ViewMut::new(self.address(), self.values.len()) }
    }

    /// What is there now.
    ///
    /// # Panics
    ///
    /// If something was written beside it.
    pub fn read(&self) -> Vec<T> {
        let len = size_of_val(self.values.as_slice());
        // SAFETY: all of the vector, as bytes.
        let bytes: &[u8] = unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.words.len() * 16) };
        let beside = bytes[..self.start].iter().chain(&bytes[self.start + len..]);
        assert!(beside.into_iter().all(|byte| *byte == POISON), "something was written beside the values");
        // SAFETY: `values.len()` values were put there, and kernels write whole ones.
        unsafe { std::slice::from_raw_parts(self.address() as *const T, self.values.len()) }.to_vec()
    }
}

fn bytes_of<T>(values: &[T]) -> &[u8] {
    // SAFETY: all of the slice; the types that are used have no padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// A type that tests are made for.
pub trait Tested: Number + Default + std::fmt::Debug {
    /// What one rounding changes, relatively.
    const EPSILON: f64;
    fn of(value: f32) -> Self;
    fn get(self) -> f64;
    /// What no result may be.
    fn poison() -> Self;
}

impl Tested for f32 {
    const EPSILON: f64 = 1e-6;
    fn of(value: f32) -> Self {
        value
    }
    fn get(self) -> f64 {
        f64::from(self)
    }
    fn poison() -> Self {
        f32::NAN
    }
}

impl Tested for bf16 {
    const EPSILON: f64 = 4e-3;
    fn of(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn get(self) -> f64 {
        f64::from(self)
    }
    fn poison() -> Self {
        bf16::NAN
    }
}

impl<T: Tested> Memory<T> {
    /// Full of NaN.
    pub fn poisoned(len: usize) -> Self {
        Self::of(&vec![T::poison(); len])
    }
}

/// Numbers of about the size 1, the same for a seed.
pub fn numbers<T: Tested>(seed: u64, len: usize) -> Vec<T> {
    let unit = |at: usize, turn: u64| spin_noise::unit(spin_noise::nth(seed << 8 | turn, at as u64));
    (0..len).map(|at| T::of(((0..4).map(|turn| unit(at, turn)).sum::<f64>() - 2.0) as f32 * 1.7)).collect()
}

/// Numbers below `n`.
pub fn ids(seed: u64, len: usize, n: u64) -> Vec<u32> {
    (0..len).map(|at| spin_noise::below(spin_noise::nth(seed, at as u64), n) as u32).collect()
}

pub fn as_f64<T: Tested>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.get()).collect()
}

/// That results are what they should be but for rounding: `units` times what one rounding changes of numbers of size 1.
#[track_caller]
pub fn assert_close<T: Tested>(found: &[T], wanted: &[f64], units: f64) {
    assert_eq!(found.len(), wanted.len());
    for (at, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let difference = (found.get() - wanted).abs();
        // NaN is not below.
        assert!(difference <= units * T::EPSILON * (1.0 + wanted.abs()), "{at}: {found:?} where {wanted} belongs");
    }
}
