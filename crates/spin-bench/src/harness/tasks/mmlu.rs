//! MMLU (Hendrycks et al. 2021): exams of 57 subjects, 5-shot with the first
//! five of each subject's `dev` split, `acc` on the letters.

use std::sync::Arc;

use serde_json::Value;

use super::{gold, text, texts};
use crate::harness::Source;
use crate::harness::text::strip;
use crate::harness::{Answer, Doc, Examples, RawRow, Task};

/// The task of a subject.
pub fn subject(name: &str) -> Task {
    let source = Source::new(
        "cais/mmlu",
        &format!("{name}/{{split}}-00000-of-00001.parquet"),
        &format!("mmlu/{{split}}/{name}.jsonl"),
    );
    Task {
        num_fewshot: 5,
        fewshot_split: Some("dev".into()),
        examples: Examples::First,
        description: format!(
            "The following are multiple choice questions (with answers) about {}.\n\n",
            name.replace('_', " ")
        ),
        ..Task::new(format!("mmlu_{name}"), source, "test", Arc::new(read))
    }
}

fn read(row: &RawRow) -> Result<Doc, String> {
    let choices = texts(row.get("choices"), "choices")?;
    let [a, b, c, d] = choices.as_slice() else {
        return Err(format!("has {} choices instead of 4", choices.len()));
    };
    let index = row.get("answer").and_then(Value::as_u64).ok_or("has no number \"answer\"")?;
    let gold = gold(usize::try_from(index).ok(), 4, &index.to_string())?;
    let question = strip(text(row, "question")?);
    let question = format!("{question}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:");
    let choices = ["A", "B", "C", "D"].map(str::to_owned).to_vec();
    Ok(Doc { question, answer: Answer::Choices { choices, gold } })
}

#[cfg(test)]
mod tests {
    use spin_report::names::MMLU_SUBJECTS;

    use super::super::row;
    use super::*;
    use crate::fetch;

    #[test]
    fn letters_are_scored() {
        let json = r#"{"question": " Q? ", "choices": ["w", "x", "", "z "], "answer": 3}"#;
        assert_eq!(read(&row(json)).unwrap().shown(), ("Q?\nA. w\nB. x\nC. \nD. z \nAnswer:", "D"));
        assert!(read(&row(&json.replace('3', "4"))).unwrap_err().contains("the answer 4"));
        // The subjects that are summed up are those that are fetched.
        let mut summed: Vec<&str> = MMLU_SUBJECTS.iter().flat_map(|(_, subjects)| *subjects).copied().collect();
        let mut fetched = fetch::MMLU.map(|(subject, _)| subject);
        summed.sort_unstable();
        fetched.sort_unstable();
        assert_eq!(summed, fetched);
    }
}
