//! One file over HTTP.
//!
//! A thread of its own talks to the server and hands over what comes; the
//! caller looks up ten times a second for a signal, for a server that is too
//! slow, and for a file that is too long. Whatever the server does, a download
//! ends: after `timeout` of silence, when it falls behind the slowest rate
//! there is, or when it is longer than any file of its kind. A connection that
//! breaks is taken up where it broke, where the server can do that.
//!
//! HTTPS trusts Mozilla's root certificates as compiled in; proxies of the
//! environment are not used.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use spin_store::StoreError;

use crate::digest::hex;
use crate::error::{NetError, Result};
use crate::retry::{POLL, Stop, doubled, until};
use crate::secret::{Redactor, Secret};
use crate::{Endpoints, url};

/// Redirects followed: the hub sends to its storage, which may send further.
const REDIRECTS: usize = 10;

/// A file that was downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// A file to be had.
pub struct Wanted<'a> {
    /// Its address.
    pub url: &'a str,
    /// Whether it is the hub's, which gets the token.
    pub hub: bool,
    /// Bytes that no file of its kind has.
    pub longest: u64,
    /// Its SHA-256, where it is known.
    pub sha256: Option<&'a str>,
    /// Where it is written, for messages.
    pub target: &'a Path,
    /// What to do where there is no network, for messages.
    pub otherwise: &'a str,
    /// Told of bytes that are there, and of all where that is known.
    pub progress: &'a dyn Fn(u64, Option<u64>),
}

/// Brings files, with retries of what may pass.
pub struct Client<'a> {
    endpoints: &'a Endpoints,
    agent: ureq::Agent,
    redactor: Redactor,
    stop: &'a AtomicBool,
}

/// What comes from the thread that talks to the server.
enum Event {
    /// The headers of the file itself; its bytes begin at `from`.
    Head { from: u64, length: Option<u64>, sha256: Option<String> },
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
    Status(u16, Option<String>),
    Broken(String),
}

/// The part of a file that is there.
struct Part<'f> {
    file: &'f File,
    hasher: Sha256,
    bytes: u64,
}

impl Part<'_> {
    /// What the file holds.
    fn of(mut file: &File) -> std::io::Result<Part<'_>> {
        let (mut hasher, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 18]);
        file.rewind()?;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Part { file, hasher, bytes }),
                n => {
                    hasher.update(&buffer[..n]);
                    bytes += n as u64;
                }
            }
        }
    }

    fn push(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        self.file.write_all(chunk)?;
        self.hasher.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    fn empty(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hasher, self.bytes) = (Sha256::new(), 0);
        Ok(())
    }
}

impl<'a> Client<'a> {
    /// One that stops when `stop` becomes true.
    pub fn new(endpoints: &'a Endpoints, stop: &'a AtomicBool) -> Self {
        // Redirects are followed by hand: the hub tells a file's SHA-256 in
        // the first response, and the token must not leave its host.
        let agent = ureq::AgentBuilder::new()
            .redirects(0)
            .timeout_connect(endpoints.timeout)
            .timeout_read(endpoints.timeout)
            .timeout_write(endpoints.timeout)
            .user_agent(concat!("spin/", env!("CARGO_PKG_VERSION")))
            .build();
        let redactor = Redactor::new(endpoints.token.as_ref(), &endpoints.hub);
        Client { endpoints, agent, redactor, stop }
    }

    /// Downloads into `file`; what it holds is taken to be the beginning, and
    /// is given up when the whole turns out to be another file.
    ///
    /// # Errors
    /// At what no further try mends, after as many tries as there are, and
    /// within a second after a stop was asked for. What came stays in `file`,
    /// unless it is damaged.
    pub fn download(&self, wanted: &Wanted<'_>, file: &File) -> Result<Got> {
        let disk = |e| NetError::from(StoreError::io("write", wanted.target)(e));
        let Endpoints { tries, base_delay, .. } = *self.endpoints;
        let pause = |error: &NetError, failures: u32| error.may_pass().then(|| doubled(base_delay, failures.min(11)));
        let mut part = Part::of(file).map_err(disk)?;
        let once = || {
            let result = self.once(wanted, &mut part);
            if matches!(result, Err(NetError::Damaged { .. })) {
                part.empty().map_err(disk)?;
            }
            result
        };
        until(&Stop::new(self.stop), tries, once, pause).unwrap_or(Err(NetError::Stopped))
    }

