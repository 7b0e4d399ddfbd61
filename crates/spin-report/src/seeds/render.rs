//! The tables of [`super`], as text.

use serde_json::Value;
use spin_run::run::NLL;

use super::{Difference, Line, Spread, baseline_curves, by_seed, curve, curves, falls, judged, lines_of, temperatures};
use crate::error::{ReportError, Result};
use crate::grid;
use crate::names::expected_match_at;
use crate::table::columns;
use crate::verdict::Verdict;

/// Several tables in one.
pub struct Seeds {
    lines: Vec<Line>,
}

/// A column: its title, and `task/metric`.
type Column = (String, String);

impl Seeds {
    /// Reads tables in JSON; each has a name for messages.
    ///
    /// # Errors
    /// When one of them is no table, or a run is there twice with one seed.
    pub fn read(tables: &[(String, Value)]) -> Result<Seeds> {
        let lines = lines_of(tables)?;
        if lines.is_empty() {
            return Err(ReportError::Compare("no table has a model; give tables of runs that are scored".into()));
        }
        Ok(Seeds { lines })
    }

    /// Titles and metrics that any line has, with the expected match behind
    /// the sampled one.
    fn columns(&self) -> Vec<Column> {
        let mut all: Vec<Column> =
            columns().iter().map(|c| (c.title.to_owned(), format!("{}/{}", c.task, c.metric))).collect();
        let expected = format!("{NLL}/{}", expected_match_at(1.0));
        let at = all.iter().position(|(title, _)| title == "exact match, greedy").unwrap_or(0);
        all.insert(at, ("exact match, expected".into(), expected));
        let there = |key: &String| self.lines.iter().any(|line| line.values.values().any(|v| v.contains_key(key)));
        all.retain(|(_, key)| there(key));
        all
    }

    /// Lines that say something new: the first model of a later run is the
    /// one that all start from where its numbers are the first run's.
    fn shown(&self) -> Vec<&Line> {
        let first = &self.lines[0];
        let same = |line: &Line| {
            line.run != first.run
                && line.model == first.model
                && line.values.iter().all(|(seed, values)| {
                    let first = first.values.get(seed);
                    let known = |(key, value)| first.is_some_and(|first| first.get(key).is_none_or(|of| of == value));
                    values.iter().all(known)
                })
        };
        self.lines.iter().filter(|line| !same(line)).collect()
    }

    /// A name that is short where there is one run.
    fn name(&self, line: &Line) -> String {
        match self.lines.iter().all(|other| other.run == line.run) {
            true => line.model.clone(),
            false => format!("{}: {}", line.run, line.model),
        }
    }

    /// All tables, aligned or in Markdown.
    pub fn render(&self, markdown: bool) -> String {
        let separator = if markdown { " | " } else { "   " };
        let tables = [self.means(), self.differences(), self.cooled()];
        let mut out: Vec<String> = tables
            .iter()
            .filter(|cells| cells.len() > 1)
            .map(|cells| grid::aligned(cells, separator, markdown))
            .collect();
        out.push(self.legend());
        out.join("\n")
    }

    fn means(&self) -> Vec<Vec<String>> {
        let columns = self.columns();
        let mut cells = vec![head("model", columns.iter().map(|(title, _)| title.clone()).chain(["seeds".into()]))];
        for line in self.shown() {
            let mut row = vec![self.name(line)];
            row.extend(columns.iter().map(|(_, key)| {
                let values: Vec<f64> = line.values.values().filter_map(|v| v.get(key).copied()).collect();
                Spread::of(&values).map_or_else(|| "-".into(), |spread| spread.shown(false))
            }));
            row.push(line.values.len().to_string());
            cells.push(row);
        }
        cells
    }

