//! From a generated text to the answer it gives, and whether that is right.

use regex::Regex;

use super::text::strip;
use crate::extract::{self, INVALID};

/// How an answer is found in a generated text. What is not found is
/// [`INVALID`], which equals nothing.
#[derive(Clone, Debug)]
pub enum Extract {
    /// GSM8K's `#### number`, the first one.
    Strict,
    /// The last thing that looks like a number.
    Flexible,
    /// What follows the first "the answer is " in its line, without the line's
    /// last character.
    AnswerIs,
    /// All of it.
    Whole,
    /// Matches of a pattern.
    Pattern {
        /// The pattern; its first group that matched is taken, or the whole
        /// match of a pattern without groups.
        pattern: Regex,
        /// Whether the last match is taken, not the first.
        last: bool,
    },
}

impl Extract {
    /// The answer in a text.
    pub fn find(&self, text: &str) -> String {
        let found = match self {
            Extract::Strict => extract::strict(text),
            Extract::Flexible => extract::flexible(text),
            Extract::AnswerIs => answer_is(text),
            Extract::Whole => return text.to_owned(),
            Extract::Pattern { pattern, last } => {
                let mut matches = pattern.captures_iter(text);
                let found = if *last { matches.last() } else { matches.next() };
                found.and_then(|found| {
                    let groups = found.iter().skip(1).flatten().find(|group| !group.is_empty());
                    let whole = if found.len() == 1 { found.get(0) } else { groups };
                    whole.map(|found| found.as_str().to_owned())
                })
            }
        };
        found.map_or_else(|| INVALID.to_owned(), |found| strip(&found).to_owned())
    }
}

/// The harness's `(?<=the answer is )(.*)(?=.)`: greedy, but one character of
/// the line has to be left.
fn answer_is(text: &str) -> Option<String> {
    const MARK: &str = "the answer is ";
    text.match_indices(MARK).find_map(|(at, _)| {
        let line = text[at + MARK.len()..].split('\n').next()?;
        let (last, _) = line.char_indices().last()?;
        Some(line[..last].to_owned())
    })
}

/// What is removed from a prediction and a reference before they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalise {
    /// Nothing.
    Nothing,
    /// Commas, dollar signs, everything up to `#### `, a final period, case.
    Gsm8k,
    /// The same, but for the period.
    Gsm8kKeepPeriod,
    /// Case.
    Case,
}

impl Normalise {
    /// A text as it is compared.
    pub fn apply(self, text: &str) -> String {
        match self {
            Normalise::Nothing => text.to_owned(),
            Normalise::Gsm8k => extract::normalise(text),
            Normalise::Gsm8kKeepPeriod => extract::normalise_keeping_period(text),
            Normalise::Case => text.to_lowercase(),
        }
    }
}

/// A generated text up to the first occurrence of each stop text, in their
/// order.
pub fn cut<'a>(text: &'a str, until: &[String]) -> &'a str {
    until
        .iter()
        .filter(|stop| !stop.is_empty())
        .fold(text, |text, stop| text.split(stop.as_str()).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values: the harness's RegexFilter under Python 3.11.
    #[test]
    fn reads_the_answer_of_a_chain_of_thought() {
        let cases = [
            ("So the answer is Yes.", "Yes"),
            ("the answer is (B).\n\nQ: the answer is no.", "(B)"),
            ("the answer is", INVALID),
            ("the answer is \nthe answer is No.", "No"),
            ("the answer is x", ""),
            ("the answer is  5 ..", "5 ."),
            ("the answer is the answer is é!", "the answer is é"),
            ("The Answer is 5.", INVALID),
        ];
        for (text, expected) in cases {
            assert_eq!(Extract::AnswerIs.find(text), expected, "{text:?}");
        }
    }

    #[test]
    fn cuts_at_every_stop_text_in_turn() {
        let until = ["Q", "\n\n"].map(str::to_owned);
        assert_eq!(cut("a\n\nb Q c", &until), "a");
        assert_eq!(cut("Q", &until), "");
        assert_eq!(cut("abc", &[String::new()]), "abc");
    }

    #[test]
    fn patterns_take_their_group() {
        let pattern = Regex::new(r"answer: (\w+)|(\d+)").unwrap();
        let find = |last| Extract::Pattern { pattern: pattern.clone(), last }.find("answer: x then 7");
        assert_eq!((find(false), find(true)), ("x".to_owned(), "7".to_owned()));
        let plain = Extract::Pattern { pattern: Regex::new("[A-D]").unwrap(), last: false };
        assert_eq!((plain.find("is C"), plain.find("is c")), ("C".to_owned(), INVALID.to_owned()));
    }
}
