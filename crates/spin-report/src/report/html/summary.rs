//! The head of the page: what this is, and what came of it.

use super::parts::{Section, absent, number, reach, verdict};
use crate::report::axis::grouped;
use crate::report::data::{Report, Run};
use crate::report::escape::html;

/// The head.
pub fn header(report: &Report) -> String {
    let names: Vec<String> = report.runs.iter().map(|run| html(&run.name)).collect();
    let facts = |run: &Run| {
        let rounds = run.models.iter().filter_map(|model| model.iteration).max().unwrap_or(0);
        let baselines = run.models.iter().filter(|model| model.iteration.is_none()).count();
        let rows = run.board.cells.iter().flatten().flatten().map(|estimate| estimate.rows).max().unwrap_or(0);
        format!(
            "<li><b>{}</b> {}, {}, {} held-out rows, seed {}, from <code>{}</code></li>",
            html(&run.name),
            count(rounds, "round of self-play", "rounds of self-play"),
            count(baselines, "baseline", "baselines"),
            grouped(rows as u64),
            run.seed,
            html(&run.file)
        )
    };
    format!(
        "<header class=\"top\"><p class=\"kicker\">Self-play fine-tuning</p><h1>{}</h1><ul class=\"facts\">{}</ul></header>\n",
        names.join(" · "),
        report.runs.iter().map(facts).collect::<String>()
    )
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// What the last round did to each headline measure.
pub fn section(report: &Report) -> Section {
    let body = report.runs.iter().map(|run| tiles(report, run)).collect();
    Section { id: "summary", title: "In short", body }
}

fn tiles(report: &Report, run: &Run) -> String {
    let last = (0..run.models.len()).filter(|at| run.models[*at].iteration.is_some_and(|t| t > 0)).max();
    let heading = match report.runs.len() {
        1 => String::new(),
        _ => format!("<h3>{}</h3>\n", html(&run.name)),
    };
    let Some(last) = last else {
        let what = format!("No round of {} is scored yet, so there is nothing to compare.", run.name);
        return heading + &absent(&what);
    };
    let (first, model) = (&run.models[0].label, &run.models[last].label);
    let mut tiles = String::new();
    for (column, measure) in run.board.headlines() {
        let (Some(before), Some(after)) = (run.board.cells[0][column], run.board.cells[last][column]) else { continue };
        let told = run.board.judged[last][column].map_or_else(String::new, |judged| verdict(&judged));
        let hint = if measure.lower_is_better { "; lower is better" } else { "" };
        tiles += &format!(
            "<li><span class=\"of\">{}</span><span class=\"value\">{}{}</span><span class=\"from\">{} was {}{hint}</span>\
             {told}</li>\n",
            html(&measure.title),
            number(after.value),
            reach(&after),
            html(first),
            number(before.value)
        );
    }
    format!(
        "{heading}<p>{} beside {} on the same held-out rows. ± is a 95% interval; “better” and “worse” are differences \
         that chance would hardly bring about.</p>\n<ul class=\"tiles\">\n{tiles}</ul>\n",
        html(model),
        html(first)
    )
}
