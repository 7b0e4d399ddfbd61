//! Models and data by their names on the hub: a local server with the hub's
//! routes, the real programs, a cache as Python's.

use std::process::Output;
use std::sync::{Arc, Mutex};

use serde_json::json;
use spin_net::testing::Server;
use spin_net::testing::hub::{Repositories, Repository, commit, serve};

use crate::project::{Project, both};

const IMPORT: &str = "spin-store import run.toml";

/// A project whose run file names everything on the hub.
struct World {
    project: Project,
    repositories: Repositories,
    server: Server,
}

impl World {
    fn new() -> World {
        let project = Project::new();
        let read = |path: &str| std::fs::read(project.path(path)).unwrap();
        let rows = String::from_utf8(read("train.jsonl")).unwrap();
        let lines: Vec<&str> = rows.lines().collect();
        let halves = [0..70, 70..120].map(|half| lines[half].join("\n").into_bytes());
        let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let index = json!({"weight_map": {"a": names[0], "b": names[1]}}).to_string();
        let mut model: Vec<(&str, Vec<u8>)> =
            ["config.json", "tokenizer.json", "tokenizer_config.json"].map(|f| (f, read(&format!("model/{f}")))).into();
        model.push(("model.safetensors.index.json", index.into_bytes()));
        model.extend(names.map(|name| (name, name.as_bytes().to_vec())));
        model.push(("README.md", b"# A model".to_vec()));
        model.push(("pytorch_model.bin", b"pickle".to_vec()));
        let [first, second] = halves;
        let data = [
            ("README.md", b"# Data".to_vec()),
            ("main/train-00000-of-00002.jsonl", first),
            ("main/train-00001-of-00002.jsonl", second),
            ("main/test.jsonl", read("test.jsonl")),
        ];
        let of = |files: &[(&str, Vec<u8>)]| {
            let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect();
            Repository::of(&files)
        };
        let all = [("o/m".to_owned(), of(&model)), ("datasets/o/d".to_owned(), of(&data))];
        let repositories: Repositories = Arc::new(Mutex::new(all.into()));
        let server = serve(repositories.clone());
        project.edit("run.toml", "path = \"model\"", "path = \"hf:o/m\"");
        project.edit("run.toml", "\"train.jsonl\"", "\"hf:datasets/o/d/main/train\"");
        project.edit("run.toml", "\"test.jsonl\"", &format!("\"hf:datasets/o/d/main/test.jsonl@{}\"", commit('1')));
        World { project, repositories, server }
    }

    fn output(&self, line: &str, vars: &[(&str, &str)]) -> Output {
        let mut command = self.project.command(line);
        for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.server.url).env("HF_HOME", self.project.path("hf"));
        command.envs(vars.iter().copied()).output().unwrap()
    }

    fn run(&self, line: &str, vars: &[(&str, &str)]) -> String {
        let output = self.output(line, vars);
        assert!(output.status.success(), "{line}: {}", both(&output));
        both(&output)
    }

    fn fails(&self, line: &str, vars: &[(&str, &str)], code: i32, parts: &[&str]) {
        let output = self.output(line, vars);
        let text = both(&output);
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
        for part in parts {
            assert!(text.contains(part), "{line} does not say {part:?}: {text}");
        }
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Repository)) {
        change(self.repositories.lock().unwrap().get_mut(name).unwrap());
    }

    fn requests(&self) -> usize {
        self.server.seen().len()
    }
}

const OFFLINE: [(&str, &str); 1] = [("HF_HUB_OFFLINE", "1")];

