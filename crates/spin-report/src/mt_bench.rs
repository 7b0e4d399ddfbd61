//! From the judgments of MT-Bench to a score: everything follows from the rows of a judgments table.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};
use spin_run::schema::Judgment;

use crate::stats::{self, Estimate, Weighted};

// FastChat writes `\d`, which in Python takes any script's digits and then
// fails to read them as a number; only ASCII digits make a rating.
static RATING: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[\[([0-9]+\.?[0-9]*)\]\]"));
static BACKUP: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[([0-9]+\.?[0-9]*)\]"));

fn pattern(source: &str) -> Regex {
    Regex::new(source).expect("a valid pattern")
}

/// The rating in a judgment: the first number in double brackets, else the
/// first in single ones, if it lies on the scale of 1 to 10. FastChat takes
/// any number; here one that the judge was not asked for is none, and counted.
///
/// ```
/// use spin_report::mt_bench::rating;
///
/// assert_eq!(rating("Good. Rating: [[8.5]]"), Some(8.5));
/// assert_eq!(rating("Rating: [7]"), Some(7.0));
/// assert_eq!(rating("Rating: 7"), None);
/// assert_eq!(rating("Rating: [[99]]"), None);
/// ```
pub fn rating(judgment: &str) -> Option<f64> {
    number(judgment).filter(on_scale)
}

fn on_scale(rating: &f64) -> bool {
    (1.0..=10.0).contains(rating)
}

/// The number where a rating stands, on the scale or not.
fn number(judgment: &str) -> Option<f64> {
    let found = RATING.captures(judgment).or_else(|| BACKUP.captures(judgment))?;
    found[1].parse().ok()
}

/// The score of a set of judgments.
///
/// A mean is over judgments with a rating, as in FastChat's `show_result.py`;
/// those without are left out of it and counted. The standard error treats the
/// two turns of a question as one cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Over both turns: the MT-Bench score. `rows` counts questions.
    pub overall: Option<Estimate>,
    /// Of the first and of the second turn.
    pub turns: [Option<Estimate>; 2],
    /// By category, over both turns.
    pub categories: BTreeMap<String, Estimate>,
    /// How many judgments have a rating.
    pub rated: usize,
    /// How many have a text, but no rating in it.
    pub unrated: usize,
    /// How many could not be had.
    pub errors: usize,
    /// How many of those have a number outside of 1 to 10 in its place.
    pub out_of_scale: usize,
}

impl Summary {
    /// Of judgments by one judge, one per question and turn.
    pub fn of(judgments: &[Judgment]) -> Summary {
        let rated: Vec<(&Judgment, f64)> =
            judgments.iter().filter_map(|j| Some((j, j.rating.filter(on_scale)?))).collect();
        let estimate = |keep: &dyn Fn(&Judgment) -> bool| {
            let mut parts: BTreeMap<u32, Weighted> = BTreeMap::new();
            for (judgment, rating) in rated.iter().filter(|(j, _)| keep(j)) {
                let part = parts.entry(judgment.question_id).or_insert(Weighted { sum: 0.0, weight: 0.0 });
                part.sum += rating;
                part.weight += 1.0;
            }
            stats::ratio(&parts.into_values().collect::<Vec<_>>())
        };
        let names: std::collections::BTreeSet<&String> = judgments.iter().map(|j| &j.category).collect();
        let category = |name: &String| Some((name.clone(), estimate(&|j| j.category == *name)?));
        let errors = judgments.iter().filter(|j| j.error.is_some()).count();
        Summary {
            overall: estimate(&|_| true),
            turns: [1, 2].map(|turn| estimate(&|j| j.turn == turn)),
            categories: names.into_iter().filter_map(category).collect(),
            rated: rated.len(),
            unrated: judgments.len() - rated.len() - errors,
            errors,
            out_of_scale: judgments
                .iter()
                .filter(|j| j.error.is_none() && number(&j.judgment).is_some_and(|rating| !on_scale(&rating)))
                .count(),
        }
    }
}

