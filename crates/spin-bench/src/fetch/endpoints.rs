//! Where files are fetched from.

use std::time::Duration;

use super::datasets::{Host, Source};
use crate::secret::Secret;

/// Where to fetch from.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// The hub, or a mirror of it (`HF_ENDPOINT`).
    pub hub: String,
    /// GitHub's address for raw files.
    pub github: String,
    /// Sent to the hub alone (`HF_TOKEN`).
    pub token: Option<Secret>,
    /// Tries of one file, the first included.
    pub tries: u32,
    /// Pause after the first failure; it doubles with each further one.
    pub base_delay: Duration,
    /// Longest silence of a server.
    pub timeout: Duration,
    /// Bytes per second, averaged over a file after the first `timeout`, below
    /// which it is given up.
    pub slowest: u64,
}

impl Default for Endpoints {
    fn default() -> Self {
        Endpoints {
            hub: "https://huggingface.co".into(),
            github: "https://raw.githubusercontent.com".into(),
            token: None,
            tries: 4,
            base_delay: Duration::from_secs(1),
            timeout: Duration::from_secs(60),
            slowest: 8 << 10,
        }
    }
}

impl Endpoints {
    /// The address of a file.
    pub fn url(&self, source: &Source, path: &str) -> String {
        let Source { host, repo, revision } = source;
        match host {
            Host::Hub => format!("{}/datasets/{repo}/resolve/{revision}/{path}", self.hub.trim_end_matches('/')),
            Host::GitHub => format!("{}/{repo}/{revision}/{path}", self.github.trim_end_matches('/')),
        }
    }
}
