use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use spin_run::schema::{Row, ScoreRow};

use super::*;
use spin_net::secret::Secret;
use spin_net::testing::{Reply, Sent, Server, reply};

/// A Parquet file of some rows.
fn parquet(rows: u64) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let row = |i| ScoreRow {
        task: "t".into(),
        metric: "m".into(),
        row_id: format!("{i}"),
        value: 1.0,
        weight: 1.0,
        prediction: None,
        target: None,
    };
    ScoreRow::write_part(&path, &(0..rows).map(row).collect::<Vec<_>>(), "id", 0).unwrap();
    std::fs::read(path).unwrap()
}

fn digest_of(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    std::fs::write(&path, bytes).unwrap();
    digest::sha256(&path).unwrap().0
}

fn endpoints(server: &Server) -> Endpoints {
    Endpoints {
        hub: server.url.clone(),
        github: format!("{}/raw/", server.url),
        token: Some(Secret::new("hf_secret", "HF_TOKEN").unwrap()),
        tries: 3,
        base_delay: Duration::from_millis(1),
        timeout: Duration::from_millis(500),
        slowest: 8 << 10,
    }
}

static NEVER: AtomicBool = AtomicBool::new(false);

/// The pinned data alone.
const STRICT: Options<'static> = Options { accept_unpinned: false, stop: &NEVER };

/// Made-up files will do.
const ANY: Options<'static> = Options { accept_unpinned: true, stop: &NEVER };

const TRUTHFUL: &str = "/datasets/truthfulqa/truthful_qa/resolve/741b8276f2d1982aa3d5b832d3ee81ed3b896490/multiple_choice/validation-00000-of-00001.parquet";

fn truthful(dir: &Path) -> PathBuf {
    dir.join("truthfulqa/truthful_qa/multiple_choice/validation-00000-of-00001.parquet")
}

/// Fetches TruthfulQA's one file from a server that answers so.
fn fetch_truthful(
    dir: &Path,
    answer: impl Fn(usize, &Sent) -> Reply + Send + Sync + 'static,
) -> (Result<Report>, Vec<Sent>) {
    let server = Server::start(answer);
    let report = fetch(dir, &endpoints(&server), &[Dataset::TruthfulQa], &ANY, &mut |_| {});
    (report, server.seen())
}

/// Nothing but empty directories.
fn no_files(dir: &Path) -> bool {
    let entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.iter().all(|path| path.is_dir() && no_files(path))
}

#[test]
fn files_are_fetched_recorded_and_then_kept() {
    let dir = tempfile::tempdir().unwrap();
    let body = parquet(817);
    let sent = body.clone();
    let (report, seen) = fetch_truthful(dir.path(), move |_, _| reply(200, &[], &sent));
    let bytes = body.len() as u64;
    assert_eq!(report.unwrap(), Report { downloaded: 1, bytes, unpinned: 1, ..Report::default() });
    assert_eq!(seen[0].line, format!("GET {TRUTHFUL}"));
    assert_eq!(seen[0].header("authorization"), Some("Bearer hf_secret"));
    assert_eq!(std::fs::read(truthful(dir.path())).unwrap(), body);
    let record: Value = serde_json::from_slice(&std::fs::read(dir.path().join(FILE_NAME)).unwrap()).unwrap();
    let expected = serde_json::json!({"layout": 2, "files": [{
        "repo": "truthfulqa/truthful_qa", "revision": "741b8276f2d1982aa3d5b832d3ee81ed3b896490",
        "path": "multiple_choice/validation-00000-of-00001.parquet",
        "bytes": bytes, "sha256": digest_of(&body), "rows": null, "checked": "unpinned",
    }]});
    assert_eq!(record, expected);

    let (report, seen) = fetch_truthful(dir.path(), |_, _| None);
    assert_eq!((report.unwrap().kept, seen.len()), (1, 0));

    // A file that changed since is fetched again.
    std::fs::write(truthful(dir.path()), parquet(3)).unwrap();
    let (report, _) = fetch_truthful(dir.path(), move |_, _| reply(200, &[], &body));
    assert_eq!(report.unwrap().downloaded, 1);
}

