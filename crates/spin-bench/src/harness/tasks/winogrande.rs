//! WinoGrande (Sakaguchi et al. 2019): which name fills the blank, 5-shot,
//! `acc`, by the likelihood of what follows the blank.

use std::sync::Arc;

use super::text;
use crate::harness::Source;
use crate::harness::text::strip;
use crate::harness::{Answer, Doc, Profile, RawRow, Task};

/// The task.
pub fn winogrande(profile: Profile) -> Task {
    let source = Source::new(
        "allenai/winogrande",
        "winogrande_xl/{split}-00000-of-00001.parquet",
        "winogrande_xl/{split}.jsonl",
    );
    Task {
        num_fewshot: 5,
        fewshot_split: Some("train".into()),
        // As for hellaswag.
        draws_spare: profile != Profile::LeaderboardV1,
        // lm-evaluation-harness#1249, mended in January 2024.
        loses_context: profile == Profile::SpinPaper,
        ..Task::new("winogrande", source, "validation", Arc::new(read))
    }
}

fn read(row: &RawRow) -> Result<Doc, String> {
    let sentence = text(row, "sentence")?;
    let (before, after) = sentence.split_once('_').ok_or("has no blank `_` in \"sentence\"")?;
    let gold = match text(row, "answer")? {
        "1" => 0,
        "2" => 1,
        other => return Err(format!("has the answer {other:?}, which is neither \"1\" nor \"2\"")),
    };
    let contexts = vec![format!("{before}{}", text(row, "option1")?), format!("{before}{}", text(row, "option2")?)];
    Ok(Doc { question: String::new(), answer: Answer::Blank { contexts, ending: strip(after).to_owned(), gold } })
}

#[cfg(test)]
mod tests {
    use super::super::row;
    use super::*;

    #[test]
    fn the_blank_is_filled_on_the_left() {
        let json = r#"{"sentence": "Ann saw that _ was late. ", "option1": "Bea", "option2": "Cleo", "answer": "2"}"#;
        assert_eq!(read(&row(json)).unwrap().shown(), ("Ann saw that Cleo", "was late."));
        assert!(read(&row(&json.replace("\"2\"", "\"3\""))).unwrap_err().contains("neither"));
        assert!(read(&row(&json.replace('_', "-"))).unwrap_err().contains("no blank"));
    }
}
