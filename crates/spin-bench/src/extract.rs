//! Reading the answer out of a generated solution, the way lm-evaluation-harness does for GSM8K.
//!
//! The rules are those of the profile `main`: two filters find a number in the generated text, and
//! what they find is compared with the demonstration's answer after both are normalised. The filters
//! and the comparison are kept apart, as they are in the harness, so that a report can show what was
//! read as well as whether it was right.

use std::sync::LazyLock;

use regex::Regex;

/// What the harness puts in place of an answer that a filter does not find. It equals no number, so
/// such a row counts as wrong.
pub const INVALID: &str = "[invalid]";

static STRICT: LazyLock<Regex> = LazyLock::new(|| pattern(r"#### (\-?[0-9\.\,]+)"));
static FLEXIBLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"(-?[$0-9.,]{2,})|(-?[0-9]+)"));
static BEFORE_ANSWER: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s).*#### "));
/// The harness writes `\.$`. Python's `$` also matches before a line break that ends the text.
static FINAL_PERIOD: LazyLock<Regex> = LazyLock::new(|| pattern(r"\.(\n?)\z"));

fn pattern(source: &str) -> Regex {
    Regex::new(source).expect("a valid pattern")
}

/// The filter `strict-match`: the number behind the first `#### `, as written.
///
/// ```
/// use spin_bench::extract::strict;
///
/// assert_eq!(strict("6 * 7 = 42\n#### 42").as_deref(), Some("42"));
/// assert_eq!(strict("The answer is 42."), None);
/// ```
pub fn strict(text: &str) -> Option<String> {
    let found = STRICT.captures(text)?;
    Some(found[1].to_owned())
}

/// The filter `flexible-extract`: the last thing in the text that looks like a number.
///
/// Two or more of the characters `$0-9.,`, or else digits; so `...` counts as well, as in the harness.
///
/// ```
/// use spin_bench::extract::flexible;
///
/// assert_eq!(flexible("First 7, then $1,250.").as_deref(), Some("$1,250."));
/// assert_eq!(flexible("no number"), None);
/// ```
pub fn flexible(text: &str) -> Option<String> {
    let found = FLEXIBLE.find_iter(text).last()?;
    Some(found.as_str().to_owned())
}

/// The answer of a demonstration: what stands behind its last `####`, without spaces around it.
pub fn gold(answer: &str) -> Option<&str> {
    spin_run::run::final_answer(answer)
}

/// A prediction or reference as it is compared: without commas and dollar signs, without everything up
/// to the last `#### `, without one final period, in lower case.
pub fn normalise(text: &str) -> String {
    let text = without_signs(text);
    FINAL_PERIOD.replace(&text, "$1").to_lowercase()
}

/// The same with a final period kept, as before v0.4.0's successors.
pub fn normalise_keeping_period(text: &str) -> String {
    without_signs(text).to_lowercase()
}

fn without_signs(text: &str) -> String {
    let text = text.replace([',', '$'], "");
    BEFORE_ANSWER.replace_all(&text, "").into_owned()
}

/// Whether a filter found the right answer. `reference` may be the bare number or the whole solution
/// that contains it behind `#### `; the harness compares with the latter.
///
/// ```
/// use spin_bench::extract::{exact_match, flexible};
///
/// let solution = "She earns 25 * 50 = 1250 dollars.\n#### 1,250";
/// let found = flexible("So it is $1250.");
/// assert!(exact_match(found.as_deref(), solution));
/// assert!(!exact_match(None, solution));
/// ```
pub fn exact_match(prediction: Option<&str>, reference: &str) -> bool {
    normalise(prediction.unwrap_or(INVALID)) == normalise(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values: re.findall and re.sub of Python 3.11 with the harness's patterns.

    #[test]
    fn strict_takes_the_first_marked_number() {
        let cases: [(&str, Option<&str>); 14] = [
            ("#### 42", Some("42")),
            ("a\n#### 1,234.50 dollars", Some("1,234.50")),
            ("#### -7", Some("-7")),
            ("#### 1\n#### 2", Some("1")),
            ("####42", None),
            ("####  42", None),
            ("#### $42", None),
            ("#### x #### 3", Some("3")),
            ("##### 5", Some("5")),
            ("### 5", None),
            ("#### 42.", Some("42.")),
            ("#### --4", None),
            ("#### ,", Some(",")),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(strict(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn flexible_takes_the_last_number_like_thing() {
        let cases: [(&str, Option<&str>); 15] = [
            ("The answer is 42.", Some("42.")),
            ("#### 42", Some("42")),
            ("7", Some("7")),
            ("-7", Some("-7")),
            ("3-7", Some("-7")),
            ("--7", Some("-7")),
            ("$5", Some("$5")),
            ("-$5", Some("-$5")),
            ("5 and so on...", Some("...")),
            ("5, then.", Some("5,")),
            ("1,250 of 3", Some("3")),
            ("x = 4 = y", Some("4")),
            ("1/2", Some("2")),
            ("12e3", Some("3")),
            ("none, at all.", None),
        ];
        for (text, expected) in cases {
            assert_eq!(flexible(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn normalises_like_the_harness() {
        let cases = [
            ("1,250", "1250"),
            ("$1,250.", "1250"),
            ("5..", "5."),
            ("5.\n", "5\n"),
            ("5.0", "5.0"),
            ("a #### b #### 7.", "7"),
            ("a ####7", "a ####7"),
            ("line\n#### 7", "7"),
            ("#### \n7", "\n7"),
            ("TWO", "two"),
            ("[invalid]", "[invalid]"),
            (".", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(normalise(text), expected, "{text:?}");
        }
    }

    #[test]
    fn compares_with_solution_or_number() {
        let solution = "He has 24 * 15 = <<24*15=360>>360 pencils.\n#### 360";
        assert_eq!(gold(solution), Some("360"));
        assert_eq!(gold("no mark"), None);
        for reference in [solution, "360"] {
            assert!(exact_match(strict("#### 360").as_deref(), reference));
            assert!(exact_match(strict("#### 360.").as_deref(), reference));
            assert!(exact_match(flexible("about $360.").as_deref(), reference));
            // As text, not as a number.
            assert!(!exact_match(strict("#### 360.0").as_deref(), reference));
            assert!(!exact_match(strict("#### 0360").as_deref(), reference));
            assert!(!exact_match(flexible("360 pencils, or 15 boxes").as_deref(), reference));
            assert!(!exact_match(strict("360").as_deref(), reference));
        }
    }
}
