//! The record of an artifact: `manifest.json`, written last.
//!
//! Two identities are kept apart. `identity` is a digest of the *inputs*
//! (stage, its behaviour version, parameters, contents of the parents): it
//! decides whether finished work can be reused. `content` is a digest of the
//! *files*: it decides integrity. Time, host, paths and durations live in
//! `environment`, outside both. `seal` covers the whole record, so that a
//! change to any field is found too.
//!
//! Compatibility: readers refuse a `layout` above [`LAYOUT`]. A new field
//! means a new layout number, because an old reader would not know what it
//! leaves out. Layout 2 has the parents' seals and SHA-256 of files; neither is
//! in a digest, so that equal artifacts of both layouts have equal ones.

use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::digest;
use crate::error::{Result, StoreError};
use crate::kind::Kind;

/// The newest layout this program reads, and the one it writes.
pub const LAYOUT: u32 = 2;

/// The file's name inside an artifact.
pub const FILE_NAME: &str = "manifest.json";

/// Which program made an artifact, and the version of its behaviour: raised
/// whenever the same inputs would give another output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageId {
    /// For example `spin-sample`.
    pub name: String,
    /// Behaviour version.
    pub version: u32,
}

/// Where an input of an artifact lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Origin {
    /// In the store, as `kind/name@vN`, whether this program knows the kind or
    /// not.
    Artifact(String),
    /// Outside of it: a file, by its name.
    File(String),
    /// Outside of it, in words that earlier releases wrote (`questions and
    /// judge prompts`).
    Words(String),
}

/// What stands before the name of a file.
const FILE: &str = "file:";

impl From<String> for Origin {
    fn from(text: String) -> Origin {
        if let Some(name) = text.strip_prefix(FILE) {
            return Origin::File(name.into());
        }
        let is_artifact = text.rsplit_once("@v").is_some_and(|(name, version)| {
            name.contains('/') && !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit())
        });
        if is_artifact { Origin::Artifact(text) } else { Origin::Words(text) }
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> String {
        origin.to_string()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Artifact(text) | Origin::Words(text) => f.write_str(text),
            Origin::File(name) => write!(f, "{FILE}{name}"),
        }
    }
}

/// An input of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// What it was used as, e.g. `model` or `samples`.
    pub role: String,
    /// Where it lies.
    #[serde(rename = "reference")]
    #[schemars(with = "String")]
    pub origin: Origin,
    /// Its `content` digest, or the digest of the outside file.
    pub content: String,
    /// Its `seal`, where it lies in the store: who wrote its manifest anew is
    /// seen from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<String>,
}

impl Parent {
    /// A file outside of the store, by its name and digest.
    pub fn file(role: impl Into<String>, name: impl fmt::Display, content: impl Into<String>) -> Parent {
        Parent { role: role.into(), origin: Origin::File(name.to_string()), content: content.into(), seal: None }
    }

    /// Whether it lies outside the store.
    pub fn is_outside(&self) -> bool {
        !matches!(self.origin, Origin::Artifact(_))
    }
}

/// A file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path relative to the artifact, with `/`.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub blake3: String,
    /// SHA-256 of its bytes, as `sha256sum` and the hub have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Number of rows of a Parquet part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Digest over the values of a Parquet part, independent of its encoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_digest: Option<String>,
}

/// The record of an artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Layout version of this record.
    pub layout: u32,
    /// Kind of artifact.
    pub kind: Kind,
    /// Name below the kind, may hold `/`.
    pub name: String,
    /// Version number, from 1.
    pub version: u32,
    /// Digest of the inputs.
    pub identity: String,
    /// Digest of the files.
    pub content: String,
    /// Who made it.
    pub stage: StageId,
    /// The stage's resolved configuration.
    pub params: Value,
    /// The inputs.
    pub parents: Vec<Parent>,
    /// The files, sorted by path.
    pub files: Vec<FileEntry>,
    /// What the stage counted or measured about the content.
    pub facts: Map<String, Value>,
    /// When, where and by which build: outside both identities.
    pub environment: Map<String, Value>,
    /// Digest of all the above.
    pub seal: String,
}

