//! `[bench]`: what is measured on the run's own held-out rows, and whether
//! those rows can serve it.
//!
//! The check needs the rows alone, so that import can make it: a run whose
//! scores cannot be had ends there, not after its last training.

use std::sync::LazyLock;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::Demonstration;
use spin_store::error::StoreError;

/// Exact match of the final number, by GSM8K's rules.
pub const GSM8K: &str = "gsm8k";
/// Exact match of the whole answer.
pub const EXACT_MATCH: &str = "exact_match";
/// Words that must be put in, left out or replaced to come from an answer to
/// the human one, by the words of the latter: with phonemes as words, the
/// phoneme error rate.
pub const WER: &str = "wer";
/// The same of characters.
pub const CER: &str = "cer";
/// Negative log-likelihood of the human answers.
pub const NLL: &str = "nll";
/// Whether the human answer is likelier than θ0's.
pub const PREFERENCE: &str = "preference";
/// By how much it is.
pub const MARGIN: &str = "margin";

/// All tasks of `bench.tasks`.
pub const TASKS: [&str; 7] = [GSM8K, EXACT_MATCH, WER, CER, NLL, PREFERENCE, MARGIN];

/// Those that look at the answers of θ0.
pub const OF_FIRST_ANSWERS: [&str; 2] = [PREFERENCE, MARGIN];

/// Those that look at answers of the model that is scored.
pub const OF_ANSWERS: [&str; 4] = [GSM8K, EXACT_MATCH, WER, CER];

/// Those that compare whole answers, as `[bench.exact_match]` leaves them.
const OF_WHOLE_ANSWERS: [&str; 3] = [EXACT_MATCH, WER, CER];

/// Characters up to which an answer counts as short: longer ones are hardly
/// ever met word for word.
const SHORT: usize = 64;

/// Rows that a message names.
const NAMED: usize = 10;

/// `[bench]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BenchConfig {
    /// What to measure: `gsm8k` (exact match of the final number, greedy and
    /// sampled), `exact_match` (of the whole answer, greedy and sampled), `wer`
    /// and `cer` (its word and character error rates), `nll`, `preference`,
    /// `margin`. Without it the test rows decide.
    pub tasks: Option<Vec<String>>,
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
    /// Rows per forward pass.
    pub batch_size: usize,
    /// Temperatures at which `nll` measures the likelihood of the human answers
    /// as well, and the probability that a sample is the human answer. A lower
    /// temperature sharpens a model without any training, so it is what
    /// training has to be better than.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("default" = Vec::<f64>::new()))]
    pub temperatures: Vec<f64>,
    /// How answers are compared by `exact_match`, `wer` and `cer`.
    #[serde(skip_serializing_if = "ExactMatch::is_default")]
    #[schemars(extend("default" = ExactMatch::default()))]
    pub exact_match: ExactMatch,
}

impl Default for BenchConfig {
    fn default() -> Self {
        BenchConfig {
            tasks: None,
            max_new_tokens: 256,
            batch_size: 64,
            temperatures: Vec::new(),
            exact_match: ExactMatch::default(),
        }
    }
}

impl BenchConfig {
    /// The same with its tasks spelled out, as it stands in a manifest, and
    /// without what has no effect on them.
    pub fn resolved(&self, tasks: &[String]) -> BenchConfig {
        let compares = tasks.iter().any(|task| OF_WHOLE_ANSWERS.contains(&task.as_str()));
        let exact_match = if compares { self.exact_match.clone() } else { ExactMatch::default() };
        let temperatures = if tasks.iter().any(|task| task == NLL) { self.temperatures.clone() } else { Vec::new() };
        BenchConfig { tasks: Some(tasks.to_vec()), exact_match, temperatures, ..self.clone() }
    }

    /// Whether any task may need generated answers: all but `nll` do, and so
    /// do all defaults.
    pub fn generates(&self) -> bool {
        self.tasks.as_ref().is_none_or(|tasks| tasks.iter().any(|task| task != NLL))
    }

