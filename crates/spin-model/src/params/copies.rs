//! What machines with memory of their own keep of a weight.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use super::Param;
use super::writes::times_written;
use crate::error::Result;

/// What a copy is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// In the type that the weight is kept in.
    Kept,
    /// As f32.
    Wide,
}

/// Copies of a weight. They live as long as some clone of the parameter, that is as
/// long as the model, and are shared by all of these.
#[derive(Clone, Default)]
pub(super) struct Copies(Arc<Mutex<Vec<OfMachine>>>);

struct OfMachine {
    machine: usize,
    form: Form,
    /// How often the weight had been written when it was made.
    writes: u64,
    numbers: Arc<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Copies")
    }
}

impl Param {
    /// A machine's copy of the weight, which `make` makes where there is none, or where
    /// the weight has been [`written`](super::written) since. An old copy is dropped
    /// before.
    ///
    /// A machine is known by its address.
    pub fn copy<T: Any + Send + Sync>(
        &self,
        machine: usize,
        form: Form,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let mut copies = self.copies.0.lock().unwrap_or_else(PoisonError::into_inner);
        let writes = times_written(&self.var);
        let known = copies.iter().find(|copy| copy.machine == machine && copy.form == form && copy.writes == writes);
        if let Some(numbers) = known.and_then(|copy| copy.numbers.clone().downcast().ok()) {
            return Ok(numbers);
        }
        copies.retain(|copy| copy.machine != machine || copy.form != form);
        let numbers = Arc::new(make()?);
        copies.push(OfMachine { machine, form, writes, numbers: numbers.clone() });
        Ok(numbers)
    }
}
