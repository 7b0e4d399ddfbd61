//! An eye on code that runs what strangers wrote: templates, normalizers, expressions.
//!
//! Their engines count steps, but one step can double a text, and none can be stopped from outside.
//! So a program ends where one call takes more than any honest input does. Nothing is lost by it:
//! a program may be killed at any moment.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use crate::process::resident_memory;
use crate::{Exit, say};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(20);
/// Looks at one call. They are counted, not timed: a process that was suspended has not worked.
const LOOKS: u32 = 3000;
/// Growth of the resident memory within one call.
const MEMORY: u64 = 2 << 30;

/// A call that is under way.
struct Call {
    what: Arc<str>,
    looks: u32,
    /// Resident memory when it was seen first.
    before: u64,
}

static CALLS: Mutex<Option<HashMap<u64, Call>>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Starts to look, for programs. In a library that somebody else uses nobody looks.
pub(crate) fn start() {
    static START: Once = Once::new();
    START.call_once(|| {
        // Without a thread there are no looks; all else works.
        if std::thread::Builder::new().name("watchdog".into()).spawn(watch).is_ok() {
            *CALLS.lock().unwrap_or_else(PoisonError::into_inner) = Some(HashMap::new());
        }
    });
}

/// What `f` gives. The program ends with exit code 3 and a message about `what` where `f` takes
/// more than a minute of work or 2 GiB of memory. It is called for every text: `what` is made before.
pub fn bounded<T>(what: &Arc<str>, f: impl FnOnce() -> T) -> T {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    if let Some(calls) = CALLS.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        calls.insert(number, Call { what: what.clone(), looks: 0, before: 0 });
    }
    let _end = End(number);
    f()
}

/// Takes a call off the list, also where it panics.
struct End(u64);

impl Drop for End {
    fn drop(&mut self) {
        if let Some(calls) = CALLS.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            calls.remove(&self.0);
        }
    }
}

fn watch() {
    loop {
        std::thread::sleep(EVERY);
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(calls) = calls.as_mut().filter(|calls| !calls.is_empty()) else { continue };
        let now = resident_memory().unwrap_or(0);
        for call in calls.values_mut() {
            if let Some(why) = call.look(now) {
                say(&format!("error: {}: {why}; use another", call.what));
                std::process::exit(Exit::BadInput.code().into());
            }
        }
    }
}

impl Call {
    /// Which bound it exceeds.
    fn look(&mut self, resident: u64) -> Option<String> {
        if self.looks == 0 {
            self.before = resident;
        }
        self.looks += 1;
        if resident.saturating_sub(self.before) > MEMORY {
            return Some(format!("takes more than {} GiB of memory for one text", MEMORY >> 30));
        }
        (self.looks > LOOKS).then(|| format!("takes more than {} s for one text", (EVERY * LOOKS).as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_and_looks_are_bounded() {
        let call = || Call { what: "".into(), looks: 0, before: 0 };
        let mut large = call();
        assert_eq!(large.look(5 << 30), None, "what was there before counts for nothing");
        assert_eq!(large.look(7 << 30), None);
        assert!(large.look((7 << 30) + 1).unwrap().contains("2 GiB"));
        let mut long = call();
        assert!((0..LOOKS).all(|_| long.look(0).is_none()));
        assert!(long.look(0).unwrap().contains("60 s"));
    }

    #[test]
    fn calls_come_and_go() {
        *CALLS.lock().unwrap() = Some(HashMap::new());
        let count = || CALLS.lock().unwrap().as_ref().unwrap().len();
        assert_eq!(bounded(&"a".into(), || bounded(&"b".into(), count)), 2);
        assert!(std::panic::catch_unwind(|| bounded(&"a".into(), || panic!("out of it"))).is_err());
        assert_eq!(count(), 0);
    }
}
