//! Libraries that give up on bad input by a panic.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What `f` gives, or `None` where it panics: then the caller says what is wrong, and a program's
/// standard error has no word of the panic. Nothing that `f` was changing may be used afterwards.
pub fn caught<T>(f: impl FnOnce() -> T) -> Option<T> {
    let before = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f)).ok();
    CAUGHT.set(before);
    result
}

/// Keeps panics quiet that are caught, and no others.
pub(crate) fn quiet_hook() {
    let loud = take_hook();
    set_hook(Box::new(move |info| {
        if !CAUGHT.get() {
            loud(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_no_value_and_calls_may_nest() {
        assert_eq!(caught(|| 1), Some(1));
        assert_eq!(caught(|| -> u8 { std::panic::resume_unwind(Box::new(())) }), None);
        assert!(!CAUGHT.get());
        caught(|| {
            caught(|| ());
            assert!(CAUGHT.get());
        });
    }
}
