//! Where things are fetched from, and with how much patience.

use std::time::Duration;

use crate::secret::Secret;

/// Where things are fetched from, and with how much patience.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// An address on the hub.
    pub fn on_hub(&self, path: &str) -> String {
        format!("{}/{path}", self.hub.trim_end_matches('/'))
    }
}
