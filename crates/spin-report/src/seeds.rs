//! Several seeds of a run, and several runs, in one table.
//!
//! A table of one run says how far a score would move with other rows to score
//! on. Training and sampling move it too, and only other seeds show that. What
//! is summed up here are tables in JSON ([`crate::table::Format::Json`]), so
//! that results outlive the store they come from. Runs that differ in nothing
//! but a `-{seed}` at the end of their name are seeds of one; models are
//! compared with the first model of the first run, seed by seed.

mod curve;
mod render;

use std::collections::BTreeMap;

use serde_json::Value;
use statrs::distribution::{ContinuousCDF as _, StudentsT};

use crate::error::{ReportError, Result};
use crate::names::{lower_is_better, temperature_of};
use crate::stats::{self, Estimate};
use crate::verdict::{LEVEL, Verdict, holm};
use curve::{Curve, Values};
pub use render::Seeds;

/// A model of a run, or its first at a temperature, on the seeds that have it.
#[derive(Debug)]
struct Line {
    /// The run's name without its seed.
    run: String,
    model: String,
    /// By seed.
    values: BTreeMap<u64, Values>,
}

/// A mean over seeds with how far its 95% interval reaches, by Student's
/// distribution; without a reach of one seed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    mean: f64,
    reach: Option<f64>,
    seeds: usize,
}

fn student(degrees: usize) -> StudentsT {
    StudentsT::new(0.0, 1.0, degrees as f64).expect("at least one degree of freedom")
}

impl Spread {
    fn of(values: &[f64]) -> Option<Spread> {
        let Estimate { rows: seeds, value: mean, stderr } = stats::mean(values)?;
        let reach = stderr.map(|stderr| student(seeds - 1).inverse_cdf(1.0 - LEVEL / 2.0) * stderr);
        Some(Spread { mean, reach, seeds })
    }
}

/// Probability that differences with this mean or a larger one come about by
/// chance, by the two-sided t-test; 1 of fewer than two.
fn t_test(differences: &[f64]) -> f64 {
    match stats::mean(differences) {
        Some(Estimate { rows, value, stderr: Some(stderr) }) if stderr > 0.0 => {
            2.0 * student(rows - 1).sf((value / stderr).abs())
        }
        Some(Estimate { value, stderr: Some(_), .. }) if value != 0.0 => 0.0,
        _ => 1.0,
    }
}

/// A difference to the first model, tested.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Difference {
    spread: Spread,
    verdict: Verdict,
}

/// Differences judged together by Holm's correction, where lower or higher is
/// better.
fn judged(differences: &[Vec<f64>], lower_is_better: bool) -> Vec<Option<Difference>> {
    let tested: Vec<Option<(Spread, f64)>> =
        differences.iter().map(|all| Some((Spread::of(all)?, t_test(all)))).collect();
    let p_values: Vec<f64> = tested.iter().flatten().map(|(_, p)| *p).collect();
    let mut corrected = holm(&p_values).into_iter();
    let judge = |(spread, _): (Spread, f64), p: f64| {
        let verdict = match (spread.mean < 0.0) == lower_is_better {
            _ if p >= LEVEL || spread.reach.is_none() => Verdict::WithinNoise,
            true => Verdict::Better,
            false => Verdict::Worse,
        };
        Difference { spread, verdict }
    };
    tested.into_iter().map(|tested| tested.map(|tested| judge(tested, corrected.next().unwrap_or(1.0)))).collect()
}

fn malformed(what: &str) -> ReportError {
    ReportError::Compare(format!("{what}; give files that `spin-bench table --format json` wrote"))
}

/// The lines of tables in JSON, with their name for messages, in order.
fn lines_of(tables: &[(String, Value)]) -> Result<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    for (name, table) in tables {
        let (run, seed) = match (table["run"].as_str(), table["seed"].as_u64()) {
            (Some(run), Some(seed)) => (run.strip_suffix(&format!("-{seed}")).unwrap_or(run), seed),
            _ => return Err(malformed(&format!("{name} has no `run` and `seed`"))),
        };
        let models = table["models"].as_array().ok_or_else(|| malformed(&format!("{name} has no `models`")))?;
        for model in models {
            let own = model["model"].as_str().ok_or_else(|| malformed(&format!("{name} has a model without name")))?;
            let mut values = Values::new();
            for (task, metrics) in model["results"].as_object().into_iter().flatten() {
                for (metric, estimate) in metrics.as_object().into_iter().flatten() {
                    if let Some(value) = estimate["value"].as_f64() {
                        values.insert(format!("{task}/{metric}"), value);
                    }
                }
            }
            let at = lines.iter().position(|line| line.run == run && line.model == own).unwrap_or_else(|| {
                lines.push(Line { run: run.to_owned(), model: own.to_owned(), values: BTreeMap::new() });
                lines.len() - 1
            });
            if lines[at].values.insert(seed, values).is_some() {
                return Err(ReportError::Compare(format!(
                    "{name} has {run} with seed {seed} again; give each run and seed once"
                )));
            }
        }
    }
    Ok(lines)
}

/// The curve of a model over its temperatures, by seed.
fn curves(line: &Line) -> BTreeMap<u64, Curve> {
    line.values.iter().filter_map(|(seed, values)| Some((*seed, Curve::of(values)?))).collect()
}

/// The curve through the first model and the baselines of its run, by seed:
/// what the same data give without self-play.
fn baseline_curves(lines: &[Line]) -> BTreeMap<u64, Curve> {
    let first = &lines[0];
    let known: Vec<&Line> = lines
        .iter()
        .filter(|line| line.run == first.run && (line.model == first.model || !line.model.starts_with("iter-")))
        .collect();
    let curve = |seed: &u64| {
        let points = known.iter().filter_map(|line| curve::point(line.values.get(seed)?, 1.0)).collect();
        Some((*seed, Curve::through(points)?))
    };
    first.values.keys().filter_map(curve).collect()
}

/// Temperatures of a line's metrics, from the highest.
fn temperatures(line: &Line) -> Vec<f64> {
    let metrics = line.values.values().flat_map(BTreeMap::keys);
    let mut out: Vec<f64> = metrics.filter_map(|metric| temperature_of(metric)).collect();
    out.sort_by(|a, b| b.total_cmp(a));
    out.dedup();
    out
}

/// The differences of a line to another by seed, of what `value` gives of each.
fn by_seed(line: &Line, first: &Line, value: impl Fn(&Values) -> Option<f64>) -> Vec<f64> {
    let of = |seed: &u64, own: &Values| Some(value(own)? - value(first.values.get(seed)?)?);
    line.values.iter().filter_map(|(seed, own)| of(seed, own)).collect()
}

/// Whether lower is better of `task/metric`.
fn falls(key: &str) -> bool {
    key.split_once('/').is_some_and(|(_, metric)| lower_is_better(metric))
}

#[cfg(test)]
mod tests;
