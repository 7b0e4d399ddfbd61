//! The same numbers as Markdown, for a repository or a paper.

use super::charts::Figures;
use super::data::{Report, Run};
use super::escape::{code, markdown as escape};
use super::paper;
use crate::grid;
use crate::stats::Estimate;
use crate::verdict::Judged;

/// Writes it; charts are files in `folder`.
pub fn markdown(report: &Report, figures: &Figures, folder: &str) -> String {
    let names: Vec<String> = report.runs.iter().map(|run| escape(&run.name)).collect();
    let mut out = format!("# {}\n", names.join(", "));
    for run in &report.runs {
        out += &format!("\n## Scores of {} (seed {})\n\n{}", escape(&run.name), run.seed, scores(run));
        if let Some(first) = run.models.first() {
            out += &format!(
                "\n± is a 95% interval over the held-out rows; differences are to {}, judged column by column at 5%.\n",
                escape(&first.label)
            );
        }
        for (label, command) in &run.missing {
            out += &format!("\nNot scored yet: {} (`{}`).\n", escape(label), command.replace('`', "'"));
        }
        if !run.leaderboard.entries.is_empty() {
            out += &format!("\n### Leaderboard tasks\n\n{}", leaderboard(run));
        }
    }
    out += "\n## Charts\n";
    // The graph of everything is no figure for a paper.
    for figure in figures.all().filter(|figure| figure.name != "lineage") {
        out += &format!("\n![{}]({folder}/{}.svg)\n", escape(&figure.title), figure.name);
        if !figure.note.is_empty() {
            out += &format!("\n{}\n", escape(&figure.note));
        }
    }
    out += &format!("\n## The paper’s own table, for shape\n\n{}\n{}.\n", of_paper(), escape(paper::SOURCE));
    out += "\n## Commands\n";
    for run in &report.runs {
        out += &format!("\n```\n{}\n```\n", code(&run.commands.join("\n")));
    }
    out += "\n## What was dropped\n\n";
    for note in &report.sampled {
        out += &format!("- {}\n", escape(note));
    }
    for dropped in &report.dropped {
        let of = dropped.of.map_or_else(String::new, |of| format!(" of {of}"));
        out += &format!("- {}: {}: {}{of}\n", escape(&dropped.link.reference), escape(&dropped.why), dropped.count);
    }
    if report.dropped.is_empty() {
        out += "The manifests count nothing that was left out, cut or repeated.\n";
    }
    out
}

fn shown(estimate: &Estimate) -> String {
    let reach = estimate.reach95().map_or_else(String::new, |reach| format!(" ±{reach:.4}"));
    format!("{:.4}{reach}", estimate.value)
}

fn told(judged: &Judged) -> String {
    let difference = &judged.tested.difference;
    let reach = difference.reach95().map_or_else(String::new, |reach| format!(" ±{reach:.4}"));
    format!("{:+.4}{reach} {}", difference.value, judged.verdict)
}

fn scores(run: &Run) -> String {
    if run.models.is_empty() {
        return "No model is scored on held-out rows.\n".into();
    }
    let mut head = vec!["model".to_owned()];
    head.extend(run.board.headlines().map(|(_, measure)| measure.title.clone()));
    let mut rows = vec![head];
    for ((model, cells), judged) in run.models.iter().zip(&run.board.cells).zip(&run.board.judged) {
        let mut row = vec![escape(&model.label)];
        row.extend(run.board.headlines().map(|(column, _)| {
            let value = cells[column].as_ref().map_or_else(|| "–".to_owned(), shown);
            judged[column].as_ref().map_or(value.clone(), |judged| format!("{value} ({})", told(judged)))
        }));
        rows.push(row);
    }
    grid::aligned(&rows, " | ", true)
}

fn leaderboard(run: &Run) -> String {
    let mut rows = vec![["task", "model", "metric", "value", "difference to the first"].map(str::to_owned).to_vec()];
    let mut entries: Vec<_> = run.leaderboard.entries.iter().collect();
    entries.sort_by_key(|entry| &entry.unit);
    for entry in entries {
        let difference = entry.judged.as_ref().map_or_else(|| "–".into(), told);
        let cells = [&entry.unit, &entry.label, &entry.metric].map(|text| escape(text));
        rows.push([cells.to_vec(), vec![shown(&entry.estimate), difference]].concat());
    }
    let notes: String = run.leaderboard.notes.iter().map(|note| format!("\n{}\n", escape(note))).collect();
    grid::aligned(&rows, " | ", true) + &notes
}

fn of_paper() -> String {
    let mut rows =
        vec![[&["model"][..], &paper::TASKS[..]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for (name, values) in paper::ROWS {
        rows.push(std::iter::once(name.to_owned()).chain(values.map(|value| format!("{value:.2}"))).collect());
    }
    grid::aligned(&rows, " | ", true)
}