    fn once(&self, wanted: &Wanted<'_>, part: &mut Part<'_>) -> Result<Got> {
        let (url, otherwise) = (url::public(wanted.url), wanted.otherwise);
        let offline = |reason: String| NetError::Offline {
            url: url.clone(),
            reason: self.redactor.clean(&reason),
            otherwise: otherwise.to_owned(),
        };
        let damaged = |problem: String| NetError::Damaged {
            url: url.clone(),
            problem: self.redactor.clean(&problem),
            otherwise: otherwise.to_owned(),
        };
        let disk = |e| NetError::from(StoreError::io("write", wanted.target)(e));
        let (sender, receiver) = mpsc::sync_channel(4);
        let talk = Talk {
            agent: self.agent.clone(),
            token: self.endpoints.token.clone().filter(|_| wanted.hub),
            url: wanted.url.to_owned(),
            from: part.bytes,
        };
        let thread = std::thread::Builder::new().name("fetch".into());
        thread.spawn(move || talk.run(&sender)).map_err(|e| offline(format!("no thread for it ({e})")))?;
        let (mut whole, mut told, mut came) = (None, None, 0_u64);
        let (start, mut heard) = (Instant::now(), Instant::now());
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(NetError::Stopped);
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
                Event::Head { from, length, sha256 } => {
                    // A server that knows no ranges begins anew.
                    if from != part.bytes {
                        part.empty().map_err(disk)?;
                    }
                    whole = length.map(|length| length + from);
                    if whole.is_some_and(|whole| whole > wanted.longest) {
                        return Err(damaged(too_long(whole, wanted.longest)));
                    }
                    told = sha256;
                }
                Event::Bytes(chunk) => {
                    came += chunk.len() as u64;
                    if part.bytes + chunk.len() as u64 > wanted.longest {
                        return Err(damaged(too_long(None, wanted.longest)));
                    }
                    part.push(&chunk).map_err(disk)?;
                    (wanted.progress)(part.bytes, whole);
                    let allowed = self.endpoints.timeout + Duration::from_secs(came / self.endpoints.slowest.max(1));
                    if start.elapsed() > allowed {
                        let seconds = start.elapsed().as_secs_f64();
                        return Err(offline(format!("{came} bytes in {seconds:.1} s are too slow")));
                    }
                }
                Event::End => break,
                Event::Failed(Failure::BadUrl { at, reason }) => {
                    let (url, reason) = (self.redactor.clean(&url::public(&at)), self.redactor.clean(&reason));
                    return Err(NetError::BadUrl { url, reason });
                }
                // What is there is as long as the file, or longer.
                Event::Failed(Failure::Status(416, _)) if part.bytes > 0 => {
                    return Err(damaged(format!("does not go on after {} bytes", part.bytes)));
                }
                Event::Failed(Failure::Status(status, code)) => {
                    let with_token = self.endpoints.token.is_some() && wanted.hub;
                    return Err(refusal(&url, status, code.as_deref(), with_token));
                }
                Event::Failed(Failure::Broken(reason)) if came == 0 => return Err(offline(reason)),
                Event::Failed(Failure::Broken(reason)) => {
                    let all = whole.map_or(String::new(), |all| format!(" of {all}"));
                    return Err(offline(format!("the connection broke after {} bytes{all} ({reason})", part.bytes)));
                }
            }
        }
        let bytes = part.bytes;
        if let Some(whole) = whole.filter(|&whole| whole != bytes) {
            return Err(damaged(format!("has {bytes} bytes instead of {whole}")));
        }
        let sha256 = hex(part.hasher.clone().finalize());
        match told.as_deref().into_iter().chain(wanted.sha256).find(|told| *told != sha256) {
            Some(told) => Err(damaged(format!("has SHA-256 {sha256}, the hub says {told}"))),
            None => Ok(Got { bytes, sha256 }),
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
    /// Bytes that are there already.
    from: u64,
}

