//! Python's string methods where Rust's differ.

/// `str.isspace` of one character: Unicode white space, and the four
/// separators U+001C to U+001F that Rust leaves out.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.rstrip()`.
pub fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// Whether the text ends with white space.
pub fn ends_with_space(text: &str) -> bool {
    text.ends_with(is_space)
}

/// Whether the text begins with white space.
pub fn starts_with_space(text: &str) -> bool {
    text.starts_with(is_space)
}

/// `str.capitalize()`: the first character in title case, the others in lower
/// case.
///
/// ```
/// use spin_bench::harness::text::capitalize;
///
/// assert_eq!(capitalize("the NBA"), "The nba");
/// assert_eq!(capitalize("ﬁne"), "Fine");
/// ```
pub fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // Lower-cased as a whole: the form of a sigma depends on its neighbours.
    let lower = text.to_lowercase();
    let own: usize = first.to_lowercase().map(char::len_utf8).sum();
    title_case(first) + &lower[own..]
}

/// The full title case of a character (Unicode 14, as in Python 3.11).
fn title_case(c: char) -> String {
    let offset = |base: u32| char::from_u32(base + (c as u32 - base) % 8 + 8).expect("a Greek letter").to_string();
    match c {
        'ŉ' => "ʼN".into(),
        'Ǆ' | 'ǅ' | 'ǆ' => "ǅ".into(),
        'Ǉ' | 'ǈ' | 'ǉ' => "ǈ".into(),
        'Ǌ' | 'ǋ' | 'ǌ' => "ǋ".into(),
        'Ǳ' | 'ǲ' | 'ǳ' => "ǲ".into(),
        // Georgian has capitals only for whole words.
        '\u{10d0}'..='\u{10ff}' => c.to_string(),
        // A subscript iota stays one.
        '\u{1f80}'..='\u{1f8f}' => offset(0x1f80),
        '\u{1f90}'..='\u{1f9f}' => offset(0x1f90),
        '\u{1fa0}'..='\u{1faf}' => offset(0x1fa0),
        '\u{1fb2}' => "\u{1fba}\u{345}".into(),
        '\u{1fb3}' | '\u{1fbc}' => "\u{1fbc}".into(),
        '\u{1fb4}' => "\u{386}\u{345}".into(),
        '\u{1fb7}' => "\u{391}\u{342}\u{345}".into(),
        '\u{1fc2}' => "\u{1fca}\u{345}".into(),
        '\u{1fc3}' | '\u{1fcc}' => "\u{1fcc}".into(),
        '\u{1fc4}' => "\u{389}\u{345}".into(),
        '\u{1fc7}' => "\u{397}\u{342}\u{345}".into(),
        '\u{1ff2}' => "\u{1ffa}\u{345}".into(),
        '\u{1ff3}' | '\u{1ffc}' => "\u{1ffc}".into(),
        '\u{1ff4}' => "\u{38f}\u{345}".into(),
        '\u{1ff7}' => "\u{3a9}\u{342}\u{345}".into(),
        // Elsewhere title case is the first letter of upper case and the rest
        // of it lowered: ß is SS in capitals and Ss in titles.
        _ => {
            let mut upper = c.to_uppercase();
            let mut out: String = upper.next().into_iter().collect();
            out.extend(upper.flat_map(char::to_lowercase));
            out
        }
    }
}

/// `len(text)`: code points.
pub fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values: Python 3.11.
    #[test]
    fn capitalizes_like_python() {
        let cases = [
            ("", ""),
            ("a man Sits", "A man sits"),
            ("ßtraße", "Sstraße"),
            ("ﬀoo", "Ffoo"),
            ("ŉ", "ʼN"),
            ("ǆ", "ǅ"),
            ("ΟΔΟΣ", "Οδος"),
            ("Σ", "Σ"),
            ("ΑΣ Σ", "Ας σ"),
            ("İSTANBUL", "İstanbul"),
            ("აბგ", "აბგ"),
            ("ᾳ", "ᾼ"),
            ("\u{390}", "\u{399}\u{308}\u{301}"),
            ("日本 TOKYO", "日本 tokyo"),
            (" Hello", " hello"),
            ("ᾄDE", "ᾌde"),
        ];
        for (text, expected) in cases {
            assert_eq!(capitalize(text), expected, "{text:?}");
        }
    }

    #[test]
    fn title_case_of_every_character() {
        // Python: the sum of (c * 31 + ord(t)) * 2654435761 over the code points
        // c below U+2000 and the characters t of chr(c).title(), modulo 2^64;
        // without four letters that got capitals after Unicode 14.
        let new = ['\u{19b}', '\u{264}', '\u{1c89}', '\u{1c8a}'];
        let letters = ('\0'..'\u{2000}').filter(|c| !new.contains(c));
        let sum = letters.fold(0_u64, |sum, c| {
            title_case(c)
                .chars()
                .fold(sum, |sum, t| sum.wrapping_add((u64::from(c) * 31 + u64::from(t)).wrapping_mul(2_654_435_761)))
        });
        assert_eq!(sum, 2878020366324184638);
    }

    #[test]
    fn strips_like_python() {
        assert_eq!(strip("\u{1c} a\u{a0}\n"), "a");
        assert_eq!(rstrip(" a\u{85}\u{2003}"), " a");
        // Not white space: the zero-width space.
        assert_eq!(strip("\u{200b}a"), "\u{200b}a");
        assert_eq!(length("naïve"), 5);
    }
}
