//! MMLU (Hendrycks et al. 2021): exams of 57 subjects, 5-shot with the first
//! five of each subject's `dev` split, `acc` on the letters.

use std::sync::Arc;

use serde_json::Value;

use super::{gold, text, texts};
use crate::harness::dataset::Source;
use crate::harness::text::strip;
use crate::harness::{Answer, Doc, Examples, RawRow, Task};

/// The subjects by category, as the harness groups them.
pub const SUBJECTS: [(&str, &[&str]); 4] = [
    (
        "stem",
        &[
            "abstract_algebra",
            "anatomy",
            "astronomy",
            "college_biology",
            "college_chemistry",
            "college_computer_science",
            "college_mathematics",
            "college_physics",
            "computer_security",
            "conceptual_physics",
            "electrical_engineering",
            "elementary_mathematics",
            "high_school_biology",
            "high_school_chemistry",
            "high_school_computer_science",
            "high_school_mathematics",
            "high_school_physics",
            "high_school_statistics",
            "machine_learning",
        ],
    ),
    (
        "other",
        &[
            "business_ethics",
            "clinical_knowledge",
            "college_medicine",
            "global_facts",
            "human_aging",
            "management",
            "marketing",
            "medical_genetics",
            "miscellaneous",
            "nutrition",
            "professional_accounting",
            "professional_medicine",
            "virology",
        ],
    ),
    (
        "social_sciences",
        &[
            "econometrics",
            "high_school_geography",
            "high_school_government_and_politics",
            "high_school_macroeconomics",
            "high_school_microeconomics",
            "high_school_psychology",
            "human_sexuality",
            "professional_psychology",
            "public_relations",
            "security_studies",
            "sociology",
            "us_foreign_policy",
        ],
    ),
    (
        "humanities",
        &[
            "formal_logic",
            "high_school_european_history",
            "high_school_us_history",
            "high_school_world_history",
            "international_law",
            "jurisprudence",
            "logical_fallacies",
            "moral_disputes",
            "moral_scenarios",
            "philosophy",
            "prehistory",
            "professional_law",
            "world_religions",
        ],
    ),
];

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
    use super::super::row;
    use super::*;

    #[test]
    fn letters_are_scored() {
        let json = r#"{"question": " Q? ", "choices": ["w", "x", "", "z "], "answer": 3}"#;
        assert_eq!(read(&row(json)).unwrap().shown(), ("Q?\nA. w\nB. x\nC. \nD. z \nAnswer:", "D"));
        assert!(read(&row(&json.replace('3', "4"))).unwrap_err().contains("the answer 4"));
        assert_eq!(SUBJECTS.iter().map(|(_, subjects)| subjects.len()).sum::<usize>(), 57);
    }
}
