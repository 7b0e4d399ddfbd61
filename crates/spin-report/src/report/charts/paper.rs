//! The paper's average by iteration.

use super::figure::Figure;
use crate::report::axis::Axis;
use crate::report::paper::{ROUNDS, ROWS, SOURCE, TASKS};
use crate::report::svg::{Chart, Mark, Series};

/// The chart; it is the same in every report.
pub fn figure() -> Figure {
    let average = TASKS.len() - 1;
    let mark = |(i, (name, values)): (usize, &(&str, [f64; 7]))| Mark {
        x: i as f64,
        y: values[average],
        title: format!("{name}: {}", values[average]),
        ..Mark::default()
    };
    let rounds: Vec<Mark> = ROWS[..ROUNDS].iter().enumerate().map(mark).collect();
    let mut series = vec![Series { look: 0, marks: rounds, joined: true, dotted: true, ..Series::default() }];
    for (i, (name, values)) in ROWS[ROUNDS..].iter().enumerate() {
        let x = ROUNDS as f64 + 0.2 + i as f64 * 0.4;
        let marks = vec![Mark { x, ..mark((0, &(name, *values))) }];
        series.push(Series { name: (*name).into(), look: 1 + i, marks, dotted: true, hollow: true, joined: false });
    }
    let names = (0..ROUNDS).map(|t| if t == 0 { "θ0".into() } else { t.to_string() }).collect();
    let mut x = Axis::of_names("iterations of self-play", names);
    x.ticks.push((ROUNDS as f64 + 0.5, "baselines".into()));
    x.max += 1.3;
    let chart = Chart {
        name: "paper-average".into(),
        title: "For shape: the paper’s average".into(),
        description: format!("Average of the paper’s models by iteration. {SOURCE}."),
        x,
        y: Axis::of("average of six tasks, percent", ROWS.iter().map(|(_, values)| values[average]), 5),
        series,
    };
    Figure::of(
        &chart,
        "Other models and other data: only how gains follow each other compares. The paper gives no intervals.",
    )
}
