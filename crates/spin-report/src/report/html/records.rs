//! Lineage: the graph, and the record of every artifact behind a number.

use serde_json::Value;

use super::parts::{Section, absent, figure, plain_table};
use crate::report::axis::grouped;
use crate::report::charts::Figures;
use crate::report::data::Report;
use crate::report::escape::html;
use crate::report::lineage::{Made, Node};

/// The graph and the records.
pub fn section(report: &Report, charts: &Figures) -> Section {
    let Some(graph) = &charts.lineage else {
        return Section {
            id: "lineage-graph",
            title: "Lineage",
            body: absent("There is no artifact behind any number."),
        };
    };
    let mut body = String::from(
        "<p>From every score down to digests of files and seeds. A record says by which settings and of what an artifact \
         was made; the same inputs give the same identity, the same files the same content.</p>\n",
    );
    body += &format!("<div class=\"graph-frame\">{}</div>\n<h3>Records</h3>\n<div class=\"records\">\n", figure(graph));
    let mut order: Vec<usize> = (0..report.lineage.len()).collect();
    order.sort_by_key(|i| rank(&report.lineage[*i]));
    order.into_iter().for_each(|i| body += &record(report, i, &report.lineage[i]));
    body += "</div>\n";
    Section { id: "lineage-graph", title: "Lineage", body }
}

/// What people ask for comes first: scores, then what they are made of.
fn rank(node: &Node) -> usize {
    const ORDER: [&str; 9] =
        ["scores", "evaluations", "model", "pairs", "samples", "reference", "metrics", "demonstrations", "preferences"];
    let last = if node.made.is_some() { ORDER.len() } else { ORDER.len() + 1 };
    ORDER.iter().position(|kind| *kind == node.kind()).unwrap_or(last)
}

fn record(report: &Report, at: usize, node: &Node) -> String {
    let inside = match &node.made {
        None => format!(
            "<dl class=\"facts-of\"><dt>BLAKE3</dt><dd><code>{}</code></dd></dl>\n<p>A file outside of the store, by its \
             name and digest.</p>\n",
            html(&node.link.content)
        ),
        Some(made) => of_artifact(report, node, made),
    };
    let children: Vec<String> = report
        .lineage
        .iter()
        .filter(|child| child.parents.iter().any(|(_, parent)| *parent == at))
        .map(|child| to(child, ""))
        .collect();
    let used = match children.is_empty() {
        true => String::new(),
        false => format!("<h4>Used by</h4><ul>{}</ul>\n", children.join("")),
    };
    format!(
        "<details class=\"record\" id=\"{}\"><summary><span class=\"kind\">{}</span> {}</summary>\n{inside}{used}</details>\n",
        node.link.anchor(),
        html(node.kind()),
        html(node.name()),
    )
}

fn to(node: &Node, role: &str) -> String {
    let role = if role.is_empty() { String::new() } else { format!("{}: ", html(role)) };
    format!("<li>{role}<a href=\"#{}\">{}</a></li>", node.link.anchor(), html(&node.link.reference))
}

fn of_artifact(report: &Report, node: &Node, made: &Made) -> String {
    let mut out = String::from("<dl class=\"facts-of\">");
    let mut fact = |name: &str, markup: String| out += &format!("<dt>{name}</dt><dd>{markup}</dd>");
    let code = |text: &str| format!("<code>{}</code>", html(text));
    fact("Reference", code(&node.link.reference));
    fact("Stage", html(&made.stage));
    if let Some(seed) = made.seed {
        fact("Seed", seed.to_string());
    }
    fact("Identity", code(&made.identity));
    fact("Content", code(&node.link.content));
    if let Some(command) = &made.command {
        fact("Made by", code(command));
    }
    let noted = made.environment.as_object().into_iter().flatten();
    // The run file has a section of its own.
    for (key, value) in noted.filter(|(key, _)| *key != spin_run::recovery::KEY) {
        fact(&html(&key.replace('_', " ")), html(&plain(value)));
    }
    out += "</dl>\n";
    let parents: String = node.parents.iter().map(|(role, parent)| to(&report.lineage[*parent], role)).collect();
    if !parents.is_empty() {
        out += &format!("<h4>Made from</h4><ul>{parents}</ul>\n");
    }
    let files: Vec<Vec<String>> = made
        .files
        .iter()
        .map(|file| {
            let rows = file.rows.map_or_else(String::new, grouped);
            vec![file.path.clone(), grouped(file.bytes), rows, file.blake3.clone()]
        })
        .collect();
    let head = ["file", "bytes", "rows", "BLAKE3"].map(str::to_owned);
    out += &plain_table(&format!("Files of {}", node.link.reference), "plain files", &head, &files);
    out + &json("Settings", &made.params) + &json("Counts", &made.facts)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn json(name: &str, value: &Value) -> String {
    if value.as_object().is_some_and(serde_json::Map::is_empty) {
        return String::new();
    }
    let text = serde_json::to_string_pretty(value).expect("plain data");
    format!("<h4>{name}</h4><pre tabindex=\"0\">{}</pre>\n", html(&text))
}