#[test]
fn redirects_are_followed_and_the_token_stays_at_home() {
    let dir = tempfile::tempdir().unwrap();
    let body = parquet(817);
    let (etag, stored) = (format!("\"{}\"", digest_of(&body)), body.clone());
    let storage = Server::start(move |_, _| reply(200, &[], &stored));
    let cdn = format!("{}/blob?sig=1", storage.url);
    let (report, seen) = fetch_truthful(dir.path(), move |_, sent| match sent.line.as_str() {
        "GET /moved/here" => reply(302, &[("Location", &cdn), ("X-Linked-Etag", &etag)], ""),
        _ => reply(307, &[("Location", "/moved/here")], ""),
    });
    assert_eq!(report.unwrap().downloaded, 1);
    assert_eq!(std::fs::read(truthful(dir.path())).unwrap(), body);
    // A relative redirect keeps the token, another host does not get it.
    assert_eq!(seen[1].header("authorization"), Some("Bearer hf_secret"));
    assert_eq!((storage.seen()[0].line.as_str(), storage.seen()[0].header("authorization")), ("GET /blob?sig=1", None));

    let dir = tempfile::tempdir().unwrap();
    let (report, _) = fetch_truthful(dir.path(), |_, sent| reply(302, &[("Location", &sent.line[4..])], ""));
    assert!(report.unwrap_err().to_string().contains("more than 10 redirects"));
}

#[test]
fn another_digest_than_the_hubs_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tag = "0".repeat(64);
    let (report, seen) = fetch_truthful(dir.path(), move |_, _| reply(200, &[("X-Linked-Etag", &tag)], parquet(817)));
    let error = report.unwrap_err().to_string();
    assert!(error.contains("the hub says 000000"), "{error}");
    assert_eq!(seen.len(), 3);
    assert!(no_files(dir.path()));
}

#[test]
fn refusals_say_what_to_do_and_are_not_repeated() {
    let cases = [(404, "full mirror"), (401, "the token may read it"), (403, "accept its terms"), (400, "check the")];
    for (status, remedy) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (report, seen) = fetch_truthful(dir.path(), move |_, _| reply(status, &[], "no"));
        let error = report.unwrap_err();
        assert!(error.is_bad_input());
        let text = error.to_string();
        assert!(text.contains(remedy) && text.contains(TRUTHFUL) && text.contains(&status.to_string()), "{text}");
        assert!(!text.contains("hf_secret"), "{text}");
        assert_eq!(seen.len(), 1);
        assert!(no_files(dir.path()));
    }
    let server = Server::scripted(vec![reply(401, &[], "")]);
    let keyless = Endpoints { token: None, ..endpoints(&server) };
    let error = fetch(tempfile::tempdir().unwrap().path(), &keyless, &[Dataset::Arc], &ANY, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("give a token (HF_TOKEN)"), "{error}");
    assert_eq!(server.seen()[0].header("authorization"), None);
    for hub in ["localhost:1", "nowhere", ""] {
        let wrong = Endpoints { hub: hub.into(), ..endpoints(&server) };
        let error = fetch(tempfile::tempdir().unwrap().path(), &wrong, &[Dataset::Arc], &ANY, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("give an endpoint such as") && error.is_bad_input(), "{error}");
    }
}

#[test]
fn what_may_pass_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let cut = Some(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nPAR1".to_vec());
    let script = [reply(503, &[], ""), cut.clone(), reply(200, &[], parquet(817))];
    let (report, seen) = fetch_truthful(dir.path(), move |n, _| script[n].clone());
    assert_eq!((report.unwrap().downloaded, seen.len()), (1, 3));
    check::rows(&truthful(dir.path()), Some(817)).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let (report, seen) = fetch_truthful(dir.path(), move |_, _| cut.clone());
    let error = report.unwrap_err().to_string();
    assert!(error.contains("broke after 4 bytes of 1000"), "{error}");
    assert_eq!(seen.len(), 3);
    assert!(no_files(dir.path()));
}

