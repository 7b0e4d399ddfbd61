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
        // Half of a character is shown as this one, and may take those before it along.
        if both.ends_with('\u{fffd}') && at + 1 < all.len() {
            continue;
        }
        let Some(piece) = both.strip_prefix(&before) else { return Ok(Vec::new()) };
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use spin_text::Message;

    fn codec(name: &str) -> Codec {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/text").join(name);
        Codec::from_dir_with(&dir, spin_text::TemplateChoice::Alpaca).unwrap()
    }

    /// The texts of the tokens of an answer.
    fn texts(codec: &Codec, answer: &str, shown: &str) -> Vec<String> {
        let (prompt, ids) = codec.exchange_ids(&[Message::user("Say it.")], answer).unwrap();
        let (_, ids) = ids.split_last().unwrap();
        let units: Vec<u16> = shown.encode_utf16().collect();
        let mut from = 0;
        let lengths = pieces(codec, &prompt, ids, shown).unwrap();
        let part = |length: &usize| {
            let part = String::from_utf16(&units[from..from + length]).unwrap();
            from += length;
            part
        };
        lengths.iter().map(part).collect()
    }

    #[test]
    fn pieces_add_up_to_the_text() {
        for name in ["zephyr", "chatml", "stories260k"] {
            let codec = codec(name);
            for text in ["Two words", "né 🎉 ok\n#### 4", "  spaces ", "日本", "e\u{301}\u{301}"] {
                let (prompt, ids) = codec.exchange_ids(&[Message::user("Say it.")], text).unwrap();
                let shown = codec.decode_response(&prompt, &ids).unwrap();
                let found = texts(&codec, text, &shown);
                assert_eq!(found.concat(), shown, "{name}: {text:?}");
                assert_eq!(found.len(), ids.len() - 1, "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn a_text_that_stops_inside_of_a_token_ends_there() {
        let codec = codec("stories260k");
        let found = texts(&codec, "once upon a time", "once upon a ti");
        assert_eq!(found.concat(), "once upon a ti");
        // Another text has no pieces.
        assert!(texts(&codec, "once upon", "never").is_empty());
    }
}
