//! What is seen of a work in documents, rows or judgments.

use std::sync::{Mutex, MutexGuard, PoisonError};

use spin_cli::{Progress, say};
use spin_store::Watch;

/// A bar that comes with the first progress.
pub struct Screen {
    label: String,
    unit: &'static str,
    bar: Mutex<Option<Progress>>,
}

impl Screen {
    pub fn new(label: String, unit: &'static str) -> Screen {
        Screen { label, unit, bar: Mutex::default() }
    }

    fn bar(&self) -> MutexGuard<'_, Option<Progress>> {
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clears the line.
    pub fn finish(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish();
        }
    }
}

impl Watch for Screen {
    fn progress(&self, done: u64, all: u64) {
        self.bar().get_or_insert_with(|| Progress::new(&self.label, self.unit, done, all)).set(done, "");
    }

    fn note(&self, text: &str) {
        let text = format!("{}: {text}", self.label);
        match &*self.bar() {
            Some(bar) => bar.say(&text),
            None => say(&text),
        }
    }
}
