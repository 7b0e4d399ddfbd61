//! What people see: every program's help, plans, listings, the table, and
//! messages of each kind of error, as files in `snapshots/`.
//!
//! A test that fails shows the difference. Where the new text is meant,
//! `INSTA_UPDATE=always cargo test --release -p spin-tests --test stages snapshots`
//! writes it; the diff of the files belongs into the commit.

use std::path::Path;
use std::process::{Command, Stdio};

use regex::Regex;

use crate::project::{Project, both, programs, shipped};

const FIXTURE: &str = "tests/fixtures/store-0.1";

/// Compares with `snapshots/NAME.snap`.
fn assert_snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// A command of a program as it is typed, in `dir`, with what it says, its exit
/// code where that is not 0, and without what differs from run to run.
fn said(dir: &Path, line: &str) -> String {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let mut command = Command::new(programs().join(program));
    // Help is as wide as the terminal.
    command.args(words).current_dir(dir).stdin(Stdio::null()).env_remove("COLUMNS");
    let output = command.output().expect("the program starts");
    let code = output.status.code().expect("no signal");
    let code = if code == 0 { String::new() } else { format!("[exit {code}]\n") };
    format!("$ {line}\n{}{code}\n", without_place(dir, &both(&output)))
}

fn without_place(dir: &Path, text: &str) -> String {
    let real = dir.canonicalize().expect("it is there");
    let text = text.replace(&*real.to_string_lossy(), "DIR");
    let text = if dir.is_absolute() { text.replace(&*dir.to_string_lossy(), "DIR") } else { text };
    let times = Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").expect("a pattern");
    let costs = Regex::new(r"\d+\.\d s, peak memory \d+ MiB").expect("a pattern");
    costs.replace_all(&times.replace_all(&text, "TIME"), "COST").into_owned()
}

fn all_said(dir: &Path, lines: &[&str]) -> String {
    lines.iter().map(|line| said(dir, line)).collect()
}

#[test]
fn help() {
    let listed = Regex::new(r"(?m)^  ([a-z]+)  +[A-Z]").expect("a pattern");
    for (program, commands) in [
        (
            "spin-store",
            &[
                "import", "ls", "show", "lineage", "verify", "diff", "extract", "export", "overlap", "query", "seal",
                "journal", "rm", "adopt", "pin", "unpin", "rename", "gc", "schema", "plan",
            ][..],
        ),
        ("spin-run", &["plan", "run", "settings", "status", "submit", "cancel"]),
        ("spin-sample", &[]),
        ("spin-pair", &[]),
        ("spin-fit", &["peak", "plan", "merge"]),
        ("spin-bench", &["eval", "fetch", "compare", "report", "table", "answers", "seeds"]),
    ] {
        let mut text = said(Path::new("."), &format!("{program} --help"));
        for command in commands {
            text += &said(Path::new("."), &format!("{program} {command} --help"));
            assert!(!text.contains("[exit"), "{text}");
        }
        // A command that nobody wrote down here.
        let (_, list) = text.split_once("Commands:\n").unwrap_or_default();
        let (list, _) = list.split_once("\n\n").unwrap_or_default();
        let listed: Vec<&str> = listed.captures_iter(list).map(|c| c.get(1).expect("a name").as_str()).collect();
        assert_eq!(listed, [commands, if commands.is_empty() { &[] } else { &["help"] }].concat(), "{program}");
        assert_snapshot(&format!("help-{program}"), &text);
    }
}

#[test]
fn plans() {
    let root = shipped("");
    let store = root.join("data/STORE.json").exists();
    assert_snapshot("plan-demo", &said(&root, "spin-store plan pipelines/demo.toml"));
    assert_eq!(root.join("data/STORE.json").exists(), store, "a plan makes nothing");
    let project = Project::of(&shipped(FIXTURE));
    let views = ["spin-store plan run.toml", "spin-run plan run.toml --peak-gflops 100"];
    let more = ["spin-run plan run.toml --format shell --shards 2 --device cuda --set seed=2"];
    assert_snapshot("plan-tiny", &all_said(&project.path(""), &[&views[..], &more].concat()));
    assert_snapshot("status", &said(&project.path(""), "spin-run status run.toml"));
}

