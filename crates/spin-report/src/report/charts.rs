//! The charts of a report.

mod answers;
mod by_iteration;
mod figure;
mod frontier;
mod graph;
mod margins;
mod paper;
mod scores;
mod training;

use super::data::Report;

pub use figure::Figure;

/// All charts, by section.
pub struct Figures {
    /// Scores by iteration.
    pub scores: Vec<Figure>,
    /// The paper's average by iteration.
    pub paper: Figure,
    /// Accuracy against likelihood.
    pub frontier: Vec<Figure>,
    /// Training curves, pairs first.
    pub training: Vec<(String, Vec<Figure>)>,
    /// Distribution of margins.
    pub margins: Vec<Figure>,
    /// Lengths and likeness of answers.
    pub answers: Vec<Figure>,
    /// Where numbers come from.
    pub lineage: Option<Figure>,
}

impl Figures {
    /// Draws all.
    pub fn of(report: &Report) -> Figures {
        Figures {
            scores: scores::figures(report),
            paper: paper::figure(),
            frontier: frontier::figures(report),
            training: training::figures(report),
            margins: margins::figures(report),
            answers: answers::figures(report),
            lineage: graph::figure(&report.lineage),
        }
    }

    /// All, in the order of the page.
    pub fn all(&self) -> impl Iterator<Item = &Figure> {
        let training = self.training.iter().flat_map(|(_, figures)| figures);
        let before = self.scores.iter().chain([&self.paper]).chain(&self.frontier).chain(training);
        before.chain(&self.margins).chain(&self.answers).chain(&self.lineage)
    }
}
