//! `ls`, `show`, `lineage`, `verify`: looks that change nothing.

use std::io::IsTerminal;

use serde_json::json;
use spin_cli::{Exit, say};
use spin_run::diff::Diff;
use spin_run::import;
use spin_run::schema::keys;
use spin_store::audit::{self, Finding};
use spin_store::{Artifact, Manifest, Reference, Store};

use crate::{Format, Level, out};

/// Text of a store for a terminal: names of files may hold what moves the
/// cursor, changes colours or turns writing around.
pub fn shown(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(c),
            c if c.is_control() || turns(c) => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

pub fn ls(store: &Store, prefix: &str, format: Format) -> anyhow::Result<Exit> {
    let (mut rows, mut exit) = (Vec::new(), Exit::Done);
    for entry in store.list()? {
        let name = format!("{}/{}", entry.0, entry.1);
        if !name.starts_with(prefix) {
            continue;
        }
        match store.load_listed(&entry) {
            Ok(Artifact { manifest: m, .. }) => {
                rows.push((m.reference(), m.content[..12].to_owned(), m.rows(), m.bytes(), finished(&m)));
            }
            Err(error) => {
                say(&shown(&format!("{name}@v{} cannot be listed: {error}", entry.2)));
                if exit != Exit::AuditMismatch {
                    exit = if error.is_difference() { Exit::AuditMismatch } else { Exit::Failed };
                }
            }
        }
    }
    if format == Format::Json {
        let list: Vec<_> = rows
            .iter()
            .map(|(r, c, n, b, t)| json!({"reference": r, "content": c, "rows": n, "bytes": b, "finished_at": t}))
            .collect();
        out(&format!("{}\n", serde_json::to_string_pretty(&list)?))?;
        return Ok(exit);
    }
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
    for (reference, content, count, bytes, time) in rows {
        let count = if count > 0 { count.to_string() } else { "-".into() };
        out(&shown(&format!("{reference:width$}  {content}  {count:>8} rows  {bytes:>10} bytes  {time}\n")))?;
    }
    Ok(exit)
}

fn finished(m: &Manifest) -> String {
    m.environment.get("finished_at").and_then(|v| v.as_str()).unwrap_or("").to_owned()
}

pub fn show(store: &Store, reference: &str) -> anyhow::Result<Exit> {
    let artifact = store.get(&reference.parse::<Reference>()?)?;
    let text = artifact.manifest.to_text();
    if std::io::stdout().is_terminal() {
        say(&shown(&artifact.dir.display().to_string()));
        // Within JSON's strings, which are the only place for them.
        out(&shown(&text))?;
    } else {
        out(&text)?;
    }
    Ok(Exit::Done)
}

pub fn lineage(store: &Store, reference: &str, format: Format) -> anyhow::Result<Exit> {
    let tree = audit::lineage(store, &store.get(&reference.parse::<Reference>()?)?)?;
    match format {
        Format::Text => out(&shown(&tree.to_text()))?,
        Format::Json => out(&format!("{}\n", serde_json::to_string_pretty(&tree)?))?,
    }
    Ok(Exit::Done)
}

pub fn diff(store: &Store, a: &str, b: &str, format: Format) -> anyhow::Result<Exit> {
    let [a, b] = [a, b].map(|text| store.get(&text.parse::<Reference>()?));
    let diff = Diff::between(&a?, &b?)?;
    match format {
        Format::Text => out(&shown(&diff.to_text()))?,
        Format::Json => out(&format!("{}\n", serde_json::to_string_pretty(&diff.to_json())?))?,
    }
    Ok(if diff.is_empty() { Exit::Done } else { Exit::AuditMismatch })
}

pub fn verify(store: &Store, reference: Option<&str>, level: Level) -> anyhow::Result<Exit> {
    let depth = match level {
        Level::Structure => audit::Level::Structure,
        Level::Hash => audit::Level::Hash,
        Level::Rows => audit::Level::Rows,
    };
    let of_store = |error| Finding { artifact: "store".into(), error };
    let (count, findings) = match reference {
        Some(reference) => {
            audit::verify_with_ancestors(store, &store.get(&reference.parse::<Reference>()?)?, depth, &keys::doubled)
        }
        None => {
            let (count, mut findings) = audit::verify(store, depth, &keys::doubled)?;
            findings.extend(import::problems(store).into_iter().map(of_store));
            (count, findings)
        }
    };
    let differences = findings.iter().filter(|finding| finding.error.is_difference()).count();
    let unread = findings.len() - differences;
    for finding in &findings {
        let unread = if finding.error.is_difference() { "" } else { "could not be checked: " };
        say(&shown(&format!("{}: {unread}{}", finding.artifact, finding.error)));
    }
    let verdict = match (differences, unread) {
        (0, 0) => "all as recorded".to_owned(),
        (problems, 0) => format!("{problems} problems"),
        (problems, unread) => format!("{problems} problems, {unread} could not be checked"),
    };
    match out(&format!("{count} artifacts, {verdict}\n")) {
        // Who does not read the verdict still gets it as the exit code.
        Err(error) if !is_broken_pipe(&error) => return Err(error),
        _ => {}
    }
    Ok(match (differences, unread) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::Failed,
        _ => Exit::AuditMismatch,
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
