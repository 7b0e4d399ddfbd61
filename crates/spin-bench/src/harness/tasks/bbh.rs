//! BIG-Bench Hard (Suzgun et al. 2022), 3-shot with chains of thought: the
//! answer behind "the answer is" must equal the target.

use std::path::Path;
use std::sync::Arc;

use super::text;
use crate::error::Result;
use crate::fetch::BBH;
use crate::harness::filter::{Extract, Normalise};
use crate::harness::{Answer, Doc, Examples, Generation, Metric, Profile, RawRow, Task};
use crate::harness::{Source, dataset};

/// The repository that tasks and examples are from.
const REPO: &str = "suzgunmirac/BIG-Bench-Hard";

/// The names of the 27 tasks.
pub fn names() -> impl Iterator<Item = &'static str> {
    BBH.iter().map(|(name, _)| *name)
}

const QUESTION: &str = "Q: ";
const COT: &str = "\nA: Let's think step by step.\n";

/// A task, whose examples are in a file beside its data.
///
/// # Errors
/// When that file is missing or of another form.
pub fn task(name: &str, profile: Profile, data: &Path) -> Result<Task> {
    let source = Source::new(REPO, &format!("bbh/{name}.json"), &format!("bbh/{name}.json"));
    let fetched = data.join(REPO).join(format!("cot-prompts/{name}.txt"));
    let path = if fetched.exists() { fetched } else { data.join(format!("bbh/cot-prompts/{name}.txt")) };
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
