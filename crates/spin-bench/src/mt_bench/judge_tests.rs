use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::mt_bench::testing::write_data;
use crate::mt_bench::{MtBench, OpenAiJudge, Summary};
use spin_net::secret::Secret;
use spin_net::testing::{Reply, Server, reply};

static NEVER: AtomicBool = AtomicBool::new(false);

const FAST: JudgeOptions<'static> = JudgeOptions {
    workers: 1,
    stop: &NEVER,
    retry: Retry {
        tries: 16,
        base_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(4),
        max_retry_after: Duration::from_millis(50),
    },
};

fn data() -> (MtBench, Answers) {
    let dir = tempfile::tempdir().unwrap();
    write_data(dir.path());
    let data = MtBench::read(dir.path()).unwrap();
    let answers = (1..=3).map(|id| (id, [format!("first {id}"), format!("second {id}")])).collect();
    (data, answers)
}

fn client(server: &Server) -> OpenAiJudge {
    OpenAiJudge::new(&server.url, "gpt-4", Some(Secret::new("sk-k3y", "K").unwrap()), Duration::from_millis(200))
}

fn verdict(text: &str) -> Reply {
    let body = serde_json::json!({"choices": [{"message": {"role": "assistant", "content": text}}]});
    reply(200, &[], body.to_string())
}

/// Runs all six judgments against a server; also gives those that were handed
/// over one by one.
fn run(server: &Server, options: &JudgeOptions<'_>, done: &[Judgment]) -> (Result<Vec<Judgment>>, Vec<Judgment>) {
    let (data, answers) = data();
    let mut kept = Vec::new();
    let result = judge_all(&data.questions, &answers, &data.prompts, &client(server), options, done, &mut |judgment| {
        kept.push(judgment.clone());
        Ok(())
    });
    (result, kept)
}

#[test]
fn all_turns_are_judged_and_handed_over() {
    let server = Server::start(|_, sent| {
        let second = sent.body.contains("second");
        verdict(if second { "Rating: [[4]]" } else { "Rating: [[8]]" })
    });
    let (result, kept) = run(&server, &JudgeOptions { workers: 3, ..FAST }, &[]);
    let judgments = result.unwrap();
    let keys: Vec<(u32, u32)> = judgments.iter().map(|j| (j.question_id, j.turn)).collect();
    assert_eq!(keys, [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]);
    assert_eq!(kept.len(), 6);
    let names: Vec<&str> = judgments.iter().map(|j| j.prompt_name.as_str()).collect();
    assert_eq!(names[..4], ["single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn"]);
    assert_eq!(judgments[3].user_prompt, "6*7 42 first 2 again 42 {again} second 2");
    assert!(judgments.iter().all(|j| j.tries == 1 && j.error.is_none() && j.judge == "gpt-4"));
    let summary = Summary::of(&judgments);
    assert_eq!(summary.overall.unwrap().value, 6.0);
    assert_eq!(summary.turns.map(|t| t.unwrap().value), [8.0, 4.0]);
}

#[test]
fn transient_failures_are_asked_again() {
    // 429 that asks for more than the cap, two 500s, then silence once.
    let script = vec![
        reply(429, &[("Retry-After", "3600")], ""),
        reply(500, &[], ""),
        reply(500, &[], ""),
        None,
        verdict("[[5]]"),
    ];
    let server = Server::scripted(script);
    let start = Instant::now();
    let (result, _) = run(&server, &FAST, &[]);
    let judgments = result.unwrap();
    assert_eq!(judgments.iter().map(|j| j.tries).collect::<Vec<_>>(), [5, 1, 1, 1, 1, 1]);
    assert!(judgments.iter().all(|j| j.rating == Some(5.0)));
    assert_eq!(server.seen().len(), 10);
    // The capped Retry-After and the timeout were waited for, no more.
    assert!(start.elapsed() >= Duration::from_millis(250) && start.elapsed() < Duration::from_secs(10));
}

