//! Imports: what of a directory is a model, sources that move or are replaced,
//! many imports at once; and looks that leave no trace.

use std::fs;
use std::process::{Child, Stdio};

use spin_store::{Kind, Store};

use crate::project::Project;

const IMPORT: &str = "spin-store import run.toml";

fn start(project: &Project, line: &str) -> Child {
    project.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// `kind/name@vN` of all artifacts.
fn listed(project: &Project) -> Vec<String> {
    let store = Store::open_existing(&project.path("store")).unwrap();
    store.list().unwrap().into_iter().map(|(kind, name, version)| format!("{kind}/{name}@v{version}")).collect()
}

const IMPORTED: [&str; 3] = ["demonstrations/tiny/test@v1", "demonstrations/tiny/train@v1", "model/tiny/base@v1"];

#[test]
fn eight_imports_at_once_make_one_version() {
    let project = Project::new();
    // Large enough that all of them are at it together.
    project.write("model/model.safetensors", &"w".repeat(8 << 20));
    let all: Vec<Child> = (0..8).map(|_| start(&project, IMPORT)).collect();
    for mut child in all {
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    assert_eq!(listed(&project), IMPORTED);
    assert_eq!(fs::read_dir(project.path("store/.staging")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(project.path("store/.locks")).unwrap().count(), 0);
    project.run("spin-store verify --store store");
}

#[test]
fn imports_killed_at_random_leave_one_version_and_no_lock() {
    let project = Project::new();
    project.write("model/model.safetensors", &"w".repeat(4 << 20));
    for round in 0..12_u64 {
        let mut pair = [start(&project, IMPORT), start(&project, IMPORT)];
        std::thread::sleep(std::time::Duration::from_millis(3 + 4 * round));
        for child in &mut pair {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    project.run(IMPORT);
    assert_eq!(listed(&project), IMPORTED);
    project.run("spin-store verify --store store");
}

#[test]
fn what_lies_beside_a_model_is_left_out_and_said() {
    let project = Project::new();
    fs::create_dir_all(project.path("model/checkpoint-500")).unwrap();
    for name in ["checkpoint-500/model.safetensors", "optimizer.pt", "scheduler.pt", "train.parquet", "README.md"] {
        project.write(&format!("model/{name}"), "no part of it");
    }
    let said = project.run(IMPORT);
    assert!(said.contains("left out, because they are no part of a model: 5"), "{said}");
    assert!(said.contains("checkpoint-500/") && said.contains("optimizer.pt"), "{said}");
    let base = project.path("store/model/tiny/base/v1");
    let mut files: Vec<_> =
        fs::read_dir(&base).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let expected =
        ["config.json", "generation_config.json", "manifest.json", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(files, expected);
    // More of it, or less, is the same model.
    fs::remove_file(project.path("model/optimizer.pt")).unwrap();
    project.write("model/trainer_state.json", "{}");
    assert!(project.run(IMPORT).contains("already there: model/tiny/base@v1"));
    project.fails(&format!("{IMPORT} --set model.init=pretrained"), 3, &["model", "has no weights", "model.init"]);
    project.write("model/pytorch_model.bin", "weights");
    let parts = ["pytorch_model.bin only, which are not read", "safetensors"];
    project.fails(&format!("{IMPORT} --set model.init=pretrained"), 3, &parts);
    project.write("model/adapter_config.json", "{}");
    project.fails(IMPORT, 3, &["holds an adapter", "spin-fit merge"]);
}

/// Puts other bytes of the same number in place, with the old time.
fn replace_behind_the_back(project: &Project, path: &str, from: &str, to: &str) {
    let file = project.path(path);
    let before = file.metadata().unwrap();
    project.edit(path, from, to);
    let write = fs::File::options().write(true).open(&file).unwrap();
    write.set_modified(before.modified().unwrap()).unwrap();
    let after = file.metadata().unwrap();
    assert_eq!((before.len(), before.modified().unwrap()), (after.len(), after.modified().unwrap()));
}

#[test]
fn another_model_of_the_same_size_and_time_is_another_model() {
    let project = Project::new();
    project.run(IMPORT);
    replace_behind_the_back(&project, "model/config.json", "\"hidden_size\": 16", "\"hidden_size\": 32");
    // Stages use what was imported until there is another import.
    project.with_graph(|graph| assert_eq!(graph.base().unwrap().manifest.version, 1));
    assert!(project.run(IMPORT).contains("imported model/tiny/base@v2"));
    project.with_graph(|graph| assert_eq!(graph.base().unwrap().manifest.version, 2));
    let config = fs::read_to_string(project.path("store/model/tiny/base/v2/config.json")).unwrap();
    assert!(config.contains("\"hidden_size\": 32"));
    // And back: the first version is meant again, though it is not the newest.
    replace_behind_the_back(&project, "model/config.json", "\"hidden_size\": 32", "\"hidden_size\": 16");
    assert!(project.run(&format!("{IMPORT} --rehash")).contains("already there: model/tiny/base@v1"));
    project.with_graph(|graph| assert_eq!(graph.base().unwrap().manifest.version, 1));
}

#[test]
fn sources_that_move_after_import_disturb_nobody() {
    let project = Project::new();
    project.run(IMPORT);
    project.write("model/README.md", "added");
    fs::rename(project.path("model"), project.path("elsewhere")).unwrap();
    for file in ["train.jsonl", "test.jsonl"] {
        fs::rename(project.path(file), project.path(&format!("moved-{file}"))).unwrap();
    }
    // The whole plan, its import included.
    let said = project.run(IMPORT);
    assert!(said.contains("train.jsonl is not there any more; what was imported from it is used"), "{said}");
    project.run_plan("spin-sample --iteration 1");
    project.run("spin-bench --iteration 0 --set bench.tasks=[\"nll\"]");
    // What the run file says otherwise is not what was imported.
    for set in ["data.train.limit=50", "data.train.path=other.jsonl"] {
        let line = format!("spin-pair --iteration 0 --set {set}");
        project.fails(
            &line,
            3,
            &["demonstrations/tiny/train", "spin-store import run.toml", "cannot be used", ".jsonl"],
        );
    }
    let line = "spin-fit --sft --set model.path=another";
    project.fails(line, 3, &["model/tiny/base", "spin-store import run.toml", "another"]);
    // Found again by its content, though no import was of that place.
    project.run("spin-fit --sft --set model.path=elsewhere");
    assert_eq!(listed(&project).iter().filter(|name| name.ends_with("@v2")).count(), 0);
}

#[test]
fn a_store_without_notes_of_imports_is_read_as_before() {
    let project = Project::new();
    project.run(IMPORT);
    fs::remove_dir_all(project.path("store/.imports")).unwrap();
    project.run("spin-fit --sft");
    fs::rename(project.path("train.jsonl"), project.path("moved")).unwrap();
    let parts = ["demonstrations/tiny/train", "spin-store import run.toml", "train.jsonl"];
    project.fails("spin-fit --sft --set seed=9", 3, &parts);
}

#[test]
fn flags_that_would_be_ignored_are_refused() {
    let project = Project::new();
    for flags in ["--limit 5", "--name x", "--store elsewhere"] {
        let flag = flags.split(' ').next().unwrap();
        project.fails(&format!("{IMPORT} {flags}"), 2, &[flag, "a run file says it itself"]);
    }
    project.fails("spin-store import train.jsonl --name x --set seed=1", 2, &["--set", "keys of a run file"]);
    project.fails("spin-store import model --name x --limit 3", 2, &["--limit", "a model has no rows"]);
    project.fails("spin-store import train.jsonl --name x --rehash", 2, &["--rehash"]);
    assert!(!project.path("store").exists() && !project.path("data").exists());
    project.run("spin-store import train.jsonl --name x --limit 3 --store store");
    assert_eq!(listed(&project), ["demonstrations/x@v1"]);
}

#[test]
fn a_look_creates_no_store() {
    let project = Project::new();
    assert!(project.run("spin-store plan run.toml").starts_with("spin-store import run.toml"));
    project.fails("spin-sample --iteration 0 --missing", 3, &["STORE.json"]);
    project.fails("spin-store ls --store store", 3, &["STORE.json", "--store"]);
    assert!(!project.path("store").exists());
}

#[test]
fn one_damaged_manifest_hides_no_other_artifact() {
    let project = Project::new();
    project.run(IMPORT);
    let manifest = project.path("store/demonstrations/tiny/test/v1/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"rows\"", "\"cows\"")).unwrap();
    let said = ["demonstrations/tiny/test@v1 cannot be listed", "demonstrations/tiny/train@v1  ", "model/tiny/base@v1"];
    project.fails("spin-store ls --store store", 4, &said);
    project.fails("spin-store ls --store store --format json", 4, &["\"reference\": \"model/tiny/base@v1\""]);
}

#[test]
fn what_cannot_be_read_is_no_difference() {
    let project = Project::new();
    project.run(IMPORT);
    let file = project.path("store/demonstrations/tiny/train/v1/part-00000.parquet");
    let aside = project.path("aside");
    fs::rename(&file, &aside).unwrap();
    // Reading it fails with EIO, whoever reads.
    std::os::unix::fs::symlink("/proc/self/mem", &file).unwrap();
    let output = project.output("spin-store verify --store store");
    let said = crate::project::both(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("could not be checked: failed to read") && !said.contains("delete"), "{said}");
    assert!(said.contains("0 problems, 1 could not be checked"), "{said}");
    // So does whoever may not read it.
    fs::remove_file(&file).unwrap();
    fs::copy(&aside, &file).unwrap();
    let closed = |mode| fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    closed(0o000);
    if fs::read(&file).is_err() {
        project.fails("spin-store verify --store store", 1, &["could not be checked", "Permission denied"]);
    }
    closed(0o644);
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &file).unwrap();
    // A difference elsewhere counts for more.
    let other = project.path("store/model/tiny/base/v1/config.json");
    fs::remove_file(&other).unwrap();
    project.fails("spin-store verify --store store", 4, &["config.json: is missing", "1 problems, 1 could not be"]);
}

#[test]
fn names_of_files_move_no_cursor() {
    let project = Project::new();
    let name = "tr\u{1b}[2Jain\u{9b}31m\u{202e}.jsonl";
    fs::rename(project.path("train.jsonl"), project.path(name)).unwrap();
    project.edit("run.toml", "train.jsonl", "tr\\u001b[2Jain\\u009b31m\\u202e.jsonl");
    project.run(IMPORT);
    let said = project.run("spin-store lineage demonstrations/tiny/train --store store");
    assert!(said.contains("file:tr\\u001b[2Jain\\u009b31m\\u202e.jsonl"), "{said:?}");
    assert!(!said.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{said:?}");
}

#[test]
fn two_run_files_of_one_name_keep_their_sources_apart() {
    let project = Project::new();
    project.run(IMPORT);
    // The same words in another directory are another source.
    fs::create_dir(project.path("b")).unwrap();
    let text = fs::read_to_string(project.path("run.toml")).unwrap();
    project.write(
        "b/run.toml",
        &text.replace("store = \"store\"", "store = \"../store\"").replace("\"model\"", "\"../model\""),
    );
    for file in ["train.jsonl", "test.jsonl"] {
        let text = fs::read_to_string(project.path(file)).unwrap();
        project.write(&format!("b/{file}"), &text.lines().skip(1).collect::<Vec<_>>().join("\n"));
    }
    let said = project.run("spin-store import b/run.toml");
    assert!(said.contains("imported demonstrations/tiny/train@v2 (119 rows)"), "{said}");
    assert!(said.contains("already there: model/tiny/base@v1"), "{said}");
    project.with_graph(|graph| {
        let train = graph.demonstrations(spin_run::graph::Split::Train).unwrap();
        assert_eq!((train.manifest.kind, train.manifest.version), (Kind::Demonstrations, 1));
    });
}
