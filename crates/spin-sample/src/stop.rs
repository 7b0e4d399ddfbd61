//! Texts that end an answer.
//!
//! An answer ends at the first token after which its text, as [`Codec::decode`]
//! reads the generated ids alone, contains a stop text. That is exactly what a
//! scorer sees that decodes the answer and cuts it. SamplingParams all of a growing
//! answer at each token would cost the square of its length, so only its end
//! is decoded, and all of it once that end seems to contain a stop text.

use std::sync::Arc;

use spin_text::Codec;

use crate::error::Result;

/// Tokens after which a search tries to look at fewer.
const LONG: usize = 32;

/// Bytes at the end of a text that a decoder may still change when more tokens
/// come: the space of a word's end, a character that is not complete.
const UNSETTLED: usize = 16;

/// What a decoder writes for bytes that are no character, or not one yet.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// The texts that end a row's answer.
pub struct StopTexts {
    codec: Arc<Codec>,
    texts: Vec<String>,
    /// Bytes at the end of a text that may belong to a stop text that the
    /// tokens to come complete.
    reach: usize,
}

impl StopTexts {
    /// The stop texts of a row; `None` when there are none, so that nothing
    /// has to be decoded. An empty text is none, as in lm-evaluation-harness.
    pub fn new(codec: &Arc<Codec>, texts: &[String]) -> Option<StopTexts> {
        let texts: Vec<String> = texts.iter().filter(|text| !text.is_empty()).cloned().collect();
        let longest = texts.iter().map(String::len).max()?;
        // Only all of the ids can tell one broken character from another.
        let reach = if texts.iter().any(|t| t.contains(REPLACEMENT)) { usize::MAX } else { longest + UNSETTLED };
        Some(StopTexts { codec: codec.clone(), texts, reach })
    }

    fn are_in(&self, text: &str) -> bool {
        self.texts.iter().any(|stop| text.contains(stop.as_str()))
    }
}

/// Looks for stop texts in one answer while it grows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search {
    /// Ids before this one have no part in a stop text that is still to come.
    start: usize,
}

impl Search {
    /// Whether the text of `ids` contains a stop text. To be asked after each
    /// token until it does.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn found(&mut self, stop: &StopTexts, ids: &[u32]) -> Result<bool> {
        let end = stop.codec.decode(&ids[self.start..])?;
        // The end of an answer, read by itself, may begin with other characters.
        if stop.are_in(&end) && (self.start == 0 || stop.are_in(&stop.codec.decode(ids)?)) {
            return Ok(true);
        }
        if ids.len() - self.start >= LONG {
            self.shorten(stop, ids, &end)?;
        }
        Ok(false)
    }

    /// Forgets the first half of the ids that are looked at, `end` in text, if
    /// what is left is long enough and reads the same without it: a decoder may
    /// take it for the beginning of a text, or for the rest of a character. As
    /// long as the last character is broken nobody knows what it belongs to.
    fn shorten(&mut self, stop: &StopTexts, ids: &[u32], end: &str) -> Result<()> {
        if end.ends_with(REPLACEMENT) {
            return Ok(());
        }
        let middle = self.start + (ids.len() - self.start) / 2;
        let rest = stop.codec.decode(&ids[middle..])?;
        if rest.len() >= stop.reach && end.ends_with(&rest) {
            self.start = middle;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "stop_tests.rs"]
mod tests;
