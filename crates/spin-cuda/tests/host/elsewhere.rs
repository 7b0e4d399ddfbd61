//! Kernels whose memory is elsewhere: what a launch reads and writes is copied there and back, so that tests that have
//! their numbers in memory run on a GPU as they are.

use std::cell::RefCell;

use spin_cuda::{Call, Result, Runner};
use spin_cuda_host::Host;

/// Where memory is copied to and kernels are run.
trait Place {
    /// Copies bytes there; their address.
    fn put(&self, bytes: &[u8]) -> Result<u64>;
    /// Runs a kernel on what was put there.
    fn run(&self, call: &Call) -> Result<()>;
    /// Copies the bytes that were put at a number back, and forgets all of them after the last.
    fn get(&self, number: usize, bytes: &mut [u8]) -> Result<()>;
    /// Forgets what was put there.
    fn clear(&self);
}

struct Elsewhere<P>(std::sync::Mutex<P>);

/// Addresses of memory, from the first to the one after the last.
fn joined(call: &Call) -> Vec<(u64, u64)> {
    let mut pieces: Vec<(u64, u64)> = call.memory().map(|(address, bytes)| (address, address + bytes as u64)).collect();
    pieces.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (first, last) in pieces {
        match joined.last_mut() {
            // Two arguments may be parts of the same memory.
            Some(before) if first < before.1 => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

impl<P: Place> Runner for Elsewhere<P> {
    fn run(&self, call: &Call) -> Result<()> {
        let place = self.0.lock().unwrap_or_else(|broken| broken.into_inner());
        let pieces = joined(call);
        // SAFETY: views of tests' memory, which is there until the launch returns.
        let bytes = |(first, last): (u64, u64)| unsafe {
            std::slice::from_raw_parts_mut(first as *mut u8, (last - first) as usize)
        };
        let there = pieces.iter().map(|piece| place.put(bytes(*piece))).collect::<Result<Vec<_>>>()?;
        let moved = call.moved(|address| {
            let piece = pieces.iter().position(|(first, last)| (*first..*last).contains(&address));
            let piece = piece.expect("of the call's memory");
            there[piece] + address - pieces[piece].0
        });
        let done = place.run(&moved);
        let copied = pieces.iter().enumerate().map(|(number, piece)| place.get(number, bytes(*piece)));
        let copied = if done.is_ok() { copied.collect::<Result<Vec<()>>>().map(|_| ()) } else { Ok(()) };
        place.clear();
        done.and(copied)
    }
}

/// The host with other memory: what of a GPU's way can be tested without one.
struct OnHost {
    host: &'static Host,
    memory: RefCell<Vec<(Vec<u128>, usize)>>,
}

/// Bytes that memory begins after a multiple of 256, as the tests' own does.
fn beyond(bytes: &[u8]) -> usize {
    bytes.as_ptr() as usize % 256
}

impl Place for OnHost {
    fn put(&self, bytes: &[u8]) -> Result<u64> {
        let mut words = vec![u128::MAX; (bytes.len() + 1024).div_ceil(16)];
        let address = words.as_mut_ptr() as usize;
        let start = address.next_multiple_of(256) + beyond(bytes) - address;
        // SAFETY: within the words.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), words.as_mut_ptr().cast::<u8>().add(start), bytes.len())
        };
        self.memory.borrow_mut().push((words, start));
        Ok((address + start) as u64)
    }

    fn run(&self, call: &Call) -> Result<()> {
        self.host.run(call)
    }

    fn get(&self, number: usize, bytes: &mut [u8]) -> Result<()> {
        let memory = self.memory.borrow();
        let (words, start) = &memory[number];
        // SAFETY: within the words.
        unsafe {
            std::ptr::copy_nonoverlapping(words.as_ptr().cast::<u8>().add(*start), bytes.as_mut_ptr(), bytes.len())
        };
        Ok(())
    }

    fn clear(&self) {
        self.memory.borrow_mut().clear();
    }
}

pub fn on_host(host: &'static Host) -> Box<dyn Runner + Send + Sync> {
    Box::new(Elsewhere(std::sync::Mutex::new(OnHost { host, memory: RefCell::default() })))
}

#[cfg(not(feature = "cuda"))]
pub fn gpu() -> Box<dyn Runner + Send + Sync> {
    panic!("tests on a GPU need --features spin-cuda/cuda");
}

#[cfg(feature = "cuda")]
pub use on_gpu::gpu;

#[cfg(feature = "cuda")]
mod on_gpu {
    use super::{Call, Elsewhere, Place, RefCell, Result, Runner, beyond};

    struct Gpu {
        device: spin_cuda::cuda::Device,
        memory: RefCell<Vec<(spin_cuda::cuda::Bytes, usize)>>,
    }

    impl Place for Gpu {
        fn put(&self, bytes: &[u8]) -> Result<u64> {
            // A device's memory begins at multiples of 256.
            let start = beyond(bytes);
            let mut all = vec![0xFF; start];
            all.extend_from_slice(bytes);
            let memory = self.device.upload(&all)?;
            let address = self.device.view(&memory).address() + start as u64;
            self.memory.borrow_mut().push((memory, start));
            Ok(address)
        }

        fn run(&self, call: &Call) -> Result<()> {
            self.device.run(call)?;
            self.device.wait()
        }

        fn get(&self, number: usize, bytes: &mut [u8]) -> Result<()> {
            let memory = self.memory.borrow();
            let (memory, start) = &memory[number];
            bytes.copy_from_slice(&self.device.download(memory)?[*start..]);
            Ok(())
        }

        fn clear(&self) {
            self.memory.borrow_mut().clear();
        }
    }

    pub fn gpu() -> Box<dyn Runner + Send + Sync> {
        let device = spin_cuda::cuda::Device::new(0).expect("SPIN_TEST_DEVICE asks for a GPU");
        Box::new(Elsewhere(std::sync::Mutex::new(Gpu { device, memory: RefCell::default() })))
    }
}
