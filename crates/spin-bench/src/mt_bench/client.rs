//! A judge behind an OpenAI-compatible endpoint.

use std::io::Read;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spin_net::url;
use spin_run::schema::Message;

use super::judge::{Judge, JudgeError};
use spin_net::download::{is_permanent, reason};
use spin_net::retry::{POLL, Stop};
use spin_net::secret::{Redactor, Secret};

/// Asks `/v1/chat/completions` of OpenAI, vLLM, llama.cpp, mistral.rs and the
/// like, over HTTP or HTTPS.
///
/// HTTPS trusts Mozilla's root certificates as compiled in; proxies of the
/// environment are not used. Nothing secret leaves it but in the request: not
/// the key, nor what the address hides, even where a server sends them back.
pub struct OpenAiJudge {
    agent: ureq::Agent,
    /// The address that is asked, with all that is in it.
    address: String,
    /// The same as it may be shown.
    url: String,
    model: String,
    key: Option<Secret>,
    redactor: Redactor,
    timeout: Duration,
}

/// Bytes of a server's complaint that are shown.
const SHOWN: usize = 500;

/// Longest body that is read, in bytes: a verdict has a few thousand.
const LONGEST: u64 = 4 << 20;

/// Bytes of an answer without a verdict that are kept.
const KEPT: usize = 64 << 10;

/// What a server sent.
struct Reply {
    status: u16,
    retry_after: Option<Duration>,
    location: Option<String>,
    /// `None` when it is longer than [`LONGEST`].
    body: Option<String>,
}

impl OpenAiJudge {
    /// A judge at a base URL such as `https://api.openai.com/v1`, without or
    /// with `/chat/completions`. A bare host gets `/v1`. `timeout` is for one
    /// whole request, however its answer comes.
    pub fn new(base_url: &str, model: &str, key: Option<Secret>, timeout: Duration) -> Self {
        let address = endpoint(base_url);
        OpenAiJudge {
            // A redirect would turn POST into GET, or carry the key elsewhere.
            agent: ureq::AgentBuilder::new().redirects(0).timeout_connect(timeout).timeout(timeout).build(),
            url: url::public(&address),
            redactor: Redactor::new(key.as_ref(), &address),
            address,
            model: model.to_owned(),
            key,
            timeout,
        }
    }

