//! A chart with what else is said of it.

use crate::report::svg::{self, Chart};

/// A chart, its numbers as a table, and a sentence on how to read it.
pub struct Figure {
    /// File name without its end.
    pub name: String,
    /// Heading.
    pub title: String,
    /// How to read it.
    pub note: String,
    /// The element.
    pub svg: String,
    /// Columns of the table.
    pub head: Vec<String>,
    /// The same numbers.
    pub rows: Vec<Vec<String>>,
}

impl Figure {
    /// Of a chart.
    pub fn of(chart: &Chart, note: &str) -> Figure {
        let axis = |label: &str, other: &str| if label.is_empty() { other.to_owned() } else { label.to_owned() };
        Figure {
            name: chart.name.clone(),
            title: chart.title.clone(),
            note: note.into(),
            svg: chart.draw(),
            head: vec![
                "series".into(),
                axis(&chart.x.label, "at"),
                axis(&chart.y.label, "value"),
                "95% interval".into(),
            ],
            rows: chart.rows().into_iter().map(Vec::from).collect(),
        }
    }

    /// The chart as a file.
    pub fn file(&self) -> String {
        svg::file(&self.svg)
    }
}