    /// What is different from the first model, and what of that a temperature
    /// does not give.
    fn differences(&self) -> Vec<Vec<String>> {
        let (first, shown) = (&self.lines[0], self.shown());
        let others: Vec<&Line> = shown.into_iter().skip(1).collect();
        let mut columns: Vec<(String, Vec<Option<Difference>>)> = Vec::new();
        for (title, key) in self.columns() {
            let all: Vec<Vec<f64>> = others.iter().map(|line| by_seed(line, first, |v| v.get(&key).copied())).collect();
            columns.push((title, judged(&all, falls(&key))));
        }
        let (own, baselines) = (curves(first), baseline_curves(&self.lines));
        let known = [
            ("expected match above a temperature of equal NLL", &own, false),
            ("above the baselines at equal NLL", &baselines, true),
        ];
        for (title, curves, of_rounds) in known.into_iter().filter(|(_, curves, _)| !curves.is_empty()) {
            let above = |line: &&Line| -> Vec<f64> {
                let of = |seed: &u64, values: &super::Values| {
                    let (nll, expected) = curve::point(values, 1.0)?;
                    Some(expected - curves.get(seed)?.at(nll)?)
                };
                // A baseline is not set beside itself.
                let asked = !of_rounds || line.model.starts_with("iter-");
                line.values.iter().filter(|_| asked).filter_map(|(seed, values)| of(seed, values)).collect()
            };
            let all: Vec<Vec<f64>> = others.iter().map(above).collect();
            columns.push((title.to_owned(), judged(&all, false)));
        }
        let both_cooled = |line: &&Line| -> Vec<f64> {
            // Over other temperatures the mean would be another one.
            let asked = temperatures(line) == temperatures(first);
            let all = curves(line).into_iter().filter(|_| asked);
            all.filter_map(|(seed, curve)| curve.above(own.get(&seed)?)).collect()
        };
        let all: Vec<Vec<f64>> = others.iter().map(both_cooled).collect();
        if all.iter().any(|line| !line.is_empty()) {
            columns.push(("expected match above it at equal NLL, both cooled".into(), judged(&all, false)));
        }
        let mut cells =
            vec![head(&format!("less {}", self.name(first)), columns.iter().map(|(title, _)| title.clone()))];
        for (i, line) in others.iter().enumerate() {
            let mut row = vec![self.name(line)];
            row.extend(columns.iter().map(|(_, all)| all[i].map_or_else(|| "-".into(), Difference::shown)));
            cells.push(row);
        }
        cells
    }

    /// The first model at every temperature.
    fn cooled(&self) -> Vec<Vec<String>> {
        let first = &self.lines[0];
        let titles = ["exact match, expected", "NLL per token"];
        let mut cells = vec![head(&format!("{} at temperature", self.name(first)), titles.map(str::to_owned))];
        for temperature in temperatures(first) {
            let points: Vec<(f64, f64)> =
                first.values.values().filter_map(|values| curve::point(values, temperature)).collect();
            let spread = |of: fn(&(f64, f64)) -> f64| {
                let values: Vec<f64> = points.iter().map(of).collect();
                Spread::of(&values).map_or_else(|| "-".into(), |spread| spread.shown(false))
            };
            cells.push(vec![temperature.to_string(), spread(|p| p.1), spread(|p| p.0)]);
        }
        cells
    }

    fn legend(&self) -> String {
        let mut seeds: Vec<u64> = self.lines.iter().flat_map(|line| line.values.keys().copied()).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let named = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        format!(
            "± is a 95% interval over seeds by Student's distribution; differences are taken seed by seed, tested by \
             the t-test and judged together by Holm's correction; of models that were cooled to the same temperatures, \
             the mean over the likelihoods that both have. Seeds {named}.\n"
        )
    }
}

fn head(first: &str, rest: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(rest).collect()
}

impl Spread {
    fn shown(self, signed: bool) -> String {
        let mean = if signed { format!("{:+.4}", self.mean) } else { format!("{:.4}", self.mean) };
        self.reach.map_or(mean.clone(), |reach| format!("{mean} ±{reach:.4}"))
    }
}

impl Difference {
    fn shown(self) -> String {
        let shown = self.spread.shown(true);
        match self.verdict {
            Verdict::WithinNoise if self.spread.seeds < 2 => shown,
            Verdict::WithinNoise => format!("{shown} ({})", self.verdict),
            told => format!("{shown} {told}"),
        }
    }
}