    /// Values that no run could work with.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        if let Some(tasks) = &self.tasks {
            if tasks.is_empty() {
                return Err(format!(
                    "bench.tasks is empty; leave it out to have tasks that fit the data, or name some of {}",
                    TASKS.join(", ")
                ));
            }
            for (i, task) in tasks.iter().enumerate() {
                if !TASKS.contains(&task.as_str()) {
                    return Err(format!("bench.tasks has {task:?}; the tasks are {}", TASKS.join(", ")));
                }
                if tasks[..i].contains(task) {
                    return Err(format!("bench.tasks has {task:?} twice; once is enough"));
                }
            }
        }
        if self.batch_size == 0 || self.max_new_tokens == 0 {
            return Err("[bench]: batch_size and max_new_tokens must be at least 1".into());
        }
        for (i, temperature) in self.temperatures.iter().enumerate() {
            if !(temperature.is_finite() && *temperature > 0.0) {
                return Err(format!("bench.temperatures has {temperature}; a temperature is above 0"));
            }
            if self.temperatures[..i].contains(temperature) {
                return Err(format!("bench.temperatures has {temperature} twice; once is enough"));
            }
        }
        self.exact_match.compile().map(drop)
    }
}

/// `[bench.exact_match]`: what is removed from answer and reference before
/// they are compared. Keys and order are those of lm-evaluation-harness's
/// `exact_match`; the two after them complete SQuAD's normalisation, and
/// white space around a text never counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExactMatch {
    /// Patterns whose matches are removed first.
    pub regexes_to_ignore: Vec<String>,
    /// Upper and lower case are the same.
    pub ignore_case: bool,
    /// Without ASCII punctuation.
    pub ignore_punctuation: bool,
    /// Without ASCII digits.
    pub ignore_numbers: bool,
    /// Without the words `a`, `an` and `the`.
    pub ignore_articles: bool,
    /// Any run of white space is one space.
    pub ignore_whitespace: bool,
}

/// `string.punctuation` of Python.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
}

/// `str.isspace` of Python for one character.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

static ARTICLES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(a|an|the)\b").expect("a valid pattern"));

impl ExactMatch {
    fn is_default(&self) -> bool {
        *self == ExactMatch::default()
    }

    /// With its patterns compiled.
    ///
    /// # Errors
    /// Which pattern is malformed.
    pub fn compile(&self) -> Result<Normaliser, String> {
        let pattern = |source: &String| {
            Regex::new(source).map_err(|e| {
                format!("bench.exact_match.regexes_to_ignore has {source:?}: {e} (look-around is not supported)")
            })
        };
        let ignored = self.regexes_to_ignore.iter().map(pattern).collect::<Result<_, _>>()?;
        Ok(Normaliser { config: self.clone(), ignored })
    }
}

/// Brings texts into the form in which they are compared.
#[derive(Clone, Debug)]
pub struct Normaliser {
    config: ExactMatch,
    ignored: Vec<Regex>,
}

impl Normaliser {
    /// The form of a text.
    ///
    /// ```
    /// use spin_run::run::ExactMatch;
    ///
    /// let squad = ExactMatch {
    ///     ignore_case: true,
    ///     ignore_punctuation: true,
    ///     ignore_articles: true,
    ///     ignore_whitespace: true,
    ///     ..ExactMatch::default()
    /// };
    /// assert_eq!(squad.compile()?.apply(" The  Eiffel Tower. "), "eiffel tower");
    /// assert_eq!(ExactMatch::default().compile()?.apply(" The  Eiffel Tower. "), "The  Eiffel Tower.");
    /// # Ok::<(), String>(())
    /// ```
    pub fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for pattern in &self.ignored {
            text = pattern.replace_all(&text, "").into_owned();
        }
        if self.config.ignore_case {
            text = text.to_lowercase();
        }
        if self.config.ignore_punctuation {
            text.retain(|c| !is_punctuation(c));
        }
        if self.config.ignore_numbers {
            text.retain(|c| !c.is_ascii_digit());
        }
        if self.config.ignore_articles {
            text = ARTICLES.replace_all(&text, " ").into_owned();
        }
        if self.config.ignore_whitespace {
            text = text.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        }
        text.trim_matches(is_space).to_owned()
    }
}

