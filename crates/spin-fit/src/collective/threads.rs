//! Processes that are threads of one: worlds without a library of messages.

use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::Collective;
use crate::error::{FitError, Result, Verdict};

/// One of them. What it hears from each is in the order it was sent in.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Receiver<Vec<u8>>>,
}

/// Runs the same on each of `world` threads; what they gave, by rank.
pub fn among<T: Send>(world: usize, body: impl Fn(Rc<dyn Collective>) -> T + Sync) -> Vec<T> {
    let mut ends: Vec<_> = (0..world).map(|_| (Vec::new(), Vec::new())).collect();
    for from in 0..world {
        for to in 0..world {
            let (sender, receiver) = channel();
            ends[from].0.push(sender);
            ends[to].1.push(receiver);
        }
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = ends
            .into_iter()
            .enumerate()
            .map(|(rank, (to, from))| {
                let body = &body;
                scope.spawn(move || body(Rc::new(Threads { rank, to, from })))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    })
}

impl Threads {
    fn gone(rank: usize) -> FitError {
        FitError::Peer { rank, verdict: Verdict::Failed, message: "it is gone".into() }
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.to.len()
    }

    fn exchange(&self, send: &[u8], counts: &[usize], receive: &mut [u8], from: &[usize]) -> Result<()> {
        let mut rest = send;
        for (to, count) in counts.iter().enumerate() {
            let (bytes, others) = rest.split_at(*count);
            self.to[to].send(bytes.to_vec()).map_err(|_| Threads::gone(to))?;
            rest = others;
        }
        assert!(rest.is_empty(), "counts are of all that is sent");
        let mut rest = receive;
        for (rank, count) in from.iter().enumerate() {
            let bytes = self.from[rank].recv().map_err(|_| Threads::gone(rank))?;
            assert_eq!(bytes.len(), *count, "what {rank} sends is what {} expects", self.rank);
            let (place, others) = rest.split_at_mut(*count);
            place.copy_from_slice(&bytes);
            rest = others;
        }
        assert!(rest.is_empty(), "all that is expected comes");
        Ok(())
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8], counts: &[usize]) -> Result<()> {
        let send = own.repeat(self.world());
        self.exchange(&send, &vec![own.len(); self.world()], all, counts)
    }
}
