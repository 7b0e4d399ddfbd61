//! What each model answered, for a few rows: a score is made of answers, and
//! people believe answers.

use std::collections::HashMap;

use spin_run::graph::{Decoding, Graph, ModelId, Split};
use spin_run::run::{EXACT_MATCH, GSM8K};
use spin_run::schema::{Demonstration, Row as _, ScoreRow};

use super::{Line, Table};
use crate::error::{ReportError, Result};
use crate::grid;
use crate::names::{STRICT, WHOLE, exact_match_metric};

/// How a row fared from the first model of a run to the last round's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Learnt,
    Lost,
    StillWrong,
}

impl Fate {
    /// In the order in which rows are shown; what was right throughout tells
    /// nothing.
    const ALL: [Fate; 3] = [Fate::Learnt, Fate::Lost, Fate::StillWrong];

    fn of(first: bool, last: bool) -> Option<Fate> {
        match (first, last) {
            (false, true) => Some(Fate::Learnt),
            (true, false) => Some(Fate::Lost),
            (false, false) => Some(Fate::StillWrong),
            (true, true) => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Fate::Learnt => "wrong at first, right in the end",
            Fate::Lost => "right at first, wrong in the end",
            Fate::StillWrong => "wrong throughout, or at both ends",
        }
    }
}

/// A line's judged answers by row.
fn answers(line: &Line, decoding: Decoding) -> HashMap<&str, &ScoreRow> {
    let metrics = [(EXACT_MATCH, exact_match_metric(WHOLE, decoding)), (GSM8K, exact_match_metric(STRICT, decoding))];
    let judged = |row: &&ScoreRow| metrics.iter().any(|(task, metric)| row.task == *task && row.metric == *metric);
    line.rows.iter().filter(judged).map(|row| (row.row_id.as_str(), row)).collect()
}

/// One line of text, however an answer is made.
fn one_line(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(visible).collect::<String>().trim().to_owned()
}

impl Table {
    /// What every model answered to a few rows: `each` that the last round has
    /// learnt, as many that it has lost, and as many that are still wrong, the
    /// first in the table's order.
    ///
    /// # Errors
    /// When no task of the run judges answers, or the rows are not in the store.
    pub fn answers(&self, graph: &Graph<'_>, decoding: Decoding, each: usize) -> Result<String> {
        let rows = Demonstration::read_all(&graph.demonstrations(Split::Test)?)?;
        let prompts: Vec<(&str, String, String)> = rows
            .iter()
            .map(|row| {
                let prompt = row.prompt.last().map_or_else(String::new, |message| one_line(&message.content));
                (row.row_id.as_str(), prompt, one_line(&row.response))
            })
            .collect();
        self.answers_to(&prompts, decoding, each)
    }

    fn answers_to(&self, rows: &[(&str, String, String)], decoding: Decoding, each: usize) -> Result<String> {
        let all: Vec<(String, HashMap<&str, &ScoreRow>)> =
            self.lines.iter().map(|line| (line.model.to_string(), answers(line, decoding))).collect();
        let rounds = self.lines.iter().take_while(|line| matches!(line.model, ModelId::Iteration(_))).count();
        let (first, last) = match (all.first(), all.get(rounds.saturating_sub(1))) {
            (Some((_, first)), Some((_, last))) if !first.is_empty() => (first, last),
            _ => {
                return Err(ReportError::Compare(format!(
                    "run {} has no task that judges whole answers; add \"exact_match\" to bench.tasks",
                    self.run
                )));
            }
        };
        let fate = |id: &str| Fate::of(first.get(id)?.value == 1.0, last.get(id)?.value == 1.0);
        let mut out = String::new();
        for wanted in Fate::ALL {
            for (id, prompt, human) in rows.iter().filter(|(id, ..)| fate(id) == Some(wanted)).take(each) {
                out.push_str(&format!("{prompt}  ({})\n", wanted.name()));
                let mut cells = vec![vec!["  human".into(), human.clone(), String::new()]];
                cells.extend(all.iter().filter_map(|(model, answers)| {
                    let row = answers.get(*id)?;
                    let answer = row.prediction.as_deref().map_or_else(|| "no answer".into(), one_line);
                    let judged = if row.value == 1.0 { "right" } else { "wrong" };
                    Some(vec![format!("  {model}"), answer, judged.to_owned()])
                }));
                out.push_str(&grid::columns(&cells, "  "));
                out.push('\n');
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(model: ModelId, answers: &[(&str, &str, bool)]) -> Line {
        let row = |&(id, answer, right): &(&str, &str, bool)| ScoreRow {
            task: EXACT_MATCH.into(),
            metric: exact_match_metric(WHOLE, Decoding::Greedy),
            row_id: id.into(),
            value: f64::from(u8::from(right)),
            weight: 1.0,
            prediction: Some(answer.into()),
            target: None,
        };
        Line { model, scores: String::new(), content: String::new(), rows: answers.iter().map(row).collect() }
    }

    #[test]
    fn one_row_of_each_fate_is_shown() {
        let lines = vec![
            line(ModelId::Iteration(0), &[("a", "X", true), ("b", "Y", false), ("c", "Z", false), ("d", "W", true)]),
            line(ModelId::Iteration(1), &[("a", "X", true), ("b", "B", true), ("c", "Q\n", false), ("d", "V", false)]),
            line(ModelId::Baseline("sft".into()), &[("b", "B", true)]),
        ];
        let table = Table { run: "r".into(), seed: 1, lines, missing: Vec::new() };
        let rows = ["a", "b", "c", "d"].map(|id| (id, format!("say {id}"), id.to_uppercase()));
        let text = table.answers_to(&rows, Decoding::Greedy, 1).unwrap();
        let expected = "say b  (wrong at first, right in the end)\n  human   B\n  iter-0  Y  wrong\n  iter-1  B  right\n  \
                        sft     B  right\n\nsay d  (right at first, wrong in the end)\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("say c") && text.contains("  iter-1  Q  wrong\n") && !text.contains("say a"), "{text}");
        let error = table.answers_to(&rows, Decoding::Sampled, 1).unwrap_err().to_string();
        assert!(error.contains("add \"exact_match\" to bench.tasks"), "{error}");
    }
}
