//! OpenBookQA (Mihaylov et al. 2018): 0-shot, `acc_norm`; the SPIN paper
//! reports it 1-shot.

use std::sync::Arc;

use super::{lettered, text};
use crate::harness::Source;
use crate::harness::{Answer, Doc, Metric, RawRow, Task};

/// The task.
pub fn openbookqa() -> Task {
    let source = Source::new("allenai/openbookqa", "main/{split}-00000-of-00001.parquet", "openbookqa/{split}.jsonl");
    Task {
        fewshot_split: Some("train".into()),
        metrics: vec![Metric::AccNorm, Metric::Acc],
        ..Task::new("openbookqa", source, "test", Arc::new(read))
    }
}

fn read(row: &RawRow) -> Result<Doc, String> {
    let (choices, gold) = lettered(row)?;
    Ok(Doc { question: text(row, "question_stem")?.to_owned(), answer: Answer::Choices { choices, gold } })
}

#[cfg(test)]
mod tests {
    use super::super::row;
    use super::*;

    #[test]
    fn the_stem_stands_alone() {
        let hub =
            r#"{"question_stem": "The sun", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": " A"}"#;
        assert_eq!(read(&row(hub)).unwrap().shown(), ("The sun", "a"));
    }
}
