//! Tasks on data from the wild: what is measured follows from the rows, task
//! files read as in the harness, and nothing secret is kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use spin_run::schema::{EvaluationRow, Row, ScoreRow};
use spin_store::{Artifact, Store};

use crate::project::{Project, both, programs, shared};

/// The small project with answers that are single words, and no `[[baseline]]`.
fn words() -> Project {
    let project = Project::new();
    for file in ["train.jsonl", "test.jsonl"] {
        let text = std::fs::read_to_string(project.path(file)).expect("readable");
        let rows: Vec<String> = text
            .lines()
            .enumerate()
            .map(|(i, line)| {
                let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
                let question = row["question"].as_str().expect("a question");
                let answer = ["Yes", "no", "maybe"][i % 3];
                serde_json::json!({"question": question, "answer": answer}).to_string()
            })
            .collect();
        project.write(file, &rows.join("\n"));
    }
    let text = std::fs::read_to_string(project.path("run.toml")).expect("readable");
    let (before, _) = text.split_once("[[iteration]]").expect("iterations");
    project.write("run.toml", before);
    project
}

/// Other data than GSM8K's failed at its very end: its default tasks are now
/// those that its rows can serve.
#[test]
fn other_data_is_scored_to_the_end() {
    let project = words();
    let said = project.run("spin-store import run.toml");
    assert!(said.contains("bench.tasks: exact_match, nll, preference, as the test rows allow"), "{said}");
    project.run("spin-fit --sft");
    project.run("spin-sample --iteration 0 --bench");
    project.run("spin-bench --iteration 0");
    let table = project.run("spin-bench table");
    assert!(table.contains("exact match, sampled") && table.contains("exact match, greedy"), "{table}");
    let rows = |project: &Project| {
        let reference = "scores/tiny/iter-0".parse().expect("a reference");
        project.with_graph(|g| ScoreRow::read_all(&g.store.get(&reference).expect("scores")).expect("readable"))
    };
    let exact: Vec<ScoreRow> = rows(&project).into_iter().filter(|row| row.task == "exact_match").collect();
    assert_eq!(exact.len(), 2 * 40);
    for row in &exact {
        let same = row.prediction == row.target;
        assert_eq!(row.value, f64::from(u8::from(same)), "{row:?}");
    }
    // Case does not count when it is told so; that is another score.
    project.run("spin-bench --iteration 0 --set bench.exact_match.ignore_case=true");
    let lower = rows(&project);
    assert!(lower.iter().filter(|row| row.task == "exact_match").all(|row| row.target.as_deref() != Some("Yes")));
    assert!(project.run("spin-store verify --store store").contains("all as recorded"));
}

/// What the rows cannot serve is refused before a token is generated.
#[test]
fn tasks_without_rows_for_them_are_refused_at_once() {
    let project = words();
    project.edit("run.toml", "[bench]", "[bench]\ntasks = [\"gsm8k\", \"nll\"]");
    let parts = ["40 of 40 rows have no `#### number`", "take \"gsm8k\" out of bench.tasks"];
    project.fails("spin-store import run.toml", 3, &parts);
    // And by the stages, where the run file changed after the import.
    project.edit("run.toml", "tasks = [\"gsm8k\", \"nll\"]", "tasks = [\"nll\"]");
    project.run("spin-store import run.toml");
    project.run("spin-fit --sft");
    for stage in ["spin-sample --iteration 0 --bench", "spin-bench --iteration 0"] {
        project.fails(&format!("{stage} --set bench.tasks=[\"gsm8k\"]"), 3, &parts);
        project.fails(&format!("{stage} --set bench.tasks=[]"), 3, &["bench.tasks is empty"]);
    }
    let punctuation = "spin-bench --iteration 0 --set bench.exact_match.regexes_to_ignore=[\"(\"]";
    project.fails(punctuation, 3, &["regexes_to_ignore", "unclosed group"]);
}

