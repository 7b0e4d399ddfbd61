//! Standard output and standard error, which may be full, closed or a pipe that
//! nobody reads: what is written there informs, and never ends the work.

use std::io::{self, ErrorKind, Write};
use std::sync::{Mutex, PoisonError};

/// Why standard output takes no more, if it does not.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// Data, on standard output. Once it takes no more, the rest is left out and
/// the program goes on: whoever closed the pipe has what he wanted, and a
/// verdict stands whether it was read or not. [`run`](crate::run) turns every
/// other reason, such as a full disk, into a failure.
pub fn out(text: &str) {
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    if lost.is_none() {
        *lost = io::stdout().lock().write_all(text.as_bytes()).err();
    }
}

/// Why standard output did not take everything, unless its reader left.
pub(crate) fn lost() -> Option<io::Error> {
    let flushed = io::stdout().lock().flush().err();
    let error = LOST.lock().unwrap_or_else(PoisonError::into_inner).take().or(flushed)?;
    (error.kind() != ErrorKind::BrokenPipe).then_some(error)
}

/// The text with control characters escaped (`\u{1b}` for ESC), but tabs.
/// For names and texts from files that end up on a terminal.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Directional overrides and isolates reorder what stands around them.
        let reorders = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\t') || reorders {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(printable("a\tb é 你"), "a\tb é 你");
        assert_eq!(printable("\u{1b}[2Jx\r\n\u{7f}\u{9b}"), "\\u{1b}[2Jx\\u{d}\\u{a}\\u{7f}\\u{9b}");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }
}
