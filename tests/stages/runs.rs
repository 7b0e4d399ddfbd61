//! `spin-run`: the plan against what manifests say, what is done and why it is
//! not, and runs that are stopped, shared and side by side.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use spin_run::plan::parameters;

use crate::project::{Project, both, shipped};

fn json(project: &Project, line: &str) -> Value {
    let output = project.output(line);
    assert!(output.status.success(), "{}", both(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// `state` of an artifact, and why.
fn state(status: &Value, artifact: &str) -> (String, String) {
    let all = status["artifacts"].as_array().expect("a list");
    let found = all.iter().find(|found| found["artifact"] == artifact).unwrap_or_else(|| panic!("no {artifact}"));
    let why: Vec<&str> = found["why"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    (found["state"].as_str().expect("a word").into(), why.join("; "))
}

fn states(status: &Value) -> BTreeSet<&str> {
    status["artifacts"].as_array().expect("a list").iter().filter_map(|found| found["state"].as_str()).collect()
}

/// Everything but times, which metrics hold.
fn contents(project: &Project) -> Vec<(String, String)> {
    project.contents().into_iter().filter(|(name, _)| !name.starts_with("metrics/")).collect()
}

const WITH_PREFERENCES: &str = r#"
[[baseline]]
name = "dpo"
preferences = { path = "preferences.jsonl" }
fit = { objective = "dpo", loss = "sigmoid", learning_rate = 1e-4 }
"#;

fn with_preferences() -> Project {
    let project = Project::new();
    let text = std::fs::read_to_string(project.path("run.toml")).unwrap();
    project.write("run.toml", &(text + WITH_PREFERENCES));
    let row = |i: usize| {
        format!(r#"{{"prompt": "What is {i} and 1?", "chosen": "It is {}.", "rejected": "It is {i}."}}"#, i + 1)
    };
    project.write("preferences.jsonl", &(0..24).map(row).collect::<Vec<_>>().join("\n"));
    project
}

/// The one thing a plan must not get wrong: what is made from what. Manifests
/// are the judge, and two steps at a time the proof that the order holds.
#[test]
fn edges_of_the_plan_are_the_parents_of_manifests() {
    let project = with_preferences();
    // A directory that is no store yet, as of a fresh clone.
    std::fs::create_dir(project.path("store")).unwrap();
    std::fs::write(project.path("store/README.md"), "raw data").unwrap();
    let before = json(&project, "spin-run status run.toml --format json");
    assert_eq!(states(&before), BTreeSet::from(["missing"]));
    assert_eq!(std::fs::read_dir(project.path("store")).unwrap().count(), 1, "a look makes nothing");
    project.run("spin-run run run.toml --jobs 2");
    let plan = json(&project, "spin-run plan run.toml --format json");
    let mut seen = BTreeSet::new();
    for step in plan["steps"].as_array().unwrap() {
        for made in step["makes"].as_array().unwrap() {
            let name = made["artifact"].as_str().unwrap();
            let dir = project.path(&format!("store/{name}/v1"));
            let manifest: Value =
                serde_json::from_slice(&std::fs::read(dir.join("manifest.json")).expect("it was made")).unwrap();
            let pair = |role: &Value, of: &str| (role.as_str().unwrap().to_owned(), of.to_owned());
            let planned: Vec<_> = made["inputs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|i| pair(&i["role"], i["artifact"].as_str().unwrap()))
                .collect();
            let parents = manifest["parents"].as_array().unwrap().iter();
            let inside = parents.filter(|parent| !parent["reference"].as_str().unwrap().starts_with("file:"));
            let recorded: Vec<_> = inside
                .map(|parent| pair(&parent["role"], parent["reference"].as_str().unwrap().strip_suffix("@v1").unwrap()))
                .collect();
            assert_eq!(planned, recorded, "{name}");
            assert_eq!(
                (&made["stage"], &made["stage_version"]),
                (&manifest["stage"]["name"], &manifest["stage"]["version"])
            );
            seen.insert(name.to_owned());
        }
        let measured = &step["resources"]["measured"];
        assert!(
            step["makes"].as_array().unwrap().is_empty() || step["name"] == "import" || measured["seconds"].is_number()
        );
    }
    let made: BTreeSet<String> = project.contents().into_iter().map(|(name, _)| name).collect();
    let made: BTreeSet<String> = made.iter().filter_map(|name| Some(name.split_once("@v1/")?.0.to_owned())).collect();
    assert_eq!(seen, made, "every artifact is planned");
    let after = json(&project, "spin-run status run.toml --format json");
    assert_eq!(states(&after), BTreeSet::from(["done"]));

    // One after the other, by the text that shells run: the same bytes.
    let by_shell = with_preferences();
    by_shell.run_plan("nothing");
    assert_eq!(contents(&by_shell), contents(&project));
}

#[test]
fn what_is_stale_says_which_input_changed() {
    let project = Project::new();
    project.run("spin-run run run.toml");
    let look = |more: &str| json(&project, &format!("spin-run status run.toml --format json {more}"));
    assert_eq!(states(&look("")), BTreeSet::from(["done"]));

    let other = look("--set iteration.1.fit.beta=0.7");
    assert_eq!(state(&other, "model/tiny/iter-1").0, "done");
    assert_eq!(state(&other, "model/tiny/iter-2"), ("stale".into(), "fit.beta was 1.0, is 0.7".into()));
    let (of_scores, why) = state(&other, "scores/tiny/iter-2");
    assert!(of_scores == "stale" && why.contains("model/tiny/iter-2 is stale"), "{why}");
    assert_eq!(state(&other, "scores/tiny/iter-1").0, "done");

    let deleted = project.path("store/pairs/tiny/iter-0");
    let aside = project.path("aside");
    std::fs::rename(&deleted, &aside).unwrap();
    let lost = look("");
    assert_eq!(state(&lost, "pairs/tiny/iter-0"), ("missing".into(), String::new()));
    let (of_model, why) = state(&lost, "model/tiny/iter-1");
    assert!(of_model == "stale" && why.contains("pairs/tiny/iter-0 is missing"), "{why}");
    std::fs::rename(&aside, &deleted).unwrap();

    let row = r#"{"question": "How many are 1 and 1?", "answer": "They are 2.\n#### 2"}"#;
    let rows = std::fs::read_to_string(project.path("train.jsonl")).unwrap();
    project.write("train.jsonl", &format!("{rows}\n{row}\n"));
    let edited = look("");
    assert_eq!(state(&edited, "demonstrations/tiny/train"), ("stale".into(), "file:train.jsonl changed".into()));
    assert_eq!(state(&edited, "model/tiny/iter-0").0, "stale");
    assert_eq!(state(&edited, "demonstrations/tiny/test").0, "done");
    // Nothing that is done is done again, and what is stale is.
    let said = project.run("spin-run run run.toml");
    assert!(said.contains("[2/") && project.path("store/model/tiny/iter-2/v2").exists(), "{said}");
    assert_eq!(states(&look("")), BTreeSet::from(["done"]));
    let said = project.run("spin-run run run.toml");
    let begun: Vec<&str> = said.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(begun.len(), 2, "only what looks outside of the store, and the table: {begun:?}");

    // A source that is gone disturbs nobody; a damaged record is named.
    std::fs::remove_file(project.path("test.jsonl")).unwrap();
    assert_eq!(states(&look("")), BTreeSet::from(["done"]));
    project.edit("store/samples/tiny/iter-0/v2/manifest.json", "\"seed\": 7", "\"seed\": 8");
    let (word, why) = state(&look(""), "samples/tiny/iter-0");
    assert!(word == "unknown" && why.contains("altered"), "{word} {why}");
}

#[test]
fn a_store_of_an_earlier_release_is_stale_by_version() {
    let project = Project::of(&shipped("tests/fixtures/store-0.1"));
    let status = json(&project, "spin-run status run.toml --format json");
    let (word, why) = state(&status, "model/tiny/iter-0");
    assert!(word == "stale" && why.contains("spin-fit version 3, now it is spin-fit version 4"), "{why}");
    assert_eq!(state(&status, "demonstrations/tiny/train").0, "done");

    // Evaluations: by model and settings.
    project.run("spin-run run run.toml");
    let look = |more: &str| json(&project, &format!("spin-run status run.toml --format json {more}"));
    assert_eq!(states(&look("")), BTreeSet::from(["done"]));
    let limited = look("--set eval.limit=2");
    assert_eq!(state(&limited, "evaluations/tiny/iter-1/sums"), ("stale".into(), "eval.limit was 0, is 2".into()));
    assert_eq!(state(&look("--set eval.limit=50"), "evaluations/tiny/iter-1/sums").0, "done");
}

fn start(project: &Project, line: &str) -> Child {
    project.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

fn wait_for(what: &str, seen: impl Fn() -> bool) {
    let since = Instant::now();
    while !seen() {
        assert!(since.elapsed() < Duration::from_secs(60), "no {what} in a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a program has something of the project open as its directory.
fn is_at_work(project: &Project) -> bool {
    let dir = project.path("").canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes.filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok()).any(|cwd| cwd == dir)
}

#[cfg(target_os = "linux")]
#[test]
fn a_stopped_run_stops_its_programs_and_goes_on_later() {
    let slow = "--set sft.schedule_epochs=40 --set sft.stop_epoch=40";
    let line = format!("spin-run run run.toml {slow}");
    let project = Project::new();
    let is_training = || !project.work_files("tfevents").is_empty();
    for signal in ["-TERM", "-USR2", "-KILL"] {
        let mut child = start(&project, &line);
        wait_for("training", is_training);
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let status = child.wait().unwrap();
        let expected = if signal == "-KILL" { None } else { Some(75) };
        assert_eq!(status.code(), expected, "signal {signal}");
        wait_for("end of all programs", || !is_at_work(&project));
        assert!(!project.path("store/model/tiny/iter-0").exists(), "it was stopped before the end");
        project.run("spin-store verify --store store");
        // The next round sees its own progress.
        for file in project.work_files("tfevents") {
            let _ = std::fs::remove_file(file);
        }
    }
    project.run(&line);
    let undisturbed = Project::new();
    undisturbed.run(&line);
    assert_eq!(contents(&project), contents(&undisturbed));
}

#[test]
fn shares_make_the_same_answers() {
    let project = Project::new();
    let said = project.run("spin-run run run.toml --shards 3 --jobs 3");
    assert!(said.contains("spin-sample run.toml --iteration 0 --shard 3/3"), "{said}");
    assert!(said.contains("[sample-0] "), "lines of several at once say whose they are: {said}");
    let whole = Project::new();
    whole.run("spin-run run run.toml");
    assert_eq!(contents(&project), contents(&whole));
    // 120 rows in parts of 12.
    let plan = json(&project, "spin-run plan run.toml --shards 64 --format json");
    let shards: Vec<&Value> = plan["steps"].as_array().unwrap().iter().map(|step| &step["shards"]).collect();
    assert!(shards.iter().any(|shards| **shards == 10) && shards.iter().all(|shards| shards.as_u64() <= Some(10)));
}

#[test]
fn a_step_that_fails_ends_the_run_with_its_code() {
    let project = Project::new();
    project.edit("run.toml", "beta = 0.5", "beta = 0.5\nlora = { r = 4, target_modules = [\"nope\"] }");
    let output = project.output("spin-run run run.toml");
    let text = both(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("fit-0 ended with exit status: 3"), "{text}");
    assert!(!text.contains("--bench") && text.contains("steps were not begun"), "{text}");
    // What does not need it is done, if asked for.
    let output = project.output("spin-run run run.toml --keep-going");
    let text = both(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("made scores/tiny/iter-0@v1") && !text.contains("spin-sample run.toml --iteration 1"),
        "{text}"
    );
    project.fails("spin-run run absent.toml", 3, &["absent.toml"]);
    project.fails("spin-run run run.toml --jobs 0", 2, &["--jobs"]);
}

/// The memory that a plan asks for follows from this count.
#[test]
fn weights_are_counted_as_models_have_them() {
    let mut seen = 0;
    let dirs = std::fs::read_dir(shipped("tests/golden/fit")).unwrap().map(|entry| entry.unwrap().path());
    for dir in dirs.filter(|dir| dir.join("model.safetensors").exists()) {
        let config = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
        let model = spin_model::CausalLm::load(&dir, &candle_core::Device::Cpu, candle_core::DType::F32).unwrap();
        let count: usize = model.params().values().map(|tensor| tensor.elem_count()).sum();
        let estimate = parameters(&config).expect("it has shapes") as f64;
        let off = (estimate / count as f64 - 1.0).abs();
        // Biases and further norms weigh more in models of a few thousand weights.
        assert!(off < 0.05, "{}: {estimate} of {count}", dir.display());
        seen += 1;
    }
    assert!(seen > 0);
}
