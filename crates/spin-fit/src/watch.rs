//! Who is told about a training.

use crate::metrics::LogLine;

/// Told about progress, and asked about memory: this crate neither prints
/// nor looks around. Every method may be left as it is.
pub trait TrainingWatch {
    /// Reference pass: pairs done, all pairs.
    fn reference(&mut self, _done: u64, _total: u64) {}

    /// An update, with the number of updates to make unless training stops
    /// early. A resumed training first tells where it goes on.
    fn update(&mut self, _line: &LogLine, _last: usize) {}

    /// Something worth a line.
    fn note(&mut self, _text: &str) {}

    /// Resident memory of the process in MiB, where the system tells.
    fn resident_mib(&self) -> Option<f64> {
        None
    }
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl TrainingWatch for Unwatched {}
