//! One file over HTTP.
//!
//! A thread of its own talks to the server and hands over what comes; the
//! caller looks up ten times a second for a signal, for a server that is too
//! slow, and for a file that is too long. Whatever the server does, a download
//! ends: after `timeout` of silence, when it falls behind the slowest rate
//! there is, or when it is longer than any file of its kind.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use spin_run::url;
use spin_store::StoreError;

use super::{Endpoints, FetchError, Result, check};
use crate::mt_bench::client::{is_permanent, reason};
use crate::retry::{POLL, Stop, doubled, until};
use crate::secret::{Redactor, Secret};

/// Redirects followed: the hub sends to its storage, which may send further.
const REDIRECTS: usize = 10;

/// A file that was downloaded.
pub(super) struct Got {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// A file to be had.
pub(super) struct Wanted<'a> {
    /// Its address.
    pub(super) url: &'a str,
    /// Whether it is the hub's, which gets the token.
    pub(super) hub: bool,
    /// Bytes that no file of its kind has.
    pub(super) longest: u64,
    /// Where it belongs, for messages.
    pub(super) target: &'a Path,
}

pub(super) struct Client<'a> {
    pub(super) endpoints: &'a Endpoints,
    agent: ureq::Agent,
    redactor: Redactor,
    stop: &'a AtomicBool,
}

/// What comes from the thread that talks to the server.
enum Event {
    /// The headers of the file itself.
    Head { length: Option<u64>, sha256: Option<String> },
    /// Some of its bytes.
    Bytes(Vec<u8>),
    /// All of it has come.
    End,
    /// It will not come.
    Failed(Failure),
}

/// Why a server gave nothing.
enum Failure {
    BadUrl { at: String, reason: String },
    Status(u16),
    Broken(String),
}

impl<'a> Client<'a> {
    pub(super) fn new(endpoints: &'a Endpoints, stop: &'a AtomicBool) -> Self {
        // Redirects are followed by hand: the hub tells a file's SHA-256 in
        // the first response, and the token must not leave its host.
        let agent = ureq::AgentBuilder::new()
            .redirects(0)
            .timeout_connect(endpoints.timeout)
            .timeout_read(endpoints.timeout)
            .timeout_write(endpoints.timeout)
            .user_agent(concat!("spin-bench/", env!("CARGO_PKG_VERSION")))
            .build();
        let redactor = Redactor::new(endpoints.token.as_ref(), &endpoints.hub);
        Client { endpoints, agent, redactor, stop }
    }

    /// Downloads into `file`, with retries of what may pass.
    pub(super) fn download(&self, wanted: &Wanted<'_>, file: &File) -> Result<Got> {
        let Endpoints { tries, base_delay, .. } = *self.endpoints;
        let pause = |error: &FetchError, failures: u32| error.may_pass().then(|| doubled(base_delay, failures.min(11)));
        let once = || self.once(wanted, file);
        until(&Stop::new(self.stop), tries, once, pause).unwrap_or(Err(FetchError::Stopped))
    }

    fn once(&self, wanted: &Wanted<'_>, mut file: &File) -> Result<Got> {
        let (url, target) = (url::public(wanted.url), wanted.target.to_owned());
        let offline = |reason: String| FetchError::Offline {
            url: url.clone(),
            reason: self.redactor.clean(&reason),
            target: target.clone(),
        };
        let damaged = |problem: String| FetchError::Damaged {
            url: url.clone(),
            problem: self.redactor.clean(&problem),
            target: target.clone(),
        };
        let disk = |e| FetchError::from(StoreError::io("write", wanted.target)(e));
        // A failed try may have left something.
        file.set_len(0).and_then(|()| file.rewind()).map_err(disk)?;
        let (sender, receiver) = mpsc::sync_channel(4);
        let talk = Talk {
            agent: self.agent.clone(),
            token: self.endpoints.token.clone().filter(|_| wanted.hub),
            url: wanted.url.to_owned(),
        };
        let thread = std::thread::Builder::new().name("fetch".into());
        thread.spawn(move || talk.run(&sender)).map_err(|e| offline(format!("no thread for it ({e})")))?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
        let (mut length, mut told) = (None, None);
        let (start, mut heard) = (Instant::now(), Instant::now());
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(FetchError::Stopped);
            }
            let event = match receiver.recv_timeout(POLL) {
                Ok(event) => event,
                Err(RecvTimeoutError::Disconnected) => Event::Failed(Failure::Broken("the request broke off".into())),
                Err(RecvTimeoutError::Timeout) if heard.elapsed() > self.endpoints.timeout + POLL => {
                    return Err(offline(format!("silence for {} s", self.endpoints.timeout.as_secs_f64())));
                }
                Err(RecvTimeoutError::Timeout) => continue,
            };
            heard = Instant::now();
            match event {
                Event::Head { length: declared, sha256 } => {
                    if declared.is_some_and(|length| length > wanted.longest) {
                        return Err(damaged(too_long(declared, wanted.longest)));
                    }
                    (length, told) = (declared, sha256);
                }
                Event::Bytes(chunk) => {
                    bytes += chunk.len() as u64;
                    if bytes > wanted.longest {
                        return Err(damaged(too_long(None, wanted.longest)));
                    }
                    hasher.update(&chunk);
                    file.write_all(&chunk).map_err(disk)?;
                    let allowed = self.endpoints.timeout + Duration::from_secs(bytes / self.endpoints.slowest.max(1));
                    if start.elapsed() > allowed {
                        let seconds = start.elapsed().as_secs_f64();
                        return Err(offline(format!("{bytes} bytes in {seconds:.1} s are too slow")));
                    }
                }
                Event::End => break,
                Event::Failed(Failure::BadUrl { at, reason }) => {
                    let (url, reason) = (self.redactor.clean(&url::public(&at)), self.redactor.clean(&reason));
                    return Err(FetchError::BadUrl { url, reason });
                }
                Event::Failed(Failure::Status(status)) => {
                    return Err(refusal(&url, status, self.endpoints.token.is_some() && wanted.hub));
                }
                Event::Failed(Failure::Broken(reason)) if bytes == 0 => return Err(offline(reason)),
                Event::Failed(Failure::Broken(reason)) => {
                    let whole = length.map_or(String::new(), |all| format!(" of {all}"));
                    return Err(offline(format!("the connection broke after {bytes} bytes{whole} ({reason})")));
                }
            }
        }
        if let Some(length) = length.filter(|&length| length != bytes) {
            return Err(damaged(format!("has {bytes} bytes instead of {length}")));
        }
        let sha256 = check::hex(hasher);
        match told {
            Some(told) if told != sha256 => Err(damaged(format!("has SHA-256 {sha256}, the hub says {told}"))),
            _ => Ok(Got { bytes, sha256 }),
        }
    }
}

