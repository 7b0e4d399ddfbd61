//! Sums of a run's scores, and what is said of each beside θ0's.

use std::collections::{BTreeSet, HashMap};

use spin_run::graph::Decoding;
use spin_run::run::{CER, EXACT_MATCH, GSM8K, MARGIN, NLL, PREFERENCE, WER};
use spin_run::schema::ScoreRow;

use crate::names::{
    EXPECTED_MATCH, FLEXIBLE, LOGP_MARGIN, NLL_PER_TOKEN, PREFERS_REAL, STRICT, WHOLE, error_rate_metric,
    exact_match_metric, lower_is_better, temperature_of,
};
use crate::stats::{self, Estimate, Weighted};
use crate::verdict::{Judged, PairedRow, Tested, judge};

/// A metric of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// The task.
    pub task: String,
    /// The metric.
    pub metric: String,
    /// For people.
    pub title: String,
    /// Whether less is better.
    pub lower_is_better: bool,
    /// Whether it belongs in the first table and gets a chart.
    pub is_headline: bool,
}

impl Measure {
    /// The temperature that the metric's name has, if any.
    pub fn temperature(&self) -> Option<f64> {
        temperature_of(&self.metric)
    }

    /// Whether its values are right or wrong, so that rows can be shown by it.
    pub fn is_right_or_wrong(&self) -> bool {
        [GSM8K, EXACT_MATCH].contains(&self.task.as_str())
    }
}

/// The sums of a run: a row for each model, a column for each measure.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// Columns.
    pub measures: Vec<Measure>,
    /// Sums, by model and measure.
    pub cells: Vec<Vec<Option<Estimate>>>,
    /// Differences to the first model, judged together column by column.
    pub judged: Vec<Vec<Option<Judged>>>,
}

impl Board {
    /// Sums up models, the first of which the others are compared with.
    pub fn of(models: &[&[ScoreRow]]) -> Board {
        let measures = measures(models.iter().flat_map(|rows| rows.iter()));
        let mut board = Board {
            cells: vec![Vec::new(); models.len()],
            judged: vec![Vec::new(); models.len()],
            measures: measures.clone(),
        };
        for measure in &measures {
            let parts: Vec<Vec<(&str, Weighted)>> = models.iter().map(|rows| parts(rows, measure)).collect();
            for (cells, parts) in board.cells.iter_mut().zip(&parts) {
                cells.push(stats::ratio(&parts.iter().map(|(_, part)| *part).collect::<Vec<_>>()));
            }
            let first: HashMap<&str, Weighted> = parts.first().into_iter().flatten().copied().collect();
            let paired = |parts: &Vec<(&str, Weighted)>| -> Vec<PairedRow> {
                parts.iter().filter_map(|(id, part)| Some((*first.get(id)?, *part))).collect()
            };
            // Temperatures are drawn as a curve, which needs no verdicts; they would take minutes.
            let is_judged = measure.temperature().is_none();
            let tested: Vec<Option<Tested>> = parts
                .iter()
                .skip(1)
                .map(|parts| if is_judged { Tested::of(&measure.metric, &paired(parts)) } else { None })
                .collect();
            let mut told = judge(&tested.iter().flatten().copied().collect::<Vec<_>>()).into_iter();
            let column = std::iter::once(None).chain(tested.iter().map(|tested| tested.and_then(|_| told.next())));
            for (judged, cell) in board.judged.iter_mut().zip(column) {
                judged.push(cell);
            }
        }
        board
    }

    /// The column of a metric.
    pub fn column(&self, task: &str, metric: &str) -> Option<usize> {
        self.measures.iter().position(|measure| measure.task == task && measure.metric == metric)
    }

    /// Columns that belong in the first table.
    pub fn headlines(&self) -> impl Iterator<Item = (usize, &Measure)> {
        self.measures.iter().enumerate().filter(|(_, measure)| measure.is_headline)
    }

    /// The column that says which of a decoding's answers are right: the final
    /// number before the whole answer.
    pub fn right_or_wrong(&self, decoding: Decoding) -> Option<usize> {
        let columns = [(GSM8K, STRICT), (EXACT_MATCH, WHOLE)];
        columns.into_iter().find_map(|(task, filter)| self.column(task, &exact_match_metric(filter, decoding)))
    }
}

fn parts<'a>(rows: &'a [ScoreRow], measure: &Measure) -> Vec<(&'a str, Weighted)> {
    let own = rows.iter().filter(|row| row.task == measure.task && row.metric == measure.metric);
    own.map(|row| (row.row_id.as_str(), Weighted { sum: row.value, weight: row.weight })).collect()
}

