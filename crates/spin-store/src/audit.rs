//! Verifying a store and drawing where an artifact came from.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::error::{Result, StoreError};
use crate::journal::Journal;
use crate::store::{Artifact, Store};
use crate::{journal, structure};

/// A problem found by [`verify`]: a difference, or what could not be checked
/// ([`StoreError::is_difference`]).
#[derive(Debug)]
pub struct Finding {
    /// The artifact as `kind/name@vN`, or `store`.
    pub artifact: String,
    /// What is wrong.
    pub error: StoreError,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Manifests, their seals and parents, and that nothing lies where nothing
    /// belongs; no file is read.
    Structure,
    /// Besides, the digest of every file.
    Hash,
    /// Besides, the rows of every table.
    Rows,
}

/// What rows say that only who knows their columns can tell, as that one stands
/// twice; asked at [`Level::Rows`].
pub type RowCheck<'a> = &'a dyn Fn(&Artifact) -> Result<Option<StoreError>>;

/// Checks the whole store: its layout file and directories, every manifest and
/// its seal, that every parent is there with the content its child was made
/// from, that nothing is made from itself or stands twice, that all is there
/// which the journal has and nothing else, and what `level` asks of the files.
/// Returns the number of artifacts and all findings.
///
/// # Errors
/// When the directory tree itself cannot be read.
pub fn verify(store: &Store, level: Level, rows: RowCheck<'_>) -> Result<(usize, Vec<Finding>)> {
    let of_store = |error| Finding { artifact: "store".into(), error };
    let mut findings: Vec<Finding> = store.layout().err().map(of_store).into_iter().collect();
    let journal = journal_of(store).unwrap_or_else(|error| {
        findings.push(of_store(error));
        None
    });
    findings.extend(structure::problems(store, journal.is_some())?.into_iter().map(of_store));
    findings.extend(store.problems_of_names().into_iter().map(of_store));
    let listed = store.list()?;
    let (mut artifacts, mut seals) = (Vec::new(), BTreeMap::new());
    for entry in &listed {
        let name = format!("{}/{}@v{}", entry.0, entry.1, entry.2);
        match store.load_listed(entry) {
            Err(error) => {
                findings.push(Finding { artifact: name.clone(), error });
                seals.insert(name, None);
            }
            Ok(artifact) => {
                findings.extend(of_artifact(store, journal.as_ref(), &artifact, level, rows));
                seals.insert(name, Some(artifact.manifest.seal.clone()));
                artifacts.push(artifact);
            }
        }
    }
    let among = structure::twins(&artifacts).into_iter().chain(structure::circles(&artifacts));
    // Read again: what is published beside this look is in it, and what was gone
    // before it is in the first.
    let after = store.journal().ok().flatten();
    let before = journal.as_ref().map(Journal::last).unwrap_or_default();
    let told = after.iter().flat_map(|journal| journal.problems(store.root(), &seals));
    let told = told.filter(|(name, _)| seals.contains_key(name) || before.contains_key(name.as_str()));
    findings.extend(among.chain(told).map(|(artifact, error)| Finding { artifact, error }));
    Ok((listed.len(), findings))
}

/// The journal of a store, which one of the second layout must have.
fn journal_of(store: &Store) -> Result<Option<Journal>> {
    let journal = store.journal()?;
    if journal.is_none() && store.layout().is_ok_and(|layout| layout > 1) {
        let path = store.root().join(journal::FILE_NAME);
        return Err(StoreError::corrupt(
            &path,
            "is gone",
            "restore it from a copy: nothing else tells what was deleted",
        ));
    }
    Ok(journal)
}

/// Checks an artifact and all that it was made from. Returns their number and
/// all findings.
pub fn verify_with_ancestors(
    store: &Store,
    artifact: &Artifact,
    level: Level,
    rows: RowCheck<'_>,
) -> (usize, Vec<Finding>) {
    let (mut findings, mut seen) = (Vec::new(), BTreeSet::new());
    let journal = journal_of(store).unwrap_or_else(|error| {
        findings.push(Finding { artifact: "store".into(), error });
        None
    });
    let (mut waiting, mut all) = (vec![artifact.clone()], Vec::new());
    while let Some(artifact) = waiting.pop() {
        if !seen.insert(artifact.reference()) {
            continue;
        }
        findings.extend(of_artifact(store, journal.as_ref(), &artifact, level, rows));
        let inside = artifact.manifest.parents.iter().filter(|parent| !parent.is_outside());
        // One that is not there is found already.
        waiting.extend(inside.filter_map(|parent| store.parent(parent).ok()));
        all.push(artifact);
    }
    let seals = all.iter().map(|artifact| (artifact.reference(), Some(artifact.manifest.seal.clone()))).collect();
    // Of the others nothing was asked.
    let told = journal.iter().flat_map(|journal| journal.problems(store.root(), &seals));
    let told = told.filter(|(name, _)| seen.contains(name));
    let among = structure::twins(&all).into_iter().chain(structure::circles(&all));
    findings.extend(among.chain(told).map(|(artifact, error)| Finding { artifact, error }));
    (seen.len(), findings)
}

