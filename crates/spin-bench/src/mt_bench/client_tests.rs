use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::*;
use spin_net::testing::{Reply, Server, reply};

fn key() -> Option<Secret> {
    Some(Secret::new("secret\n", "K").unwrap())
}

fn judge(server: &Server) -> OpenAiJudge {
    OpenAiJudge::new(&format!("{}/v1/", server.url), "gpt-4", key(), Duration::from_millis(300))
}

fn complete(judge: &OpenAiJudge, messages: &[Message]) -> Result<String, JudgeError> {
    let never = AtomicBool::new(false);
    judge.complete(messages, 0.0, 2048, &Stop::new(&never))
}

fn ask(server: &Server) -> Result<String, JudgeError> {
    complete(&judge(server), &[Message::system("be fair"), Message::user("rate\n\"this\" é")])
}

fn error_of(answer: Reply) -> JudgeError {
    ask(&Server::scripted(vec![answer])).unwrap_err()
}

#[test]
fn sends_what_openai_expects() {
    let body = r#"{"model": "gpt-4-0613", "choices": [{"message": {"role": "assistant", "content": "[[7]]\n"}}]}"#;
    let server = Server::scripted(vec![reply(200, &[], body)]);
    assert_eq!(ask(&server).unwrap(), "[[7]]\n");
    let sent = &server.seen()[0];
    assert_eq!(sent.line, "POST /v1/chat/completions");
    assert_eq!(sent.header("authorization"), Some("Bearer secret"));
    let value: Value = serde_json::from_str(&sent.body).unwrap();
    let expected = json!({
        "model": "gpt-4", "n": 1, "temperature": 0.0, "max_tokens": 2048,
        "messages": [{"role": "system", "content": "be fair"}, {"role": "user", "content": "rate\n\"this\" é"}],
    });
    assert_eq!(value, expected);

    let keyless = OpenAiJudge::new(&server.url, "m", None, Duration::from_secs(1));
    complete(&keyless, &[Message::user("x")]).unwrap();
    assert_eq!(server.seen()[1].header("authorization"), None);
}

#[test]
fn base_urls_are_completed() {
    for (base, url) in [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("http://localhost:8000", "http://localhost:8000/v1/chat/completions"),
        ("http://localhost:8000/", "http://localhost:8000/v1/chat/completions"),
        ("https://openrouter.ai/api/v1/", "https://openrouter.ai/api/v1/chat/completions"),
        ("http://h/v1/chat/completions", "http://h/v1/chat/completions"),
        ("http://u:pw@h/v1?api-version=2", "http://h/v1/chat/completions?api-version=***"),
        ("http://u:pw@h?k=v", "http://h/v1/chat/completions?k=***"),
    ] {
        assert_eq!(OpenAiJudge::new(base, "m", None, Duration::from_secs(1)).url(), url);
    }
    let wrong = OpenAiJudge::new("localhost:8000", "m", None, Duration::from_secs(1));
    let error = complete(&wrong, &[]).unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("such as https://"), "{error}");
}

#[test]
fn refusals_are_final_and_say_what_to_do() {
    let auth = error_of(reply(401, &[], r#"{"error": {"message": "Incorrect API key"}}"#));
    assert!(auth.is_auth() && !auth.is_transient());
    assert!(auth.to_string().contains("status 401") && auth.to_string().contains("Incorrect API key"), "{auth}");
    assert!(!auth.to_string().contains("secret"), "{auth}");
    let missing = error_of(reply(404, &[], "")).to_string();
    assert!(missing.contains("\"gpt-4\"") && missing.contains("check the base URL"), "{missing}");
    let refused = error_of(reply(400, &[], "max_tokens  is\nnot supported"));
    assert!(refused.to_string().contains("max_tokens is not supported") && !refused.is_transient(), "{refused}");
    let empty = error_of(reply(429, &[], r#"{"error": {"code": "insufficient_quota"}}"#));
    assert!(matches!(empty, JudgeError::Refused { .. }), "{empty}");
    let moved = error_of(reply(301, &[("Location", "https://elsewhere/v1")], ""));
    assert!(moved.to_string().contains("redirects to https://elsewhere/v1") && !moved.is_transient(), "{moved}");
}

#[test]
fn busy_servers_are_transient() {
    let busy = error_of(reply(429, &[("Retry-After", "7")], "slow down"));
    let JudgeError::Busy { retry_after, .. } = &busy else { panic!("{busy}") };
    assert_eq!(*retry_after, Some(Duration::from_secs(7)));
    for status in [408, 500, 502, 503] {
        let error = error_of(reply(status, &[("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")], "x".repeat(2000)));
        assert!(matches!(error, JudgeError::Busy { retry_after: None, .. }), "{error}");
        assert!(error.to_string().len() < 700, "{error}");
    }
}

#[test]
fn silence_and_broken_lines_are_transient() {
    let start = Instant::now();
    let hung = error_of(None);
    assert!(start.elapsed() < Duration::from_secs(3));
    assert!(matches!(hung, JudgeError::Unreachable { .. }), "{hung}");
    let cut = error_of(Some(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec()));
    assert!(matches!(cut, JudgeError::Unreachable { .. }), "{cut}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = OpenAiJudge::new(&format!("http://{closed}"), "m", None, Duration::from_secs(1));
    let error = complete(&refused, &[]).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("is the server running"), "{error}");
}

#[test]
fn nonsense_keeps_its_text() {
    for (body, problem) in [
        ("<html>[[9]]</html>", "no JSON"),
        (r#"{"choices": []}"#, "without choices[0]"),
        (r#"{"choices": [{"message": {"content": null}}]}"#, "an empty message"),
        (r#"{"choices": [{"message": {"content": " \n"}}]}"#, "an empty message"),
        (r#"{"choices": [{"message": {"content": [1]}}]}"#, "not text"),
    ] {
        let error = error_of(reply(200, &[], body));
        assert!(error.to_string().contains(problem) && !error.is_transient(), "{error}");
        let JudgeError::Nonsense { raw, .. } = error else { panic!("{error}") };
        assert_eq!(raw, body);
    }
}

#[test]
fn nothing_secret_is_said() {
    for base in ["http://me:pa55word@127.0.0.1:1/v1", "ftp://me:pa55word@h/v1?key=v4lue", "http://me:pa55/word@h"] {
        let judge = OpenAiJudge::new(base, "m", key(), Duration::from_secs(1));
        let error = complete(&judge, &[]).unwrap_err();
        let text = format!("{error} {error:?} {}", judge.url());
        assert!(!text.contains("pa55") && !text.contains("v4lue") && !text.contains("secret"), "{text}");
    }
    let echoed = error_of(reply(400, &[], "you sent Authorization: Bearer secret"));
    assert!(echoed.to_string().contains("Bearer ***"), "{echoed}");
}

#[test]
fn bodies_have_an_end() {
    // A byte every now and then never lets a read time out.
    let drip = |stream: &mut std::net::TcpStream| {
        use std::io::Write;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let start = Instant::now();
    let slow = complete(&judge(&Server::raw(drip)), &[]).unwrap_err();
    assert!(matches!(slow, JudgeError::Unreachable { .. }), "{slow}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());

    let endless = |stream: &mut std::net::TcpStream| {
        use std::io::Write;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b' '; 4096]).is_ok() {}
    };
    let judge = OpenAiJudge::new(&Server::raw(endless).url, "m", key(), Duration::from_secs(60));
    let long = complete(&judge, &[]).unwrap_err();
    assert!(long.to_string().contains("more than 4194304 bytes") && !long.is_transient(), "{long}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
