//! Gradients of several processes into one, and weights of one process to all.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use candle_core::Var;
use rayon::prelude::*;
use spin_model::{CHUNK, Gradients, squares};

use super::Collective;
use super::parts::Parts;
use crate::error::Result;
use crate::optim::{bytes_per_number, read_numbers, write_numbers};

/// Bytes that a process receives at a time, of all processes together: what
/// moving costs beside what is moved.
const WINDOW: usize = 32 << 20;

/// What a process has to take part in updates that several compute.
#[derive(Debug)]
pub(crate) struct Among {
    world: Rc<dyn Collective>,
    parts: Parts,
    names: Vec<String>,
    /// Numbers of a part that are moved at a time.
    window: usize,
    /// The sum so far of this process's part; empty where one round is all.
    sums: Vec<f32>,
    send: Vec<u8>,
    receive: Vec<u8>,
}

impl Among {
    /// For these tensors, in `rounds` rounds per update.
    pub fn new(world: Rc<dyn Collective>, params: &BTreeMap<String, Var>, rounds: usize) -> Among {
        let parts = Parts::new(params.values().map(|var| var.elem_count()), world.world());
        let window = (WINDOW / size_of::<f32>() / world.world()).max(CHUNK);
        Among {
            sums: if rounds > 1 { vec![0.0; parts.len(world.rank())] } else { Vec::new() },
            names: params.keys().cloned().collect(),
            world,
            window,
            parts,
            send: Vec::new(),
            receive: Vec::new(),
        }
    }

    /// Who looks after which numbers.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Windows over the longest part: all processes go through all of them.
    fn windows(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (window, longest) = (self.window, self.parts.longest());
        (0..longest).step_by(window).map(move |start| start..start + window)
    }

    /// Adds the gradients of one round, a share's on each process, to those of
    /// the rounds before: `((g0 + g1) + g2) + …`, each process its part. After
    /// the last round the sum stands in its part of `gradients`; what is
    /// outside is not to be used.
    ///
    /// # Errors
    /// As [`Collective::exchange`].
    pub fn fold(&mut self, gradients: &mut Gradients, round: usize, rounds: usize) -> Result<()> {
        let (world, rank) = (self.world.world(), self.world.rank());
        for window in self.windows() {
            self.send.clear();
            let mut counts = vec![0; world];
            for (to, count) in counts.iter_mut().enumerate() {
                for (tensor, piece) in self.parts.pieces(to, window.clone()) {
                    *count += 4 * piece.len();
                    let values = host(gradients, &self.names[tensor]);
                    append(&mut self.send, &values[piece]);
                }
            }
            let own = counts[rank];
            self.receive.resize(world * own, 0);
            self.world.exchange(&self.send, &counts, &mut self.receive, &vec![own; world])?;
            // One round is folded where it ends; its own share was sent here too.
            let mut at = 0;
            for (tensor, piece) in self.parts.pieces(rank, window.clone()) {
                let length = piece.len();
                let into = match rounds {
                    1 => &mut host(gradients, &self.names[tensor])[piece],
                    _ => &mut self.sums[window.start + at..][..length],
                };
                let shares: Vec<&[u8]> =
                    (0..world).map(|share| &self.receive[share * own + 4 * at..][..4 * length]).collect();
                add_in_order(into, &shares, round == 0);
                at += length;
            }
        }
        if rounds > 1 && round + 1 == rounds {
            let mut rest = self.sums.as_slice();
            for (tensor, name) in self.names.iter().enumerate() {
                let own = self.parts.of(rank, tensor);
                let (sums, others) = rest.split_at(own.len());
                host(gradients, name)[own].copy_from_slice(sums);
                rest = others;
            }
        }
        Ok(())
    }

