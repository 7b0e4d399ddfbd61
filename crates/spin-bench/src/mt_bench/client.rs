//! A judge behind an OpenAI-compatible endpoint.

use std::time::Duration;

use serde_json::{Value, json};
use spin_store::schema::Message;

use super::judge::{Judge, JudgeError};

/// Asks `/v1/chat/completions` of OpenAI, vLLM, llama.cpp, mistral.rs and the
/// like, over HTTP or HTTPS.
///
/// HTTPS trusts Mozilla's root certificates as compiled in; proxies of the
/// environment are not used.
pub struct OpenAiJudge {
    agent: ureq::Agent,
    url: String,
    model: String,
    key: Option<String>,
}

/// Bytes of a server's complaint that are shown.
const SHOWN: usize = 500;

impl OpenAiJudge {
    /// A judge at a base URL such as `https://api.openai.com/v1`, without or
    /// with `/chat/completions`. A bare host gets `/v1`. `timeout` is for one
    /// whole request.
    pub fn new(base_url: &str, model: &str, key: Option<&str>, timeout: Duration) -> Self {
        OpenAiJudge {
            // A redirect would turn POST into GET, or carry the key elsewhere.
            agent: ureq::AgentBuilder::new().redirects(0).timeout_connect(timeout).timeout(timeout).build(),
            url: endpoint(base_url),
            model: model.to_owned(),
            key: key.map(str::to_owned),
        }
    }

    /// The full address that is asked.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn unreachable(&self, reason: impl std::fmt::Display) -> JudgeError {
        JudgeError::Unreachable { url: self.url.clone(), reason: reason.to_string() }
    }

    /// The error that a status stands for.
    fn of_status(&self, status: u16, retry_after: Option<Duration>, body: &str) -> JudgeError {
        let (url, body) = (self.url.clone(), shown(body));
        match status {
            401 | 403 => JudgeError::Auth { url, status, body },
            404 => JudgeError::NotFound { url, model: self.model.clone(), body },
            // Not a matter of pace: the account is empty.
            429 if body.contains("insufficient_quota") => JudgeError::Refused { url, status, body },
            408 | 429 | 500..=599 => JudgeError::Busy { url, status, body, retry_after },
            _ => JudgeError::Refused { url, status, body },
        }
    }
}

fn endpoint(base: &str) -> String {
    let base = base.trim().trim_end_matches('/');
    let bare_host = base.split_once("://").is_some_and(|(_, rest)| !rest.contains('/'));
    if base.ends_with("/chat/completions") {
        base.to_owned()
    } else if bare_host {
        format!("{base}/v1/chat/completions")
    } else {
        format!("{base}/chat/completions")
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

    fn complete(&self, messages: &[Message], temperature: f64, max_tokens: u32) -> Result<String, JudgeError> {
        let body = json!({
            "model": self.model,
            "messages": messages,
            "n": 1,
            "temperature": temperature,
            "max_tokens": max_tokens,
        });
        let mut request = self.agent.post(&self.url).set("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.set("Authorization", &format!("Bearer {key}"));
        }
        let response = match request.send_string(&body.to_string()) {
            Ok(response) | Err(ureq::Error::Status(_, response)) => response,
            Err(ureq::Error::Transport(e)) => match e.kind() {
                ureq::ErrorKind::InvalidUrl | ureq::ErrorKind::UnknownScheme => {
                    return Err(JudgeError::BadUrl { url: self.url.clone(), reason: e.to_string() });
                }
                _ => return Err(self.unreachable(e)),
            },
        };
        let status = response.status();
        let retry_after = response.header("Retry-After").and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
        let location = response.header("Location").map(|to| format!("it redirects to {to}"));
        let body = response.into_string().map_err(|e| self.unreachable(e))?;
        match (status, location) {
            (200..=299, _) => {
                content(&body).map_err(|problem| JudgeError::Nonsense { url: self.url.clone(), problem, raw: body })
            }
            (300..=399, Some(location)) => Err(self.of_status(status, None, &location)),
            _ => Err(self.of_status(status, retry_after, &body)),
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
