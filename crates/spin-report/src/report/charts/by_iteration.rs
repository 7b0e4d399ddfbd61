//! A value by iteration: a line for each run, baselines beside it.

use crate::report::axis::Axis;
use crate::report::data::{Report, Run};
use crate::report::svg::{Chart, Mark, Series};

/// The value of a model.
pub struct Point {
    /// Which round it enters; `None` for a baseline.
    pub iteration: Option<usize>,
    /// The model.
    pub label: String,
    /// The value.
    pub value: f64,
    /// How far its interval reaches.
    pub reach: Option<f64>,
    /// The value in words.
    pub words: String,
}

/// Name, heading, name of the axis and description.
pub struct Words<'a> {
    /// File name without its end.
    pub name: &'a str,
    /// Heading.
    pub title: &'a str,
    /// Name of the upward axis.
    pub axis: &'a str,
    /// What is to be seen.
    pub description: &'a str,
}

/// How far baselines are from each other, in iterations.
const ASIDE: f64 = 0.5;

/// Draws what `of` gives of each run; `None` without points.
pub fn chart(report: &Report, words: &Words<'_>, of: impl Fn(&Run) -> Vec<Point>) -> Option<Chart> {
    let points: Vec<Vec<Point>> = report.runs.iter().map(of).collect();
    let all = || points.iter().flatten();
    all().next()?;
    let last = all().filter_map(|point| point.iteration).max().unwrap_or(0);
    let ends = |point: &Point| {
        let reach = point.reach.unwrap_or(0.0);
        [point.value - reach, point.value + reach]
    };
    let mut series = Vec::new();
    let baselines = all().filter(|point| point.iteration.is_none()).count();
    let mut beside = 0;
    for (i, (run, points)) in report.runs.iter().zip(&points).enumerate() {
        let mark = |x: f64, point: &Point| Mark {
            x,
            y: point.value,
            reach_y: point.reach,
            title: format!("{}: {}", report.label(run, &point.label), point.words),
            ..Mark::default()
        };
        // Runs side by side, so that their intervals can be seen.
        let aside = (i as f64 - (report.runs.len() as f64 - 1.0) / 2.0) * 0.06;
        let rounds = points.iter().filter_map(|point| Some(mark(point.iteration? as f64 + aside, point)));
        let name = if report.runs.len() > 1 { run.name.clone() } else { String::new() };
        let marks: Vec<Mark> = rounds.collect();
        series.push(Series { name, look: i, marks, joined: true, dotted: true, hollow: false });
        for point in points.iter().filter(|point| point.iteration.is_none()) {
            let place = last as f64 + 1.0 + beside as f64 * ASIDE;
            let name = report.label(run, &point.label);
            let look = report.runs.len() + beside;
            beside += 1;
            series.push(Series {
                name,
                look,
                marks: vec![mark(place, point)],
                joined: false,
                dotted: true,
                hollow: true,
            });
        }
    }
    let names = (0..=last).map(|t| if t == 0 { "θ0".into() } else { t.to_string() }).collect();
    let mut x = Axis::of_names("iterations of self-play", names);
    if baselines > 0 {
        let more = (baselines - 1) as f64 * ASIDE;
        x.ticks.push((last as f64 + 1.0 + more / 2.0, "baselines".into()));
        x.max += 1.0 + more;
    }
    Some(Chart {
        name: words.name.into(),
        title: words.title.into(),
        description: words.description.into(),
        x,
        y: Axis::of(words.axis, all().flat_map(ends), 6),
        series,
    })
}
