//! Training curves.

use spin_run::schema::MetricsRow;

use super::figure::Figure;
use crate::report::axis::{Axis, short};
use crate::report::data::{Report, Training};
use crate::report::svg::{Chart, Mark, Series};

/// Points of a curve; of longer ones neighbours are averaged.
const POINTS: usize = 160;

type Value = fn(&MetricsRow) -> Option<f64>;

/// A chart: part of its name, its heading, its axis, and lines: what is added to
/// a model's name, whether dashed, and the value.
struct Kind {
    name: &'static str,
    title: &'static str,
    axis: &'static str,
    lines: &'static [(&'static str, bool, Value)],
}

const LOSS: Kind = Kind {
    name: "loss",
    title: "Loss",
    axis: "loss (dashed: held out)",
    lines: &[("", false, |row| Some(row.loss)), (" held out", true, |row| row.eval_loss)],
};
const MARGIN: Kind = Kind {
    name: "margin",
    title: "Margin of rewards",
    axis: "beta times gained log-probability, nats",
    lines: &[("", false, |row| row.rewards_margins), (" held out", true, |row| row.eval_margin)],
};
const ACCURACY: Kind = Kind {
    name: "accuracy",
    title: "Pairs whose human answer gained more",
    axis: "share of pairs",
    lines: &[("", false, |row| row.rewards_accuracies), (" held out", true, |row| row.eval_accuracy)],
};
const LOGPS: Kind = Kind {
    name: "logps",
    title: "Log-probabilities of real and generated answers",
    axis: "nats per answer (dashed: generated)",
    lines: &[(" real", false, |row| row.logps_real), (" gen.", true, |row| row.logps_generated)],
};
const NORM: Kind = Kind {
    name: "grad-norm",
    title: "Gradient norm",
    axis: "norm before clipping",
    lines: &[("", false, |row| Some(row.grad_norm))],
};
const RATE: Kind = Kind {
    name: "learning-rate",
    title: "Learning rate",
    axis: "learning rate",
    lines: &[("", false, |row| Some(row.learning_rate))],
};

/// Charts of trainings on pairs, and of those on demonstrations: their losses
/// are of different units, and their lengths differ.
pub fn figures(report: &Report) -> Vec<(String, Vec<Figure>)> {
    type Has = fn(&Training) -> bool;
    let groups: [(&str, &str, Has, &[Kind]); 3] = [
        ("On pairs", "pairs", |training| training.paired, &[LOSS, MARGIN, LOGPS, ACCURACY, NORM, RATE]),
        ("θ0, on demonstrations", "sft", |training| !training.paired && training.is_first, &[LOSS, NORM, RATE]),
        ("Baselines, on demonstrations", "baselines", |t| !t.paired && !t.is_first, &[LOSS, NORM, RATE]),
    ];
    let mut out = Vec::new();
    for (heading, name, has, kinds) in groups {
        let figures: Vec<Figure> = kinds.iter().filter_map(|kind| figure(report, name, has, kind)).collect();
        if !figures.is_empty() {
            out.push((heading.to_owned(), figures));
        }
    }
    out
}

fn figure(report: &Report, group: &str, has: fn(&Training) -> bool, kind: &Kind) -> Option<Figure> {
    let mut series = Vec::new();
    let mut averaged = 1;
    let mut look = 0;
    for run in &report.runs {
        for training in run.trainings.iter().filter(|training| has(training)) {
            for (more, hollow, of) in kind.lines {
                let (marks, every) = curve(training, *of);
                averaged = averaged.max(every);
                if marks.is_empty() {
                    continue;
                }
                let name = format!("{}{more}", report.label(run, &training.label));
                series.push(Series { name, look, marks, joined: true, dotted: false, hollow: *hollow });
            }
            look += 1;
        }
    }
    let marks = || series.iter().flat_map(|series| &series.marks);
    marks().next()?;
    let chart = Chart {
        name: format!("training-{group}-{}", kind.name),
        title: kind.title.into(),
        description: format!("{} by update of each training: {}.", kind.title, kind.axis),
        x: Axis::of("update", marks().map(|mark| mark.x), 5),
        y: Axis::of(kind.axis, marks().map(|mark| mark.y), 5),
        series,
    };
    let note = match averaged {
        1 => String::new(),
        n => format!("Long curves show means of up to {n} updates."),
    };
    let mut figure = Figure::of(&chart, &note);
    // The whole curve is in the store; a table of hundreds of rows helps nobody.
    figure.head = ["series", "first", "last", "least", "most"].map(str::to_owned).to_vec();
    figure.rows = chart.series.iter().map(summary).collect();
    Some(figure)
}

fn summary(series: &Series) -> Vec<String> {
    let values = || series.marks.iter().map(|mark| mark.y);
    let ends = [values().next(), values().next_back(), values().reduce(f64::min), values().reduce(f64::max)];
    std::iter::once(series.name.clone()).chain(ends.map(|value| value.map_or_else(String::new, short))).collect()
}

/// A curve, and how many updates each of its points is a mean of.
fn curve(training: &Training, of: Value) -> (Vec<Mark>, usize) {
    let values: Vec<(f64, f64)> = training
        .rows
        .iter()
        .filter_map(|row| Some((f64::from(row.update), of(row)?)))
        .filter(|(_, value)| value.is_finite())
        .collect();
    let every = values.len().div_ceil(POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        let sum = part.iter().fold((0.0, 0.0), |sum, value| (sum.0 + value.0, sum.1 + value.1));
        Mark { x: sum.0 / n, y: sum.1 / n, ..Mark::default() }
    };
    (values.chunks(every).map(mean).collect(), every)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::lineage::Link;

    #[test]
    fn long_curves_are_averaged_and_gaps_left_out() {
        let row = |i: u32| MetricsRow {
            update: i + 1,
            loss: if i == 3 { f64::NAN } else { f64::from(i) },
            eval_loss: i.is_multiple_of(100).then_some(1.0),
            ..MetricsRow::default()
        };
        let rows = (0..1000).map(row).collect();
        let training = Training { label: "iter-1".into(), paired: true, is_first: false, link: Link::default(), rows };
        let (marks, every) = curve(&training, |row| Some(row.loss));
        assert_eq!((marks.len(), every), (143, 7));
        assert_eq!((marks[1].y, marks[1].x), (11.0, 12.0));
        assert_eq!(curve(&training, |row| row.eval_loss).0.len(), 10);
        assert!(curve(&training, |row| row.logps_real).0.is_empty());
    }
}
