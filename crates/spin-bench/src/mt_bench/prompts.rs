//! The judge's prompts: filled as `gen_judgment.py` of FastChat fills them.

use serde::Deserialize;
use spin_run::schema::Message;

use super::question::{Question, needs_reference};

/// A line of `judge_prompts.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct JudgePrompt {
    /// For example `single-v1`.
    pub name: String,
    /// `single` or `pairwise`.
    #[serde(rename = "type")]
    pub mode: String,
    /// The system message.
    pub system_prompt: String,
    /// The user message, with placeholders of Python's `str.format`.
    pub prompt_template: String,
    /// How the verdict is written, `[[rating]]` for single-answer grading.
    pub output_format: String,
}

/// The four prompts of single-answer grading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompts {
    /// By whether it shows a reference, then by turn.
    by_use: [[JudgePrompt; 2]; 2],
}

/// What is sent to the judge for one turn of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The question's number.
    pub question_id: u32,
    /// Its category.
    pub category: String,
    /// 1 or 2.
    pub turn: u32,
    /// The prompt's name.
    pub prompt_name: String,
    /// The system message.
    pub system: String,
    /// The user message.
    pub user_prompt: String,
}

impl Request {
    /// As a conversation.
    pub fn messages(&self) -> [Message; 2] {
        [Message::system(&self.system), Message::user(&self.user_prompt)]
    }
}

const SINGLE: [[&str; 2]; 2] = [["single-v1", "single-v1-multi-turn"], ["single-math-v1", "single-math-v1-multi-turn"]];

fn pair(texts: &[String; 2]) -> [&str; 2] {
    [&texts[0], &texts[1]]
}

/// The values by the names that the templates of a use may hold.
fn values<'a>(turn: u32, turns: [&'a str; 2], answers: [&'a str; 2], references: Option<[&'a str; 2]>) -> Values<'a> {
    let mut out = match turn {
        1 => vec![("question", turns[0]), ("answer", answers[0])],
        _ => {
            vec![("question_1", turns[0]), ("question_2", turns[1]), ("answer_1", answers[0]), ("answer_2", answers[1])]
        }
    };
    if let Some([first, second]) = references {
        out.extend([("ref_answer_1", first), ("ref_answer_2", second)]);
    }
    out
}

type Values<'a> = Vec<(&'static str, &'a str)>;

impl JudgePrompt {
    /// Whether it can be used for its name's purpose.
    pub(super) fn check(&self) -> Result<(), String> {
        let place = |row: &[&str; 2]| row.iter().position(|name| *name == self.name);
        let Some((math, turn)) = SINGLE.iter().enumerate().find_map(|(math, row)| Some((math, place(row)?))) else {
            return Err(format!("prompt {:?} is not one of single-answer grading", self.name));
        };
        if self.mode != "single" || self.output_format != "[[rating]]" {
            return Err(format!(
                "prompt {:?} has type {:?} and output_format {:?}, expected \"single\" and \"[[rating]]\"",
                self.name, self.mode, self.output_format
            ));
        }
        let references = (math == 1).then_some([""; 2]);
        let values = values(turn as u32 + 1, [""; 2], [""; 2], references);
        match format(&self.prompt_template, &values) {
            Ok(_) => Ok(()),
            Err(problem) => Err(format!("the template of prompt {:?} {problem}", self.name)),
        }
    }
}

impl Prompts {
    /// Takes the four prompts by their names; `take` has checked them.
    pub(super) fn new<E>(take: &mut dyn FnMut(&str) -> Result<JudgePrompt, E>) -> Result<Prompts, E> {
        let [[single, single_multi], [math, math_multi]] = SINGLE;
        Ok(Prompts { by_use: [[take(single)?, take(single_multi)?], [take(math)?, take(math_multi)?]] })
    }

