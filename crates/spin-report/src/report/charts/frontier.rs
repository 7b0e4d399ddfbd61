//! Accuracy against likelihood: what each method pays for what it gains.

use spin_run::graph::Decoding;
use spin_run::run::{EXACT_MATCH, NLL};

use super::figure::Figure;
use crate::names::{EXPECTED_MATCH, NLL_PER_TOKEN, nll_at};
use crate::report::axis::{Axis, short};
use crate::report::data::{Report, Run};
use crate::report::svg::{Chart, Mark, Series};
use crate::stats::Estimate;

const NOTE: &str = "Up and to the left is better: right more often, and the human answers more likely. A method lies \
                    outside of another where its marks are above and to the left of the other’s. ";

/// One chart for each decoding whose answers were judged.
pub fn figures(report: &Report) -> Vec<Figure> {
    [Decoding::Sampled, Decoding::Greedy].into_iter().filter_map(|decoding| figure(report, decoding)).collect()
}

fn figure(report: &Report, decoding: Decoding) -> Option<Figure> {
    let mut series = Vec::new();
    let mut title = None;
    let mut curves: Vec<Series> = Vec::new();
    let mut baselines = 0;
    for (i, run) in report.runs.iter().enumerate() {
        let (Some(y), Some(x)) = (run.board.right_or_wrong(decoding), run.board.column(NLL, NLL_PER_TOKEN)) else {
            continue;
        };
        let measure = &run.board.measures[y];
        title.get_or_insert_with(|| measure.title.clone());
        let mark = |at: usize| -> Option<Mark> {
            let cells = &run.board.cells[at];
            Some(mark(report, run, &run.models[at].label, cells[x]?, cells[y]?))
        };
        let rounds = (0..run.models.len()).filter(|at| run.models[*at].iteration.is_some());
        let marks: Vec<Mark> = rounds
            .filter_map(|at| {
                let label = match run.models[at].iteration {
                    Some(0) => "θ0".to_owned(),
                    t => t.map_or_else(String::new, |t| t.to_string()),
                };
                Some(Mark { label, ..mark(at)? })
            })
            .collect();
        let name = if report.runs.len() > 1 { run.name.clone() } else { String::new() };
        series.push(Series { name, look: i, marks, joined: true, dotted: true, hollow: false });
        for at in (0..run.models.len()).filter(|at| run.models[*at].iteration.is_none()) {
            let Some(mark) = mark(at) else { continue };
            let (name, look) = (report.label(run, &run.models[at].label), report.runs.len() + baselines);
            baselines += 1;
            series.push(Series { name, look, marks: vec![mark], joined: false, dotted: true, hollow: true });
        }
        if decoding == Decoding::Sampled && measure.task == EXACT_MATCH {
            let curve = temperatures(run, i);
            let same = |other: &Series| {
                let places = |s: &Series| s.marks.iter().map(|mark| (mark.x, mark.y)).collect::<Vec<_>>();
                places(other) == places(&curve)
            };
            if curve.marks.len() > 1 && !curves.iter().any(same) {
                curves.push(curve);
            }
        }
    }
    let title = title?;
    let has_curves = !curves.is_empty();
    series.splice(0..0, curves);
    let marks = || series.iter().flat_map(|series| &series.marks);
    marks().next()?;
    let ends = |value: f64, reach: Option<f64>| [value - reach.unwrap_or(0.0), value + reach.unwrap_or(0.0)];
    let chart = Chart {
        name: format!("frontier-{}", decoding.name()),
        title: format!("{title} against likelihood"),
        description: format!(
            "{title} of each model against the negative log-likelihood per token of the human answers, with 95% \
             intervals of both."
        ),
        x: Axis::of(
            "NLL per token of the human answers (lower is better)",
            marks().flat_map(|m| ends(m.x, m.reach_x)),
            5,
        ),
        y: Axis::of(&format!("{title} (higher is better)"), marks().flat_map(|m| ends(m.y, m.reach_y)), 6),
        series,
    };
    let temperature = match has_curves {
        true => "The dashed line is θ0 itself at other temperatures: what is on it costs no training.",
        false if decoding == Decoding::Sampled => {
            "θ0 at other temperatures is not drawn: its scores have no rows of other temperatures."
        }
        false => "",
    };
    Some(Figure::of(&chart, &format!("{NOTE}{temperature}")))
}

fn mark(report: &Report, run: &Run, label: &str, x: Estimate, y: Estimate) -> Mark {
    Mark {
        x: x.value,
        y: y.value,
        reach_x: x.reach95(),
        reach_y: y.reach95(),
        title: format!("{}: {} at NLL {}", report.label(run, label), short(y.value), short(x.value)),
        label: String::new(),
    }
}

/// θ0 at each temperature that its scores have.
fn temperatures(run: &Run, look: usize) -> Series {
    let board = &run.board;
    let mut found: Vec<(f64, Mark)> = Vec::new();
    if let Some(cells) = board.cells.first().filter(|_| run.models[0].iteration == Some(0)) {
        for (column, measure) in board.measures.iter().enumerate() {
            let Some(t) = measure.temperature().filter(|_| measure.metric.starts_with(EXPECTED_MATCH)) else {
                continue;
            };
            let of_nll = board.column(NLL, &nll_at(t));
            let Some((x, y)) = of_nll.and_then(|of_nll| Some((cells[of_nll]?, cells[column]?))) else { continue };
            let title = format!("θ0 at temperature {t}: {} at NLL {}", short(y.value), short(x.value));
            let label = if t == 1.0 { String::new() } else { format!("T {t}") };
            found.push((t, Mark { x: x.value, y: y.value, title, label, ..Mark::default() }));
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    let marks = found.into_iter().map(|(_, mark)| mark).collect();
    Series { name: String::new(), look, marks, joined: true, dotted: true, hollow: true }
}
