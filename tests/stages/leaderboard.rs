//! `spin-bench eval`: a task from one file, a killed evaluation, generated
//! answers, a judge, and what can be wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use candle_core::{Device, Tensor};
use serde_json::Value;
use spin_run::schema::{EvaluationRow, Judgment, Row};
use spin_store::Store;

use crate::project::{both, programs, shared, shipped};

/// A directory to work in, with the programs.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(programs().join(program));
        command.args(args).current_dir(self.dir.path());
        command
    }

    fn output(&self, program: &str, args: &[&str]) -> Output {
        self.command(program, args).output().expect("the program starts")
    }

    /// Runs a program that must succeed; its standard output.
    fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.output(program, args);
        assert!(output.status.success(), "{program} {args:?} ended with {}: {}", output.status, both(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a program that must fail with `code` and say all of `parts`.
    fn fails(&self, program: &str, args: &[&str], code: i32, parts: &[&str]) {
        let output = self.output(program, args);
        let text = both(&output);
        assert_eq!(output.status.code(), Some(code), "{program} {args:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{program} {args:?} does not say {part:?}: {text}");
        }
    }

    /// The newest artifact of a reference.
    fn artifact(&self, reference: &str) -> spin_store::Artifact {
        let store = Store::open(&self.path("data")).expect("a store");
        store.get(&reference.parse().expect("a reference")).expect("it is there")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A model directory made of another one's files.
fn copy_model(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::write(to.join(entry.file_name()), std::fs::read(entry.path()).unwrap()).unwrap();
    }
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn a_task_is_one_file() {
    let model = shared("models/stories260K");
    let (place, tasks) = (Place::new(), shipped("pipelines/tasks"));
    let args = ["eval", "--model", text(&model), "--include-path", text(&tasks), "--tasks", "opposites", "--json"];
    let results: Value = serde_json::from_str(&place.run("spin-bench", &args)).unwrap();
    assert_eq!(results["n-samples"]["opposites"]["effective"], 16);
    assert_eq!(results["n-shot"]["opposites"], 3);
    let rows = EvaluationRow::read_all(&place.artifact("evaluations/stories260K/iter-0/opposites")).unwrap();
    let hits: f64 = rows.iter().map(|row| row.value("acc,none").unwrap()).sum();
    assert_eq!(results["results"]["opposites"]["acc,none"], hits / 16.0);
    // The prediction is the likeliest choice.
    for row in &rows {
        let best = (0..row.logps.len()).max_by(|a, b| row.logps[*a].total_cmp(&row.logps[*b])).unwrap();
        assert_eq!(row.prediction, best.to_string());
        assert!(row.logps.iter().all(|logp| *logp < 0.0));
    }
    let again = place.output("spin-bench", &args);
    assert!(both(&again).contains("already there"), "{}", both(&again));
    // The same model twice is no difference.
    let named = [&args[..], &["--name", "twin"]].concat();
    place.run("spin-bench", &named);
    let table = place.run("spin-bench", &["compare", "stories260K/iter-0", "twin/iter-0"]);
    assert!(table.contains("0 : 0") && table.contains("within noise") && !table.contains("better"), "{table}");
    // Other examples are another question.
    place.run("spin-bench", &[&named[..], &["--num-fewshot", "1"]].concat());
    let parts = ["different rules", "num_fewshot"];
    place.fails("spin-bench", &["compare", "stories260K/iter-0", "twin/iter-0"], 3, &parts);
    assert!(place.run("spin-store", &["verify"]).contains("all as recorded"));
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn a_killed_evaluation_ends_with_the_same_bytes() {
    let model = shared("models/stories260K");
    let data = shared("benchmarks");
    let (quiet, killed) = (Place::new(), Place::new());
    let args = ["eval", "--model", text(&model), "--data", text(&data), "--tasks", "mmlu", "--limit", "3"];
    let table = quiet.run("spin-bench", &args);
    let mut hits = 0;
    for round in 0..10_u64 {
        let mut child = killed.command("spin-bench", &args).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 + 37 * round));
        hits += u64::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(hits >= 5, "only {hits} kills hit a running program");
    assert_eq!(killed.run("spin-bench", &args), table);
    let content = |place: &Place| place.artifact("evaluations/stories260K/iter-0/mmlu").manifest.content;
    assert_eq!(content(&quiet), content(&killed));
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn what_can_be_wrong_with_a_task() {
    let model = shared("models/stories260K");
    let place = Place::new();
    let task = |extra: &str, row: &str| {
        let file = format!(
            "task = \"t\"\ndataset = \"t.jsonl\"\ndoc_to_text = \"q\"\ndoc_to_choice = \"c\"\ndoc_to_target = \"a\"\n{extra}"
        );
        std::fs::write(place.path("t.toml"), file).unwrap();
        std::fs::write(place.path("t.jsonl"), format!("{{\"q\": \"x\", \"c\": [\"a\", \"b\"], \"a\": 0}}\n{row}\n"))
            .unwrap();
    };
    let args = ["eval", "--model", text(&model), "--include-path", ".", "--tasks", "t"];
    let fails = |parts: &[&str]| place.fails("spin-bench", &args, 3, parts);
    task("", r#"{"q": "x", "c": ["a", "b"], "a": "C"}"#);
    fails(&["t.jsonl", "row 1", "\"C\" for doc_to_target, which is none of its 2 choices"]);
    task("", r#"{"q": "x", "c": ["a", ""], "a": 0}"#);
    fails(&["t.jsonl", "row 1", "empty choice 1"]);
    task("", r#"{"q": "x", "c": ["a", "b"]}"#);
    fails(&["t.jsonl", "row 1", "doc_to_target"]);
    task("num_fewshot = 2\n", "");
    fails(&["t.toml", "fewshot_split"]);
    task("metrics = [\"f1\"]\n", "");
    fails(&["t.toml", "acc_norm"]);
    std::fs::write(place.path("t.toml"), "task = \"t\"\n").unwrap();
    fails(&["t.toml", "missing field `dataset`"]);
    // A prompt beyond the context loses its beginning, and that is said.
    let long = "word ".repeat(600);
    task("", &format!(r#"{{"q": "{long}", "c": ["a", "b"], "a": 0}}"#));
    let output = place.run("spin-bench", &args);
    assert!(output.contains("2 prompts were longer than the model's context"), "{output}");
    // An answer beyond it cannot be scored.
    task("", &format!(r#"{{"q": "x", "c": ["{long}", "b"], "a": 0}}"#));
    fails(&["t.jsonl", "row 1", "more than the model's context of 512"]);
    let unknown = ["eval", "--model", text(&model), "--tasks", "arc_chalenge"];
    place.fails("spin-bench", &unknown, 3, &["no task \"arc_chalenge\"", "arc_challenge"]);
    let absent = ["eval", "--model", text(&model), "--tasks", "openbookqa", "--data", "nowhere"];
    place.fails("spin-bench", &absent, 3, &["nowhere/openbookqa/test.jsonl", "spin-bench fetch"]);
}

/// Parts of another size that a killed run left must not be mixed in, and a
/// comparison needs the same documents.
#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn other_parts_and_other_documents_are_noticed() {
    let model = shared("models/stories260K");
    let data = shared("benchmarks");
    let place = Place::new();
    run_file(&place, &model, &data, "tasks = [\"openbookqa\"]\nlimit = 300\n");
    place.run("spin-store", &["import", "run.toml"]);
    let eval = |size: &str| {
        let set = format!("eval.docs_per_part={size}");
        vec!["eval".to_owned(), "run.toml".into(), "--iteration".into(), "0".into(), "--set".into(), set]
    };
    let words = eval("3");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut child = place.command("spin-bench", &words).stderr(std::process::Stdio::null()).spawn().unwrap();
    let work = place.path("data/.work");
    let parts = || {
        let dirs = std::fs::read_dir(&work).into_iter().flatten().flatten();
        dirs.filter_map(|dir| std::fs::read_dir(dir.path()).ok()).map(Iterator::count).sum::<usize>()
    };
    while parts() < 4 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let words = eval("100");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    place.run("spin-bench", &words);
    let rows = EvaluationRow::read_all(&place.artifact("evaluations/r/iter-0/openbookqa")).unwrap();
    let ids: Vec<u32> = rows.iter().map(|row| row.doc_id).collect();
    assert_eq!(ids, (0..300).collect::<Vec<u32>>());

    // The same task with its rows turned round.
    let task = "task = \"t\"\ndataset = \"t.jsonl\"\ndoc_to_text = \"q\"\ndoc_to_choice = \"c\"\ndoc_to_target = 0\n";
    std::fs::write(place.path("t.toml"), task).unwrap();
    let rows = [r#"{"q": "x", "c": ["a", "b"]}"#, r#"{"q": "y", "c": ["c", "d"]}"#];
    std::fs::create_dir(place.path("tasks")).unwrap();
    std::fs::rename(place.path("t.toml"), place.path("tasks/t.toml")).unwrap();
    for (name, rows) in [("one", [rows[0], rows[1]]), ("two", [rows[1], rows[0]])] {
        std::fs::write(place.path("tasks/t.jsonl"), rows.join("\n")).unwrap();
        let args = ["eval", "--model", text(&model), "--name", name, "--include-path", "tasks", "--tasks", "t"];
        place.run("spin-bench", &args);
    }
    place.fails("spin-bench", &["compare", "one/iter-0", "two/iter-0"], 3, &["different rules", "data"]);
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn other_data_is_said_and_recorded() {
    let model = shared("models/stories260K");
    let data = shared("benchmarks/openbookqa/test.jsonl");
    let place = Place::new();
    std::fs::create_dir_all(place.path("bench/openbookqa")).unwrap();
    let rows: Vec<String> = std::fs::read_to_string(data).unwrap().lines().take(7).map(str::to_owned).collect();
    std::fs::write(place.path("bench/openbookqa/test.jsonl"), rows.join("\n")).unwrap();
    let args = ["eval", "--model", text(&model), "--data", "bench", "--tasks", "openbookqa"];
    let output = place.output("spin-bench", &args);
    assert!(
        both(&output).contains("warning: openbookqa") && both(&output).contains("has 7 documents"),
        "{}",
        both(&output)
    );
    let facts = place.artifact("evaluations/stories260K/iter-0/openbookqa").manifest.facts;
    assert!(facts["data_warnings"][0].as_str().unwrap().contains("revision has 500"), "{facts:?}");
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn broken_weights_get_no_score() {
    let model = shared("models/stories260K");
    let (place, tasks) = (Place::new(), shipped("pipelines/tasks"));
    copy_model(&model, &place.path("broken"));
    let file = place.path("broken/model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let (name, shape) = {
        let (name, tensor) = tensors.iter().find(|(name, _)| name.contains("layers.2.mlp.down_proj")).unwrap();
        (name.clone(), tensor.shape().clone())
    };
    tensors.insert(name, Tensor::full(f32::NAN, shape, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let args = ["eval", "--model", "broken", "--include-path", text(&tasks), "--tasks", "opposites"];
    place.fails("spin-bench", &args, 3, &["layers.2.mlp.down_proj", "holds NaN", "the weights are damaged"]);
}

/// A judge on this machine: `[[7]]` to every question, but for what `refuse`
/// picks by the number of the request.
fn judge(refuse: fn(usize) -> Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                let lower = line.to_ascii_lowercase();
                length = lower.strip_prefix("content-length:").map_or(length, |n| n.trim().parse().unwrap());
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let request: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(request["temperature"].as_f64(), Some(0.0));
            let answer = r#"{"choices": [{"message": {"role": "assistant", "content": "Good. Rating: [[7]]"}}]}"#;
            let (status, answer) = match refuse(number) {
                Some(status) => (status, "{}"),
                None => ("200 OK", answer),
            };
            let reply =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}", answer.len());
            stream.write_all(reply.as_bytes()).unwrap();
        }
    });
    url
}

fn run_file(place: &Place, model: &Path, data: &Path, eval: &str) {
    let text = format!(
        "run = \"r\"\nseed = 1\nstore = \"data\"\n[model]\npath = {:?}\n[eval]\ndata = {:?}\n{eval}",
        model.display().to_string(),
        data.display().to_string()
    );
    std::fs::write(place.path("run.toml"), text).unwrap();
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn generated_answers_go_through_spin_sample() {
    let model = shared("models/stories260K");
    let data = shared("benchmarks");
    let place = Place::new();
    run_file(&place, &model, &data, "tasks = [\"gsm8k\"]\nlimit = 4\nmax_gen_toks = 24\nnum_fewshot = 1\n");
    place.run("spin-store", &["import", "run.toml"]);
    let eval = ["eval", "run.toml", "--iteration", "0"];
    place.fails("spin-bench", &eval, 3, &["waits for generated answers", "spin-sample run.toml --iteration 0 --eval"]);
    place.run("spin-bench", &[&eval[..], &["--requests"]].concat());
    place.run("spin-sample", &["run.toml", "--iteration", "0", "--eval"]);
    let table = place.run("spin-bench", &eval);
    assert!(table.contains("exact_match,strict-match") && table.contains("exact_match,flexible-extract"), "{table}");
    let rows = EvaluationRow::read_all(&place.artifact("evaluations/r/iter-0/gsm8k")).unwrap();
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row.response.as_ref().is_some_and(|text| !text.contains("Question:"))));
    assert!(rows.iter().all(|row| row.continuation_tokens[0] <= 24));
    // The plan has the same commands.
    let plan = place.run("spin-store", &["plan", "run.toml"]);
    let commands: Vec<&str> = plan.lines().map(str::trim).collect();
    assert!(commands.contains(&"spin-sample run.toml --iteration 0 --eval"), "{plan}");
    assert!(place.run("spin-store", &["verify"]).contains("all as recorded"));
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn two_turns_are_answered_and_judged() {
    let model = shared("models/stories260K");
    let data = shared("benchmarks");
    let place = Place::new();
    // One judgment is refused, which only its own row sees; later nothing is
    // answered any more.
    let url = judge(|number| (number == 1 || number > 6).then_some("400 Bad Request"));
    let eval = format!(
        "tasks = [\"mt_bench\"]\nlimit = 3\nmax_gen_toks = 12\n[eval.judge]\nmodel = \"local\"\nbase_url = {url:?}\nworkers = 1\n"
    );
    run_file(&place, &model, &data, &eval);
    place.run("spin-store", &["import", "run.toml"]);
    let eval = ["eval", "run.toml", "--iteration", "0"];
    for _ in 0..2 {
        place.run("spin-bench", &[&eval[..], &["--requests"]].concat());
        place.run("spin-sample", &["run.toml", "--iteration", "0", "--eval"]);
    }
    place.fails("spin-bench", &eval, 3, &["1 judgments could not be had", "accept_errors"]);
    let table = place.run("spin-bench", &eval);
    assert!(table.contains("MT-Bench       7.00") && table.contains("6 judgments with a rating, 0 without"), "{table}");
    let judgments = Judgment::read_all(&place.artifact("judgments/r/iter-0/mt_bench")).unwrap();
    assert_eq!(judgments.len(), 6);
    // The score is read from the judgments, without asking.
    assert_eq!(place.run("spin-bench", &eval), table);
}
