//! What a revision of a repository holds.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its path there.
    pub(super) path: String,
    /// Its size, where the server tells it.
    pub(super) bytes: Option<u64>,
    /// SHA-256 or git's SHA-1 in hexadecimal, where the server tells it.
    pub(super) digest: Option<String>,
}

impl Entry {
    pub(super) fn digest(&self) -> Option<Digest> {
        Digest::of_tag(self.digest.as_deref()?)
    }
}

/// A revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listing {
    /// The commit.
    pub(super) commit: String,
    /// Its files, by path.
    pub(super) files: Vec<Entry>,
    /// Whether these are all of them; of a cache that another program filled it
    /// is not known.
    pub(super) whole: bool,
}

impl Listing {
    /// From what the hub answers on `/api/models/…/revision/…?blobs=true`.
    pub(super) fn of_answer(answer: &Value) -> Option<Listing> {
        let commit = answer["sha"].as_str().filter(|sha| crate::name::is_commit(sha))?.to_owned();
        let mut files = Vec::new();
        for file in answer["siblings"].as_array()? {
            let path = file["rfilename"].as_str().filter(|path| is_plain(path))?.to_owned();
            let large = &file["lfs"];
            let digest = large["sha256"].as_str().or_else(|| large["oid"].as_str()).or_else(|| file["blobId"].as_str());
            let bytes = large["size"].as_u64().or_else(|| file["size"].as_u64());
            files.push(Entry { path, bytes, digest: digest.map(|d| d.trim_start_matches("sha256:").to_owned()) });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Some(Listing { commit, files, whole: true })
    }

    /// Names of all files.
    pub(super) fn paths(&self) -> Vec<&str> {
        self.files.iter().map(|file| file.path.as_str()).collect()
    }
}

/// Whether a path stays below where it is put.
fn is_plain(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_read_and_none_leads_outside() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let answer = |name: &str| {
            json!({"sha": commit, "siblings": [
                {"rfilename": name, "size": 12, "blobId": "b1"},
                {"rfilename": "a.safetensors", "size": 130, "blobId": "b2", "lfs": {"sha256": "s", "size": 99, "pointerSize": 130}},
            ]})
        };
        let listing = Listing::of_answer(&answer("d/config.json")).unwrap();
        assert_eq!(listing.paths(), ["a.safetensors", "d/config.json"]);
        assert_eq!((listing.files[0].bytes, listing.files[0].digest.as_deref()), (Some(99), Some("s")));
        assert_eq!((listing.files[1].bytes, listing.files[1].digest.as_deref()), (Some(12), Some("b1")));
        for outside in ["../x", "/etc/passwd", "a/../../b", "", "."] {
            assert_eq!(Listing::of_answer(&answer(outside)), None, "{outside}");
        }
        assert_eq!(Listing::of_answer(&json!({"sha": "../x", "siblings": []})), None);
        assert_eq!(Listing::of_answer(&json!({"error": "no"})), None);
    }
}