#[test]
fn offline_says_where_the_file_belongs() {
    let dir = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hub = format!("http://{closed}");
    let endpoints = Endpoints { hub, tries: 2, base_delay: Duration::from_millis(1), ..Endpoints::default() };
    let error = fetch(dir.path(), &endpoints, &[Dataset::TruthfulQa], &ANY, &mut |_| {}).unwrap_err();
    let by_hand = format!("copy the file by hand to {}", truthful(dir.path()).display());
    assert!(error.to_string().contains(&by_hand) && !error.is_bad_input(), "{error}");

    // So it is done; a file with other rows is not taken, however many it has.
    for (rows, problem) in [(816, "has 816 rows instead of 817"), (817, "has a row 0 that")] {
        std::fs::write(truthful(dir.path()), parquet(rows)).unwrap();
        let error = fetch(dir.path(), &endpoints, &[Dataset::TruthfulQa], &STRICT, &mut |_| {}).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains(problem), "{error}");
        assert!(error.to_string().contains("--allow-unpinned-data"), "{error}");
    }
    for (kept, copied) in [(0, 1), (1, 0)] {
        let report = fetch(dir.path(), &endpoints, &[Dataset::TruthfulQa], &ANY, &mut |_| {}).unwrap();
        assert_eq!(report, Report { kept, copied, unpinned: 1, ..Report::default() });
    }
    // What was taken as other data stays so.
    fetch(dir.path(), &endpoints, &[Dataset::TruthfulQa], &STRICT, &mut |_| {}).unwrap_err();
    let record = std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
    assert!(record.contains("\"revision\": null"), "{record}");
}

#[test]
fn other_contents_are_refused() {
    let html = |_: usize, _: &Sent| reply(200, &[], "<html>log in</html>");
    for (answer, problem) in [
        (
            Box::new(|_: usize, _: &Sent| reply(200, &[], parquet(5)))
                as Box<dyn Fn(usize, &Sent) -> Reply + Send + Sync>,
            "has 5 rows instead of 817",
        ),
        (Box::new(|_: usize, _: &Sent| reply(200, &[], parquet(817))), "has a row 0 that"),
        (Box::new(html), "is not Parquet"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(answer);
        let report = fetch(dir.path(), &endpoints(&server), &[Dataset::TruthfulQa], &STRICT, &mut |_| {});
        let error = report.unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains("nothing was kept"), "{error}");
        assert!(no_files(dir.path()));
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE_NAME), "{").unwrap();
    let (report, _) = fetch_truthful(dir.path(), |_, _| None);
    assert!(report.unwrap_err().to_string().contains("fetched.json: is not a record"));
}

#[test]
fn several_datasets_go_on_where_they_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let line = |rows: usize| "{\"a\": 1}\n".repeat(rows);
    let failing = Arc::new(Mutex::new(true));
    let broken = failing.clone();
    let server = Server::start(move |_, sent| match &sent.line {
        path if path.ends_with("reference_answer/gpt-4.jsonl") && *broken.lock().unwrap() => reply(404, &[], ""),
        path if path.ends_with("reference_answer/gpt-4.jsonl") => reply(200, &[], line(30)),
        path if path.ends_with("/judge_prompts.jsonl") => reply(200, &[], line(8)),
        path if path.ends_with("/question.jsonl") => reply(200, &[], line(80)),
        path if path.ends_with("/train-00000-of-00001.parquet") => reply(200, &[], parquet(7473)),
        _ => reply(200, &[], parquet(1319)),
    });
    let both = [Dataset::Gsm8k, Dataset::MtBench];
    let mut told = Vec::new();
    let error = fetch(dir.path(), &endpoints(&server), &both, &ANY, &mut |file| told.push((file.done, file.total)));
    assert!(error.unwrap_err().to_string().contains("status 404"));
    assert_eq!(told, [(1, 5), (2, 5), (3, 5), (4, 5)]);
    *failing.lock().unwrap() = false;
    let before = server.seen().len();
    let report = fetch(dir.path(), &endpoints(&server), &both, &ANY, &mut |_| {}).unwrap();
    assert_eq!((report.downloaded, report.kept, server.seen().len() - before), (1, 4, 1));
    let last = server.seen().pop().unwrap();
    let path = "lm-sys/FastChat/0e6d3e4b/fastchat/llm_judge/data/mt_bench/reference_answer/gpt-4.jsonl";
    assert_eq!(last.line, format!("GET /raw/{path}"));
    // The hub's token is not for GitHub.
    assert_eq!(last.header("authorization"), None);
    assert!(dir.path().join("lm-sys/FastChat/fastchat/llm_judge/data/mt_bench/question.jsonl").is_file());
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn every_kind_of_file_is_counted() {
    let root = Path::new(&std::env::var("SPIN_TEST_DATA").expect("cargo sets it")).join("benchmarks");
    for line in include_str!("files.tsv").lines() {
        let [repo, path, sha256] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let local = match repo {
            "lm-sys/FastChat" => format!("mt_bench/{}", path.rsplit('/').next().unwrap()),
            _ => path.replace("cot-prompts", "bbh/cot-prompts"),
        };
        let local = local.replace("mt_bench/gpt-4", "mt_bench/reference_answer_gpt-4");
        assert_eq!(digest::sha256(&root.join(local)).unwrap().0, sha256, "{path}");
    }
    for (task, rows) in BBH {
        check::rows(&root.join(format!("bbh/{task}.json")), Some(rows)).unwrap();
    }
    for (subject, rows) in MMLU {
        check::rows(&root.join(format!("mmlu/test/{subject}.jsonl")), Some(rows)).unwrap();
    }
    let known = "d2df31394b903b7f0e085d42a69572a092987856eac076799017d70ef266fa8f";
    assert_eq!(digest::sha256(&root.join("bbh/logical_deduction_five_objects.json")).unwrap().0, known);
}

