//! What is spread over the processes, whole on the first, one tensor at a time:
//! a checkpoint does not depend on how many there were.

use super::parts::Parts;
use super::{Collective, told};
use crate::error::Result;

/// Bytes that the first process receives at a time.
const WINDOW: usize = 32 << 20;

/// No tensor is wanted any more.
const END: u64 = u64::MAX;

/// Sends to the first process whatever it asks for, until it asks no more.
/// `own` gives this process's part of the buffer of a number.
///
/// # Errors
/// As [`super::talk`].
pub(crate) fn serve<'s>(
    world: &dyn Collective,
    parts: &Parts,
    own: impl Fn(usize) -> (usize, &'s [f32]),
) -> Result<()> {
    loop {
        let wanted = super::words_of(&told(world, &[])?).next().unwrap_or(END);
        if wanted == END {
            return Ok(());
        }
        let (tensor, values) = own(wanted as usize);
        gather(world, parts, tensor, values)?;
    }
}

/// Ends the others' [`serve`].
///
/// # Errors
/// As [`super::talk`].
pub(crate) fn end(world: &dyn Collective) -> Result<()> {
    told(world, &super::bytes_of(&[END])).map(drop)
}

/// On the first process: asks the others for the buffer of a number, which
/// belongs to a tensor, and gives the bytes of all of it.
///
/// # Errors
/// As [`super::talk`].
pub(crate) fn ask(world: &dyn Collective, parts: &Parts, number: usize, tensor: usize, own: &[f32]) -> Result<Vec<u8>> {
    told(world, &super::bytes_of(&[number as u64]))?;
    gather(world, parts, tensor, own)
}

/// The whole of a tensor's buffer on the first process, nothing elsewhere.
fn gather(world: &dyn Collective, parts: &Parts, tensor: usize, own: &[f32]) -> Result<Vec<u8>> {
    let part = |rank: usize| parts.of(rank, tensor);
    let (ranks, rank) = (0..world.world(), world.rank());
    let all: usize = ranks.clone().map(|rank| part(rank).len()).sum();
    let mut whole = vec![0; if world.is_first() { 4 * all } else { 0 }];
    let longest = ranks.clone().map(|rank| part(rank).len()).max().unwrap_or(0);
    let window = (WINDOW / 4 / world.world()).max(1);
    let mut receive = Vec::new();
    for start in (0..longest).step_by(window) {
        // What a part has of this window.
        let within = |rank: usize| start.min(part(rank).len())..(start + window).min(part(rank).len());
        let send: Vec<u8> = own[within(rank)].iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut counts = vec![0; world.world()];
        counts[0] = send.len();
        let from: Vec<usize> =
            ranks.clone().map(|rank| if world.is_first() { 4 * within(rank).len() } else { 0 }).collect();
        receive.resize(from.iter().sum(), 0);
        world.exchange(&send, &counts, &mut receive, &from)?;
        let mut rest = receive.as_slice();
        for (rank, count) in ranks.clone().zip(from) {
            let (bytes, others) = rest.split_at(count);
            let at = 4 * (part(rank).start + within(rank).start);
            if count > 0 {
                whole[at..at + count].copy_from_slice(bytes);
            }
            rest = others;
        }
    }
    Ok(whole)
}