/// The store of release 0.1: its times, hosts and digests are always the same.
#[test]
fn listings() {
    let project = Project::of(&shipped(FIXTURE));
    let dir = project.path("");
    assert_snapshot("ls", &all_said(&dir, &["spin-store ls --store store", "spin-store ls model --store store"]));
    assert_snapshot("lineage", &said(&dir, "spin-store lineage scores/tiny/iter-1 --store store"));
    let shows = ["spin-store show model/tiny/iter-1 --store store", "spin-store show scores/tiny/iter-1 --store store"];
    assert_snapshot("show", &all_said(&dir, &shows));
    assert_snapshot("verify", &said(&dir, "spin-store verify --store store"));
}

#[test]
fn table() {
    let project = Project::of(&shipped(FIXTURE));
    project.run_plan("spin-bench table");
    let lines = ["spin-bench table run.toml", "spin-bench table run.toml --format markdown"];
    // How a processor rounds is not what this is about.
    let numbers = Regex::new(r"\d\.\d{4}").expect("a pattern");
    let text = all_said(&project.path(""), &lines);
    assert_snapshot("table", &numbers.replace_all(&text, "#.####"));
}

#[test]
fn errors_of_run_files_and_order() {
    let project = Project::new();
    let dir = project.path("");
    assert_snapshot(
        "errors-run-file",
        &all_said(
            &dir,
            &[
                "spin-fit absent.toml --sft",
                "spin-fit run.toml",
                "spin-fit run.toml --sft --set fit.learning_rte=1",
                "spin-fit run.toml --sft --set fit.learning_rate=fast",
                "spin-fit run.toml --iteration 0 --set fit.loss=ipo",
                "spin-sample run.toml --iteration 0 --set sample.top_p=2",
                "spin-fit run.toml --iteration 5",
                "spin-bench run.toml --iteration 5",
                "spin-fit run.toml --baseline nope",
            ],
        ),
    );
    let mut text = all_said(&dir, &["spin-store ls --store store", "spin-sample run.toml --iteration 0"]);
    project.run("spin-store import run.toml");
    text += &all_said(
        &dir,
        &[
            "spin-sample run.toml --iteration 0",
            "spin-pair run.toml --iteration 0",
            "spin-fit run.toml --iteration 0",
            "spin-bench run.toml --iteration 1",
            "spin-bench table run.toml",
        ],
    );
    assert_snapshot("errors-order", &text);
}

#[test]
fn errors_of_imports() {
    let project = Project::new();
    let (dir, rows) = (project.path(""), std::fs::read_to_string(project.path("train.jsonl")).unwrap());
    let rest = rows.split_once('\n').unwrap().1;
    let import = "spin-store import run.toml";
    let mut text = String::new();
    for row in [
        r#"{"question": "q", "answer": "  "}"#,
        r#"{"question": "q"}"#,
        r#"{"question": 5, "answer": "a"}"#,
        r#"{"id": "000004", "question": "q", "answer": "a"}"#,
        r#"{"question": "q", "ans"#,
    ] {
        project.write("train.jsonl", &format!("{row}\n{rest}"));
        text += &format!("train.jsonl begins {row}\n{}", said(&dir, import));
    }
    std::fs::remove_file(project.path("train.jsonl")).unwrap();
    text += &format!("no train.jsonl\n{}", said(&dir, import));
    project.write("train.jsonl", &rows);
    std::fs::rename(project.path("model/config.json"), project.path("config.json")).unwrap();
    text += &format!("no config.json\n{}", said(&dir, import));
    assert_snapshot("errors-import", &text);
}

