//! What every target does: an input is taken by the reader of that name.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

pub use libfuzzer_sys;
use spin_readers::Reader;

thread_local! {
    static READER: RefCell<Option<Reader>> = const { RefCell::new(None) };
}

/// Makes the reader, and puts its good inputs where the corpus is.
pub fn start(name: &str) {
    // Readers catch panics of libraries; libfuzzer's hook would end the process before they do.
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let reader = Reader::new(name).expect("its inputs can be made");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    fs::create_dir_all(&corpus).expect("the corpus can be written");
    for (i, seed) in reader.seeds().iter().enumerate() {
        fs::write(corpus.join(format!("seed-{i}")), seed).expect("the corpus can be written");
    }
    READER.set(Some(reader));
}

/// An input is read, or refused.
pub fn take(bytes: &[u8]) {
    READER.with_borrow(|reader| drop(reader.as_ref().expect("it was made").take(bytes)));
}

/// A target: the reader of this name.
#[macro_export]
macro_rules! reader {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(init: $crate::start($name), |data: &[u8]| $crate::take(data));
    };
}
