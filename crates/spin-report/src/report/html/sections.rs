//! The smaller sections.

use super::parts::{Section, absent, figures, link, number, paragraph, plain_table, reach, table, verdict};
use crate::report::axis::grouped;
use crate::report::charts::{Figure, Figures};
use crate::report::data::{Answers, Report, Run};
use crate::report::dropped::Dropped;
use crate::report::escape::html;

fn drawn(all: &[Figure]) -> String {
    figures(&all.iter().collect::<Vec<_>>())
}

/// Accuracy against likelihood.
pub fn frontier(charts: &Figures) -> Section {
    let body = match charts.frontier.is_empty() {
        true => absent(
            "There is no frontier to draw: it needs a task of right answers (gsm8k or exact_match) and nll in \
             bench.tasks.",
        ),
        false => drawn(&charts.frontier),
    };
    Section { id: "frontier", title: "Accuracy against likelihood", body }
}

/// Training curves.
pub fn training(report: &Report, charts: &Figures) -> Section {
    let mut body = String::new();
    for (heading, all) in &charts.training {
        body += &format!("<h3>{heading}</h3>\n{}", drawn(all));
    }
    let links: Vec<String> = report
        .runs
        .iter()
        .flat_map(|run| run.trainings.iter().map(move |training| (run, training)))
        .map(|(run, training)| link(&training.link, &html(&report.label(run, &training.label))))
        .collect();
    match links.is_empty() {
        true => body += &absent("The store has no metrics of a training of these runs."),
        false => {
            body += &format!("<p class=\"note\">Every update is a row of the metrics: {}.</p>\n", links.join(", "))
        }
    }
    Section { id: "training", title: "Training", body }
}

/// Distribution of margins.
pub fn margins(report: &Report, charts: &Figures) -> Section {
    let mut body = String::new();
    let without: Vec<&str> = report
        .runs
        .iter()
        .filter(|run| run.board.measures.iter().all(|measure| measure.task != spin_run::run::MARGIN))
        .map(|run| run.name.as_str())
        .collect();
    if !charts.margins.is_empty() {
        body += &paragraph(
            "A margin is how much likelier a model finds the human answer than θ0’s sampled one to the same prompt, on \
             held-out rows. Rewards are what training sees of it: beta times what it gained over θ0.",
        );
        body += &drawn(&charts.margins);
    }
    if !without.is_empty() {
        body += &absent(&format!(
            "{} has no margins of held-out rows: its bench.tasks lacks \"margin\". The margins of training pairs, update \
             by update, are under Training.",
            without.join(", ")
        ));
    }
    Section { id: "margins", title: "Margins", body }
}

/// Lengths, ends and likeness of answers.
pub fn answers(report: &Report, charts: &Figures) -> Section {
    let mut body = String::new();
    if !charts.answers.is_empty() {
        body += &drawn(&charts.answers);
    }
    for run in &report.runs {
        if run.answers.is_empty() {
            body += &absent(&format!("The store has no answers of {}.", run.name));
            continue;
        }
        let head = [
            "model",
            "prompts",
            "answers",
            "mean tokens",
            "median",
            "95%",
            "ended by",
            "repeated",
            "human",
            "distinct-1",
            "distinct-2",
            "distinct-3",
        ];
        let rows: Vec<Vec<String>> = run.answers.iter().map(answers_row).collect();
        let caption = match report.runs.len() {
            1 => "Answers by model".to_owned(),
            _ => format!("{}: answers by model", run.name),
        };
        body += &table(&caption, "plain numbers", &head.map(str::to_owned), &rows);
    }
    body += "<p class=\"note\">“Repeated” is the share of answers that equal an earlier one to whatever prompt, “human” \
             of those that are the human answer to theirs; distinct-n is the share of different n-grams of tokens among \
             all.</p>\n";
    Section { id: "answers", title: "Answers", body }
}

fn answers_row(answers: &Answers) -> Vec<String> {
    let m = &answers.measured;
    let share = |share: f64| format!("{:.1}%", share * 100.0);
    let of = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
    let total = m.count.max(1) as f64;
    let ends: Vec<String> =
        m.finish.iter().map(|(why, n)| format!("{} {}", html(why), share(*n as f64 / total))).collect();
    let length = m.length.map_or_else(|| "–".to_owned(), |length| format!("{:.1}{}", length.value, reach(&length)));
    let mut row = vec![html(&answers.label), link(&answers.link, &html(&answers.of)), grouped(m.count as u64), length];
    row.extend([m.median.to_string(), m.p95.to_string(), ends.join(", "), share(m.repeated)]);
    row.push(m.human.map_or_else(|| "–".to_owned(), share));
    row.extend(m.distinct.map(of));
    row
}

