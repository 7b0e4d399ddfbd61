//! HellaSwag (Zellers et al. 2019): how a scene goes on, 10-shot, `acc_norm`.

use std::sync::{Arc, LazyLock};

use regex::Regex;

use super::{gold, text, texts};
use crate::harness::Source;
use crate::harness::text::{capitalize, strip};
use crate::harness::{Answer, Doc, Metric, Profile, RawRow, Task};

/// The task.
pub fn hellaswag(profile: Profile) -> Task {
    let source = Source::new("Rowan/hellaswag", "data/{split}-00000-of-00001.parquet", "hellaswag/{split}.jsonl");
    Task {
        num_fewshot: 10,
        fewshot_split: Some("train".into()),
        // Neither split is named in the harness's declaration, so it takes
        // them for the same.
        draws_spare: profile != Profile::LeaderboardV1,
        metrics: vec![Metric::AccNorm, Metric::Acc],
        ..Task::new("hellaswag", source, "validation", Arc::new(read))
    }
}

fn read(row: &RawRow) -> Result<Doc, String> {
    let context = format!("{} {}", text(row, "ctx_a")?, capitalize(text(row, "ctx_b")?));
    let question = clean(&format!("{}: {context}", text(row, "activity_label")?));
    let choices: Vec<String> = texts(row.get("endings"), "endings")?.iter().map(|ending| clean(ending)).collect();
    let label = match row.get("label") {
        Some(serde_json::Value::Number(number)) => number.to_string(),
        _ => text(row, "label")?.to_owned(),
    };
    let gold = gold(label.parse().ok(), choices.len(), &format!("{label:?}"))?;
    Ok(Doc { question, answer: Answer::Choices { choices, gold } })
}

/// The harness's `preprocess`: what WikiHow's markup left behind is removed.
/// Texts are stripped *before*, so a space behind a removed bracket stays and
/// counts in the length.
fn clean(text: &str) -> String {
    // `.` does not match a line break, in Python as here.
    static BRACKETS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[.*?\]").expect("a valid pattern"));
    let text = strip(text).replace(" [title]", ". ");
    BRACKETS.replace_all(&text, "").replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::super::row;
    use super::*;

    // Expected values: the harness's preprocess under Python 3.11.
    #[test]
    fn cleans_like_the_harness() {
        let cases = [
            ("How to bake [title] Mix. [step] Stir", "How to bake. Mix. Stir"),
            ("[substeps] Foo", " Foo"),
            ("  [header] a   b  ", " a  b"),
            ("a [b\nc] d", "a [b\nc] d"),
            ("a [b [c] d] e", "a d] e"),
        ];
        for (text, expected) in cases {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_second_half_is_capitalised() {
        let json = r#"{"activity_label": "Chess", "ctx_a": "Two men sit.", "ctx_b": "one MAN", "endings": ["x", "y"], "label": "1"}"#;
        assert_eq!(read(&row(json)).unwrap().shown(), ("Chess: Two men sit. One man", "y"));
        let test = json.replace("\"1\"", "\"\"");
        assert!(read(&row(&test)).unwrap_err().contains("none of its 2 choices"));
    }
}
