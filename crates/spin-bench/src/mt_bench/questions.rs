//! The files of MT-Bench.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use spin_store::{StoreError, digest};

use super::prompts::{JudgePrompt, Prompts};
use super::question::{Question, needs_reference};

/// A model's two answers to each question, by the question's number.
pub type Answers = BTreeMap<u32, [String; 2]>;

/// The data of MT-Bench.
#[derive(Clone, Debug)]
pub struct MtBench {
    /// The questions, in the order of their file.
    pub questions: Vec<Question>,
    /// The judge's prompts.
    pub prompts: Prompts,
    /// The files they are from: name and digest of the bytes that were read.
    pub files: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct QuestionLine {
    question_id: u32,
    category: String,
    turns: Vec<String>,
}

#[derive(Deserialize)]
struct AnswerLine {
    question_id: u32,
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    turns: Vec<String>,
}

impl MtBench {
    /// Reads a directory with `question.jsonl`, `judge_prompts.jsonl` and
    /// `reference_answer_gpt-4.jsonl`, or one laid out as
    /// `fastchat/llm_judge/data` of FastChat's repository.
    ///
    /// # Errors
    /// A missing file, and with file and row: no JSON, a missing field, a
    /// number that stands twice, not two turns, no reference where the judge
    /// needs one, a template that cannot be filled.
    pub fn read(dir: &Path) -> Result<MtBench, StoreError> {
        let prompts = TextFile::find(dir, &["judge_prompts.jsonl"])?;
        let references =
            TextFile::find(dir, &["reference_answer_gpt-4.jsonl", "mt_bench/reference_answer/gpt-4.jsonl"])?;
        let questions = TextFile::find(dir, &["question.jsonl", "mt_bench/question.jsonl"])?;
        let files = [(&questions, "question.jsonl"), (&prompts, "judge_prompts.jsonl"), (&references, "gpt-4.jsonl")];
        Ok(MtBench {
            files: files.map(|(file, name)| (name.to_owned(), digest::of_bytes(file.text.as_bytes()))).to_vec(),
            questions: read_questions(&questions, read_answers(&references)?, &references.path)?,
            prompts: read_prompts(&prompts)?,
        })
    }
}

/// A file that is read once, for what it says and for its digest.
struct TextFile {
    path: PathBuf,
    text: String,
}

impl TextFile {
    /// The first of the names that exists below `dir`.
    fn find(dir: &Path, names: &[&str]) -> Result<TextFile, StoreError> {
        let path = find(dir, names)?;
        let text = std::fs::read_to_string(&path).map_err(StoreError::io("read", &path))?;
        Ok(TextFile { path, text })
    }
}

/// The first of the names that exists below `dir`.
fn find(dir: &Path, names: &[&str]) -> Result<PathBuf, StoreError> {
    let found = names.iter().map(|name| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let remedy =
            "give the directory with MT-Bench's files: a copy of fastchat/llm_judge/data of lm-sys/FastChat will do";
        StoreError::corrupt(dir, format!("has no {}", names.join(" or ")), remedy)
    })
}

/// The lines of a file with their numbers, from 1; blank ones left out.
fn lines<T: DeserializeOwned>(file: &TextFile) -> Result<Vec<(usize, T)>, StoreError> {
    let TextFile { path, text } = file;
    let mut out = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row = serde_json::from_str(line)
            .map_err(|e| bad(path, index + 1, format!("is not what MT-Bench has there ({e})")))?;
        out.push((index + 1, row));
    }
    if out.is_empty() {
        return Err(StoreError::corrupt(path, "has no rows", "copy the file again"));
    }
    Ok(out)
}

fn bad(path: &Path, row: usize, problem: impl Into<String>) -> StoreError {
    StoreError::row(path, row, problem, "correct the row, or copy the file again from lm-sys/FastChat")
}

fn two(path: &Path, row: usize, turns: Vec<String>) -> Result<[String; 2], StoreError> {
    turns.try_into().map_err(|t: Vec<String>| bad(path, row, format!("has {} turns, not 2", t.len())))
}

fn read_prompts(file: &TextFile) -> Result<Prompts, StoreError> {
    let path = &file.path;
    let mut prompts: HashMap<String, (usize, JudgePrompt)> = HashMap::new();
    for (row, prompt) in lines::<JudgePrompt>(file)? {
        if let Some((earlier, _)) = prompts.get(&prompt.name) {
            return Err(bad(path, row, format!("the prompt {:?} already stands in row {earlier}", prompt.name)));
        }
        prompts.insert(prompt.name.clone(), (row, prompt));
    }
    let mut take = |name: &str| {
        let (row, prompt) = prompts.remove(name).ok_or_else(|| {
            StoreError::corrupt(path, format!("has no prompt {name:?}"), "copy the file again from lm-sys/FastChat")
        })?;
        prompt.check().map_err(|problem| bad(path, row, problem))?;
        Ok(prompt)
    };
    Prompts::new(&mut take)
}

