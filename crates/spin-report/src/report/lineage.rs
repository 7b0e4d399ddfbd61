//! Where numbers come from: every artifact behind them, down to files and
//! seeds, and what makes each.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use spin_store::audit;
use spin_store::{Artifact, FileEntry, Store};

use super::escape;
use crate::error::Result;

/// Which artifact, or which file outside of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// `kind/name@vN` or `file:NAME`.
    pub reference: String,
    /// Digest of its content: files of one name, and artifacts of two stores,
    /// may differ.
    pub content: String,
}

impl Link {
    /// Of an artifact.
    pub fn of(artifact: &Artifact) -> Link {
        Link { reference: artifact.reference(), content: artifact.manifest.content.clone() }
    }

    /// Its place in the page.
    pub fn anchor(&self) -> String {
        let content = self.content.get(..8).unwrap_or(&self.content);
        format!("a-{}-{}", escape::id(&self.reference), escape::id(content))
    }
}

/// An artifact, or a file outside of the store.
#[derive(Clone, Debug)]
pub struct Node {
    /// Which it is.
    pub link: Link,
    /// What is known of an artifact; `None` for a file.
    pub made: Option<Made>,
    /// What it is made from: role and place in the list.
    pub parents: Vec<(String, usize)>,
    /// Length of the longest way from a source.
    pub depth: usize,
}

/// How an artifact was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Digest of its inputs.
    pub identity: String,
    /// The stage, with the version of its behaviour.
    pub stage: String,
    /// The seed, where there is one.
    pub seed: Option<u64>,
    /// Settings.
    pub params: Value,
    /// What was counted.
    pub facts: Value,
    /// When, where and by which build.
    pub environment: Value,
    /// Files with their digests.
    pub files: Vec<FileEntry>,
    /// The command that makes it, where a run file at hand has it.
    pub command: Option<String>,
}

impl Node {
    /// `scores`, `model`, ..., or `file`.
    pub fn kind(&self) -> &str {
        match self.made {
            Some(_) => self.link.reference.split('/').next().unwrap_or_default(),
            None => "file",
        }
    }

    /// The reference without its kind.
    pub fn name(&self) -> &str {
        let reference = &self.link.reference;
        let rest = reference.split_once('/').map(|(_, rest)| rest).filter(|_| self.made.is_some());
        rest.unwrap_or_else(|| reference.strip_prefix("file:").unwrap_or(reference))
    }
}

/// All that stands behind some artifacts, parents before their children.
#[derive(Debug, Default)]
pub struct Lineages {
    nodes: Vec<Node>,
    known: BTreeMap<Link, usize>,
}

impl Lineages {
    /// Adds an artifact with all its ancestors; `command` says by which command
    /// an artifact of this `kind/name` is made.
    ///
    /// # Errors
    /// When an ancestor is absent, damaged, or not what its child was made from.
    pub fn add(&mut self, store: &Store, artifact: &Artifact, command: &dyn Fn(&str) -> Option<String>) -> Result<()> {
        // The audit is the judge of what belongs together.
        audit::lineage(store, artifact)?;
        self.visit(store, artifact, command)?;
        Ok(())
    }

    fn visit(&mut self, store: &Store, artifact: &Artifact, command: &dyn Fn(&str) -> Option<String>) -> Result<usize> {
        let link = Link::of(artifact);
        if let Some(known) = self.known.get(&link) {
            return Ok(*known);
        }
        let mut parents = Vec::new();
        for parent in &artifact.manifest.parents {
            let at = match parent.is_outside() {
                true => self.push(Node {
                    link: Link { reference: parent.origin.to_string(), content: parent.content.clone() },
                    made: None,
                    parents: Vec::new(),
                    depth: 0,
                }),
                false => self.visit(store, &store.parent(parent)?, command)?,
            };
            parents.push((parent.role.clone(), at));
        }
        let depth = parents.iter().map(|(_, at)| self.nodes[*at].depth + 1).max().unwrap_or(0);
        let m = &artifact.manifest;
        let made = Made {
            identity: m.identity.clone(),
            stage: format!("{} {}", m.stage.name, m.stage.version),
            seed: m.params["seed"].as_u64(),
            params: m.params.clone(),
            facts: Value::Object(m.facts.clone()),
            environment: Value::Object(m.environment.clone()),
            files: m.files.clone(),
            command: command(&format!("{}/{}", m.kind, m.name)),
        };
        Ok(self.push(Node { link, made: Some(made), parents, depth }))
    }

    fn push(&mut self, node: Node) -> usize {
        if let Some(known) = self.known.get(&node.link) {
            return *known;
        }
        self.known.insert(node.link.clone(), self.nodes.len());
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The artifacts.
    pub fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }
}

/// Commits of the programs that made artifacts, sorted.
pub fn commits(nodes: &[Node]) -> Vec<String> {
    let of = |node: &Node| Some(node.made.as_ref()?.environment["commit"].as_str()?.to_owned());
    nodes.iter().filter_map(of).collect::<BTreeSet<String>>().into_iter().collect()
}
