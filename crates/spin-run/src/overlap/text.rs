//! Texts as words that can be compared.

/// The words of a text: letters and digits in lower case, everything else between
/// them; each letter of a script that is written without spaces.
pub fn words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if is_unspaced(c) {
            out.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
            out.push(c.into());
        } else if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        } else if !word.is_empty() && c != '\'' && c != '’' {
            out.push(std::mem::take(&mut word));
        }
    }
    if !word.is_empty() {
        out.push(word);
    }
    out
}

/// Whether a letter is of a script that does not part its words: Chinese and
/// Japanese, Thai, Lao, Burmese and Khmer.
fn is_unspaced(c: char) -> bool {
    c.is_alphanumeric()
        && matches!(u32::from(c),
            0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3005..=0x3007 | 0x3040..=0x30ff | 0x31f0..=0x31ff
            | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff)
}

/// Hashes of words.
pub fn hashes(words: &[String]) -> Vec<u64> {
    words.iter().map(|word| spin_noise::fnv1a(word)).collect()
}

/// A hash of a run of words, from theirs.
pub fn of_run(hashes: &[u64]) -> u64 {
    hashes.iter().fold(hashes.len() as u64, |all, hash| {
        // The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
        let mut z = all.rotate_left(23) ^ hash;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_as_their_script_does() {
        assert_eq!(words("It\u{2019}s 12 o'clock, Ada!"), ["its", "12", "oclock", "ada"]);
        assert_eq!(
            words("\u{6211}\u{7231}Rust\u{3002}\u{304b}\u{306a}"),
            ["\u{6211}", "\u{7231}", "rust", "\u{304b}", "\u{306a}"]
        );
        // Hangul has spaces, and so has Devanagari.
        assert_eq!(words("\u{d55c}\u{ad6d} \u{c5b4}").len(), 2);
    }
}