fn of_artifact(
    store: &Store,
    journal: Option<&Journal>,
    artifact: &Artifact,
    level: Level,
    rows: RowCheck<'_>,
) -> Vec<Finding> {
    let mut errors = Vec::new();
    if level >= Level::Hash {
        errors = artifact.problems();
    }
    // Rows of a file with another digest are not those that are recorded.
    if level >= Level::Rows && errors.is_empty() {
        errors = artifact.row_problems();
        errors.extend(rows(artifact).unwrap_or_else(Some));
    }
    errors.extend(parent_problems(store, journal, artifact));
    errors.into_iter().map(|error| Finding { artifact: artifact.reference(), error }).collect()
}

/// Parents that are absent or no longer what the child was made from. One that
/// was lost and made again has another seal, and the journal has both.
fn parent_problems(store: &Store, journal: Option<&Journal>, artifact: &Artifact) -> Vec<StoreError> {
    let is_known = |p: &Artifact, seal: &str| {
        let (own, name) = (&p.manifest.seal, p.reference());
        own == seal || journal.is_some_and(|journal| journal.knows(&name, seal) && journal.has_published(&name, own))
    };
    let manifest = artifact.dir.join(crate::manifest::FILE_NAME);
    let mut problems = Vec::new();
    for parent in artifact.manifest.parents.iter().filter(|p| !p.is_outside()) {
        match store.parent(parent) {
            // Nothing is known of a parent that cannot be read.
            Err(e) if !e.is_difference() => problems.push(e),
            Err(e) => problems.push(StoreError::corrupt(
                &manifest,
                format!("its parent {} is not there ({e})", parent.origin),
                "restore the parent, or treat this artifact as unproven",
            )),
            Ok(p) if p.manifest.content != parent.content => problems.push(StoreError::corrupt(
                &manifest,
                format!("its parent {} has other content than it was made from", parent.origin),
                "restore the parent, or make this artifact again",
            )),
            Ok(p) if parent.seal.as_ref().is_some_and(|seal| !is_known(&p, seal)) => {
                problems.push(StoreError::corrupt(
                    &manifest,
                    format!(
                        "its parent {} has another manifest than it was made from, of the same files",
                        parent.origin
                    ),
                    "restore the parent's manifest from a copy: what it says of seeds, settings or sources is unproven",
                ));
            }
            Ok(_) => {}
        }
    }
    problems
}

/// A node of a lineage tree.
#[derive(Clone, Debug, Serialize)]
pub struct Lineage {
    /// The role it played for its child; empty at the root.
    pub role: String,
    /// `kind/name@vN` or `file:NAME`.
    pub reference: String,
    /// Content digest.
    pub content: String,
    /// The stage that made it, with its behaviour version; empty for a file.
    pub stage: String,
    /// The seed in its parameters, if it has one.
    pub seed: Option<u64>,
    /// Whether it was already drawn elsewhere, its inputs left out here.
    pub seen: bool,
    /// Its inputs.
    pub parents: Vec<Lineage>,
}

/// The tree of inputs of an artifact, down to outside files and seeds.
///
/// # Errors
/// When an ancestor is absent, damaged, or not what its child was made from.
pub fn lineage(store: &Store, artifact: &Artifact) -> Result<Lineage> {
    node(store, store.journal()?.as_ref(), artifact, "", &mut BTreeSet::new())
}

fn node(
    store: &Store,
    journal: Option<&Journal>,
    artifact: &Artifact,
    role: &str,
    seen: &mut BTreeSet<String>,
) -> Result<Lineage> {
    let m = &artifact.manifest;
    let mut lineage = Lineage {
        role: role.into(),
        reference: m.reference(),
        content: m.content.clone(),
        stage: format!("{} {}", m.stage.name, m.stage.version),
        seed: m.params["seed"].as_u64(),
        seen: !seen.insert(m.reference()),
        parents: Vec::new(),
    };
    if lineage.seen {
        return Ok(lineage);
    }
    if let Some(problem) = parent_problems(store, journal, artifact).into_iter().next() {
        return Err(problem);
    }
    for parent in &m.parents {
        lineage.parents.push(if parent.is_outside() {
            Lineage {
                role: parent.role.clone(),
                reference: parent.origin.to_string(),
                content: parent.content.clone(),
                stage: String::new(),
                seed: None,
                seen: false,
                parents: Vec::new(),
            }
        } else {
            node(store, journal, &store.parent(parent)?, &parent.role, seen)?
        });
    }
    Ok(lineage)
}

impl Lineage {
    /// The tree as indented text, one line per artifact.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.draw(0, &mut out);
        out
    }

    fn draw(&self, depth: usize, out: &mut String) {
        let role = if self.role.is_empty() { String::new() } else { format!("{}: ", self.role) };
        out.push_str(&format!("{}{role}{}  {}", "   ".repeat(depth), self.reference, &self.content[..12]));
        if !self.stage.is_empty() {
            out.push_str(&format!("  by {}", self.stage));
        }
        if let Some(seed) = self.seed {
            out.push_str(&format!("  seed {seed}"));
        }
        if self.seen {
            out.push_str("  (above)");
        }
        out.push('\n');
        for parent in &self.parents {
            parent.draw(depth + 1, out);
        }
    }
}