    /// The request to judge one turn (1 or 2) of the answers to a question.
    /// Turn 1 shows the first answer alone, turn 2 the whole conversation.
    ///
    /// # Panics
    /// If the turn is neither 1 nor 2, or a question whose category needs a
    /// reference has none; [`MtBench::read`](super::MtBench::read) makes none
    /// such.
    pub fn request(&self, question: &Question, answers: &[String; 2], turn: u32) -> Request {
        assert!((1..=2).contains(&turn), "a question has two turns");
        let math = needs_reference(&question.category);
        let prompt = &self.by_use[usize::from(math)][turn as usize - 1];
        let references = math.then(|| question.reference.as_ref().expect("checked when the questions were read"));
        let values = values(turn, pair(&question.turns), pair(answers), references.map(pair));
        Request {
            question_id: question.question_id,
            category: question.category.clone(),
            turn,
            prompt_name: prompt.name.clone(),
            system: prompt.system_prompt.clone(),
            user_prompt: format(&prompt.prompt_template, &values).expect("checked when the prompts were read"),
        }
    }
}

/// Fills a template as Python's `str.format` does with these keyword
/// arguments: `{name}` is replaced, `{{` and `}}` stand for braces, and what
/// is inserted is not looked at again. Its other forms (`{}`, `{0}`, `{a.b}`,
/// `{a!r}`, `{a:>3}`) are refused.
///
/// # Errors
/// What is wrong with the template, to follow its name in a sentence.
pub fn format(template: &str, values: &[(&str, &str)]) -> Result<String, String> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
        } else if brace == "}" {
            return Err("has a single '}'".into());
        } else {
            let end = rest.find('}').ok_or("has a '{' that is not closed")?;
            let name = &rest[..end];
            let Some((_, value)) = values.iter().find(|(known, _)| *known == name) else {
                let known: Vec<&str> = values.iter().map(|(known, _)| *known).collect();
                return Err(format!("holds {{{name}}}, which is none of {}", known.join(", ")));
            };
            out.push_str(value);
            rest = &rest[end + 1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::mt_bench::MtBench;
    use crate::mt_bench::testing::data_dir;

    #[test]
    fn formats_like_python() {
        // Expected values: str.format of Python 3.11.
        let values = [("a", "1"), ("b_2", "{a} }} {")];
        for (template, expected) in [
            ("{a}{b_2}{a}", "1{a} }} {1"),
            ("{{a}} {{{a}}}", "{a} {1}"),
            ("}}{{", "}{"),
            ("é{a}ü", "é1ü"),
            ("", ""),
            ("{{}}", "{}"),
        ] {
            assert_eq!(format(template, &values).as_deref(), Ok(expected), "{template}");
        }
        for template in ["{", "}", "{a", "a}", "{c}", "{}", "{0}", "{a!r}", "{a:>3}", "{a.b}", "{ a }", "{{a}"] {
            assert!(format(template, &values).is_err(), "{template}");
        }
    }

    /// Answers that a careless formatter would trip over.
    /// `tests/golden/make_mt_bench_golden.py` has the same.
    fn fake_answers(id: u32) -> [String; 2] {
        [
            format!("Answer one to {id}: {{question}} {{{{x}}}} \u{e9}\u{1f600}\n[[3]]"),
            format!("  Answer two to {id}, {{ref_answer_1}} }} {{\n\n"),
        ]
    }

    #[test]
    #[ignore = "needs SPIN_TEST_DATA"]
    fn prompts_equal_pythons() {
        let dir = data_dir();
        let data = MtBench::read(&dir).unwrap();
        let golden: BTreeMap<String, String> =
            serde_json::from_str(include_str!("../../../../tests/golden/mt_bench.json")).unwrap();
        assert_eq!(golden.len(), 160);
        for question in &data.questions {
            for turn in [1, 2] {
                let request = data.prompts.request(question, &fake_answers(question.question_id), turn);
                let text = format!("{}\n{}\n{}", request.prompt_name, request.system, request.user_prompt);
                let digest = Sha256::digest(text.as_bytes());
                let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                let key = format!("{}-{turn}", question.question_id);
                assert_eq!(digest, golden[&key], "question {key}: {text}");
            }
        }
    }
}
