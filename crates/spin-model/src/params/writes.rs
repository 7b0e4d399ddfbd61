//! Which weights have changed since somebody copied them.

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use candle_core::{TensorId, Var};

/// How often each weight was written. Of weights that nobody trains there is nothing.
static WRITES: LazyLock<RwLock<HashMap<TensorId, u64>>> = LazyLock::new(RwLock::default);

/// Says that a model's weight has other numbers than before. Who writes to one has
/// to call it, after the last number: machines with memory of their own compute with
/// a copy until then. What this crate writes itself it says itself.
pub fn written(var: &Var) {
    *WRITES.write().unwrap_or_else(PoisonError::into_inner).entry(var.id()).or_default() += 1;
}

/// How often that was said of a weight, in this process.
pub fn times_written(var: &Var) -> u64 {
    WRITES.read().unwrap_or_else(PoisonError::into_inner).get(&var.id()).copied().unwrap_or(0)
}