/// The rows of a JSON lines file as the hub's Parquet.
fn as_parquet(jsonl: &str, columns: &[&str]) -> Vec<u8> {
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    let rows: Vec<Value> = jsonl.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let column = |name: &&str| {
        let values: StringArray = rows.iter().map(|row| Some(row[*name].as_str().unwrap())).collect();
        ((*name).to_owned(), Arc::new(values) as ArrayRef)
    };
    let batch = RecordBatch::try_from_iter(columns.iter().map(column)).unwrap();
    let mut out = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut out, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn pinned_means_a_digest() {
    let root = Path::new(&std::env::var("SPIN_TEST_DATA").expect("cargo sets it")).join("benchmarks");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let parts = ["train", "test"].map(|split| (split, read(&format!("gsm8k/{split}.jsonl"))));
    let served = |change: &'static str| {
        let parts = parts
            .clone()
            .map(|(split, text)| (split, as_parquet(&text.replacen(change, "#### 19", 1), &["question", "answer"])));
        Server::start(move |_, sent| {
            let part = parts.iter().find(|(split, _)| sent.line.contains(&format!("main/{split}-")));
            reply(200, &[], &part.unwrap().1)
        })
    };
    let dir = tempfile::tempdir().unwrap();
    let server = served("nothing has this");
    let report = fetch(dir.path(), &endpoints(&server), &[Dataset::Gsm8k], &STRICT, &mut |_| {}).unwrap();
    assert_eq!((report.downloaded, report.unpinned, report.only_counted), (2, 0, 0));
    let record = std::fs::read_to_string(dir.path().join(FILE_NAME)).unwrap();
    assert_eq!(record.matches("\"checked\": \"rows\"").count(), 2, "{record}");

    // One digit of one answer of 1,319.
    let dir = tempfile::tempdir().unwrap();
    let server = served("#### 18");
    let error =
        fetch(dir.path(), &endpoints(&server), &[Dataset::Gsm8k], &STRICT, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("has other rows than the pinned revision"), "{error}");

    // Files taken byte for byte, by hand and with one byte more; those of a
    // record that knew row counts alone are looked at again.
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("lm-sys/FastChat/fastchat/llm_judge/data");
    std::fs::create_dir_all(data.join("mt_bench/reference_answer")).unwrap();
    for (from, to) in [
        ("judge_prompts.jsonl", "judge_prompts.jsonl"),
        ("question.jsonl", "mt_bench/question.jsonl"),
        ("reference_answer_gpt-4.jsonl", "mt_bench/reference_answer/gpt-4.jsonl"),
    ] {
        std::fs::write(data.join(to), read(&format!("mt_bench/{from}"))).unwrap();
    }
    let none = Endpoints { tries: 1, ..endpoints(&Server::scripted(vec![reply(404, &[], "")])) };
    let report = fetch(dir.path(), &none, &[Dataset::MtBench], &STRICT, &mut |_| {}).unwrap();
    assert_eq!((report.copied, report.unpinned), (3, 0));
    let question = data.join("mt_bench/question.jsonl");
    std::fs::write(&question, read("mt_bench/question.jsonl") + " ").unwrap();
    let path = dir.path().join(FILE_NAME);
    let mut record: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    record["layout"] = 1.into();
    for file in record["files"].as_array_mut().unwrap() {
        file.as_object_mut().unwrap().remove("checked");
        if file["path"].as_str().unwrap().ends_with("question.jsonl") {
            file["sha256"] = digest_of(&std::fs::read(&question).unwrap()).into();
        }
    }
    std::fs::write(&path, record.to_string()).unwrap();
    let error = fetch(dir.path(), &none, &[Dataset::MtBench], &STRICT, &mut |_| {}).unwrap_err();
    assert!(matches!(error, FetchError::Unpinned { .. }) && error.to_string().contains("is another one"), "{error}");
}