/// The identity that follows from a stage, its parameters and its parents.
pub fn identity_of(stage: &StageId, kind: Kind, params: &Value, parents: &[Parent]) -> String {
    let parents: Vec<Value> = parents.iter().map(|p| json!([p.role, p.content])).collect();
    digest::of_json(&json!({
        "kind": kind.dir(),
        "stage": stage.name,
        "stage_version": stage.version,
        "params": params,
        "parents": parents,
    }))
}

/// The content digest of a list of files.
pub fn content_of(files: &[FileEntry]) -> String {
    let list: Vec<Value> = files.iter().map(|f| json!([f.path, f.bytes, f.blake3])).collect();
    digest::of_json(&Value::Array(list))
}

/// Whether a path stays below the artifact that lists it.
fn is_inside(path: &str) -> bool {
    let is_normal = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    !path.is_empty() && Path::new(path).components().all(is_normal)
}

impl Manifest {
    /// `kind/name@vN`.
    pub fn reference(&self) -> String {
        format!("{}/{}@v{}", self.kind, self.name, self.version)
    }

    /// Whether its content's digest, or that of its inputs, begins like this.
    pub(crate) fn has_digest(&self, prefix: &str) -> bool {
        self.content.starts_with(prefix) || self.identity.starts_with(prefix)
    }

    /// Total rows of its Parquet parts.
    pub fn rows(&self) -> u64 {
        self.files.iter().filter_map(|f| f.rows).sum()
    }

    /// Total size of its files in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// The seal that belongs to the other fields.
    fn computed_seal(&self) -> String {
        let bare = Manifest { seal: String::new(), ..self.clone() };
        digest::of_json(&serde_json::to_value(bare).expect("a manifest is plain JSON"))
    }

    /// Sets the seal. Call it last.
    pub fn sealed(mut self) -> Self {
        self.seal = self.computed_seal();
        self
    }

    /// The text on disk.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a manifest is plain JSON");
        text.push('\n');
        text
    }

    /// Reads and checks `dir/manifest.json`: layout, seal, and that the bytes
    /// are exactly what this program would write.
    ///
    /// # Errors
    /// When it is absent, newer than [`LAYOUT`], or altered in any byte.
    pub fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(FILE_NAME);
        let bytes = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
        let remedy = "restore it from a copy, or delete this version and run the stage that made it again";
        let corrupt = |problem: String| StoreError::corrupt(&path, problem, remedy);
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| corrupt(format!("is not valid JSON ({e})")))?;
        if let Some(found) = value.get("layout").and_then(Value::as_u64)
            && found > u64::from(LAYOUT)
        {
            return Err(StoreError::TooNew { path, found: u32::try_from(found).unwrap_or(u32::MAX), known: LAYOUT });
        }
        let manifest: Manifest =
            serde_json::from_value(value).map_err(|e| corrupt(format!("is not a manifest ({e})")))?;
        if manifest.computed_seal() != manifest.seal || manifest.to_text().as_bytes() != bytes {
            return Err(corrupt("was altered after it was sealed".into()));
        }
        if let Some(outside) = manifest.files.iter().find(|file| !is_inside(&file.path)) {
            return Err(corrupt(format!("lists {:?}, which is no file of an artifact", outside.path)));
        }
        if manifest.version == 0 || manifest.files.iter().any(|file| file.path == FILE_NAME) {
            return Err(corrupt("is of version 0, or lists itself".into()));
        }
        if content_of(&manifest.files) != manifest.content {
            return Err(corrupt("lists files that do not give its content digest".into()));
        }
        if identity_of(&manifest.stage, manifest.kind, &manifest.params, &manifest.parents) != manifest.identity {
            return Err(corrupt("names inputs that do not give its identity".into()));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_reference_lies_outside() {
        let outside = |reference: &str| {
            let parent: Parent =
                serde_json::from_value(json!({"role": "r", "reference": reference, "content": "c"})).unwrap();
            assert_eq!(serde_json::to_value(&parent).unwrap()["reference"], reference);
            parent.is_outside()
        };
        for reference in
            ["file:a.jsonl", "file:models/x@v1", "questions and judge prompts", "-", "a@v1", "a/b@v", "a/b"]
        {
            assert!(outside(reference), "{reference}");
        }
        for reference in ["models/demo/base@v12", "rewards/of-a-newer-program@v1"] {
            assert!(!outside(reference), "{reference}");
        }
    }
}