#[test]
fn errors_become_rows_and_the_run_goes_on() {
    let server = Server::start(|_, sent| match &sent.body {
        body if body.contains("single-math-v1.") => reply(503, &[], "down"),
        body if body.contains("first 3") && !body.contains("second 3") => reply(200, &[], "<html>[[9]]"),
        _ => verdict("[[6]]"),
    });
    let (result, kept) = run(&server, &FAST, &[]);
    let judgments = result.unwrap();
    assert_eq!(kept.len(), 6);
    let (down, html) = (&judgments[2], &judgments[4]);
    assert_eq!((down.judgment.as_str(), down.rating, down.tries), ("$ERROR$", None, 16));
    assert!(down.error.as_ref().unwrap().contains("status 503"));
    assert_eq!((html.judgment.as_str(), html.rating, html.tries), ("<html>[[9]]", None, 1));
    assert!(html.error.as_ref().unwrap().contains("no JSON"));
    let summary = Summary::of(&judgments);
    assert_eq!((summary.rated, summary.errors, summary.unrated), (4, 2, 0));
    assert_eq!(summary.overall.unwrap().value, 6.0);

    // A second run asks for the two alone.
    let again = Server::scripted(vec![verdict("[[3]]")]);
    let (result, kept) = run(&again, &FAST, &judgments);
    let judgments = result.unwrap();
    assert_eq!(again.seen().len(), 2);
    assert_eq!(kept.iter().map(|j| (j.question_id, j.turn)).collect::<Vec<_>>(), [(2, 1), (3, 1)]);
    assert_eq!(judgments.iter().map(|j| j.rating.unwrap()).collect::<Vec<_>>(), [6.0, 6.0, 3.0, 6.0, 3.0, 6.0]);
}

#[test]
fn a_killed_run_goes_on_without_asking_twice() {
    let server = Server::scripted(vec![verdict("[[6]]")]);
    let (data, answers) = data();
    let (mut kept, judge) = (Vec::new(), client(&server));
    let full = |_: &Judgment| Err(StoreError::run(std::path::Path::new("disk"), "full"));
    let error = judge_all(&data.questions, &answers, &data.prompts, &judge, &FAST, &[], &mut |judgment| {
        if kept.len() == 2 {
            return full(judgment);
        }
        kept.push(judgment.clone());
        Ok(())
    });
    assert!(matches!(error, Err(MtBenchError::Store(_))));
    let before = server.seen().len();
    let (result, new) = run(&server, &FAST, &kept);
    assert_eq!((result.unwrap().len(), new.len(), server.seen().len() - before), (6, 4, 4));

    // Judgments of other answers or of another judge are not taken for these.
    let mut other = kept.clone();
    other[1].user_prompt.push('!');
    let error = run(&server, &FAST, &other).0.unwrap_err().to_string();
    assert!(error.contains("question 1, turn 2, is of another answer"), "{error}");
    kept[0].judge = "gpt-5".into();
    let error = run(&server, &FAST, &kept).0.unwrap_err().to_string();
    assert!(error.contains("question 1, turn 1, is of another judge"), "{error}");
}

#[test]
fn a_wrong_key_stops_the_run_at_once() {
    let server = Server::scripted(vec![reply(401, &[], "bad key")]);
    let (result, kept) = run(&server, &FAST, &[]);
    let error = result.unwrap_err();
    let MtBenchError::Stopped { failures: 3, source } = &error else { panic!("{error}") };
    assert!(source.is_auth() && error.is_bad_input());
    assert!(error.to_string().contains("the first 3 judgments failed") && error.to_string().contains("bad key"));
    assert!(server.seen().len() < 6 && kept.len() < 6, "{} requests", server.seen().len());
    assert!(kept.iter().all(|j| j.error.is_some()));

    // After a success, refusals are rows like any other.
    let server = Server::scripted(vec![verdict("[[6]]"), reply(401, &[], "")]);
    let (result, _) = run(&server, &FAST, &[]);
    assert_eq!(Summary::of(&result.unwrap()).errors, 5);
}