impl Talk {
    /// Hands over what comes, until nobody listens.
    fn run(self, sender: &SyncSender<Event>) {
        let (response, sha256) = match self.follow() {
            Ok(found) => found,
            Err(failure) => return drop(sender.send(Event::Failed(failure))),
        };
        let length = response.header("Content-Length").and_then(|v| v.parse::<u64>().ok());
        let from = match response.status() {
            206 => response.header("Content-Range").and_then(first_byte).unwrap_or(0),
            _ => 0,
        };
        if from != 0 && from != self.from {
            let reason = format!("it was asked for bytes from {} and gave those from {from}", self.from);
            return drop(sender.send(Event::Failed(Failure::Broken(reason))));
        }
        if sender.send(Event::Head { from, length, sha256 }).is_err() {
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
            if self.from > 0 {
                request = request.set("Range", &format!("bytes={}-", self.from));
            }
            let here = request.request_url().map_err(|e| match e {
                ureq::Error::Transport(e) => bad_url(&at, &reason(&e)),
                ureq::Error::Status(status, _) => Failure::Status(status, None),
            })?;
            let here = here.as_url();
            let home = home.get_or_insert_with(|| here.origin());
            if let Some(token) = self.token.as_ref().filter(|_| here.origin() == *home) {
                request = request.set("Authorization", &token.bearer());
            }
            let response = match request.call() {
                Ok(response) => response,
                Err(ureq::Error::Status(status, response)) => {
                    return Err(Failure::Status(status, response.header("X-Error-Code").map(str::to_owned)));
                }
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

/// The first byte of `bytes 100-199/200`.
fn first_byte(range: &str) -> Option<u64> {
    range.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// Whether no further try will do.
pub fn is_permanent(kind: ureq::ErrorKind) -> bool {
    use ureq::ErrorKind::{InsecureRequestHttpsOnly, InvalidProxyUrl, InvalidUrl, ProxyUnauthorized, UnknownScheme};
    matches!(kind, InsecureRequestHttpsOnly | InvalidProxyUrl | InvalidUrl | ProxyUnauthorized | UnknownScheme)
}

/// What a transport error says, without the address, which may hold secrets.
pub fn reason(error: &ureq::Transport) -> String {
    let mut text = error.kind().to_string();
    // Of a header that cannot be sent the message is the header.
    if let Some(message) = error.message().filter(|_| error.kind() != ureq::ErrorKind::BadHeader) {
        text = format!("{text}: {message}");
    }
    match std::error::Error::source(error) {
        Some(source) => format!("{text}: {source}"),
        None => text,
    }
}

/// What a status means; `code` is the hub's own word for it.
fn refusal(url: &str, status: u16, code: Option<&str>, with_token: bool) -> NetError {
    let url = url.to_owned();
    let hint = |hint: &str| hint.to_owned();
    match status {
        401 | 403 => {
            let what = match code {
                Some("GatedRepo") => "it is gated",
                Some("RepoNotFound") => "there is no such thing on the hub, or it is private",
                _ => "it is gated, private or gone",
            };
            let todo = if with_token {
                "accept its terms on the hub, and check that the token may read it"
            } else {
                "accept its terms on the hub, and give a token (HF_TOKEN)"
            };
            NetError::Refused { url, status, hint: format!("{what}; {todo}") }
        }
        404 => {
            let what = match code {
                Some("RevisionNotFound") => "there is no such revision; look it up on the hub",
                Some("EntryNotFound") => "there is no such file in that revision",
                Some("RepoNotFound") => "there is no such thing on the hub",
                _ => "is the endpoint the hub or a full mirror of it?",
            };
            NetError::Status { url, status, hint: hint(what) }
        }
        429 | 500..=599 => NetError::Status { url, status, hint: hint("the server is busy or broken, try later") },
        _ => NetError::Status { url, status, hint: hint("check the endpoint") },
    }
}