fn too_long(length: Option<u64>, longest: u64) -> String {
    let has = length.map_or_else(|| "does not end".into(), |length| format!("has {length} bytes"));
    format!("{has}, where {longest} are more than it can have")
}

/// The thread's part.
struct Talk {
    agent: ureq::Agent,
    token: Option<Secret>,
    url: String,
}

impl Talk {
    /// Hands over what comes, until nobody listens.
    fn run(self, sender: &SyncSender<Event>) {
        let (response, sha256) = match self.follow() {
            Ok(found) => found,
            Err(failure) => return drop(sender.send(Event::Failed(failure))),
        };
        let length = response.header("Content-Length").and_then(|v| v.parse::<u64>().ok());
        if sender.send(Event::Head { length, sha256 }).is_err() {
            return;
        }
        let (mut reader, mut buffer) = (response.into_reader(), vec![0; 1 << 16]);
        loop {
            let event = match reader.read(&mut buffer) {
                Ok(0) => return drop(sender.send(Event::End)),
                Ok(n) => Event::Bytes(buffer[..n].to_vec()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return drop(sender.send(Event::Failed(Failure::Broken(e.to_string())))),
            };
            if sender.send(event).is_err() {
                return;
            }
        }
    }

    /// The response at the end of the redirects, and the file's SHA-256 where
    /// the hub tells it.
    fn follow(&self) -> Result<(ureq::Response, Option<String>), Failure> {
        let bad_url = |at: &str, reason: &dyn std::fmt::Display| Failure::BadUrl {
            at: at.to_owned(),
            reason: reason.to_string(),
        };
        let (mut at, mut home, mut sha256) = (self.url.clone(), None, None);
        for _ in 0..=REDIRECTS {
            if url::has_user(&at) {
                return Err(bad_url(&at, &"a user or password in it is never sent; give a token (HF_TOKEN)"));
            }
            let mut request = self.agent.get(&at).set("Accept-Encoding", "identity");
            let here = request.request_url().map_err(|e| match e {
                ureq::Error::Transport(e) => bad_url(&at, &reason(&e)),
                ureq::Error::Status(status, _) => Failure::Status(status),
            })?;
            let here = here.as_url();
            let home = home.get_or_insert_with(|| here.origin());
            if let Some(token) = self.token.as_ref().filter(|_| here.origin() == *home) {
                request = request.set("Authorization", &token.bearer());
            }
            let response = match request.call() {
                Ok(response) => response,
                Err(ureq::Error::Status(status, _)) => return Err(Failure::Status(status)),
                Err(ureq::Error::Transport(e)) if is_permanent(e.kind()) => return Err(bad_url(&at, &reason(&e))),
                Err(ureq::Error::Transport(e)) => return Err(Failure::Broken(reason(&e))),
            };
            // The hub's name for the digest of a file in its large storage.
            let told = response.header("X-Linked-Etag").map(|tag| tag.trim_matches('"').to_owned());
            let digest = |tag: &String| tag.len() == 64 && tag.chars().all(|c| c.is_ascii_hexdigit());
            sha256 = sha256.or(told.filter(digest));
            match response.status() {
                300..=399 => {
                    let to = response.header("Location");
                    let to = to.ok_or_else(|| Failure::Broken("a redirect to nowhere".into()))?;
                    at = here.join(to).map_err(|e| bad_url(to, &e))?.to_string();
                }
                _ => return Ok((response, sha256)),
            }
        }
        Err(Failure::Broken(format!("more than {REDIRECTS} redirects")))
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
