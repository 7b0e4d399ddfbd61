//! Which part of an answer's text each of its tokens is.

use spin_text::{Codec, TextError};

/// Tokens before the one that is looked at, which decide how it is written.
const BEFORE: usize = 4;

/// Lengths of the texts of an answer's tokens in UTF-16 units, one for each
/// token; empty where they do not add up to the text. A token that completes no
/// character has length 0, and the one that completes it has all of it.
pub fn pieces(codec: &Codec, prompt: &[u32], answer: &[u32], text: &str) -> Result<Vec<usize>, TextError> {
    let all = [&prompt[prompt.len().saturating_sub(BEFORE)..], answer].concat();
    let begin = all.len() - answer.len();
    // What stands before `from` is known as text; tokens from `from` on are waiting for the end of a character.
    let (mut from, mut written) = (begin, String::new());
    let mut lengths = vec![0; answer.len()];
    for at in begin..all.len() {
        let start = from.saturating_sub(BEFORE);
        let before = codec.decode(&all[start..from])?;
        let both = codec.decode(&all[start..=at])?;
        let Some(piece) = both.strip_prefix(&before) else { return Ok(Vec::new()) };
        // Half of a character is shown as this one.
        if piece.ends_with('\u{fffd}') && at + 1 < all.len() {
            continue;
        }
        // A stop text may have ended the answer inside of a token.
        let Some(left) = text.get(written.len()..) else { return Ok(Vec::new()) };
        let shown = if left.len() < piece.len() && piece.starts_with(left) { left } else { piece };
        if !left.starts_with(shown) {
            return Ok(Vec::new());
        }
        lengths[at - begin] = shown.encode_utf16().count();
        written.push_str(shown);
        from = at + 1;
    }
    Ok(if written == text { lengths } else { Vec::new() })
}