#[test]
fn errors_of_models_and_templates() {
    let project = Project::new();
    let dir = project.path("");
    let config = std::fs::read_to_string(project.path("model/config.json")).unwrap();
    let mut text = String::new();
    let mut tried = |what: &str, line: &str| {
        project.run("spin-store import run.toml");
        text += &format!("{what}\n{}", said(&dir, line));
    };
    let sft = "spin-fit run.toml --sft";
    project.write("model/config.json", &config.replace("LlamaForCausalLM", "GPT2LMHeadModel").replace("llama", "gpt2"));
    tried("another architecture", sft);
    project.write("model/config.json", &config.replace("\"vocab_size\": 460", "\"vocab_size\": 300"));
    tried("a small vocabulary", sft);
    project.write("model/config.json", &config);
    tried("a short prompt", "spin-fit run.toml --sft --set template.max_prompt_length=3");
    project.write("bad.jinja", "{% for m in messages %}{{ m.content }");
    tried("a template that does not end", "spin-fit run.toml --sft --set template.chat=bad.jinja");
    project.write("bad.jinja", "{{ raise_exception('no system turns') }}");
    tried("a template that refuses", "spin-fit run.toml --sft --set template.chat=bad.jinja");
    assert_snapshot("errors-model", &text);
}

#[test]
fn errors_of_stores() {
    let project = Project::of(&shipped(FIXTURE));
    let dir = project.path("");
    let mut text = all_said(
        &dir,
        &[
            "spin-store ls --store nowhere",
            "spin-store show model/tiny/iter-7 --store store",
            "spin-store show weights/tiny/iter-0 --store store",
            "spin-store lineage model/tiny/iter-0@v9 --store store",
        ],
    );
    let part = project.path("store/samples/tiny/iter-0/v1/part-00001.parquet");
    let good = std::fs::read(&part).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    std::fs::write(&part, &bad).unwrap();
    text += &format!("a flipped bit\n{}", said(&dir, "spin-store verify --store store"));
    std::fs::remove_file(&part).unwrap();
    text += &format!("no part\n{}", said(&dir, "spin-store verify --store store"));
    std::fs::write(&part, &good).unwrap();
    let manifest = "store/model/tiny/iter-0/v1/manifest.json";
    project.edit(manifest, "\"seed\": 7", "\"seed\": 8");
    text += &format!("another seed in a manifest\n{}", said(&dir, "spin-store show model/tiny/iter-0 --store store"));
    project.edit(manifest, "\"layout\": 1", "\"layout\": 9");
    text += &format!("a newer manifest\n{}", said(&dir, "spin-store show model/tiny/iter-0 --store store"));
    project.edit("store/STORE.json", "1", "9");
    text += &format!("a newer store\n{}", said(&dir, "spin-store ls --store store"));
    assert_snapshot("errors-store", &text);
}

#[test]
fn errors_of_benchmarks() {
    let project = Project::of(&shipped(FIXTURE));
    let dir = project.path("");
    let eval = "spin-bench eval --model store/model/tiny/iter-0/v1 --name tiny";
    let mut text = all_said(
        &dir,
        &[
            "spin-bench eval",
            eval,
            &format!("{eval} --tasks arc_chalenge"),
            &format!("{eval} --tasks openbookqa --data nowhere"),
            &format!("{eval} --tasks sums --include-path tasks --dtype f8"),
            "spin-bench eval --model store/model/tiny/iter-0/v1 --name a/b --tasks sums",
            "spin-bench compare one/iter-0 two/iter-0 --store store",
            "spin-fit merge model nowhere out",
        ],
    );
    let task = std::fs::read_to_string(project.path("tasks/sums.toml")).unwrap();
    for (what, from, to) in [
        ("an unknown metric", "acc_norm", "f1"),
        ("no data set", "dataset =", "# dataset ="),
        ("a key that is none", "doc_to_text", "doc_to_txt"),
        ("a column that is not there", "{{ answer }}", "{{ gold }}"),
    ] {
        project.write("tasks/sums.toml", &task.replace(from, to));
        text += &format!("{what}\n{}", said(&dir, &format!("{eval} --tasks sums --include-path tasks")));
    }
    assert_snapshot("errors-bench", &text);
}
