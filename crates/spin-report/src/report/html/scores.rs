//! The table of scores, its charts, and the paper's table beside them.

use super::parts::{Section, absent, figures, link, number, plain_table, reach, signed, table, verdict};
use crate::report::axis::grouped;
use crate::report::charts::{Figure, Figures};
use crate::report::data::{Model, Report, Run};
use crate::report::escape::{self, html};
use crate::report::paper;
use crate::report::scores::Measure;

/// Scores.
pub fn section(report: &Report, charts: &Figures) -> Section {
    let mut body = String::new();
    for (i, run) in report.runs.iter().enumerate() {
        body += &run_table(report, i, run);
        if !run.missing.is_empty() {
            let each: Vec<String> =
                run.missing.iter().map(|(label, command)| format!("{label} (`{command}`)")).collect();
            body += &absent(&format!("Not scored yet: {}.", each.join(", ")));
        }
    }
    let mut all: Vec<&Figure> = charts.scores.iter().collect();
    all.push(&charts.paper);
    body += "<h3>By iteration</h3>\n";
    body += &figures(&all);
    body += &paper_table(report);
    Section { id: "scores", title: "Scores", body }
}

fn run_table(report: &Report, number_of_run: usize, run: &Run) -> String {
    let Some(first) = run.models.first() else {
        return absent(&format!("No model of {} is scored on held-out rows.", run.name));
    };
    let columns: Vec<(usize, &Measure)> = run.board.headlines().collect();
    let others: Vec<(usize, &Measure)> =
        run.board.measures.iter().enumerate().filter(|(_, measure)| !measure.is_headline).collect();
    let caption = |what: &str| match report.runs.len() {
        1 => what.to_owned(),
        _ => format!("{}: {what}", run.name),
    };
    let of = |columns: &[(usize, &Measure)], caption: String| {
        let mut head = vec!["model".to_owned()];
        head.extend(columns.iter().map(|(_, measure)| {
            let hint = if measure.lower_is_better { "<br><span class=\"hint\">lower is better</span>" } else { "" };
            html(&measure.title) + hint
        }));
        let row = |(at, model): (usize, &Model)| {
            let mut cells = vec![html(&model.label)];
            cells
                .extend(columns.iter().map(|(column, measure)| cell(report, number_of_run, run, at, *column, measure)));
            cells
        };
        let rows: Vec<Vec<String>> = run.models.iter().enumerate().map(row).collect();
        table(&caption, "scores", &head, &rows)
    };
    let mut out = of(&columns, caption("scores on the held-out rows"));
    out += &format!(
        "<p class=\"note\">± is a 95% interval over the rows, which are paired for differences. Second lines are \
         differences to {}, judged column by column by McNemar’s exact test or the paired bootstrap at 5%, by Holm’s \
         correction. Every number leads to the record of its scores; “wrong” leads to the answers.</p>\n",
        html(&first.label)
    );
    if !others.is_empty() {
        out += &format!(
            "<details><summary>More measures ({})</summary>\n{}</details>\n",
            others.len(),
            of(&others, caption("more measures"))
        );
    }
    out
}

fn cell(report: &Report, number_of_run: usize, run: &Run, at: usize, column: usize, measure: &Measure) -> String {
    let model = &run.models[at];
    let Some(estimate) = run.board.cells[at][column] else { return "<span class=\"none\">none</span>".into() };
    let mut out = link(&model.scores, &number(estimate.value)) + &reach(&estimate);
    if let Some(judged) = &run.board.judged[at][column] {
        out += &format!("<br>{}", verdict(judged));
    }
    if measure.is_right_or_wrong()
        && let Some(source) = report.sources.iter().find(|source| source.id == held_out(number_of_run))
        && let Some(decoding) = source.decodings.iter().position(|name| measure.metric.ends_with(name.as_str()))
    {
        let own = model.rows.iter().filter(|row| row.task == measure.task && row.metric == measure.metric);
        let wrong = own.filter(|row| row.value == 0.0).count();
        out += &format!(
            "<br><a class=\"rows\" href=\"#source={}&amp;model={}&amp;outcome=wrong&amp;decoding={decoding}\">{} wrong</a>",
            escape::id(&source.id),
            at,
            grouped(wrong as u64)
        );
    }
    out
}

/// The id of the browser's rows of a run.
pub fn held_out(number_of_run: usize) -> String {
    format!("held-out-{number_of_run}")
}

fn paper_table(report: &Report) -> String {
    let mut head = vec!["model".to_owned()];
    head.extend(paper::TASKS.map(str::to_owned));
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (i, (name, values)) in paper::ROWS.iter().enumerate() {
        let mut row = vec![(*name).to_owned()];
        row.extend(values.iter().map(|value| format!("{value:.2}")));
        if (1..paper::ROUNDS).contains(&i) {
            let gain = values[6] - paper::ROWS[i - 1].1[6];
            row[7] += &format!(" ({})", signed_short(gain));
        }
        rows.push(row);
    }
    let mut out = String::from("<h3>The paper’s own table, for shape</h3>\n");
    out += &plain_table("The paper’s results", "plain numbers", &head, &rows);
    out += &format!("<p class=\"note\">{}. Gains over the round before stand in brackets.</p>\n", html(paper::SOURCE));
    let gains: Vec<Vec<String>> = report.runs.iter().flat_map(|run| gains(report, run)).collect();
    if !gains.is_empty() {
        let rounds = gains.iter().map(Vec::len).max().unwrap_or(1) - 1;
        let mut head = vec!["gain of each round".to_owned()];
        head.extend((1..=rounds.max(paper::ROUNDS - 1)).map(|t| format!("round {t}")));
        let mut of_paper = vec!["paper: average, points".to_owned()];
        of_paper.extend((1..paper::ROUNDS).map(|i| signed_short(paper::ROWS[i].1[6] - paper::ROWS[i - 1].1[6])));
        let mut rows = vec![of_paper];
        rows.extend(gains);
        let width = head.len();
        rows.iter_mut().for_each(|row| row.resize(width, "–".into()));
        out += &plain_table("Gain over the round before", "plain numbers", &head, &rows);
    }
    out
}

fn signed_short(value: f64) -> String {
    crate::report::axis::minus(&format!("{value:+.2}"))
}

/// How much each round added, of each headline measure.
fn gains(report: &Report, run: &Run) -> Vec<Vec<String>> {
    let rounds: Vec<usize> = (0..run.models.len()).filter(|at| run.models[*at].iteration.is_some()).collect();
    let mut out = Vec::new();
    for (column, measure) in run.board.headlines() {
        let values: Vec<f64> = rounds.iter().filter_map(|at| Some(run.board.cells[*at][column]?.value)).collect();
        if values.len() > 1 {
            let mut row = vec![report.label(run, &measure.title)];
            row.extend(values.windows(2).map(|pair| signed(pair[1] - pair[0])));
            out.push(row);
        }
    }
    out
}