/// Answers in FastChat's layout, e.g. the reference answers.
fn read_answers(file: &TextFile) -> Result<Answers, StoreError> {
    let path = &file.path;
    let mut answers = Answers::new();
    for (row, line) in lines::<AnswerLine>(file)? {
        let first = line.choices.into_iter().next().ok_or_else(|| bad(path, row, "has no choices"))?;
        if answers.insert(line.question_id, two(path, row, first.turns)?).is_some() {
            return Err(bad(path, row, format!("question {} is answered twice", line.question_id)));
        }
    }
    Ok(answers)
}

fn read_questions(
    file: &TextFile,
    mut references: Answers,
    reference_file: &Path,
) -> Result<Vec<Question>, StoreError> {
    let path = &file.path;
    let mut rows: HashMap<u32, usize> = HashMap::new();
    let mut questions = Vec::new();
    for (row, QuestionLine { question_id, category, turns }) in lines(file)? {
        if let Some(earlier) = rows.insert(question_id, row) {
            return Err(bad(path, row, format!("question {question_id} already stands in row {earlier}")));
        }
        let turns = two(path, row, turns)?;
        let reference = references.remove(&question_id);
        if reference.is_none() && needs_reference(&category) {
            let problem = format!(
                "question {question_id} is of category {category:?}, which is judged by a reference answer, and {} has none",
                reference_file.display()
            );
            return Err(bad(path, row, problem));
        }
        questions.push(Question { question_id, category, turns, reference });
    }
    Ok(questions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mt_bench::testing::{self, data_dir};

    #[test]
    fn reads_both_layouts() {
        let dir = tempfile::tempdir().unwrap();
        testing::write_data(dir.path());
        let flat = MtBench::read(dir.path()).unwrap();
        assert_eq!(flat.questions.len(), 3);
        assert_eq!(flat.questions[1].reference.as_ref().unwrap()[1], "42 {again}");

        let cloned = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(cloned.path().join("mt_bench/reference_answer")).unwrap();
        for (from, to) in [
            ("judge_prompts.jsonl", "judge_prompts.jsonl"),
            ("question.jsonl", "mt_bench/question.jsonl"),
            ("reference_answer_gpt-4.jsonl", "mt_bench/reference_answer/gpt-4.jsonl"),
        ] {
            std::fs::copy(dir.path().join(from), cloned.path().join(to)).unwrap();
        }
        let cloned = MtBench::read(cloned.path()).unwrap();
        assert_eq!((cloned.questions, &cloned.files), (flat.questions, &flat.files));
        let text = std::fs::read(dir.path().join("question.jsonl")).unwrap();
        assert_eq!(flat.files[0], ("question.jsonl".to_owned(), digest::of_bytes(&text)));
    }

    #[test]
    #[ignore = "needs SPIN_TEST_DATA"]
    fn the_published_data_is_accepted() {
        let dir = data_dir();
        let data = MtBench::read(&dir).unwrap();
        assert_eq!(data.questions.len(), 80);
        assert_eq!(data.questions.iter().filter(|q| needs_reference(&q.category)).count(), 30);
        let ids: Vec<u32> = data.questions.iter().map(|q| q.question_id).collect();
        assert_eq!(ids, (81..=160).collect::<Vec<_>>());
        let mut temperatures: Vec<f64> = data.questions.iter().map(Question::temperature).collect();
        temperatures.sort_by(f64::total_cmp);
        assert_eq!((temperatures[39], temperatures[40], temperatures[60]), (0.0, 0.1, 0.7));
    }

    /// The error after one file of good data was changed.
    fn error_of(file: &str, from: &str, to: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        testing::write_data(dir.path());
        let path = dir.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        MtBench::read(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn bad_rows_are_named() {
        let (question, prompts, reference) = ("question.jsonl", "judge_prompts.jsonl", "reference_answer_gpt-4.jsonl");
        let cases = [
            (question, r#""category": "math","#, "", "question.jsonl, row 2", "missing field `category`"),
            (question, r#""question_id": 3"#, r#""question_id": 1"#, "row 4", "question 1 already stands in row 1"),
            (question, r#", "more?""#, "", "row 1", "has 1 turns, not 2"),
            (question, "{", "[", "row 1", "is not what MT-Bench has there"),
            (reference, r#""question_id": 2"#, r#""question_id": 9"#, "question.jsonl, row 2", "by a reference answer"),
            (reference, r#"[{"index""#, r#"[], "x": [{"index""#, "gpt-4.jsonl, row 1", "has no choices"),
            (prompts, r#""single-v1""#, r#""single-v2""#, "judge_prompts.jsonl", "has no prompt \"single-v1\""),
            (prompts, "{question}", "{quest}", "row 1", "{quest}"),
            (prompts, "{question}", "{question", "row 1", "template"),
            (prompts, r#""[[rating]]""#, r#""[[A]]""#, "row 1", "output_format"),
        ];
        for (file, from, to, place, problem) in cases {
            let error = error_of(file, from, to);
            assert!(error.contains(place) && error.contains(problem), "{error}");
        }
        let error = MtBench::read(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/nowhere: has no judge_prompts.jsonl; give the directory"), "{error}");
    }
}