/// What stands behind the last `####` of a GSM8K-style answer, without spaces
/// around it.
pub fn final_answer(answer: &str) -> Option<&str> {
    let (_, found) = answer.rsplit_once("####")?;
    Some(found.trim())
}

/// Whether an answer ends as GSM8K's do, in something with a digit in it:
/// nothing else can be found in a generated answer.
fn has_final_number(answer: &str) -> bool {
    final_answer(answer).is_some_and(|found| found.bytes().any(|b| b.is_ascii_digit()))
}

/// The tasks of a run whose file names none: `nll` and `preference`, and
/// before them `gsm8k` where every test row ends in `#### number`, else
/// `exact_match` where at least half of the answers are short (64 characters).
pub fn default_tasks(rows: &[Demonstration]) -> Vec<String> {
    let short = rows.iter().filter(|row| row.response.trim().chars().count() <= SHORT).count();
    let first = if rows.iter().all(|row| has_final_number(&row.response)) {
        Some(GSM8K)
    } else if 2 * short >= rows.len() {
        Some(EXACT_MATCH)
    } else {
        None
    };
    first.into_iter().chain([NLL, PREFERENCE]).map(str::to_owned).collect()
}

/// The tasks of a run on these test rows, checked; `table` names the rows in
/// messages.
///
/// # Errors
/// When rows cannot serve a task that the run file names: how many, the first
/// ten of them, and what to do.
pub fn tasks_for(config: &BenchConfig, rows: &[Demonstration], table: &str) -> Result<Vec<String>, StoreError> {
    let tasks = match &config.tasks {
        Some(tasks) => tasks.clone(),
        None => default_tasks(rows),
    };
    let normaliser = config.exact_match.compile().map_err(|problem| StoreError::run(table.as_ref(), problem))?;
    for task in &tasks {
        let (serves, problem): (&dyn Fn(&str) -> bool, _) = match task.as_str() {
            GSM8K => (&has_final_number, "have no `#### number` at the end of their answer"),
            EXACT_MATCH | WER | CER => (
                &|answer: &str| !normaliser.apply(answer).is_empty(),
                "have an answer of which bench.exact_match leaves nothing to compare",
            ),
            _ => continue,
        };
        let bad: Vec<&str> = rows.iter().filter(|row| !serves(&row.response)).map(|row| row.row_id.as_str()).collect();
        if bad.is_empty() {
            continue;
        }
        let named = bad.iter().take(NAMED).map(|id| format!("{id:?}")).collect::<Vec<_>>().join(", ");
        let more = if bad.len() > NAMED { ", ..." } else { "" };
        let remedy = match task.as_str() {
            GSM8K => "take \"gsm8k\" out of bench.tasks, or leave bench.tasks out: tasks then follow from the data",
            task => &format!("ignore less in [bench.exact_match], or take {task:?} out of bench.tasks"),
        };
        return Err(StoreError::Rows {
            table: table.into(),
            problem: format!("{} of {} rows {problem}: {named}{more}", bad.len(), rows.len()),
            remedy: remedy.into(),
        });
    }
    Ok(tasks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Message;

    fn rows(answers: &[&str]) -> Vec<Demonstration> {
        let row = |(i, answer): (usize, &&str)| Demonstration {
            row_id: format!("r{i}"),
            prompt: vec![Message::user("q")],
            response: (*answer).to_owned(),
        };
        answers.iter().enumerate().map(row).collect()
    }

    fn with(tasks: &[&str]) -> BenchConfig {
        BenchConfig { tasks: Some(tasks.iter().map(|t| (*t).to_owned()).collect()), ..BenchConfig::default() }
    }

    #[test]
    fn tasks_follow_from_the_data() {
        let long = "word ".repeat(40);
        assert_eq!(default_tasks(&rows(&["2+2=4\n#### 4", "#### -1,000"])), ["gsm8k", "nll", "preference"]);
        assert_eq!(default_tasks(&rows(&["#### 4", "Paris"])), ["exact_match", "nll", "preference"]);
        assert_eq!(default_tasks(&rows(&[&long, &long, "Paris"])), ["nll", "preference"]);
        // A mark without a number is not GSM8K's.
        assert_eq!(default_tasks(&rows(&["#### four"])), ["exact_match", "nll", "preference"]);
    }

    #[test]
    fn rows_that_cannot_serve_are_named() {
        let answers: Vec<String> = (0..14).map(|i| if i == 3 { "#### 7".into() } else { "seven".to_owned() }).collect();
        let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
        let error = tasks_for(&with(&["nll", "gsm8k"]), &rows(&answers), "demonstrations/t/test@v1").unwrap_err();
        assert!(error.is_bad_input());
        let text = error.to_string();
        assert!(text.contains("demonstrations/t/test@v1: 13 of 14 rows have no `#### number`"), "{text}");
        assert!(text.contains("\"r0\", \"r1\", \"r2\", \"r4\"") && text.contains("\"r10\", ...;"), "{text}");
        assert!(text.contains("take \"gsm8k\" out"), "{text}");
        let mut config = with(&["exact_match"]);
        assert_eq!(tasks_for(&config, &rows(&["?!"]), "t").unwrap(), ["exact_match"]);
        config.exact_match.ignore_punctuation = true;
        let text = tasks_for(&config, &rows(&["a", "?!"]), "t").unwrap_err().to_string();
        assert!(text.contains("1 of 2 rows have an answer of which") && text.contains("\"r1\""), "{text}");
    }

    /// Scores that were made before the default followed from the data keep
    /// their identity.
    #[test]
    fn a_default_spelled_out_is_the_same() {
        let all = ["gsm8k", "nll", "preference"].map(str::to_owned);
        let json = |config: &BenchConfig| crate::run::as_params(&config.resolved(&all)).to_string();
        let before = r#"{"tasks":["gsm8k","nll","preference"],"max_new_tokens":256,"batch_size":64}"#;
        assert_eq!(json(&BenchConfig::default()), before);
        let mut other = with(&["gsm8k", "nll", "preference"]);
        other.exact_match.ignore_case = true;
        assert_eq!(json(&other), before);
        // What has no effect is in no identity.
        let cool = BenchConfig { temperatures: vec![0.9], ..with(&["gsm8k"]) };
        assert!(cool.resolved(&["gsm8k".to_owned()]).temperatures.is_empty());
        assert_eq!(cool.resolved(&["nll".to_owned()]).temperatures, [0.9]);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        assert!(with(&[]).check().unwrap_err().contains("is empty"));
        assert!(
            with(&["gsm8", "nll"]).check().unwrap_err().contains("the tasks are gsm8k, exact_match, wer, cer, nll")
        );
        assert!(with(&["nll", "nll"]).check().unwrap_err().contains("twice"));
        let mut config = with(&["exact_match"]);
        config.exact_match.regexes_to_ignore = vec!["(?<=a)b".into()];
        assert!(config.check().unwrap_err().contains("look-around"));
        for (temperatures, problem) in [(vec![0.0], "above 0"), (vec![f64::NAN], "above 0"), (vec![0.5, 0.5], "twice")]
        {
            let config = BenchConfig { temperatures, ..with(&["nll"]) };
            assert!(config.check().unwrap_err().contains(problem));
        }
        assert!(
            !with(&["nll"]).generates() && with(&["exact_match"]).generates() && BenchConfig::default().generates()
        );
    }

    // Expected values: lm_eval 0.4.13, exact_match_hf_evaluate, whose texts are
    // stripped here besides.
    #[test]
    fn normalises_like_the_harness() {
        let apply = |config: ExactMatch, text: &str| config.compile().unwrap().apply(text);
        let all = ExactMatch {
            regexes_to_ignore: vec!["Answer: ".into(), r"\$".into()],
            ignore_case: true,
            ignore_punctuation: true,
            ignore_numbers: true,
            ..ExactMatch::default()
        };
        assert_eq!(apply(all, "Answer: It's $1,250 – OK_2!"), "its  – ok");
        let case = ExactMatch { ignore_case: true, ..ExactMatch::default() };
        assert_eq!(apply(case, "ΟΔΟΣ İ"), "οδος i\u{307}");
        let articles = ExactMatch { ignore_articles: true, ignore_whitespace: true, ..ExactMatch::default() };
        assert_eq!(apply(articles, "the cat\u{a0}and\n an answer, a"), "cat and answer,");
    }
}
