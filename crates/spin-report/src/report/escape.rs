//! Text that nobody vouches for, on its way into a page.
//!
//! Answers, prompts and names come from models and from data. In HTML they are
//! escaped, and characters that a reader cannot see or that turn the text
//! around are written out; in JSON inside of a script element nothing is left
//! that could end the element.

use serde_json::Value;

/// Whether a character is shown by its code: controls but for line ends and
/// tabs, and those that change the direction of what follows.
fn is_hidden(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Text for element content and for attributes in double quotes.
///
/// ```
/// use spin_report::report::escape::html;
///
/// assert_eq!(html("<b a=\"1\">&'\u{202e}"), "&lt;b a=&quot;1&quot;&gt;&amp;&#39;[U+202E]");
/// ```
pub fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if is_hidden(c) => out.push_str(&format!("[U+{:04X}]", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// A value as JSON that can stand inside of a `<script>` element: what could
/// end it, begin a comment, end a line of a program or turn text around is
/// written as `\u00XX`.
pub fn json(value: &Value) -> String {
    let text = value.to_string();
    let mut out = String::with_capacity(text.len());
    // Outside of strings JSON has none of these characters, all of which have four digits.
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if is_hidden(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Text for a cell of a Markdown table: one line, without its syntax.
pub fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '<' | '>' | '#' => out.extend(['\\', c]),
            c if is_hidden(c) => out.push_str(&format!("U+{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Text for a block of code in Markdown, where nothing is markup but its fence.
pub fn code(text: &str) -> String {
    let shown = |c: char| match c {
        c if is_hidden(c) => format!("U+{:04X}", u32::from(c)),
        c => c.to_string(),
    };
    text.replace("```", "` ` `").chars().map(shown).collect()
}

/// A name that can be part of an `id` and of the address behind `#`.
pub fn id(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("_{b:02x}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: [&str; 6] = [
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<!--",
        "\" onmouseover=\"alert(1)",
        "a\u{202e}b\u{0}c\u{7f}\u{2028}\u{2029}",
        "\u{301}é]]>&amp;",
    ];

    #[test]
    fn nothing_of_a_text_is_syntax() {
        for text in HOSTILE {
            let found = html(text);
            assert!(!found.contains(['<', '>', '"', '\'', '\u{0}', '\u{202e}', '\u{7f}']), "{found}");
            let found = json(&serde_json::json!([text]));
            assert!(!found.contains(['<', '>', '&', '\u{2028}', '\u{2029}', '\u{0}', '\u{202e}']), "{found}");
            let back: Vec<String> = serde_json::from_str(&found).unwrap();
            assert_eq!(back, [text], "the same text comes out again");
            assert!(!markdown(text).contains(['\n', '\u{0}']));
        }
        assert_eq!(html("two\nlines\t"), "two\nlines\t");
        assert_eq!(markdown("a|b\n<c>"), "a\\|b \\<c\\>");
    }

    #[test]
    fn ids_differ_where_texts_do() {
        assert_eq!(id("scores/demo/iter-0@v1"), "scores_2fdemo_2fiter-0_40v1");
        assert_ne!(id("a/b"), id("a_2fb"));
    }
}