#[test]
fn a_hub_cannot_hold_a_fetch() {
    use std::io::Write;
    use std::time::Instant;
    let failure = |answer: fn(&mut std::net::TcpStream)| {
        let (dir, start) = (tempfile::tempdir().unwrap(), Instant::now());
        let hub = Endpoints { tries: 1, slowest: 1 << 20, ..endpoints(&Server::raw(answer)) };
        let error = fetch(dir.path(), &hub, &[Dataset::TruthfulQa], &STRICT, &mut |_| {}).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        assert!(no_files(dir.path()));
        error.to_string()
    };
    let endless = failure(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
    });
    assert!(endless.contains("does not end, where"), "{endless}");
    let declared = failure(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx");
        std::thread::sleep(Duration::from_secs(5));
    });
    assert!(declared.contains("has 99999999999 bytes, where"), "{declared}");
    let dripping = failure(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert!(dripping.contains("are too slow"), "{dripping}");
    let headers = failure(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"a: b\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert!(headers.contains("silence for 0.5 s"), "{headers}");
}

#[test]
fn a_stop_is_heard_within_a_second() {
    use std::sync::atomic::Ordering;
    use std::time::Instant;
    for busy in [false, true] {
        let server = Server::start(move |_, _| if busy { reply(503, &[], "") } else { None });
        let hour = Duration::from_secs(3600);
        let hub = Endpoints { base_delay: hour, timeout: hour, ..endpoints(&server) };
        let (stop, dir) = (AtomicBool::new(false), tempfile::tempdir().unwrap());
        let options = Options { accept_unpinned: true, stop: &stop };
        let mut asked = Instant::now();
        let error = std::thread::scope(|scope| {
            let fetching = scope.spawn(|| fetch(dir.path(), &hub, &[Dataset::TruthfulQa], &options, &mut |_| {}));
            while server.seen().is_empty() {
                std::thread::sleep(Duration::from_millis(5));
            }
            asked = Instant::now();
            stop.store(true, Ordering::Relaxed);
            fetching.join().unwrap().unwrap_err()
        });
        assert!(matches!(error, FetchError::Net(NetError::Stopped)), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        assert!(no_files(dir.path()));
    }
}

#[test]
fn the_token_and_the_password_are_told_to_nobody() {
    let server = Server::start(|_, sent| {
        let token = sent.header("authorization").unwrap_or_default().to_owned();
        reply(302, &[("Location", &format!("https://me:pa55@/{token}?key=v4lue"))], "")
    });
    let dir = tempfile::tempdir().unwrap();
    let error = fetch(dir.path(), &endpoints(&server), &[Dataset::TruthfulQa], &STRICT, &mut |_| {}).unwrap_err();
    let with_user = Endpoints { hub: server.url.replace("://", "://me:pa55@"), ..endpoints(&server) };
    let other = fetch(dir.path(), &with_user, &[Dataset::TruthfulQa], &STRICT, &mut |_| {}).unwrap_err();
    assert!(matches!(other, FetchError::Net(NetError::BadUrl { .. })) && other.is_bad_input(), "{other}");
    for text in [format!("{error} {error:?}"), format!("{other} {other:?}")] {
        assert!(!text.contains("hf_secret") && !text.contains("pa55") && !text.contains("v4lue"), "{text}");
    }
}