/// A look makes no store, and flags without an effect are said.
#[test]
fn looking_makes_nothing_and_flags_count() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let run = |args: &[&str]| {
        let output = Command::new(programs().join("spin-bench")).args(args).current_dir(dir.path()).output();
        let output = output.expect("the program starts");
        (output.status.code(), both(&output))
    };
    std::fs::write(dir.path().join("r.toml"), "run = \"r\"\nseed = 1\nstore = \"s\"\n[model]\npath = \"m\"\n")
        .expect("writable");
    for args in [
        &["table", "r.toml"][..],
        &["compare", "a/iter-0", "b/iter-0"],
        &["eval", "r.toml", "--tasks", "gsm8k"],
        &["r.toml", "--iteration", "0"],
    ] {
        let (code, text) = run(args);
        assert_eq!(code, Some(3), "{args:?}: {text}");
        assert!(text.contains("it holds no STORE.json"), "{args:?}: {text}");
    }
    let (code, text) = run(&["eval", "--model", "m", "--tasks", "gsm8k", "--fewshot-as-multiturn", "true"]);
    assert!(code == Some(3) && text.contains("add --apply-chat-template"), "{text}");
    let (code, text) = run(&["eval", "--model", "m", "--tasks", "gsm8k", "--name", "../x"]);
    assert!(code == Some(3) && text.contains("is not a name"), "{text}");
    assert_eq!(run(&["eval", "r.toml", "--requests", "--json"]).0, Some(2));
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("readable").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

fn artifact(dir: &Path, reference: &str) -> Artifact {
    let store = Store::open(&dir.join("data")).expect("a store");
    store.get(&reference.parse().expect("a reference")).expect("it is there")
}

/// Prompts and gold of task files in the forms that people write for the
/// harness; expected values by lm_eval 0.4.13.
#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn task_files_speak_python() {
    let model = shared("models/stories260K");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let eval = |text: &str, choice: &str, target: &str| {
        let task = format!(
            "task = \"t\"\ndataset = \"t.jsonl\"\ndoc_to_text = {text:?}\ndoc_to_choice = {choice:?}\ndoc_to_target = {target:?}\n"
        );
        std::fs::write(dir.path().join("t.toml"), task).expect("writable");
        let args = ["eval", "--include-path", ".", "--tasks", "t", "--model"];
        let output =
            Command::new(programs().join("spin-bench")).args(args).arg(&model).current_dir(dir.path()).output();
        output.expect("the program starts")
    };
    let row = r#"{"q": "Tom has a", "opts": {"text": ["dog", "cat"], "label": ["A", "B"]}, "answer": "B", "score": 0.1, "big": 1e16}"#;
    std::fs::write(dir.path().join("t.jsonl"), row).expect("writable");
    let text = "{{ '%s: %.2f' % (q, score) }} {{ big }} {{ [1.0, 'a'] }} {{ 5/2 }}";
    let output = eval(text, "{{ opts.text }}", "{{ opts.label.index(answer) }}");
    assert!(output.status.success(), "{}", both(&output));
    let rows = EvaluationRow::read_all(&artifact(dir.path(), "evaluations/stories260K/iter-0/t")).expect("readable");
    assert_eq!(rows[0].gold, "1");
    // SHA-256 of "Tom has a: 0.10 1e+16 [1.0, 'a'] 2.5".
    let expected = "1828758c76f63abec77c3a98b67807a272797f21c9703326ed681b2c52d459b8";
    assert_eq!(rows[0].prompt_hash, expected);
    let output = eval("q", "['{{ q }}', '{{ answer }}']", "{{ answer }}");
    assert!(output.status.success(), "{}", both(&output));
    let output = eval("q", "{{ opts.text }}", "answer");
    assert_eq!(output.status.code(), Some(3));
    let said = both(&output);
    assert!(said.contains("t.jsonl: row 0") && said.contains("\"B\" for doc_to_target"), "{said}");
}

