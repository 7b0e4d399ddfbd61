//! GSM8K (Cobbe et al. 2021): word problems, 5-shot, the generated number must
//! equal the right one.

use std::sync::Arc;

use super::text;
use crate::harness::Source;
use crate::harness::filter::{Extract, Normalise};
use crate::harness::{Answer, Doc, Generation, Metric, Profile, RawRow, Task};

/// The task.
pub fn gsm8k(profile: Profile) -> Task {
    let source = Source::new("openai/gsm8k", "main/{split}-00000-of-00001.parquet", "gsm8k/{split}.jsonl");
    let until: &[&str] = match profile {
        // A colon cuts the answer short; that is how the leaderboard scored.
        Profile::LeaderboardV1 => &[":", "Question:", "Question"],
        Profile::SpinPaper => &["\n\n", "Question:"],
        Profile::Current => &["Question:", "</s>", "<|im_end|>"],
    };
    let mut filters = vec![("strict-match".to_owned(), Extract::Strict)];
    if profile == Profile::Current {
        filters.push(("flexible-extract".to_owned(), Extract::Flexible));
    }
    if profile != Profile::Current {
        filters[0].0 = if profile == Profile::SpinPaper { "get-answer" } else { "none" }.into();
    }
    Task {
        version: "3.0".into(),
        num_fewshot: 5,
        fewshot_split: Some("train".into()),
        metrics: vec![Metric::ExactMatch],
        generation: Some(Generation {
            until: until.iter().map(|text| (*text).to_owned()).collect(),
            max_gen_toks: 256,
            filters,
            normalise: match profile {
                Profile::Current => Normalise::Gsm8k,
                _ => Normalise::Gsm8kKeepPeriod,
            },
        }),
        ..Task::new("gsm8k", source, "test", Arc::new(read))
    }
}

fn read(row: &RawRow) -> Result<Doc, String> {
    let question = format!("Question: {}\nAnswer:", text(row, "question")?);
    let answer = text(row, "answer")?;
    if !answer.contains("#### ") {
        return Err("has an \"answer\" without `#### number`".into());
    }
    Ok(Doc { question, answer: Answer::Text(answer.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::super::row;
    use super::*;

    #[test]
    fn shots_show_the_whole_solution() {
        let doc = read(&row(r#"{"question": "1+1?", "answer": "<<1+1=2>>2\n#### 2"}"#)).unwrap();
        assert_eq!(doc.shown(), ("Question: 1+1?\nAnswer:", "<<1+1=2>>2\n#### 2"));
        assert!(read(&row(r#"{"question": "1+1?", "answer": "2"}"#)).is_err());
    }
}
