//! Which numbers of the trainable tensors each process looks after: it adds up
//! their gradients, keeps the optimiser's state of them and updates them.

use std::ops::Range;

use spin_model::CHUNK;

/// The trainable tensors in the order of their names, as one row of numbers
/// that is dealt out to the processes. A process's part is in one piece, and
/// begins and ends at a chunk of a tensor: sums over chunks are of one process
/// each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Where each tensor begins in the row; then the row's length.
    starts: Vec<usize>,
    /// Where each process's part begins in the row; then the row's length.
    bounds: Vec<usize>,
}

impl Parts {
    /// Deals tensors of these lengths out to `world` processes, evenly up to a
    /// chunk.
    pub fn new(lengths: impl IntoIterator<Item = usize>, world: usize) -> Parts {
        let mut starts = vec![0];
        for length in lengths {
            starts.push(starts[starts.len() - 1] + length);
        }
        let all = starts[starts.len() - 1];
        let mut bounds = vec![0];
        let tensors = starts.windows(2).map(|ends| ends[0]..ends[1]);
        for chunk in tensors.flat_map(|tensor| tensor.step_by(CHUNK)) {
            let owner = (chunk as u128 * world as u128 / all as u128) as usize;
            // Where a chunk is larger than a share, some have nothing.
            while bounds.len() <= owner {
                bounds.push(chunk);
            }
        }
        bounds.resize(world + 1, all);
        Parts { starts, bounds }
    }

    /// How many processes there are.
    pub fn world(&self) -> usize {
        self.bounds.len() - 1
    }

    /// How many tensors there are.
    pub fn tensors(&self) -> usize {
        self.starts.len() - 1
    }

    /// How many numbers a process has.
    pub fn len(&self, rank: usize) -> usize {
        self.bounds[rank + 1] - self.bounds[rank]
    }

    /// How many the process with the most has.
    pub fn longest(&self) -> usize {
        (0..self.world()).map(|rank| self.len(rank)).max().unwrap_or(0)
    }

    /// Which numbers of a tensor are a process's.
    pub fn of(&self, rank: usize, tensor: usize) -> Range<usize> {
        let (start, end) = (self.starts[tensor], self.starts[tensor + 1]);
        let within = |bound: usize| bound.clamp(start, end) - start;
        within(self.bounds[rank])..within(self.bounds[rank + 1])
    }

    /// Where those of a process's numbers that stand at `window` of its part
    /// are: tensors, each with a range of its numbers. What is beyond its part
    /// is left out.
    pub fn pieces(&self, rank: usize, window: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let end = self.bounds[rank + 1];
        let mut at = (self.bounds[rank] + window.start).min(end);
        let end = (self.bounds[rank] + window.end).min(end);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            // The last tensor that begins here or before: those without numbers come first.
            let tensor = self.starts.partition_point(|start| *start <= at) - 1;
            let (start, stop) = (self.starts[tensor], self.starts[tensor + 1].min(end));
            let piece = at - start..stop - start;
            at = stop;
            Some((tensor, piece))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_begin_at_chunks() {
        let parts = Parts::new([3 * CHUNK + 5, 10, CHUNK], 2);
        assert_eq!((parts.of(0, 0), parts.of(1, 0)), (0..3 * CHUNK, 3 * CHUNK..3 * CHUNK + 5));
        assert_eq!((parts.of(0, 2), parts.of(1, 2)), (0..0, 0..CHUNK));
        let pieces: Vec<_> = parts.pieces(1, 2..CHUNK).collect();
        assert_eq!(pieces, [(0, 3 * CHUNK + 2..3 * CHUNK + 5), (1, 0..10), (2, 0..CHUNK - 15)]);
        assert_eq!(parts.pieces(1, 0..usize::MAX / 2).map(|(_, piece)| piece.len()).sum::<usize>(), parts.len(1));
        // More processes than chunks.
        let few = Parts::new([7], 3);
        assert_eq!([0, 1, 2].map(|rank| few.len(rank)), [7, 0, 0]);
        assert_eq!(Parts::new([], 2).longest(), 0);
    }

    proptest! {
        #[test]
        fn every_number_is_one_process_s(
            lengths in proptest::collection::vec(0..5 * CHUNK, 0..12), world in 1..9usize, bucket in 1..2 * CHUNK,
        ) {
            let parts = Parts::new(lengths.iter().copied(), world);
            prop_assert_eq!(parts.tensors(), lengths.len());
            for (tensor, length) in lengths.iter().enumerate() {
                let mut at = 0;
                for rank in 0..world {
                    let own = parts.of(rank, tensor);
                    prop_assert!(own.is_empty() || own.start == at);
                    prop_assert!(own.is_empty() || own.start.is_multiple_of(CHUNK));
                    at += own.len();
                }
                prop_assert_eq!(at, *length);
            }
            let all: usize = lengths.iter().sum();
            // Evenly, up to a chunk at either end.
            prop_assert!((0..world).all(|rank| parts.len(rank) <= all / world + 1 + CHUNK));
            // Window by window is the same as tensor by tensor.
            for rank in 0..world {
                let mut found = Vec::new();
                for start in (0..parts.longest()).step_by(bucket) {
                    for (tensor, piece) in parts.pieces(rank, start..start + bucket) {
                        match found.last_mut() {
                            Some((last, Range { end, .. })) if *last == tensor && *end == piece.start => *end = piece.end,
                            _ => found.push((tensor, piece)),
                        }
                    }
                }
                let own = (0..lengths.len()).map(|tensor| (tensor, parts.of(rank, tensor)));
                prop_assert_eq!(found, own.filter(|(_, own)| !own.is_empty()).collect::<Vec<_>>());
            }
        }
    }
}