/// A judge that never answers, or answers with what it was sent.
fn judge(silent: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
            let (mut line, mut length, mut key) = (String::new(), 0, String::new());
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                let lower = line.to_ascii_lowercase();
                length = lower.strip_prefix("content-length:").map_or(length, |n| n.trim().parse().expect("a number"));
                if lower.starts_with("authorization:") {
                    key = line.trim().to_owned();
                }
                line.clear();
            }
            reader.read_exact(&mut vec![0; length]).expect("a body");
            if silent {
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_secs(60));
                    drop(stream);
                });
                continue;
            }
            let text = format!("You sent {key}. Rating: [[7]] or [[99]]");
            let answer = serde_json::json!({"choices": [{"message": {"content": text}}]}).to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
            stream.write_all((head + &answer).as_bytes()).expect("a listener");
        }
    });
    url
}

/// All bytes below a directory.
fn bytes_below(dir: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).expect("readable") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => out.extend(bytes_below(&path)),
            false => out.extend(std::fs::read(&path).expect("readable")),
        }
    }
    out
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn judges_learn_keys_and_nobody_else() {
    let model = shared("models/stories260K");
    let data = shared("benchmarks");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let command = |program: &str, args: &[&str], key: &str| {
        let mut command = Command::new(programs().join(program));
        command.args(args).current_dir(dir.path()).env("MY_KEY", key).stdin(Stdio::null());
        command
    };
    let run_file = |url: &str| {
        let text = format!(
            "run = \"r\"\nseed = 1\nstore = \"data\"\n[model]\npath = {:?}\n[eval]\ndata = {:?}\ntasks = [\"mt_bench\"]\n\
             limit = 2\nmax_gen_toks = 8\n[eval.judge]\nmodel = \"local\"\nbase_url = {url:?}\napi_key_env = \"MY_KEY\"\nworkers = 2\n",
            model.display().to_string(),
            data.display().to_string()
        );
        std::fs::write(dir.path().join("run.toml"), text).expect("writable");
    };
    let key = "sk-t0psecret";
    let eval = ["eval", "run.toml", "--iteration", "0"];
    run_file(&format!("{}?api=v4lue", judge(true)));
    assert!(command("spin-store", &["import", "run.toml"], key).status().expect("it starts").success());
    for _ in 0..2 {
        let requests = [&eval[..], &["--requests"]].concat();
        assert!(command("spin-bench", &requests, key).status().expect("it starts").success());
        let answers = ["run.toml", "--iteration", "0", "--eval"];
        assert!(command("spin-sample", &answers, key).status().expect("it starts").success());
    }

    // A key with a line break in it is refused at once, unseen.
    let start = Instant::now();
    let output = command("spin-bench", &eval, "sk-t0p\nsecret").output().expect("it starts");
    assert_eq!(output.status.code(), Some(3), "{}", both(&output));
    assert!(both(&output).contains("$MY_KEY has a line break as character 7"), "{}", both(&output));
    assert!(start.elapsed() < Duration::from_secs(20));

    // A signal is heard while the judge is silent.
    let mut child = command("spin-bench", &eval, key).stderr(Stdio::null()).spawn().expect("it starts");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.try_wait().expect("a child").is_none(), "it should wait for the judge");
    let start = Instant::now();
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill starts");
    assert!(sent.success());
    let code = child.wait().expect("a child").code();
    assert_eq!(code, Some(75));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    // What the judge sends back is kept without the key.
    run_file(&format!("{}?api=v4lue", judge(false)));
    let output = command("spin-bench", &[&eval[..], &["--json"]].concat(), key).output().expect("it starts");
    assert!(output.status.success(), "{}", both(&output));
    assert!(both(&output).contains("\"rated\": 4"), "{}", both(&output));
    let said = both(&output).into_bytes();
    for bytes in [said, bytes_below(&dir.path().join("data"))] {
        for secret in ["sk-t0p", "v4lue"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
        }
    }
    // The questions are outside files, so that the store verifies.
    let verify = command("spin-store", &["verify"], key).output().expect("it starts");
    assert!(verify.status.success() && both(&verify).contains("all as recorded"), "{}", both(&verify));
    let lineage = command("spin-store", &["lineage", "judgments/r/iter-0/mt_bench"], key).output().expect("it starts");
    assert!(both(&lineage).contains("data mt_bench: file:question.jsonl"), "{}", both(&lineage));
}
