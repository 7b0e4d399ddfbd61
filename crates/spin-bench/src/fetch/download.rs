//! One file over HTTP.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use spin_store::StoreError;

use super::{Endpoints, FetchError, Result, check};

/// Redirects followed: the hub sends to its storage, which may send further.
const REDIRECTS: usize = 10;

/// A file that was downloaded.
pub(super) struct Got {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

pub(super) struct Client<'a> {
    pub(super) endpoints: &'a Endpoints,
    agent: ureq::Agent,
}

impl<'a> Client<'a> {
    pub(super) fn new(endpoints: &'a Endpoints) -> Self {
        // Redirects are followed by hand: the hub tells a file's SHA-256 in
        // the first response, and the token must not leave its host.
        let agent = ureq::AgentBuilder::new()
            .redirects(0)
            .timeout_connect(endpoints.timeout)
            .timeout_read(endpoints.timeout)
            .timeout_write(endpoints.timeout)
            .user_agent(concat!("spin-bench/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { endpoints, agent }
    }

    /// Downloads into `file`, with retries of what may pass. `target` is for
    /// messages.
    pub(super) fn download(&self, url: &str, hub: bool, file: &File, target: &Path) -> Result<Got> {
        let mut tries = 1;
        loop {
            match self.once(url, hub, file, target) {
                Err(e) if !e.is_bad_input() && !matches!(e, FetchError::Store(_)) && tries < self.endpoints.tries => {
                    std::thread::sleep(self.endpoints.base_delay.saturating_mul(1 << (tries - 1).min(10)));
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn once(&self, url: &str, hub: bool, mut file: &File, target: &Path) -> Result<Got> {
        let offline = |reason: String| FetchError::Offline { url: url.to_owned(), reason, target: target.to_owned() };
        let damaged = |problem: String| FetchError::Damaged { url: url.to_owned(), problem, target: target.to_owned() };
        let (response, sha256_told) = self.follow(url, hub, &offline)?;
        let length = response.header("Content-Length").and_then(|v| v.parse::<u64>().ok());
        let disk = |e| FetchError::from(StoreError::io("write", target)(e));
        // A failed try may have left something.
        file.set_len(0).and_then(|()| file.rewind()).map_err(disk)?;
        let (mut reader, mut hasher, mut bytes) = (response.into_reader(), Sha256::new(), 0);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    file.write_all(&buffer[..n]).map_err(disk)?;
                    bytes += n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let whole = length.map_or(String::new(), |all| format!(" of {all}"));
                    return Err(offline(format!("the connection broke after {bytes} bytes{whole} ({e})")));
                }
            }
        }
        if let Some(length) = length.filter(|&length| length != bytes) {
            return Err(damaged(format!("has {bytes} bytes instead of {length}")));
        }
        let sha256 = check::hex(hasher);
        match sha256_told {
            Some(told) if told != sha256 => Err(damaged(format!("has SHA-256 {sha256}, the hub says {told}"))),
            _ => Ok(Got { bytes, sha256 }),
        }
    }

    /// The response at the end of the redirects, and the file's SHA-256 where
    /// the hub tells it.
    fn follow(
        &self,
        url: &str,
        hub: bool,
        offline: &dyn Fn(String) -> FetchError,
    ) -> Result<(ureq::Response, Option<String>)> {
        let bad_url = |at: &str, reason: &dyn std::fmt::Display| FetchError::BadUrl {
            url: at.to_owned(),
            reason: reason.to_string(),
        };
        let token = self.endpoints.token.as_deref().filter(|_| hub);
        let (mut at, mut home, mut sha256) = (url.to_owned(), None, None);
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(&at).set("Accept-Encoding", "identity");
            let here = request.request_url().map_err(|e| bad_url(&at, &e))?;
            let here = here.as_url();
            let home = home.get_or_insert_with(|| here.origin());
            if let Some(token) = token.filter(|_| here.origin() == *home) {
                request = request.set("Authorization", &format!("Bearer {token}"));
            }
            let response = match request.call() {
                Ok(response) => response,
                Err(ureq::Error::Status(status, _)) => return Err(refusal(url, status, token.is_some())),
                Err(ureq::Error::Transport(e)) => return Err(offline(e.to_string())),
            };
            // The hub's name for the digest of a file in its large storage.
            let told = response.header("X-Linked-Etag").map(|tag| tag.trim_matches('"').to_owned());
            let digest = |tag: &String| tag.len() == 64 && tag.chars().all(|c| c.is_ascii_hexdigit());
            sha256 = sha256.or(told.filter(digest));
            match response.status() {
                300..=399 => {
                    let to = response.header("Location").ok_or_else(|| offline("a redirect to nowhere".into()))?;
                    at = here.join(to).map_err(|e| bad_url(to, &e))?.to_string();
                }
                _ => return Ok((response, sha256)),
            }
        }
        Err(offline(format!("more than {REDIRECTS} redirects")))
    }
}

fn refusal(url: &str, status: u16, with_token: bool) -> FetchError {
    let url = url.to_owned();
    match status {
        401 | 403 => {
            let hint = if with_token {
                "the dataset is gated, private or gone; accept its terms on the hub, and check that the token may read it"
            } else {
                "the dataset is gated, private or gone; accept its terms on the hub, and give a token (HF_TOKEN)"
            };
            FetchError::Refused { url, status, hint }
        }
        404 => FetchError::Status { url, status, hint: "is the endpoint the hub or a full mirror of it?" },
        429 | 500..=599 => FetchError::Status { url, status, hint: "the server is busy or broken, try later" },
        _ => FetchError::Status { url, status, hint: "check the endpoint" },
    }
}
