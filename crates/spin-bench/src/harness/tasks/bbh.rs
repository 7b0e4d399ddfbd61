//! BIG-Bench Hard (Suzgun et al. 2022), 3-shot with chains of thought: the
//! answer behind "the answer is" must equal the target.

use std::path::Path;
use std::sync::Arc;

use super::text;
use crate::error::Result;
use crate::harness::dataset::{self, Source};
use crate::harness::filter::{Extract, Normalise};
use crate::harness::{Answer, Doc, Examples, Generation, Metric, Profile, RawRow, Task};

/// The 27 tasks.
pub const TASKS: [&str; 27] = [
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
];

const QUESTION: &str = "Q: ";
const COT: &str = "\nA: Let's think step by step.\n";

/// A task, whose examples are in a file beside its data.
///
/// # Errors
/// When that file is missing or of another form.
pub fn task(name: &str, profile: Profile, data: &Path) -> Result<Task> {
    let source =
        Source::new("lukaemon/bbh", &format!("{name}/{{split}}-00000-of-00001.parquet"), &format!("bbh/{name}.json"));
    let path = data.join(format!("bbh/cot-prompts/{name}.txt"));
    let prompts = dataset::read_text(&path)?;
    let (description, examples) = examples(&prompts).ok_or_else(|| {
        dataset::bad_file(&path, "is not `-----`, a description and questions with \"Let's think step by step.\"")
    })?;
    Ok(Task {
        version: "4.0".into(),
        num_fewshot: examples.len(),
        examples: Examples::Given(examples),
        description,
        target_delimiter: String::new(),
        strips_newline: profile == Profile::SpinPaper,
        metrics: vec![Metric::ExactMatch],
        generation: Some(Generation {
            until: ["</s>", "Q", "\n\n"].map(str::to_owned).to_vec(),
            max_gen_toks: 1024,
            filters: vec![("get-answer".into(), Extract::AnswerIs)],
            normalise: Normalise::Nothing,
        }),
        ..Task::new(format!("bbh_cot_fewshot_{name}"), source, "test", Arc::new(read))
    })
}

fn read(row: &RawRow) -> Result<Doc, String> {
    let question = format!("{QUESTION}{}{COT}", text(row, "input")?);
    Ok(Doc { question, answer: Answer::Text(text(row, "target")?.to_owned()) })
}

/// Description and examples of a prompt file.
fn examples(prompts: &str) -> Option<(String, Vec<Doc>)> {
    let (_, text) = prompts.split_once("-----\n")?;
    let (description, shots) = text.split_once("\n\nQ: ")?;
    let shots: Option<Vec<Doc>> = shots
        .trim_end()
        .split("\n\nQ: ")
        .map(|shot| {
            // One of the files has a space for the line break; the harness
            // does not.
            let (input, answer) = shot.split_once("\nA: Let's think step by step.")?;
            let answer = answer.strip_prefix(['\n', ' '])?;
            Some(Doc { question: format!("{QUESTION}{input}{COT}"), answer: Answer::Text(answer.to_owned()) })
        })
        .collect();
    Some((format!("{description}\n\n"), shots?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_taken_apart() {
        let file = "canary\n-----\nJudge.\n\nQ: a\nOptions: b\nA: Let's think step by step.\nBecause. So the answer is b.\n\n\
                    Q: c\nA: Let's think step by step. So the answer is d.\n";
        let (description, docs) = examples(file).unwrap();
        assert_eq!(description, "Judge.\n\n");
        let shown: Vec<_> = docs.iter().map(Doc::shown).collect();
        assert_eq!(
            shown,
            [
                ("Q: a\nOptions: b\nA: Let's think step by step.\n", "Because. So the answer is b."),
                ("Q: c\nA: Let's think step by step.\n", "So the answer is d."),
            ]
        );
        assert!(examples("no rule").is_none());
    }
}
