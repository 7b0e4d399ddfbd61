//! What a temperature makes of each model, beside what training did.
//!
//! A lower temperature makes samples of a model right more often and its
//! likelihood worse, without any training. So a trained model is worth
//! something in these two when no model at no temperature is better in both:
//! when it is on the frontier.

use spin_run::run::NLL;

use super::{Column, Line, shown};
use crate::names::{expected_match_at, nll_at, temperature_of};
use crate::stats::Estimate;

/// A model at a temperature.
pub(super) struct Point {
    /// Number of its line in the table.
    pub line: usize,
    pub temperature: f64,
    /// Probability that a sample is the human answer.
    pub expected: Estimate,
    /// Negative log-likelihood per token, in nats.
    pub nll: Estimate,
}

impl Point {
    /// Whether it is at least as good in both, and better in one.
    fn beats(&self, other: &Point) -> bool {
        let (expected, nll) = (self.expected.value, self.nll.value);
        let (other_expected, other_nll) = (other.expected.value, other.nll.value);
        expected >= other_expected && nll <= other_nll && (expected > other_expected || nll < other_nll)
    }
}

/// Every model at every temperature at which it was scored, from the highest.
pub(super) fn points(lines: &[Line]) -> Vec<Point> {
    let mut out = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let estimate = |metric| super::Table::estimate(line, &Column { title: "", task: NLL, metric });
        let mut temperatures: Vec<f64> = Vec::new();
        for row in line.rows.iter().filter(|row| row.task == NLL) {
            if let Some(temperature) = temperature_of(&row.metric).filter(|t| !temperatures.contains(t)) {
                temperatures.push(temperature);
            }
        }
        temperatures.sort_by(|a, b| b.total_cmp(a));
        for temperature in temperatures {
            let both = (estimate(expected_match_at(temperature)), estimate(nll_at(temperature)));
            if let (Some(expected), Some(nll)) = both {
                out.push(Point { line: number, temperature, expected, nll });
            }
        }
    }
    out
}

/// The cells of the table of temperatures with their head: the first model at
/// all of them, the others as they are trained, each beside every model at every
/// temperature. None without points.
pub(super) fn cells(lines: &[Line]) -> Vec<Vec<String>> {
    let points = points(lines);
    if points.is_empty() {
        return Vec::new();
    }
    let head = ["model", "temperature", "exact match, expected", "NLL per token", "beaten in both by"];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    for point in points.iter().filter(|point| point.line == 0 || point.temperature == 1.0) {
        // Of those that are better in both, the one with the better likelihood.
        let beaten =
            points.iter().filter(|other| other.beats(point)).min_by(|a, b| a.nll.value.total_cmp(&b.nll.value));
        cells.push(vec![
            lines[point.line].model.to_string(),
            point.temperature.to_string(),
            shown(&point.expected, false),
            shown(&point.nll, false),
            beaten.map_or_else(String::new, |by| format!("{} at {}", lines[by.line].model, by.temperature)),
        ]);
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::NLL_PER_TOKEN;
    use spin_run::graph::ModelId;
    use spin_run::schema::ScoreRow;

    fn line(t: usize, at: &[(f64, f64, f64)]) -> Line {
        let row = |metric: String, value: f64| ScoreRow {
            task: NLL.into(),
            metric,
            row_id: "a".into(),
            value,
            weight: 1.0,
            prediction: None,
            target: None,
        };
        let rows = at.iter().flat_map(|&(temperature, expected, nll)| {
            [row(expected_match_at(temperature), expected), row(nll_at(temperature), nll)]
        });
        Line { model: ModelId::Iteration(t), scores: String::new(), content: String::new(), rows: rows.collect() }
    }

    #[test]
    fn a_model_is_set_beside_every_model_at_every_temperature() {
        let lines = [
            line(0, &[(1.0, 0.4, 0.2), (0.5, 0.6, 0.4), (0.8, 0.5, 0.25)]),
            line(1, &[(1.0, 0.45, 0.3), (0.9, 0.46, 0.35)]),
        ];
        let cells = cells(&lines);
        let said: Vec<(&str, &str, &str)> =
            cells.iter().skip(1).map(|row| (row[0].as_str(), row[1].as_str(), row[4].as_str())).collect();
        let expected =
            [("iter-0", "1", ""), ("iter-0", "0.8", ""), ("iter-0", "0.5", ""), ("iter-1", "1", "iter-0 at 0.8")];
        assert_eq!(said, expected);
    }

    #[test]
    fn without_temperatures_there_is_no_table() {
        let mut lines = [line(0, &[(1.0, 0.4, 0.2)])];
        lines[0].rows.retain(|row| row.metric == NLL_PER_TOKEN);
        assert!(cells(&lines).is_empty());
    }
}
