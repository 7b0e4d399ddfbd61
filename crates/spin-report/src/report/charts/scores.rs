//! Scores by iteration, one chart a measure.

use super::by_iteration::{self, Point, Words};
use super::figure::Figure;
use crate::report::axis::short;
use crate::report::data::{Report, Run};
use crate::report::scores::Measure;

/// A chart for each headline measure that any run has.
pub fn figures(report: &Report) -> Vec<Figure> {
    let mut measures: Vec<&Measure> = Vec::new();
    for (_, measure) in report.runs.iter().flat_map(|run| run.board.headlines()) {
        if !measures.contains(&measure) {
            measures.push(measure);
        }
    }
    measures.into_iter().filter_map(|measure| figure(report, measure)).collect()
}

fn figure(report: &Report, measure: &Measure) -> Option<Figure> {
    let better = if measure.lower_is_better { "lower is better" } else { "higher is better" };
    let slug: String =
        measure.title.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let words = Words {
        name: &format!("scores-{}", slug.replace("--", "-")),
        title: &measure.title,
        axis: &format!("{} ({better})", measure.title),
        description: &format!(
            "{} of each iteration and baseline on the held-out rows, with 95% intervals; {better}.",
            measure.title
        ),
    };
    let points = |run: &Run| -> Vec<Point> {
        let Some(column) = run.board.column(&measure.task, &measure.metric) else { return Vec::new() };
        let of = |(model, cells): (&crate::report::data::Model, &Vec<Option<crate::stats::Estimate>>)| {
            let estimate = cells[column]?;
            let reach = estimate.reach95();
            let interval = reach.map_or_else(String::new, |reach| format!(" ±{}", short(reach)));
            Some(Point {
                iteration: model.iteration,
                label: model.label.clone(),
                value: estimate.value,
                reach,
                words: format!("{}{interval}, {} rows", short(estimate.value), estimate.rows),
            })
        };
        run.models.iter().zip(&run.board.cells).filter_map(of).collect()
    };
    let chart = by_iteration::chart(report, &words, points)?;
    Some(Figure::of(&chart, "Bars are 95% intervals over the held-out rows."))
}
