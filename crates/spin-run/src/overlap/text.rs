//! Texts as words that can be compared.

/// The words of a text: letters and digits in lower case, everything else between
/// them.
pub fn words(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() {
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