/// All metrics of some rows: those that a table has, in its order, then others
/// by name.
fn measures<'a>(rows: impl Iterator<Item = &'a ScoreRow>) -> Vec<Measure> {
    let known = known();
    let mut found: BTreeSet<(&str, &str)> = rows.map(|row| (row.task.as_str(), row.metric.as_str())).collect();
    let mut out = Vec::new();
    for (task, metric, title, is_headline) in &known {
        if found.remove(&(*task, metric.as_str())) {
            out.push(Measure {
                task: (*task).into(),
                metric: metric.clone(),
                title: title.clone(),
                lower_is_better: lower_is_better(metric),
                is_headline: *is_headline,
            });
        }
    }
    out.extend(found.into_iter().map(|(task, metric)| Measure {
        task: task.into(),
        metric: metric.into(),
        title: title(task, metric),
        lower_is_better: lower_is_better(metric),
        is_headline: false,
    }));
    out
}

fn title(task: &str, metric: &str) -> String {
    match (task, metric.split_once(",temperature=")) {
        (NLL, Some((NLL_PER_TOKEN, t))) => format!("NLL per token at temperature {t}"),
        (NLL, Some((EXPECTED_MATCH, t))) => format!("expected exact match at temperature {t}"),
        _ => format!("{task}: {metric}"),
    }
}

fn known() -> Vec<(&'static str, String, String, bool)> {
    let mut out = Vec::new();
    let decodings = [Decoding::Sampled, Decoding::Greedy];
    for (task, filter, words, is_headline) in [
        (GSM8K, STRICT, "accuracy", true),
        (EXACT_MATCH, WHOLE, "exact match", true),
        (GSM8K, FLEXIBLE, "accuracy by the last number", false),
    ] {
        let one = |d: Decoding| (task, exact_match_metric(filter, d), format!("{words}, {}", d.name()), is_headline);
        out.extend(decodings.map(one));
    }
    for (task, words) in [(WER, "WER"), (CER, "CER")] {
        out.extend(decodings.map(|d| (task, error_rate_metric(task, d), format!("{words}, {}", d.name()), true)));
    }
    out.push((NLL, NLL_PER_TOKEN.into(), "NLL per token".into(), true));
    out.push((PREFERENCE, PREFERS_REAL.into(), "prefers real".into(), true));
    out.push((MARGIN, LOGP_MARGIN.into(), "margin in nats".into(), true));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;

    fn rows(task: &str, metric: &str, values: &[f64]) -> Vec<ScoreRow> {
        let row = |(i, value): (usize, &f64)| ScoreRow {
            task: task.into(),
            metric: metric.into(),
            row_id: i.to_string(),
            value: *value,
            weight: 1.0,
            prediction: None,
            target: None,
        };
        values.iter().enumerate().map(row).collect()
    }

    #[test]
    fn columns_have_an_order_and_differences_a_verdict() {
        let sampled = exact_match_metric(WHOLE, Decoding::Sampled);
        let of = |hits: usize, nll: f64| {
            let values: Vec<f64> = (0..10).map(|i| f64::from(u8::from(i < hits))).collect();
            let mut all = rows(NLL, "nll_per_token,temperature=0.9", &[nll; 10]);
            all.extend(rows("odd", "new", &[1.0]));
            all.extend(rows(EXACT_MATCH, &sampled, &values));
            all
        };
        let models = [of(0, 1.0), of(7, 0.5)];
        let board = Board::of(&[&models[0], &models[1]]);
        let titles: Vec<&str> = board.measures.iter().map(|measure| measure.title.as_str()).collect();
        assert_eq!(titles, ["exact match, sampled", "NLL per token at temperature 0.9", "odd: new"]);
        assert_eq!(board.measures[1].temperature(), Some(0.9));
        assert_eq!(board.cells[1][0].unwrap().value, 0.7);
        assert!(board.judged[0].iter().all(Option::is_none) && board.judged[1][1].is_none());
        let judged = board.judged[1][0].unwrap();
        assert_eq!((judged.tested.difference.value, judged.verdict), (0.7, Verdict::Better));
        assert_eq!(board.right_or_wrong(Decoding::Sampled), Some(0));
        assert_eq!(board.right_or_wrong(Decoding::Greedy), None);
        assert_eq!(board.headlines().count(), 1);
    }

    #[test]
    fn without_models_there_is_nothing() {
        assert!(Board::of(&[]).measures.is_empty());
    }
}