    /// The norm of the sum, added up in the order of
    /// [`Gradients::global_norm`].
    ///
    /// # Errors
    /// As [`Collective::all_gather`].
    pub fn norm(&self, gradients: &mut Gradients) -> Result<f64> {
        let rank = self.world.rank();
        let own = self.names.iter().enumerate().flat_map(|(tensor, name)| {
            let part = self.parts.of(rank, tensor);
            squares(&host(gradients, name)[part])
        });
        let own: Vec<u8> = own.flat_map(f64::to_le_bytes).collect();
        let tensors = 0..self.parts.tensors();
        let chunks = |rank: usize, tensor: usize| self.parts.of(rank, tensor).len().div_ceil(CHUNK);
        let counts: Vec<usize> = (0..self.world.world())
            .map(|rank| 8 * tensors.clone().map(|tensor| chunks(rank, tensor)).sum::<usize>())
            .collect();
        let mut all = vec![0; counts.iter().sum()];
        self.world.all_gather(&own, &mut all, &counts)?;
        // Parts are in order, and so are their chunks: those of the whole.
        let mut all = all.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().expect("8 bytes")));
        let mut total = 0.0;
        for tensor in tensors {
            let count = (0..self.world.world()).map(|rank| chunks(rank, tensor)).sum();
            total += all.by_ref().take(count).collect::<Vec<f64>>().iter().sum::<f64>();
        }
        Ok(total.sqrt())
    }

    /// Multiplies this process's part of the sum.
    pub fn scale(&self, gradients: &mut Gradients, factor: f64) {
        for (tensor, name) in self.names.iter().enumerate() {
            let part = &mut host(gradients, name)[self.parts.of(self.world.rank(), tensor)];
            part.par_chunks_mut(CHUNK).for_each(|chunk| chunk.iter_mut().for_each(|value| *value *= factor as f32));
        }
    }

    /// Brings each process's part of the weights, which it has updated, to all.
    ///
    /// # Errors
    /// As [`Collective::all_gather`].
    pub fn spread(&mut self, params: &BTreeMap<String, Var>) -> Result<()> {
        let vars: Vec<&Var> = params.values().collect();
        for window in self.windows() {
            let pieces = |rank: usize| self.parts.pieces(rank, window.clone());
            let bytes = |(tensor, piece): (usize, Range<usize>)| bytes_per_number(vars[tensor]) * piece.len();
            let counts: Vec<usize> = (0..self.world.world()).map(|rank| pieces(rank).map(bytes).sum()).collect();
            self.send.clear();
            for (tensor, piece) in pieces(self.world.rank()) {
                read_numbers(vars[tensor], piece, &mut self.send)?;
            }
            self.receive.resize(counts.iter().sum(), 0);
            self.world.all_gather(&self.send, &mut self.receive, &counts)?;
            let mut rest = self.receive.as_slice();
            for rank in 0..self.world.world() {
                for (tensor, piece) in pieces(rank) {
                    let (numbers, others) = rest.split_at(bytes_per_number(vars[tensor]) * piece.len());
                    rest = others;
                    if rank != self.world.rank() {
                        write_numbers(vars[tensor], piece.start, numbers)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A tensor's gradients in memory.
fn host<'g>(gradients: &'g mut Gradients, name: &str) -> &'g mut [f32] {
    gradients.values_mut(name).expect("checked at the start: weights in memory have gradients there")
}

/// Appends numbers as bytes.
fn append(bytes: &mut Vec<u8>, values: &[f32]) {
    let start = bytes.len();
    bytes.resize(start + 4 * values.len(), 0);
    let chunks = bytes[start..].par_chunks_mut(4 * CHUNK).zip(values.par_chunks(CHUNK));
    chunks.for_each(|(bytes, values)| {
        for (bytes, value) in bytes.chunks_exact_mut(4).zip(values) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    });
}

/// Adds shares in their order; to what is there, or `anew`, in its place.
fn add_in_order(into: &mut [f32], shares: &[&[u8]], anew: bool) {
    into.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, into)| {
        for (number, share) in shares.iter().enumerate() {
            let share = &share[4 * CHUNK * chunk..][..4 * into.len()];
            let share = share.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes")));
            match anew && number == 0 {
                true => into.iter_mut().zip(share).for_each(|(sum, value)| *sum = value),
                false => into.iter_mut().zip(share).for_each(|(sum, value)| *sum += value),
            }
        }
    });
}
