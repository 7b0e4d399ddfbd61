//! A hub for tests: its routes, and those of its storage.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::json;
use sha2::Digest as _;

use super::{Reply, Sent, Server, reply};
use crate::digest::hex;

/// A repository as a hub has it.
#[derive(Default)]
pub struct Repository {
    /// The files of each commit; those that end in `.safetensors` or `.parquet`
    /// are in the large storage.
    pub commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Where the branches are.
    pub branches: BTreeMap<String, String>,
    /// Without this token no file is given.
    pub gate: Option<String>,
    /// How many of the next answers break off in the middle.
    pub breaks: usize,
    /// What comes instead of large files.
    pub forged: Option<Vec<u8>>,
}

/// A commit.
pub fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

fn is_large(path: &str) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".parquet")
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(sha2::Sha256::digest(bytes))
}

/// Git's name of a file's bytes.
pub fn git(bytes: &[u8]) -> String {
    hex(sha1::Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat()))
}

impl Repository {
    /// One with a commit of ones, where its main branch is.
    pub fn of(files: &[(&str, &[u8])]) -> Repository {
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
        Repository {
            commits: [(commit('1'), files)].into(),
            branches: [("main".to_owned(), commit('1'))].into(),
            ..Repository::default()
        }
    }
}

/// Repositories by name: `o/m`, `datasets/o/d`.
pub type Repositories = Arc<Mutex<BTreeMap<String, Repository>>>;

/// A server of repositories.
pub fn serve(repositories: Repositories) -> Server {
    Server::start(move |_, sent| {
        let path = sent.line.strip_prefix("GET /").unwrap_or_default();
        for (name, repository) in &mut *repositories.lock().expect("no holder panics") {
            let kind = if name.starts_with("datasets/") { "" } else { "models/" };
            if let Some(revision) = path.strip_prefix(&format!("api/{kind}{name}/revision/")) {
                return listed(repository, name, revision);
            }
            let file = path.strip_prefix(&format!("{name}/resolve/")).and_then(|path| path.split_once('/'));
            if let Some((revision, path)) = file {
                return given(repository, revision, path, sent);
            }
        }
        reply(404, &[("X-Error-Code", "RepoNotFound")], "")
    })
}

type Files = BTreeMap<String, Vec<u8>>;

impl Repository {
    fn find(&self, revision: &str) -> Option<(String, &Files)> {
        let revision = revision.replace("%2F", "/");
        let commit = self.branches.get(&revision).cloned().unwrap_or(revision);
        self.commits.get(&commit).map(|files| (commit, files))
    }
}

fn listed(repository: &Repository, name: &str, revision: &str) -> Reply {
    let Some((commit, files)) = repository.find(revision.trim_end_matches("?blobs=true")) else {
        return reply(404, &[("X-Error-Code", "RevisionNotFound")], "");
    };
    let file = |(path, bytes): (&String, &Vec<u8>)| {
        let large = is_large(path).then(|| json!({"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 130}));
        json!({"rfilename": path, "size": bytes.len(), "blobId": git(bytes), "lfs": large})
    };
    let siblings: Vec<_> = files.iter().map(file).collect();
    reply(200, &[], json!({"id": name, "sha": commit, "siblings": siblings}).to_string())
}

fn given(repository: &mut Repository, revision: &str, path: &str, sent: &Sent) -> Reply {
    if let Some(gate) = &repository.gate
        && sent.header("authorization") != Some(&format!("Bearer {gate}"))
    {
        return reply(401, &[("X-Error-Code", "GatedRepo")], "");
    }
    let Some((_, files)) = repository.find(revision) else {
        return reply(404, &[("X-Error-Code", "RevisionNotFound")], "");
    };
    let Some(bytes) = files.get(&path.replace("%20", " ")) else {
        return reply(404, &[("X-Error-Code", "EntryNotFound")], "");
    };
    let tag = format!("\"{}\"", if is_large(path) { sha256(bytes) } else { git(bytes) });
    let bytes = repository.forged.as_ref().filter(|_| is_large(path)).unwrap_or(bytes).clone();
    let from = sent.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    if from.is_some_and(|from| from >= bytes.len()) {
        return reply(416, &[], "");
    }
    let (status, from) = from.map_or((200, 0), |from| (206, from));
    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
    let mut headers = vec![("ETag", tag.as_str()), ("X-Repo-Commit", revision)];
    if is_large(path) {
        headers.push(("X-Linked-Etag", &tag));
    }
    if status == 206 {
        headers.push(("Content-Range", &range));
    }
    let mut whole = reply(status, &headers, &bytes[from..])?;
    if repository.breaks > 0 {
        repository.breaks -= 1;
        whole.truncate(whole.len() - (bytes.len() - from) / 2);
    }
    Some(whole)
}
