//! `ls`, `show`, `lineage`, `verify`: looks that change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::PathBuf;

use serde_json::json;
use spin_cli::{Exit, say};
use spin_run::diff::Diff;
use spin_run::import;
use spin_run::prov;
use spin_run::replay;
use spin_run::schema::keys;
use spin_run::sign::{self, Keys};
use spin_store::audit::{self, Finding};
use spin_store::{Artifact, Manifest, Reference, Store};

use crate::{Format, Level, LineageFormat, again, out};

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
    let mut names = store.names()?;
    names.retain(|name, _| name.starts_with(prefix));
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
    for (name, named) in names {
        out(&shown(&format!("{name:width$}  is {}\n", named.artifact)))?;
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
        say(&shown(&artifact.place().display().to_string()));
        // Within JSON's strings, which are the only place for them.
        out(&shown(&text))?;
    } else {
        out(&text)?;
    }
    Ok(Exit::Done)
}

pub fn lineage(store: &Store, reference: &str, format: LineageFormat) -> anyhow::Result<Exit> {
    let artifact = store.get(&reference.parse::<Reference>()?)?;
    let tree = audit::lineage(store, &artifact)?;
    match format {
        LineageFormat::Text => out(&shown(&tree.to_text()))?,
        LineageFormat::Prov => {
            let document = prov::document(store, &artifact)?;
            out(&format!("{}\n", serde_json::to_string_pretty(&document)?))?;
        }
        LineageFormat::Json => out(&format!("{}\n", serde_json::to_string_pretty(&tree)?))?,
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

/// What is asked of `verify`.
pub struct Asked {
    pub level: Level,
    pub head: Option<String>,
    pub trust: Option<PathBuf>,
}

pub fn verify(store: &Store, reference: Option<&str>, asked: &Asked) -> anyhow::Result<Exit> {
    let level = asked.level;
    let keys = asked.trust.as_deref().map(Keys::read).transpose()?;
    let depth = match level {
        Level::Structure => audit::Level::Structure,
        Level::Hash => audit::Level::Hash,
        Level::Rows | Level::Replay => audit::Level::Rows,
    };
    let of_store = |error| Finding { artifact: "store".into(), error };
    let (count, mut findings) = match reference {
        Some(reference) => {
            audit::verify_with_ancestors(store, &store.get(&reference.parse::<Reference>()?)?, depth, &keys::doubled)
        }
        None => {
            let (count, mut findings) = audit::verify(store, depth, &keys::doubled)?;
            findings.extend(import::problems(store).into_iter().map(of_store));
            (count, findings)
        }
    };
    if reference.is_none() && level != Level::Structure {
        tell_unfinished(store)?;
    }
    let journal = store.journal().ok().flatten();
    if let Some(head) = &asked.head {
        let seals: BTreeMap<String, String> =
            store.readable()?.map(|a| (a.reference(), a.manifest.seal.clone())).collect();
        let denied =
            journal.clone().unwrap_or_default().denied(store.root(), head, &seals).unwrap_or_else(|error| vec![error]);
        findings.extend(denied.into_iter().map(of_store));
    }
    if let Some(keys) = &keys {
        let (said, wrong) = signed(store, reference, keys)?;
        out(&shown(&said))?;
        findings.extend(wrong);
    }
    let differences = findings.iter().filter(|finding| finding.error.is_difference()).count();
    let unread = findings.len() - differences;
    for finding in &findings {
        let unread = if finding.error.is_difference() { "" } else { "could not be checked: " };
        say(&shown(&format!("{}: {unread}{}", finding.artifact, finding.error)));
    }
    let verdict = match (differences, unread) {
        (0, 0) => match journal.filter(|journal| !journal.entries.is_empty()) {
            Some(journal) => format!("all as recorded, head {}", &journal.head()[..16]),
            None => "all as recorded".to_owned(),
        },
        (problems, 0) => format!("{problems} problems"),
        (problems, unread) => format!("{problems} problems, {unread} could not be checked"),
    };
    match out(&format!("{count} artifacts, {verdict}\n")) {
        // Who does not read the verdict still gets it as the exit code.
        Err(error) if !is_broken_pipe(&error) => return Err(error),
        _ => {}
    }
    Ok(match (differences, unread) {
        // What is not as recorded is no ground to repeat anything from.
        (0, 0) if level == Level::Replay => again::replay(store, reference)?,
        (0, 0) => Exit::Done,
        (0, _) => Exit::Failed,
        _ => Exit::AuditMismatch,
    })
}

/// Says what of unfinished work cannot be used. No fault: nobody takes it for
/// published, and who carries on makes it again.
fn tell_unfinished(store: &Store) -> anyhow::Result<()> {
    for unfinished in store.unfinished()? {
        for (path, why) in &unfinished.unusable {
            say(&shown(&format!("unfinished work, {}: {why}; it will be made again", path.display())));
        }
    }
    Ok(())
}

/// Who signed what, and signatures that are none. What a signed artifact is from is
/// signed with it, by the seals in its manifest.
fn signed(store: &Store, reference: Option<&str>, keys: &Keys) -> anyhow::Result<(String, Vec<Finding>)> {
    let artifacts: Vec<Artifact> = match reference {
        None => store.readable()?.collect(),
        Some(reference) => replay::needed_of(store, &store.get(&reference.parse::<Reference>()?)?)?,
    };
    let (mut by, mut wrong): (BTreeMap<String, BTreeSet<String>>, Vec<Finding>) = Default::default();
    for artifact in &artifacts {
        match sign::signers(store, artifact, keys) {
            Err(error) => wrong.push(Finding { artifact: artifact.reference(), error }),
            Ok(names) => {
                for name in names {
                    by.entry(artifact.reference()).or_default().insert(name);
                }
            }
        }
    }
    // A seal that a child pins is covered by whoever signed the child.
    let mut waiting: Vec<String> = by.keys().cloned().collect();
    let of: BTreeMap<String, &Artifact> = artifacts.iter().map(|artifact| (artifact.reference(), artifact)).collect();
    let direct = by.clone();
    while let Some(next) = waiting.pop() {
        let names = by[&next].clone();
        for parent in of[&next].manifest.parents.iter().filter(|parent| !parent.is_outside()) {
            let Some(found) = of.get(&parent.origin.to_string()) else { continue };
            let is_pinned = parent.seal.as_ref() == Some(&found.manifest.seal);
            let known = by.entry(found.reference()).or_default();
            if is_pinned && !names.is_subset(known) {
                known.extend(names.iter().cloned());
                waiting.push(found.reference());
            }
        }
    }
    let mut text = String::new();
    for artifact in of.keys() {
        let names = by.get(artifact).filter(|names| !names.is_empty());
        let names = names.map(|names| names.iter().cloned().collect::<Vec<_>>().join(", "));
        text += &match (names, direct.contains_key(artifact)) {
            (Some(names), true) => format!("signed by {names}: {artifact}\n"),
            (Some(names), false) => format!("covered by a signature of {names}: {artifact}\n"),
            (None, _) => format!("not signed: {artifact}\n"),
        };
    }
    Ok((text, wrong))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