    /// The full address that is asked, without what is secret in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn unreachable(&self, reason: impl std::fmt::Display) -> JudgeError {
        JudgeError::Unreachable { url: self.url.clone(), reason: self.redactor.clean(&reason.to_string()) }
    }

    /// The error that a request without a reply stands for.
    fn failed(&self, failure: &Failure) -> JudgeError {
        let (url, reason) = (self.url.clone(), self.redactor.clean(&failure.reason));
        match failure.kind {
            Some(ureq::ErrorKind::BadHeader) => {
                JudgeError::Nonsense { url, problem: "a header that is none".into(), raw: String::new() }
            }
            Some(kind) if is_permanent(kind) => JudgeError::BadUrl { url, reason },
            _ => self.unreachable(reason),
        }
    }

    /// The error that a status stands for.
    fn of_status(&self, status: u16, retry_after: Option<Duration>, body: &str) -> JudgeError {
        let (url, body) = (self.url.clone(), shown(&self.redactor.clean(body)));
        match status {
            401 | 403 => JudgeError::Auth { url, status, body },
            404 => JudgeError::NotFound { url, model: self.model.clone(), body },
            // Not a matter of pace: the account is empty.
            429 if body.contains("insufficient_quota") => JudgeError::Refused { url, status, body },
            408 | 429 | 500..=599 => JudgeError::Busy { url, status, body, retry_after },
            _ => JudgeError::Refused { url, status, body },
        }
    }

    /// Sends the request from a thread of its own, which is left behind when
    /// the run is stopped or time is up: no call of the system can hold it.
    fn send(&self, body: String, stop: &Stop<'_>) -> Result<Reply, JudgeError> {
        let mut request = self.agent.post(&self.address).set("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.set("Authorization", &key.bearer());
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("judge".into());
        thread
            .spawn(move || {
                let _ = sender.send(ask(request, &body));
            })
            .map_err(|e| self.unreachable(format!("no thread for the request ({e})")))?;
        let end = Instant::now() + self.timeout;
        loop {
            if stop.is_asked() {
                return Err(JudgeError::Stopped);
            }
            let left = end.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(left.min(POLL)) {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(failure)) => return Err(self.failed(&failure)),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(self.unreachable("the request broke off")),
                Err(mpsc::RecvTimeoutError::Timeout) if left.is_zero() => {
                    return Err(self.unreachable(format!("no whole answer in {} s", self.timeout.as_secs_f64())));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Why there is no reply.
struct Failure {
    kind: Option<ureq::ErrorKind>,
    reason: String,
}

fn ask(request: ureq::Request, body: &str) -> Result<Reply, Failure> {
    let response = match request.send_string(body) {
        Ok(response) | Err(ureq::Error::Status(_, response)) => response,
        Err(ureq::Error::Transport(e)) => {
            return Err(Failure { kind: Some(e.kind()), reason: reason(&e) });
        }
    };
    let status = response.status();
    let retry_after = response.header("Retry-After").and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
    let location = response.header("Location").map(|to| format!("it redirects to {}", url::public(to)));
    let mut bytes = Vec::new();
    let read = response.into_reader().take(LONGEST + 1).read_to_end(&mut bytes);
    read.map_err(|e| Failure { kind: None, reason: format!("its answer broke off ({e})") })?;
    let body = (bytes.len() as u64 <= LONGEST).then(|| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Reply { status, retry_after, location, body })
}

fn endpoint(base: &str) -> String {
    let base = base.trim();
    let (base, query) = match base.split_once('?') {
        Some((base, query)) => (base, format!("?{query}")),
        None => (base, String::new()),
    };
    let base = base.trim_end_matches('/');
    let bare_host = base.split_once("://").is_some_and(|(_, rest)| !rest.contains('/'));
    if base.ends_with("/chat/completions") {
        format!("{base}{query}")
    } else if bare_host {
        format!("{base}/v1/chat/completions{query}")
    } else {
        format!("{base}/chat/completions{query}")
    }
}

/// The beginning of a text on one line.
fn shown(body: &str) -> String {
    let line = body.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        _ if line.is_empty() => "no details".into(),
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// As much of a text as is kept.
fn kept(body: &str) -> String {
    let end = (0..=KEPT.min(body.len())).rev().find(|end| body.is_char_boundary(*end)).unwrap_or(0);
    body[..end].to_owned()
}

/// `choices[0].message.content`, if there is text in it.
fn content(body: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(body).map_err(|e| format!("no JSON ({e})"))?;
    match value.pointer("/choices/0/message/content") {
        Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.clone()),
        Some(Value::String(_) | Value::Null) => Err("an empty message".into()),
        Some(_) => Err("a message that is not text".into()),
        None => Err("JSON without choices[0].message.content".into()),
    }
}

impl Judge for OpenAiJudge {
    fn name(&self) -> &str {
        &self.model
    }

    fn complete(
        &self,
        messages: &[Message],
        temperature: f64,
        max_tokens: u32,
        stop: &Stop<'_>,
    ) -> Result<String, JudgeError> {
        let body = json!({
            "model": self.model,
            "messages": messages,
            "n": 1,
            "temperature": temperature,
            "max_tokens": max_tokens,
        });
        let reply = self.send(body.to_string(), stop)?;
        let nonsense = |problem: String, raw: String| JudgeError::Nonsense { url: self.url.clone(), problem, raw };
        let body = match (reply.body, reply.location) {
            (None, _) => return Err(nonsense(format!("more than {LONGEST} bytes"), String::new())),
            (Some(_), Some(to)) if (300..=399).contains(&reply.status) => to,
            (Some(body), _) => body,
        };
        match reply.status {
            200..=299 => match content(&body) {
                Ok(text) => Ok(self.redactor.clean(&text)),
                Err(problem) => Err(nonsense(self.redactor.clean(&problem), kept(&self.redactor.clean(&body)))),
            },
            status => Err(self.of_status(status, reply.retry_after, &body)),
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
