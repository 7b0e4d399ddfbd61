//! The browser of pairs: a frame, which the page's program fills, and its data.

use super::parts::{Section, absent};
use crate::report::browser;
use crate::report::data::Report;
use crate::report::escape::html;

/// What the program fills.
pub fn section(report: &Report) -> Section {
    let body = match report.sources.iter().any(|source| !source.rows.is_empty()) {
        false => absent("There are no answers to show: none were generated for the models that are scored."),
        true => frame(report),
    };
    Section { id: "pairs-browser", title: "Browse the pairs", body }
}

/// The data of the program.
pub fn data(report: &Report) -> String {
    let sources: Vec<String> = report.sources.iter().map(browser::json_of).collect();
    format!("{{\"sources\":[{}]}}", sources.join(","))
}

fn frame(report: &Report) -> String {
    let notes: String = report.sampled.iter().map(|note| format!("<p class=\"note\">{}</p>\n", html(note))).collect();
    let select = |id: &str, label: &str| format!("<label>{label}<select id=\"{id}\"></select></label>");
    format!(
        "<p>Prompt, human answer, and what each model answered. Tokens are shaded and underlined by how unlikely the \
         model found them: <span class=\"t t0\">likely</span> <span class=\"t t1\">below 90%</span> \
         <span class=\"t t2\">below 50%</span> <span class=\"t t3\">below 10%</span> <span class=\"t t4\">below 1%</span>.</p>\n\
         {notes}<noscript><p class=\"absent\">Only this section needs JavaScript; without it the rows cannot be shown.</p></noscript>\n\
         <div id=\"browser\" hidden>\n<form id=\"tools\" role=\"search\" aria-label=\"Pairs\">\n\
         <label class=\"wide\">Search<input id=\"q\" type=\"search\" autocomplete=\"off\" spellcheck=\"false\" \
         placeholder=\"prompt, answer or id\"></label>\n{}{}{}{}{}{}{}\n</form>\n\
         <p class=\"line\"><span id=\"status\" role=\"status\" aria-live=\"polite\"></span>\
         <button type=\"button\" id=\"clear\">Show all</button>\
         <label class=\"inline\"><input type=\"checkbox\" id=\"keys\" checked>Keys</label>\
         <button type=\"button\" id=\"help-open\" aria-haspopup=\"dialog\">Help <kbd>?</kbd></button></p>\n\
         <div class=\"split\"><div class=\"side\"><ol id=\"list\" aria-label=\"Rows\"></ol>\
         <p class=\"pager\"><button type=\"button\" id=\"prev\">Previous</button><span id=\"page\"></span>\
         <button type=\"button\" id=\"next\">Next</button></p></div>\n\
         <article id=\"detail\" aria-labelledby=\"detail-title\"></article></div>\n\
         <dialog id=\"help\" aria-labelledby=\"help-title\"><h3 id=\"help-title\">Keys of the browser</h3>\n<dl>\
         <dt><kbd>/</kbd></dt><dd>search</dd><dt><kbd>j</kbd> <kbd>k</kbd>, in the list also <kbd>↓</kbd> <kbd>↑</kbd></dt>\
         <dd>next and previous row</dd><dt><kbd>n</kbd> <kbd>p</kbd></dt><dd>next and previous page</dd>\
         <dt><kbd>d</kbd></dt><dd>other decoding</dd><dt><kbd>Esc</kbd></dt><dd>leave search or help</dd>\
         <dt><kbd>?</kbd></dt><dd>this help</dd></dl>\n<p>The box “Keys” switches these off. The address in the bar \
         leads to the row that is shown.</p><form method=\"dialog\"><button>Close</button></form></dialog>\n</div>\n",
        select("source", "Rows"),
        select("decoding", "Answers"),
        select("model", "Model"),
        select("outcome", "Its answer"),
        select("change", "Beside the first"),
        select("finish", "Ended by"),
        select("sort", "Sort"),
    )
}
