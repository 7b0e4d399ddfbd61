//! The page: one file, which asks nothing of a network.
//!
//! All but the browser of pairs is there without the page's program. A policy
//! in the head lets run that program alone, by its digest, and forbids every
//! request.

mod browse;
mod parts;
mod records;
mod scores;
mod sections;
mod summary;

use sha2::{Digest as _, Sha256};

use super::charts::Figures;
use super::data::Report;
use super::escape;
use super::svg;

const STYLE: &str = include_str!("assets/report.css");
const PROGRAM: &str = include_str!("assets/report.js");

/// Writes the page.
pub fn html(report: &Report, figures: &Figures) -> String {
    let names: Vec<&str> = report.runs.iter().map(|run| run.name.as_str()).collect();
    let title = format!("{} — report of self-play fine-tuning", names.join(", "));
    let style = format!("{}{STYLE}", svg::STYLE);
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; base-uri 'none'; \
         form-action 'none'",
        digest(PROGRAM),
        digest(&style)
    );
    let sections = [
        summary::section(report),
        scores::section(report, figures),
        sections::frontier(figures),
        sections::training(report, figures),
        sections::margins(report, figures),
        sections::answers(report, figures),
        browse::section(report),
        sections::leaderboard(report),
        records::section(report, figures),
        sections::commands(report),
        sections::dropped(report),
    ];
    let links: Vec<String> = sections.iter().map(|s| format!("<a href=\"#{}\">{}</a>", s.id, s.title)).collect();
    let bodies: String = sections.iter().map(parts::Section::draw).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{}</title>\n<style>{style}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the report</a>\n{}\
         <nav class=\"contents\" aria-label=\"Sections\">{}</nav>\n<main id=\"main\" tabindex=\"-1\">\n{bodies}</main>\n\
         {}<script type=\"application/json\" id=\"pairs\">{}</script>\n<script>{PROGRAM}</script>\n</body>\n</html>\n",
        escape::html(&title),
        summary::header(report),
        links.join(""),
        sections::footer(),
        browse::data(report),
    )
}

/// The digest of an element's text, as a policy has it.
fn digest(text: &str) -> String {
    base64(&Sha256::digest(text.as_bytes()))
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * i) & 63) as usize]);
            out.push(if i <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 4648, section 10.
    #[test]
    fn digits_are_those_of_the_rfc() {
        for (bytes, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
        // printf '' | openssl dgst -sha256 -binary | base64
        assert_eq!(digest(""), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn the_program_makes_no_markup_of_texts() {
        for word in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "fetch("]
        {
            assert!(!PROGRAM.contains(word), "{word}");
        }
        for text in [PROGRAM, STYLE, svg::STYLE] {
            assert!(!text.contains("</") && !text.contains("http:") && !text.contains("https:"));
        }
    }
}
