//! The host as a machine: memory between guards that begins as NaN, and products by loops.

use std::cell::UnsafeCell;
use std::sync::OnceLock;

use half::bf16;
use spin_cuda::{Call, Error, Factor, Kind, Machine, Number, Result, Runner, ViewMut, product_shape};

use crate::library::{Host, compiled};

/// Words of 16 bytes before and after memory.
const GUARD: usize = 16;
/// NaN as f32 and bf16.
const POISON: u128 = u128::MAX;
/// Bytes that one piece of memory has at most: more is refused, to test what becomes of that.
const MOST: usize = 1 << 30;

/// The host with memory.
#[derive(Debug)]
pub struct HostMachine(&'static Host);

/// Memory between guards. Kernels write to it by its address.
#[derive(Debug)]
pub struct Bytes(Box<[UnsafeCell<u128>]>);

// SAFETY: who writes to it is the one thread that has asked for it; kernels run under a lock, to their end.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

/// The machine, or `None`, said in one line, where there is no C++ compiler.
pub fn machine() -> Option<&'static HostMachine> {
    static MACHINE: OnceLock<Option<HostMachine>> = OnceLock::new();
    MACHINE.get_or_init(|| compiled().map(HostMachine)).as_ref()
}

impl Bytes {
    fn new(bytes: usize, value: u128) -> Result<Self> {
        if bytes > MOST {
            return Err(Error::Memory { bytes, message: "more than the host gives".to_owned() });
        }
        let inner = std::iter::repeat_n(value, bytes.div_ceil(16));
        let guard = || std::iter::repeat_n(POISON, GUARD);
        let words = guard().chain(inner).chain(guard());
        Ok(Self(words.map(UnsafeCell::new).collect()))
    }

    fn start(&self) -> *mut u8 {
        self.0[GUARD].get().cast()
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let last = self.0.len() - GUARD;
        let (before, after) = (0..GUARD, last..self.0.len());
        let whole = before.chain(after).all(|word| *self.0[word].get_mut() == POISON);
        assert!(whole, "something was written beside memory");
    }
}

impl Runner for HostMachine {
    fn run(&self, call: &Call) -> Result<()> {
        self.0.run(call)
    }
}

/// A number at an index from an address on.
///
/// # Safety
///
/// It must be there.
unsafe fn read<T: Number>(address: u64, index: usize) -> f32 {
    match T::KIND {
        // SAFETY: the caller's promise.
        Kind::F32 => unsafe { *(address as *const f32).add(index) },
        // SAFETY: the caller's promise.
        Kind::Bf16 => unsafe { *(address as *const bf16).add(index) }.to_f32(),
    }
}

// SAFETY: boxed words stay where they are until they are dropped, and kernels have ended when a launch returns.
unsafe impl Machine for HostMachine {
    type Bytes = Bytes;

    fn room(&self, bytes: usize) -> Result<Bytes> {
        Bytes::new(bytes, POISON)
    }

    fn zeros(&self, bytes: usize) -> Result<Bytes> {
        Bytes::new(bytes, 0)
    }

    fn upload(&self, bytes: &[u8]) -> Result<Bytes> {
        let memory = self.room(bytes.len())?;
        // SAFETY: there are so many bytes, new ones.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.start(), bytes.len()) };
        Ok(memory)
    }

    fn download(&self, from: &Bytes, first: usize, to: &mut [u8]) -> Result<()> {
        assert!(first + to.len() <= (from.0.len() - 2 * GUARD) * 16, "bytes that are there");
        // SAFETY: there are so many bytes, and nobody writes to them now.
        unsafe { std::ptr::copy_nonoverlapping(from.start().add(first), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn address(&self, bytes: &Bytes) -> u64 {
        bytes.start() as u64
    }

    fn product<T: Number>(
        &self,
        a: &Factor<'_, T>,
        b: &Factor<'_, T>,
        out: &mut ViewMut<'_, f32>,
        stride: usize,
        scale: f32,
        add: bool,
    ) -> Result<()> {
        let [m, n, k] = product_shape("product", a, b, out, Some(stride))?;
        let numbers = |of: &Factor<'_, T>| -> Vec<f32> {
            let [rows, columns] = of.shape();
            let at = |row: usize, column: usize| match of.transposed {
                true => column * of.stride + row,
                false => row * of.stride + column,
            };
            let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
            // SAFETY: the shapes were checked against what is there.
            places.map(|(row, column)| unsafe { read::<T>(of.numbers.address(), at(row, column)) }).collect()
        };
        let (a, b) = (numbers(a), numbers(b));
        for row in 0..m {
            let mut sums = vec![0.0_f32; n];
            for (index, left) in a[row * k..(row + 1) * k].iter().enumerate() {
                sums.iter_mut().zip(&b[index * n..(index + 1) * n]).for_each(|(sum, right)| *sum += left * right);
            }
            for (column, sum) in sums.into_iter().enumerate() {
                // SAFETY: the shapes were checked against what is there.
                let to = unsafe { &mut *(out.address() as *mut f32).add(row * stride + column) };
                *to = if add { *to + scale * sum } else { scale * sum };
            }
        }
        Ok(())
    }
}