#[test]
fn a_run_by_names_is_imported_once_and_keeps_to_its_commits() {
    let world = World::new();
    let said = world.run(IMPORT, &[]);
    assert!(said.contains("hf:o/m is commit 1111") && said.contains("(120 rows)"), "{said}");
    let base = world.project.path("store/model/tiny/base/v1");
    assert!(base.join("model-00002-of-00002.safetensors").exists() && !base.join("pytorch_model.bin").exists());
    let manifest = std::fs::read_to_string(base.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let expected = json!({"kind": "model", "repository": "o/m", "revision": null, "commit": commit('1')});
    assert_eq!(manifest["environment"]["hub"], expected);
    let rows = world.run("spin-store show demonstrations/tiny/test --store store", &[]);
    assert!(rows.contains("\"repository\": \"o/d\"") && rows.contains(&commit('1')), "{rows}");

    // The branch moves; the run does not, and asks nobody.
    world.change("o/m", |repository| {
        let mut files = repository.commits[&commit('1')].clone();
        files.insert("config.json".into(), b"{}".to_vec());
        repository.commits.insert(commit('2'), files);
        repository.branches.insert("main".into(), commit('2'));
    });
    let before = world.requests();
    for vars in [&[][..], &OFFLINE] {
        let said = world.run(IMPORT, vars);
        assert!(said.contains("already there: model/tiny/base@v1"), "{said}");
        let status = world.run("spin-run status run.toml", vars);
        assert!(status.contains("3 done, 0 stale"), "{status}");
    }
    assert_eq!(world.requests(), before);

    // An artifact that is gone comes back as the commit that was recorded.
    std::fs::remove_dir_all(world.project.path("store/model/tiny/base")).unwrap();
    let said = world.run(IMPORT, &[]);
    assert!(said.contains("hf:o/m is commit 1111"), "{said}");
    // Who wants another says so.
    let said = world.run(&format!("{IMPORT} --set model.path=hf:o/m@{}", commit('2')), &[]);
    assert!(said.contains("imported model/tiny/base@v2") && said.contains("is commit 2222"), "{said}");

    // A new store without the network has the same rows from the cache.
    let content = |store: &str| {
        let text = world.run(&format!("spin-store show demonstrations/tiny/train --store {store}"), &[]);
        text.lines().find(|line| line.contains("\"content\"")).unwrap().to_owned()
    };
    world.run(&format!("{IMPORT} --set store=other"), &OFFLINE);
    assert_eq!(content("store"), content("other"));
    world.run("spin-store verify --store store", &[]);
}

#[test]
fn names_without_a_run_file_work_too() {
    let world = World::new();
    let said = world.run("spin-store import hf:o/m --name mine --store s", &[]);
    assert!(said.contains("imported model/mine@v1"), "{said}");
    let said = world.run("spin-store import hf:datasets/o/d/main/t*n-*.jsonl --name rows --store s", &[]);
    assert!(said.contains("imported demonstrations/rows@v1 (120 rows)"), "{said}");
}

#[test]
fn what_is_wrong_with_a_name_is_said() {
    let world = World::new();
    let with = |key: &str, name: &str| format!("{IMPORT} --set {key}={name}");
    world.fails("spin-sample --iteration 0", &[], 3, &["named on the hub and not imported yet", "spin-store import"]);
    world.fails(IMPORT, &OFFLINE, 3, &["is not in", "HF_HUB_OFFLINE is set"]);
    world.fails(&with("model.path", "hf:gpt2"), &[], 3, &["hf:gpt2", "does not say owner and name"]);
    world.fails(&with("model.path", "hf:o/m@v9"), &[], 3, &["there is no such revision"]);
    world.fails(&with("model.path", "hf:datasets/o/d"), &[], 3, &["a data set's name, where a model is wanted"]);
    world.fails(&with("data.train.path", "hf:o/m"), &[], 3, &["a model's name, where data is wanted"]);
    world.fails(
        &with("data.train.path", "hf:datasets/o/d/main"),
        &[],
        3,
        &["files of several splits: test (1), train (2)"],
    );
    let parts = ["has nothing that \"main/dev\" means", "main/test.jsonl, main/train-00000"];
    world.fails(&with("data.train.path", "hf:datasets/o/d/main/dev"), &[], 3, &parts);

    world.change("o/m", |repository| repository.gate = Some("hf_right".into()));
    world.fails(IMPORT, &[], 3, &["refused access (status 401)", "it is gated", "give a token (HF_TOKEN)"]);
    world.fails(IMPORT, &[("HF_TOKEN", "hf wrong")], 3, &["the key in $HF_TOKEN has white space"]);
    world.run(IMPORT, &[("HF_TOKEN", "hf_right")]);

    world.change("o/m", |repository| {
        drop(repository.commits.get_mut(&commit('1')).unwrap().remove("model-00002-of-00002.safetensors"))
    });
    let other = [("HF_HOME", "elsewhere"), ("HF_TOKEN", "hf_right")];
    let line = format!("{IMPORT} --set store=third");
    world.fails(&line, &other, 3, &["lacks model-00002-of-00002.safetensors"]);
}
