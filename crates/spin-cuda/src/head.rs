//! `head.cu` and `score.cu`: from chunks of logits to log-probabilities, gradients and scores.

use crate::call::{Call, Runner, of_type};
use crate::error::{Error, Result};
use crate::memory::{Number, View, ViewMut};

/// Threads of a block, which has a row.
const THREADS: u32 = 512;

/// What the loss asks of the output head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    /// Tokens.
    pub vocab: usize,
    /// Logits z become c tanh(z / c).
    pub softcap: Option<f32>,
    /// Of torch's `cross_entropy(label_smoothing=smoothing)`.
    pub smoothing: f32,
}

impl Head {
    fn rows(&self, kernel: &'static str, logits: usize, rows: usize) -> Result<()> {
        if self.vocab == 0 {
            return Err(Error::shape(kernel, "a vocabulary of no tokens"));
        }
        match logits < rows * self.vocab {
            true => Err(Error::Length { kernel, what: "logits", found: logits, wanted: rows * self.vocab }),
            false => Ok(()),
        }
    }
}

/// Caps `logits` `[targets, vocab]` in place; the log-probability that counts of each target, and the log-sum-exp of
/// each row. Targets are not looked at: they must be tokens.
///
/// # Errors
///
/// If shapes do not fit or the device refuses; likewise for the others.
pub fn head_logps(
    on: &(impl Runner + ?Sized),
    head: &Head,
    logits: &mut ViewMut<'_, f32>,
    targets: View<'_, u32>,
    logps: &mut ViewMut<'_, f32>,
    log_sums: &mut ViewMut<'_, f32>,
) -> Result<()> {
    logps_of(on, head, (logits.address(), logits.len()), targets, logps, log_sums)
}

/// The same of logits that are capped already, or have no cap: `head` has none.
///
/// # Errors
///
/// As [`head_logps`], and if `head` has a cap.
pub fn capped_logps(
    on: &(impl Runner + ?Sized),
    head: &Head,
    logits: View<'_, f32>,
    targets: View<'_, u32>,
    logps: &mut ViewMut<'_, f32>,
    log_sums: &mut ViewMut<'_, f32>,
) -> Result<()> {
    if head.softcap.is_some() {
        return Err(Error::shape("head_logps", "what caps logits writes to them"));
    }
    logps_of(on, head, (logits.address(), logits.len()), targets, logps, log_sums)
}

fn logps_of(
    on: &(impl Runner + ?Sized),
    head: &Head,
    logits: (u64, usize),
    targets: View<'_, u32>,
    logps: &mut ViewMut<'_, f32>,
    log_sums: &mut ViewMut<'_, f32>,
) -> Result<()> {
    let (kernel, rows) = ("head_logps", targets.len());
    head.rows(kernel, logits.1, rows)?;
    logps.check(kernel, "logps", rows)?;
    log_sums.check(kernel, "log_sums", rows)?;
    let call = Call::new(kernel, [rows, 1, 1], [THREADS, 1, 1])?;
    let call = call.at(logits.0, logits.1 * size_of::<f32>()).read(targets).write(logps).write(log_sums);
    call.count(head.vocab)?.f32(head.softcap.unwrap_or(0.0)).f32(head.smoothing).on(on)
}

/// What is known of a chunk after [`head_logps`], and the slopes of the loss by its log-probabilities.
#[derive(Debug, Clone, Copy)]
pub struct ChunkSlopes<'a> {
    /// `[rows]`.
    pub targets: View<'a, u32>,
    /// `[rows]`.
    pub slopes: View<'a, f32>,
    /// `[rows]`.
    pub log_sums: View<'a, f32>,
}

/// Turns capped logits into the gradient of the logits before their cap, in place.
///
/// # Errors
///
/// As [`head_logps`].
pub fn head_gradient_over(
    on: &(impl Runner + ?Sized),
    head: &Head,
    logits: &mut ViewMut<'_, f32>,
    of: &ChunkSlopes<'_>,
) -> Result<()> {
    let (address, len) = (logits.address(), logits.len());
    gradient::<f32>(on, head, (address, len), of, (address, len))
}

/// The same to other memory, in the type that the products after it want.
///
/// # Errors
///
/// As [`head_logps`].
pub fn head_gradient<T: Number>(
    on: &(impl Runner + ?Sized),
    head: &Head,
    logits: View<'_, f32>,
    of: &ChunkSlopes<'_>,
    out: &mut ViewMut<'_, T>,
) -> Result<()> {
    gradient::<T>(on, head, (logits.address(), logits.len()), of, (out.address(), out.len()))
}

fn gradient<T: Number>(
    on: &(impl Runner + ?Sized),
    head: &Head,
    logits: (u64, usize),
    of: &ChunkSlopes<'_>,
    out: (u64, usize),
) -> Result<()> {
    let (kernel, rows) = (of_type!("head_gradient", T), of.targets.len());
    head.rows(kernel, logits.1.min(out.1), rows)?;
    of.slopes.check(kernel, "slopes", rows)?;
    of.log_sums.check(kernel, "log_sums", rows)?;
    let call = Call::new(kernel, [rows, 1, 1], [THREADS, 1, 1])?
        .at(logits.0, logits.1 * size_of::<f32>())
        .read(of.targets)
        .read(of.slopes);
    let call = call.read(of.log_sums).at(out.0, out.1 * size_of::<T>()).count(head.vocab)?;
    call.f32(head.softcap.unwrap_or(0.0)).f32(head.smoothing).on(on)
}

/// A type that logits and log-probabilities are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// f32.
    None,
    /// bf16.
    BFloat16,
    /// f16.
    Float16,
}

/// How tokens are scored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// Tokens.
    pub vocab: usize,
    /// Logits z become c tanh(z / c).
    pub softcap: Option<f32>,
    /// What logits are divided by then.
    pub temperature: f64,
    /// What becomes of the results.
    pub rounding: Rounding,
}

/// Log-probabilities of `targets` after rows of `logits` `[rows, vocab]`, and 1 for each that is the likeliest; those
/// from `starts[r]` to `starts[r + 1]` are after row r.
///
/// # Errors
///
/// As [`head_logps`].
pub fn score_targets(
    on: &(impl Runner + ?Sized),
    scoring: &Scoring,
    logits: View<'_, f32>,
    starts: View<'_, u32>,
    targets: View<'_, u32>,
    logps: &mut ViewMut<'_, f32>,
    greedy: &mut ViewMut<'_, u32>,
) -> Result<()> {
    let (kernel, rows) = ("score_targets", starts.len().saturating_sub(1));
    logits.check(kernel, "logits", rows * scoring.vocab)?;
    logps.check(kernel, "logps", targets.len())?;
    greedy.check(kernel, "greedy", targets.len())?;
    let call = Call::new(kernel, [rows, 1, 1], [THREADS, 1, 1])?.read(logits).read(starts).read(targets);
    let call = call.write(logps).write(greedy).count(scoring.vocab)?.f32(scoring.softcap.unwrap_or(0.0));
    let scale = if scoring.temperature == 1.0 { 1.0 } else { (1.0 / scoring.temperature) as f32 };
    let rounding = match scoring.rounding {
        Rounding::None => 0,
        Rounding::BFloat16 => 1,
        Rounding::Float16 => 2,
    };
    call.f32(scale).u32(rounding).on(on)
}
