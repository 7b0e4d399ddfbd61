//! Pieces of the page. What is called `html` is markup already.

use crate::report::axis::minus;
use crate::report::charts::Figure;
use crate::report::escape::html;
use crate::report::lineage::Link;
use crate::stats::Estimate;
use crate::verdict::{Judged, Verdict};

/// A section of the page.
pub struct Section {
    /// Its address behind `#`.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// Its markup.
    pub body: String,
}

impl Section {
    /// The section.
    pub fn draw(&self) -> String {
        let Section { id, title, body } = self;
        format!("<section id=\"{id}\" aria-labelledby=\"h-{id}\">\n<h2 id=\"h-{id}\">{title}</h2>\n{body}</section>\n")
    }
}

/// A paragraph of text.
pub fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", html(text))
}

/// A paragraph that says what is not there; what stands between backticks is
/// typed.
pub fn absent(text: &str) -> String {
    let part = |(i, part): (usize, &str)| if i % 2 == 1 { format!("<code>{}</code>", html(part)) } else { html(part) };
    format!("<p class=\"absent\">{}</p>\n", text.split('`').enumerate().map(part).collect::<String>())
}

/// A table in a frame of its own, so that the page is never wider than the
/// screen. Cells are markup; the first of each row names it.
pub fn table(caption: &str, class: &str, head: &[String], rows: &[Vec<String>]) -> String {
    let heads: String = head.iter().map(|cell| format!("<th scope=\"col\">{cell}</th>")).collect();
    let row = |cells: &Vec<String>| {
        let mut cells = cells.iter();
        let name = cells.next().map_or_else(String::new, |cell| format!("<th scope=\"row\">{cell}</th>"));
        let rest: String = cells.map(|cell| format!("<td>{cell}</td>")).collect();
        format!("<tr>{name}{rest}</tr>\n")
    };
    let body: String = rows.iter().map(row).collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{label}\"><table class=\"{class}\">\
         <caption>{label}</caption><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n",
        label = html(caption)
    )
}

/// A table of plain texts.
pub fn plain_table(caption: &str, class: &str, head: &[String], rows: &[Vec<String>]) -> String {
    let escaped = |cells: &[String]| cells.iter().map(|cell| html(cell)).collect::<Vec<_>>();
    table(caption, class, &escaped(head), &rows.iter().map(|row| escaped(row)).collect::<Vec<_>>())
}

/// A chart with its heading, how to read it, and its numbers.
pub fn figure(figure: &Figure) -> String {
    let note = if figure.note.is_empty() { String::new() } else { format!(" <span>{}</span>", html(&figure.note)) };
    format!(
        "<figure><figcaption><strong>{}</strong>{note}</figcaption>{}\n<details class=\"numbers\"><summary>Numbers\
         <span class=\"quiet\"> of “{}”</span></summary>\n{}</details></figure>\n",
        html(&figure.title),
        figure.svg,
        html(&figure.title),
        plain_table(&figure.title, "plain", &figure.head, &figure.rows)
    )
}

/// Charts side by side, where there is room.
pub fn figures(all: &[&Figure]) -> String {
    format!("<div class=\"figures\">\n{}</div>\n", all.iter().map(|one| figure(one)).collect::<String>())
}

/// A link to the record of an artifact.
pub fn link(link: &Link, html_text: &str) -> String {
    format!("<a href=\"#{}\" title=\"{}\">{html_text}</a>", link.anchor(), html(&link.reference))
}

/// A number that people read, with as many places as its size needs.
pub fn number(value: f64) -> String {
    placed(value, places(value))
}

fn places(value: f64) -> usize {
    if value.abs() >= 10.0 { 2 } else { 4 }
}

fn placed(value: f64, places: usize) -> String {
    minus(&format!("{value:.places$}"))
}

/// `+0.1234` with a sign that is as wide as a plus.
pub fn signed(value: f64) -> String {
    let text = number(value);
    if text.starts_with('−') { text } else { format!("+{text}") }
}

/// ` ±0.0123`, or nothing.
pub fn reach(estimate: &Estimate) -> String {
    let of = |reach: f64| format!(" <span class=\"reach\">±{}</span>", placed(reach, places(estimate.value)));
    estimate.reach95().map_or_else(String::new, of)
}

/// A difference with what is said of it, in words and with a mark.
pub fn verdict(judged: &Judged) -> String {
    let (class, mark) = match judged.verdict {
        Verdict::Better => ("better", "▲"),
        Verdict::Worse => ("worse", "▼"),
        Verdict::WithinNoise => ("noise", "≈"),
    };
    let difference = &judged.tested.difference;
    format!(
        "<span class=\"{class}\"><span aria-hidden=\"true\">{mark}</span> {}{} {}</span>",
        signed(difference.value),
        reach(difference),
        judged.verdict
    )
}
