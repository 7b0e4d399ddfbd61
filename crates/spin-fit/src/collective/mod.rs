//! Processes that train one model together: who they are, what they tell each
//! other, and how numbers get from one to the other.
//!
//! Nothing here adds up on the way: numbers are moved, and whoever owns a part
//! of the weights adds in the order of the ranks ([`folding`]), so that a sum
//! does not depend on the number of processes or on how a library of messages
//! arranges them.
//!
//! **Who fails says so at the next [`talk`], wherever the others are.** Between
//! two of them there is nothing that one process alone can fail at: what
//! could is done before. [`conclude`] is the last one, for all.

pub mod folding;
pub mod gathering;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod parts;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod threads;

use std::fmt::Debug;

use crate::error::{FitError, Result, Verdict};

/// This process among those that train together. All of them make the same
/// calls in the same order.
pub trait Collective: Debug {
    /// Which of them it is, from 0. The first alone writes.
    fn rank(&self) -> usize;

    /// How many there are.
    fn world(&self) -> usize;

    /// Sends each process its bytes: `send` has those for rank 0, then those
    /// for rank 1, as many as `counts` says. Into `receive` comes what each
    /// sent here, in the same way; `from` says how much.
    ///
    /// # Errors
    /// When another process is gone. A transport may end the process instead;
    /// likewise below.
    fn exchange(&self, send: &[u8], counts: &[usize], receive: &mut [u8], from: &[usize]) -> Result<()>;

    /// What each process has, one after the other, on all of them.
    ///
    /// # Errors
    /// As [`Collective::exchange`].
    fn all_gather(&self, own: &[u8], all: &mut [u8], counts: &[usize]) -> Result<()>;

    /// Whether it is the one that decides, writes and speaks.
    fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether it is the only one.
    fn is_alone(&self) -> bool {
        self.world() == 1
    }
}

/// One process alone: what is sent arrives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn exchange(&self, send: &[u8], _: &[usize], receive: &mut [u8], _: &[usize]) -> Result<()> {
        receive.copy_from_slice(send);
        Ok(())
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8], _: &[usize]) -> Result<()> {
        all.copy_from_slice(own);
        Ok(())
    }
}

/// Why a process cannot go on, for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How it will end.
    pub verdict: Verdict,
    /// What it says.
    pub message: String,
}

impl Failure {
    /// Of an error, unless the others know of it: it came from one of them.
    pub fn of(error: &FitError) -> Option<Failure> {
        let verdict = match error {
            FitError::Peer { .. } => return None,
            FitError::Store(spin_store::StoreError::Locked { .. }) => Verdict::Again,
            error if error.is_bad_input() => Verdict::BadInput,
            _ => Verdict::Failed,
        };
        Some(Failure { verdict, message: error.to_string() })
    }
}

const FINE: u8 = 0;
const VERDICTS: [(u8, Verdict); 3] = [(1, Verdict::Failed), (2, Verdict::BadInput), (3, Verdict::Again)];

/// Hears a short message of each process, by rank, and gives its own; or says
/// that it fails.
///
/// # Errors
/// [`FitError::Peer`] with the lowest rank that failed, which may be this one.
pub fn talk(world: &dyn Collective, own: Result<&[u8], &Failure>) -> Result<Vec<Vec<u8>>> {
    let message = match own {
        Ok(message) => [&[FINE], message].concat(),
        Err(Failure { verdict, message }) => {
            let (code, _) = VERDICTS.into_iter().find(|(_, of)| of == verdict).expect("all are listed");
            [&[code], message.as_bytes()].concat()
        }
    };
    let mut lengths = vec![0; 8 * world.world()];
    world.all_gather(&(message.len() as u64).to_le_bytes(), &mut lengths, &vec![8; world.world()])?;
    let counts: Vec<usize> = words_of(&lengths).map(|length| length as usize).collect();
    let mut all = vec![0; counts.iter().sum()];
    world.all_gather(&message, &mut all, &counts)?;
    let mut rest = all.as_slice();
    let mut messages = Vec::with_capacity(counts.len());
    for count in counts {
        let (message, others) = rest.split_at(count);
        messages.push(message);
        rest = others;
    }
    for (rank, message) in messages.iter().enumerate() {
        if let Some((_, verdict)) = VERDICTS.into_iter().find(|(code, _)| *code == message[0]) {
            let message = String::from_utf8_lossy(&message[1..]).into_owned();
            return Err(FitError::Peer { rank, verdict, message });
        }
    }
    Ok(messages.into_iter().map(|message| message[1..].to_vec()).collect())
}

/// What the first process says; the others' messages are not used.
///
/// # Errors
/// As [`talk`].
pub fn told(world: &dyn Collective, message: &[u8]) -> Result<Vec<u8>> {
    let own: &[u8] = if world.is_first() { message } else { &[] };
    Ok(talk(world, Ok(own))?.swap_remove(0))
}

/// The last word of each process: none ends well unless all do. An error that
/// a lower rank has in the same words is given as that one's, so that it is
/// said once.
///
/// # Errors
/// The process's own, or [`FitError::Peer`].
pub fn conclude<T, E: From<FitError>>(
    world: &dyn Collective,
    result: Result<T, E>,
    failure: impl FnOnce(&E) -> Option<Failure>,
) -> Result<T, E> {
    let error = match result {
        Ok(value) => return talk(world, Ok(&[])).map(|_| value).map_err(E::from),
        Err(error) => error,
    };
    let Some(own) = failure(&error) else { return Err(error) };
    match talk(world, Err(&own)) {
        Err(FitError::Peer { rank, verdict, message }) if rank < world.rank() && message == own.message => {
            Err(FitError::Peer { rank, verdict, message }.into())
        }
        _ => Err(error),
    }
}

/// Numbers as bytes, to be sent.
pub(crate) fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Numbers that were sent.
pub(crate) fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
}