#[test]
fn workers_share_the_work_and_the_pauses_end_with_the_run() {
    struct Slow(Mutex<usize>);
    impl Judge for Slow {
        fn name(&self) -> &str {
            "slow"
        }
        fn complete(&self, _: &[Message], _: f64, _: u32, _: &Stop<'_>) -> Result<String, JudgeError> {
            let mut asked = self.0.lock().unwrap();
            *asked += 1;
            let url = "u".to_owned();
            match *asked {
                // One worker is sent to wait for an hour.
                1 => Err(JudgeError::Busy {
                    url,
                    status: 429,
                    body: String::new(),
                    retry_after: Some(Duration::from_secs(3600)),
                }),
                _ => Err(JudgeError::Auth { url, status: 401, body: String::new() }),
            }
        }
    }
    let (data, answers) = data();
    let judge = Slow(Mutex::new(0));
    let retry = Retry { max_retry_after: Duration::from_secs(3600), ..FAST.retry };
    let start = Instant::now();
    let options = JudgeOptions { workers: 2, retry, ..FAST };
    let result = judge_all(&data.questions, &answers, &data.prompts, &judge, &options, &[], &mut |_| Ok(()));
    assert!(matches!(result, Err(MtBenchError::Stopped { .. })));
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn missing_answers_are_named() {
    let (data, mut answers) = data();
    answers.remove(&3);
    let server = Server::scripted(vec![verdict("[[6]]")]);
    let result = judge_all(&data.questions, &answers, &data.prompts, &client(&server), &FAST, &[], &mut |_| Ok(()));
    assert!(result.unwrap_err().to_string().contains("question 3 has no answer"));
    assert!(server.seen().is_empty());
}

#[test]
fn a_silent_judge_does_not_keep_signals_waiting() {
    for pausing in [false, true] {
        // Silent, or busy for an hour.
        let server = Server::start(move |n, _| match (n, pausing) {
            (0, _) => verdict("[[6]]"),
            (_, true) => reply(429, &[("Retry-After", "3600")], ""),
            (_, false) => None,
        });
        let (data, answers) = data();
        let judge = OpenAiJudge::new(&server.url, "gpt-4", None, Duration::from_secs(600));
        let stop = AtomicBool::new(false);
        let retry = Retry { max_retry_after: Duration::from_secs(3600), ..FAST.retry };
        let options = JudgeOptions { workers: 2, retry, stop: &stop };
        let (mut kept, mut asked) = (0, Instant::now());
        let error = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                judge_all(&data.questions, &answers, &data.prompts, &judge, &options, &[], &mut |_| {
                    kept += 1;
                    Ok(())
                })
            });
            while server.seen().len() < 3 {
                std::thread::sleep(Duration::from_millis(5));
            }
            asked = Instant::now();
            stop.store(true, Ordering::Relaxed);
            waiting.join().unwrap().unwrap_err()
        });
        assert!(matches!(error, MtBenchError::Interrupted) && !error.is_bad_input(), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        assert_eq!(kept, 1);
    }
}

#[test]
fn a_server_that_sends_the_key_back_tells_nobody() {
    let echo = |sent: &spin_net::testing::Sent| sent.header("authorization").unwrap_or_default().to_owned();
    let server = Server::start(move |n, sent| match n {
        0 => verdict(&format!("You sent {}. Rating: [[7]]", echo(sent))),
        1 => reply(400, &[], format!("headers: {}", echo(sent))),
        2 => reply(200, &[], format!("<html>{}", echo(sent))),
        3 => reply(302, &[("Location", &format!("https://u:pw@h/?{}", echo(sent)))], ""),
        4 => Some(format!("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nbad {}\r\n\r\n", echo(sent)).into_bytes()),
        _ => reply(503, &[], echo(sent)),
    });
    let (result, kept) = run(&server, &FAST, &[]);
    let rows = format!("{:?}", (result.unwrap(), &kept));
    assert!(rows.contains("You sent Bearer ***. Rating") && rows.contains("<html>Bearer ***"), "{rows}");
    assert!(!rows.contains("sk-k3y") && !rows.contains("pw@"), "{rows}");
    assert_eq!(kept[0].rating, Some(7.0));
    // As it stands on the disk, whatever happens to the run.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j.parquet");
    spin_run::schema::Row::write_part(&path, &kept, "id", 0).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"sk-k3y"));
}
