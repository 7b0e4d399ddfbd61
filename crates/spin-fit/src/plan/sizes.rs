//! What is reckoned beside what the code asks for.

use serde_json::{Value, json};
use spin_fit::scale::{Generation, Scale};
use spin_model::Footprint;

/// Bytes of the parts of something, and what a dry run was asked for of each.
pub struct Sizes {
    what: &'static str,
    parts: Vec<(&'static str, u64, Option<u64>)>,
}

impl Sizes {
    /// Of the passes of a training, without masters and state.
    pub fn of_training(scale: &Scale, asked: &Footprint) -> Self {
        let parts = vec![
            ("weights", scale.weights, Some(asked.weights)),
            ("gradient", 4 * scale.trained, Some(asked.gradient)),
            ("activations, logits", scale.activations + scale.logits, Some(asked.buffers)),
        ];
        Self { what: "training", parts }
    }

    /// Of a generation.
    pub fn of_generation(paper: &Generation, asked: Option<&Footprint>) -> Self {
        let parts = vec![
            ("weights", paper.weights, asked.map(|asked| asked.weights)),
            ("keys and values", paper.cache, asked.map(|asked| asked.cache)),
            ("a step", paper.buffers, asked.map(|asked| asked.buffers)),
        ];
        Self { what: "generation", parts }
    }

    /// The parts and their sum.
    fn rows(&self) -> Vec<(&'static str, u64, Option<u64>)> {
        let sum = self.parts.iter().map(|part| part.1).sum();
        let asked = self.parts.iter().map(|part| part.2).sum();
        self.parts.iter().copied().chain([("together", sum, asked)]).collect()
    }

    /// As columns, between which something stands.
    pub fn table(&self, between: &str, edge: &str) -> String {
        let mut lines = vec![[self.what, "reckoned", "asked for", "reckoned less asked for"].map(str::to_owned)];
        for (name, reckoned, asked) in self.rows() {
            let difference = |asked: u64| format!("{:+.1} %", 100.0 * (reckoned as f64 / asked as f64 - 1.0));
            let asked =
                asked.map_or_else(|| ["-".into(), "-".into()], |asked| [spin_cli::size(asked), difference(asked)]);
            let [size, difference] = asked;
            lines.push([name.to_owned(), spin_cli::size(reckoned), size, difference]);
        }
        aligned(lines, between, edge)
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let parts = self
            .rows()
            .into_iter()
            .map(|(name, reckoned, asked)| (name.to_owned(), json!({"reckoned": reckoned, "asked_for": asked})));
        json!({ self.what: parts.collect::<serde_json::Map<String, Value>>() })
    }
}

/// Lines as columns of equal width, with an edge as Markdown has it, or without.
pub fn aligned<const N: usize>(mut lines: Vec<[String; N]>, between: &str, edge: &str) -> String {
    if !edge.is_empty() {
        lines.insert(1, std::array::from_fn(|_| "---".to_owned()));
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |line: &[String; N]| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let text = cells.join(between);
        match edge {
            "" => text.trim_end().to_owned() + "\n",
            edge => format!("{edge} {text} {edge}\n"),
        }
    };
    lines.iter().map(line).collect()
}