impl Summary {
    /// For programs.
    pub fn to_json(&self) -> Value {
        let estimate = |e: &Estimate| json!({"value": e.value, "stderr": e.stderr, "rows": e.rows});
        json!({
            "score": self.overall.as_ref().map(estimate),
            "turns": self.turns.iter().map(|turn| turn.as_ref().map(estimate)).collect::<Vec<_>>(),
            "categories": self.categories.iter().map(|(name, e)| (name.clone(), estimate(e))).collect::<Map<_, _>>(),
            "rated": self.rated,
            "unrated": self.unrated,
            "errors": self.errors,
            "out_of_scale": self.out_of_scale,
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut lines = vec![("MT-Bench".to_owned(), self.overall)];
        lines.extend(self.turns.iter().enumerate().map(|(i, turn)| (format!("  turn {}", i + 1), *turn)));
        lines.extend(self.categories.iter().map(|(name, e)| (format!("  {name}"), Some(*e))));
        let mut out = String::new();
        for (name, estimate) in lines {
            let value = estimate.map_or_else(
                || "-".into(),
                |e| {
                    let reach = e.reach95().map_or_else(String::new, |reach| format!(" ±{reach:.2}"));
                    format!("{:.2}{reach}", e.value)
                },
            );
            out.push_str(&format!("{name:<14} {value}\n"));
        }
        out.push_str(&format!(
            "{} judgments with a rating, {} without, {} that could not be had; means are over the first.\n",
            self.rated, self.unrated, self.errors
        ));
        if self.out_of_scale > 0 {
            out.push_str(&format!("{} of those without have a number outside of 1 to 10.\n", self.out_of_scale));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_are_read_like_fastchat() {
        // Expected values: re.search and ast.literal_eval of Python 3.11 with FastChat's patterns,
        // without those off the scale.
        for (text, expected) in [
            ("Rating: [[5]]", Some(5.0)),
            ("[[10]] and [[1]]", Some(10.0)),
            ("[3] then [[7.5]]", Some(7.5)),
            ("[3] then [4]", Some(3.0)),
            ("[[7.]]", Some(7.0)),
            ("[[[6]]]", Some(6.0)),
            ("[[8]", Some(8.0)),
            ("[9]]", Some(9.0)),
            ("[[11]]", None),
            ("[[0]] or [[5]]", None),
            ("[[0.5]]", None),
            ("[[rating]]", None),
            ("[[8/10]]", None),
            ("[[ 8 ]]", None),
            ("[[-8]]", None),
            ("[[.5]]", None),
            ("[[5.5.5]]", None),
            ("8", None),
            ("$ERROR$", None),
            ("", None),
        ] {
            assert_eq!(rating(text), expected, "{text}");
        }
    }

    fn judgment(question_id: u32, turn: u32, category: &str, text: &str) -> Judgment {
        Judgment {
            question_id,
            category: category.into(),
            turn,
            judge: "j".into(),
            prompt_name: "p".into(),
            system: String::new(),
            user_prompt: String::new(),
            judgment: text.into(),
            rating: rating(text),
            error: None,
            tries: 1,
        }
    }

    #[test]
    fn failures_are_counted_and_left_out_of_the_mean() {
        let failed = Judgment { error: Some("timed out".into()), ..judgment(3, 2, "stem", "$ERROR$") };
        let rows = [
            judgment(1, 1, "math", "[[2]]"),
            judgment(1, 2, "math", "[[5]]"),
            judgment(2, 1, "stem", "[[9.5]]"),
            judgment(2, 2, "stem", "no idea"),
            judgment(3, 1, "stem", "[[12]]"),
            failed.clone(),
        ];
        let summary = Summary::of(&rows);
        assert_eq!((summary.rated, summary.unrated, summary.errors, summary.out_of_scale), (3, 2, 1, 1));
        assert_eq!(summary.overall.unwrap().value, 16.5 / 3.0);
        assert_eq!(summary.overall.unwrap().rows, 2);
        assert_eq!(summary.turns.map(|t| t.unwrap().value), [11.5 / 2.0, 5.0]);
        assert_eq!(summary.categories["math"].value, 3.5);
        assert_eq!(summary.categories["stem"].value, 9.5);
        assert!(summary.table().contains("1 of those without have a number outside of 1 to 10"), "{}", summary.table());
        // A rating that was stored before the scale was looked at, and one beyond all numbers.
        let old = Judgment { rating: Some(12.0), ..judgment(1, 1, "math", "[[12]]") };
        let endless = judgment(1, 2, "math", &format!("[[{}]]", "9".repeat(400)));
        let off = Summary::of(&[old, endless]);
        assert_eq!((off.rated, off.unrated, off.out_of_scale, off.overall), (0, 2, 2, None));
        let nothing = Summary::of(&[failed]);
        assert_eq!((nothing.overall, nothing.errors, nothing.categories.len()), (None, 1, 0));
    }
}
