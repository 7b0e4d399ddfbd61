//! What a report says, as plain data: gathered once, written as HTML, Markdown
//! and charts.

use std::collections::BTreeMap;

use spin_run::schema::{MetricsRow, ScoreRow};

use super::answers::Measured;
use super::axis::grouped;
use super::browser::{self, Source};
use super::dropped::{self, Dropped};
use super::leaderboard::Leaderboard;
use super::lineage::{self, Lineages, Link, Node};
use super::scores::Board;

/// All of it.
pub struct Report {
    /// The runs, in the order asked for.
    pub runs: Vec<Run>,
    /// Every artifact and file behind a score, by reference; children after
    /// their parents.
    pub lineage: Vec<Node>,
    /// Commits of the programs that made them.
    pub commits: Vec<String>,
    /// What was left out on the way.
    pub dropped: Vec<Dropped>,
    /// What the browser of pairs shows.
    pub sources: Vec<Source>,
    /// What is left out of the browser, and why.
    pub sampled: Vec<String>,
}

/// One run.
pub struct Run {
    /// Its name.
    pub name: String,
    /// The run file, as it was given.
    pub file: String,
    /// Its seed.
    pub seed: u64,
    /// What margins are multiplied with to be rewards.
    pub beta: f64,
    /// Scored models, θ0 first.
    pub models: Vec<Model>,
    /// Models that are not scored, with what makes their scores.
    pub missing: Vec<(String, String)>,
    /// Sums and verdicts.
    pub board: Board,
    /// Trainings.
    pub trainings: Vec<Training>,
    /// What answers look like.
    pub answers: Vec<Answers>,
    /// Leaderboard tasks.
    pub leaderboard: Leaderboard,
    /// Commands that make it all, in order.
    pub commands: Vec<String>,
}

/// A scored model.
pub struct Model {
    /// Its name in the run.
    pub label: String,
    /// Which round it enters; `None` for baselines.
    pub iteration: Option<usize>,
    /// Its scores.
    pub scores: Link,
    /// One value a row and metric.
    pub rows: Vec<ScoreRow>,
}

impl Model {
    /// Values of a metric by row.
    pub fn values(&self, task: &str, metric: &str) -> BTreeMap<&str, f64> {
        let own = self.rows.iter().filter(|row| row.task == task && row.metric == metric);
        own.map(|row| (row.row_id.as_str(), row.value)).collect()
    }
}

/// How a model was trained.
pub struct Training {
    /// The model.
    pub label: String,
    /// Whether it learned from pairs, and not from demonstrations alone.
    pub paired: bool,
    /// Whether it made θ0.
    pub is_first: bool,
    /// The metrics.
    pub link: Link,
    /// Updates.
    pub rows: Vec<MetricsRow>,
}

/// Answers of a model.
pub struct Answers {
    /// The model.
    pub label: String,
    /// What was asked: `held-out, sampled`, `held-out, greedy` or `training prompts`.
    pub of: String,
    /// The samples.
    pub link: Link,
    /// What they look like.
    pub measured: Measured,
}

impl Report {
    /// Puts together what was gathered; of `sources` as much stays as fits.
    pub fn new(runs: Vec<Run>, lineages: Lineages, sources: Vec<Source>) -> Report {
        let lineage = lineages.into_nodes();
        let (sources, mut sampled) = browser::fitted(sources, browser::BUDGET);
        for source in sources.iter().filter(|source| source.rows.len() < source.all) {
            sampled.push(format!(
                "The browser of pairs shows {} of {} rows of {}, drawn by a hash of their ids.",
                grouped(source.rows.len() as u64),
                grouped(source.all as u64),
                source.name
            ));
        }
        let (commits, dropped) = (lineage::commits(&lineage), dropped::of(&lineage));
        Report { runs, lineage, commits, dropped, sources, sampled }
    }

    /// How a run's model is called where several runs are shown.
    pub fn label(&self, run: &Run, label: &str) -> String {
        match self.runs.len() {
            1 => label.to_owned(),
            _ => format!("{} {label}", run.name),
        }
    }
}
