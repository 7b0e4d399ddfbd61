//! Distributions of margins, one ridge a model.

use std::collections::BTreeMap;

use spin_run::run::MARGIN;

use super::figure::Figure;
use crate::names::LOGP_MARGIN;
use crate::report::axis::{Axis, short};
use crate::report::data::{Report, Run};
use crate::report::svg::{CHAR, LOOKS, WIDTH, at, line, open, text};

const BINS: usize = 48;
const RIDGE: f64 = 46.0;

/// Of each run that has margins: in nats, and as rewards beside θ0.
pub fn figures(report: &Report) -> Vec<Figure> {
    report.runs.iter().enumerate().flat_map(|(i, run)| of_run(report, i, run)).collect()
}

fn of_run(report: &Report, number: usize, run: &Run) -> Vec<Figure> {
    let values: Vec<(&str, BTreeMap<&str, f64>)> = run
        .models
        .iter()
        .map(|model| (model.label.as_str(), model.values(MARGIN, LOGP_MARGIN)))
        .filter(|(_, values)| !values.is_empty())
        .collect();
    let Some((first, base)) = values.first() else { return Vec::new() };
    let of = if report.runs.len() > 1 { format!(" of {}", run.name) } else { String::new() };
    let plain: Vec<Ridge> = values.iter().map(|(label, values)| Ridge::of(label, values.values().copied())).collect();
    let rewards: Vec<Ridge> = values[1..]
        .iter()
        .map(|(label, values)| {
            let gained = values.iter().filter_map(|(row, value)| Some(run.beta * (value - base.get(row)?)));
            Ridge::of(label, gained)
        })
        .collect();
    let mut out = vec![draw(
        &format!("margins-{number}"),
        &format!("Margins{of}"),
        "log p(human answer) − log p(θ0’s sampled answer), nats",
        &plain,
    )];
    if !rewards.is_empty() {
        let axis = format!("beta · (margin − margin of {first}), beta = {}", run.beta);
        out.push(draw(&format!("rewards-{number}"), &format!("Margins as rewards{of}"), &axis, &rewards));
    }
    out
}

/// The values of a model, sorted.
struct Ridge {
    label: String,
    values: Vec<f64>,
}

impl Ridge {
    fn of(label: &str, values: impl Iterator<Item = f64>) -> Ridge {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        Ridge { label: label.into(), values }
    }

    fn quantile(&self, q: f64) -> f64 {
        let last = self.values.len().saturating_sub(1);
        self.values.get((q * last as f64).round() as usize).copied().unwrap_or(0.0)
    }
}

/// Counts of values in bins of equal width between two ends; what lies beyond
/// counts in the outer ones.
fn histogram(values: &[f64], min: f64, max: f64, bins: usize) -> Vec<usize> {
    let mut counts = vec![0; bins];
    for value in values {
        let at = ((value - min) / (max - min) * bins as f64).floor().clamp(0.0, bins as f64 - 1.0);
        counts[at as usize] += 1;
    }
    counts
}

fn draw(name: &str, title: &str, axis: &str, ridges: &[Ridge]) -> Figure {
    // The tails would squeeze everything else.
    let ends = ridges.iter().flat_map(|ridge| [ridge.quantile(0.01), ridge.quantile(0.99)]);
    let x = Axis::of(axis, ends.chain([0.0]), 6);
    let chars = ridges.iter().map(|ridge| ridge.label.chars().count()).max().unwrap_or(0);
    let (left, right, top) = ((chars as f64 * CHAR + 14.0).clamp(90.0, 170.0), WIDTH - 10.0, 12.0);
    let bottom = top + ridges.len() as f64 * RIDGE + 8.0;
    let place = |value: f64| left + x.share(value.clamp(x.min, x.max)) * (right - left);
    let description = format!("Histogram of each model’s margins over the held-out rows: {axis}.");
    let mut out = open(name, title, &description, WIDTH, bottom + 42.0);
    for (value, words) in &x.ticks {
        out += &line((place(*value), top), (place(*value), bottom), "grid");
        out += &text(place(*value), bottom + 16.0, "tick middle", words);
    }
    out += &line((place(0.0), top), (place(0.0), bottom), "zero");
    let mut rows = Vec::new();
    for (i, ridge) in ridges.iter().enumerate() {
        let floor = top + (i + 1) as f64 * RIDGE;
        let counts = histogram(&ridge.values, x.min, x.max, BINS);
        let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
        let width = (right - left) / BINS as f64;
        let mut points = vec![format!("{},{}", at(left), at(floor))];
        for (bin, count) in counts.iter().enumerate() {
            let level = floor - *count as f64 / most * (RIDGE - 10.0);
            let (a, b) = (left + bin as f64 * width, left + (bin + 1) as f64 * width);
            points.extend([format!("{},{}", at(a), at(level)), format!("{},{}", at(b), at(level))]);
        }
        points.push(format!("{},{}", at(right), at(floor)));
        let look = i % LOOKS;
        out += &format!("<polygon points=\"{}\" class=\"area s{look}\"/>", points.join(" "));
        let median = ridge.quantile(0.5);
        out += &line((place(median), floor), (place(median), floor - RIDGE + 8.0), &format!("whisker s{look}"));
        out += &text(left - 8.0, floor - 12.0, &format!("label end s{look}"), &ridge.label);
        out += &text(left - 8.0, floor + 1.0, "tick end", &format!("median {}", short(median)));
        let above = ridge.values.iter().filter(|value| **value > 0.0).count();
        let share = above as f64 / ridge.values.len().max(1) as f64;
        let quantiles = [0.05, 0.5, 0.95].map(|q| short(ridge.quantile(q)));
        let own = [vec![ridge.label.clone(), ridge.values.len().to_string()], quantiles.to_vec(), vec![short(share)]];
        rows.push(own.concat());
    }
    out += &text(WIDTH / 2.0, bottom + 34.0, "name middle", axis);
    out += "</svg>";
    Figure {
        name: name.into(),
        title: title.into(),
        note:
            "Upright lines are medians; right of the dotted line the human answer is the likelier one. The outermost \
               bins hold what lies beyond them."
                .into(),
        svg: out,
        head: ["model", "rows", "5%", "median", "95%", "share above 0"].map(str::to_owned).to_vec(),
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_count_in_the_outer_bins() {
        assert_eq!(histogram(&[-9.0, 0.0, 0.5, 1.0, 9.0], 0.0, 1.0, 2), [2, 3]);
        assert_eq!(histogram(&[], 0.0, 1.0, 3), [0, 0, 0]);
        let ridge = Ridge::of("m", [3.0, f64::NAN, 1.0, 2.0].into_iter());
        assert_eq!((ridge.quantile(0.5), ridge.quantile(0.0), ridge.quantile(1.0)), (2.0, 1.0, 3.0));
        assert_eq!(Ridge::of("m", std::iter::empty()).quantile(0.5), 0.0);
    }
}
