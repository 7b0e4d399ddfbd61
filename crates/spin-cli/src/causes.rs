//! An error with its causes as one line.

use std::error::Error;
use std::fs::TryLockError;

/// The messages of a chain, joined by `: `, each cause once: many messages
/// already end with (or quote) that of their source.
pub(crate) fn message<'a>(chain: impl Iterator<Item = &'a (dyn Error + 'static)>) -> String {
    let mut said = String::new();
    for cause in chain {
        // Says nothing that the message before it does not say better.
        if cause.is::<TryLockError>() {
            continue;
        }
        let text = cause.to_string();
        let text = text.trim();
        if said.is_empty() {
            said.push_str(text);
        } else if !text.is_empty() && !repeats(&said, text) {
            said.push_str(": ");
            said.push_str(text);
        }
    }
    said
}

/// Whether `said` holds `cause` already, as whole words: at its end, or before
/// a remedy.
fn repeats(said: &str, cause: &str) -> bool {
    let ends = |rest: &str| rest.is_empty() || rest.starts_with([';', ')', '.', ',', ':', '\n', '"']);
    let begins = |before: &str| before.is_empty() || before.ends_with([' ', '(', '"', '\n']);
    said.match_indices(cause).any(|(at, _)| begins(&said[..at]) && ends(&said[at + cause.len()..]))
}

/// Whether the chain says that another process holds a lock.
pub(crate) fn is_held(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref::<TryLockError>(), Some(TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Said(&'static str, Option<Box<dyn Error>>);

    impl std::fmt::Display for Said {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Said {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref()
        }
    }

    fn say(texts: &[&'static str]) -> String {
        let error =
            texts.iter().rev().fold(None, |inner: Option<Box<dyn Error>>, text| Some(Box::new(Said(text, inner))));
        let error = error.expect("a text");
        let mut chain: Vec<&(dyn Error + 'static)> = Vec::new();
        let mut next: Option<&(dyn Error + 'static)> = Some(&*error);
        while let Some(cause) = next {
            chain.push(cause);
            next = cause.source();
        }
        message(chain.into_iter())
    }

    #[test]
    fn a_cause_is_said_once() {
        let full = "No space left on device (os error 28)";
        let twice = "failed to write x: No space left on device (os error 28)";
        assert_eq!(say(&[twice, full]), twice);
        assert_eq!(say(&["row 3", twice, full]), format!("row 3: {twice}"));
        let inside = "cannot write x (No space left on device (os error 28)); make room";
        assert_eq!(say(&[inside, full]), inside);
        assert_eq!(say(&["failed to write x", full]), format!("failed to write x: {full}"));
        // A part of a word is no cause, and empty ones are none.
        assert_eq!(say(&["cannot decode", "code"]), "cannot decode: code");
        assert_eq!(say(&["a", "", "b"]), "a: b");
    }
}
