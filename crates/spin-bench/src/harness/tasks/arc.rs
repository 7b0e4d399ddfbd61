//! ARC-Challenge (Clark et al. 2018): science questions, 25-shot, `acc_norm`.

use std::sync::Arc;

use super::{lettered, text};
use crate::harness::Source;
use crate::harness::{Answer, Doc, Metric, RawRow, Task};

/// The task.
pub fn arc_challenge() -> Task {
    let source =
        Source::new("allenai/ai2_arc", "ARC-Challenge/{split}-00000-of-00001.parquet", "arc_challenge/{split}.jsonl");
    Task {
        num_fewshot: 25,
        fewshot_split: Some("train".into()),
        metrics: vec![Metric::AccNorm, Metric::Acc],
        ..Task::new("arc_challenge", source, "test", Arc::new(read))
    }
}

fn read(row: &RawRow) -> Result<Doc, String> {
    let (choices, gold) = lettered(row)?;
    let question = format!("Question: {}\nAnswer:", text(row, "question")?);
    Ok(Doc { question, answer: Answer::Choices { choices, gold } })
}

#[cfg(test)]
mod tests {
    use super::super::row;
    use super::*;

    #[test]
    fn reads_both_layouts() {
        let hub = r#"{"question": "Q?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}"#;
        let flat = r#"{"question": "Q?", "choices": ["a", "b"], "gold": 1}"#;
        let doc = read(&row(hub)).unwrap();
        assert_eq!(doc, read(&row(flat)).unwrap());
        assert_eq!(doc.shown(), ("Question: Q?\nAnswer:", "b"));
    }

    #[test]
    fn refuses_answers_that_are_no_choice() {
        let hub = r#"{"question": "Q?", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "E"}"#;
        assert!(read(&row(hub)).unwrap_err().contains("the answer \"E\", which is none of its 1 choices"));
        let flat = r#"{"question": "Q?", "choices": ["a"], "gold": 1}"#;
        assert!(read(&row(flat)).unwrap_err().contains("the answer 1"));
        assert!(read(&row(r#"{"choices": ["a"], "gold": 0}"#)).unwrap_err().contains("no text \"question\""));
    }
}