/// Leaderboard tasks.
pub fn leaderboard(report: &Report) -> Section {
    let body = report.runs.iter().map(|run| leaderboard_of(report, run)).collect();
    Section { id: "leaderboard", title: "Leaderboard tasks", body }
}

fn leaderboard_of(report: &Report, run: &Run) -> String {
    let board = &run.leaderboard;
    if board.entries.is_empty() {
        return absent(&format!(
            "The store has no evaluations of the models of {} on leaderboard tasks; `spin-bench eval {} --iteration N` \
             makes them.",
            run.name, run.file
        ));
    }
    let head = ["task", "model", "metric", "value", "documents", "difference to the first"].map(str::to_owned);
    let mut entries: Vec<_> = board.entries.iter().collect();
    entries.sort_by_key(|entry| &entry.unit);
    let rows: Vec<Vec<String>> = entries
        .into_iter()
        .map(|entry| {
            vec![
                html(&entry.unit),
                html(&entry.label),
                html(&entry.metric),
                link(&entry.link, &number(entry.estimate.value)) + &reach(&entry.estimate),
                grouped(entry.estimate.rows as u64),
                entry.judged.as_ref().map_or_else(|| "–".into(), verdict),
            ]
        })
        .collect();
    let caption = match report.runs.len() {
        1 => "Leaderboard tasks".to_owned(),
        _ => format!("{}: leaderboard tasks", run.name),
    };
    let notes: String = board.notes.iter().map(|note| absent(note)).collect();
    let note = "<p class=\"note\">Groups are means over all their documents. Differences are paired by document and \
                judged together.</p>\n";
    table(&caption, "scores", &head, &rows) + note + &notes
}

/// The commands that make it all again.
pub fn commands(report: &Report) -> Section {
    let mut body = paragraph(
        "In this order the programs make everything again; what is there already is not made a second time. Equal inputs \
         give equal identities, which the records above have.",
    );
    for run in &report.runs {
        if report.runs.len() > 1 {
            body += &format!("<h3>{}</h3>\n", html(&run.name));
        }
        let lines: String = run.commands.iter().map(|line| html(line) + "\n").collect();
        body += &format!("<pre tabindex=\"0\" aria-label=\"Commands\">{lines}</pre>\n");
    }
    if !report.commits.is_empty() {
        let commits: Vec<String> =
            report.commits.iter().map(|commit| format!("<code>{}</code>", html(commit))).collect();
        body += &format!("<p class=\"note\">Built from {}.</p>\n", commits.join(", "));
    }
    Section { id: "commands", title: "Repeat it", body }
}

/// What was left out.
pub fn dropped(report: &Report) -> Section {
    let mut body: String = report.sampled.iter().map(|note| paragraph(note)).collect();
    let row = |dropped: &Dropped| {
        let of = dropped.of.map_or_else(String::new, |of| format!(" of {}", grouped(of)));
        let place = link(&dropped.link, &html(&dropped.link.reference));
        vec![place, html(&dropped.why), grouped(dropped.count) + &of]
    };
    let rows: Vec<Vec<String>> = report.dropped.iter().map(row).collect();
    body += &match rows.is_empty() {
        true => absent("The manifests count nothing that was left out, cut or repeated."),
        false => table(
            "What was left out, cut or repeated",
            "plain",
            &["where", "what", "how many"].map(str::to_owned),
            &rows,
        ),
    };
    body += &unscored(report);
    Section { id: "dropped", title: "What was dropped", body }
}

/// Rows that some measures lack: those that did not fit, and pairs without a
/// difference.
fn unscored(report: &Report) -> String {
    let mut rows = Vec::new();
    for run in &report.runs {
        let most = run.board.cells.iter().flatten().flatten().map(|estimate| estimate.rows).max().unwrap_or(0);
        for (model, cells) in run.models.iter().zip(&run.board.cells) {
            for (measure, estimate) in run.board.measures.iter().zip(cells) {
                let Some(estimate) = estimate.filter(|estimate| estimate.rows < most) else { continue };
                let count = format!("{} of {}", grouped((most - estimate.rows) as u64), grouped(most as u64));
                rows.push(vec![report.label(run, &model.label), measure.title.clone(), count]);
            }
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let head = ["model", "measure", "rows without a value"].map(str::to_owned);
    let note = "<p class=\"note\">Comparisons of a human and a generated answer leave out rows where the two are the same; \
                others lack rows that are longer than the model’s context.</p>\n";
    plain_table("Rows without a value", "plain", &head, &rows) + note
}

/// The end of the page.
pub fn footer() -> String {
    "<footer><p>Written by <code>spin-bench report</code>. This file asks nothing of a network, and the same store gives \
     the same file.</p></footer>\n"
        .into()
}
