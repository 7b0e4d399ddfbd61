//! Inputs that nobody wrote: mutations of good ones, thrown at everything that reads
//! files from outside (`tests/readers`).
//!
//! No coverage guides it, so it finds what is near good inputs and no more. A test runs
//! each target for a moment, `mutate TARGET SECONDS` for as long as is asked; `just fuzz`
//! is the thorough one.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use spin_readers::Reader;
pub use spin_readers::TARGETS;

/// Inputs that are tried however long they take.
const LEAST: u64 = 20;

/// What came of a target.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Inputs tried.
    pub tried: u64,
    /// Those that were taken for good.
    pub accepted: u64,
    /// The longest that one took.
    pub slowest: Duration,
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// What readers stumble over.
const WORDS: [&[u8]; 24] = [
    b"",
    b"0",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"null",
    b"[]",
    b"{}",
    b"\"\"",
    b"../",
    b"/",
    b"\0",
    b"\n",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"{% for i in range(99999) %}",
    b"{{ x }}",
    b"{%",
    b"}}",
    b"(a+)+$",
    b"true",
    b"=",
    b"\\u0000",
    b"\xed\xa0\x80",
];

/// A good input with a few things changed.
fn mutated(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = good.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(out.len() + 1);
        let longest = 1 + random.below(64);
        let end = (at + random.below(longest)).min(out.len());
        match random.below(7) {
            0 if at < out.len() => out[at] ^= 1 << random.below(8),
            1 => drop(out.drain(at..end)),
            2 => {
                let part = out[at..end].to_vec();
                out.splice(at..at, part);
            }
            3 => {
                out.splice(at..end, WORDS[random.below(WORDS.len())].iter().copied());
            }
            4 => out.truncate(at),
            5 => {
                let bytes: Vec<u8> = (0..random.below(9)).map(|_| random.next() as u8).collect();
                out.splice(at..at, bytes);
            }
            _ => {
                let (from, len) = (random.below(good.len()), random.below(200));
                let part = good[from..(from + len).min(good.len())].to_vec();
                out.splice(at..end, part);
            }
        }
    }
    out
}

/// Throws mutations at a target for some time.
///
/// # Errors
/// At the first input that makes it panic; it is kept in `keep`.
pub fn run(name: &str, time: Duration, seed: u64, keep: &Path) -> anyhow::Result<Outcome> {
    let reader = Reader::new(name)?;
    let (mut random, mut outcome, start) = (Random(seed), Outcome::default(), Instant::now());
    // A machine may be slow.
    while start.elapsed() < time || outcome.tried < LEAST {
        let good = &reader.seeds()[random.below(reader.seeds().len())];
        let input = mutated(good, &mut random);
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| reader.take(&input)));
        outcome.slowest = outcome.slowest.max(begun.elapsed());
        outcome.tried += 1;
        match result {
            Ok(taken) => outcome.accepted += u64::from(taken.is_ok()),
            Err(_) => {
                let path: PathBuf = keep.join(format!("{name}-{}.bin", outcome.tried));
                fs::write(&path, &input).context("the input cannot be kept")?;
                anyhow::bail!("{name} panicked; the input is {}", path.display());
            }
        }
    }
    Ok(outcome)
}
