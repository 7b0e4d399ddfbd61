//! A small project in a temporary directory, and the programs to run on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use spin_run::graph::Graph;
use spin_run::run::RunFile;
use spin_run::schema::{MetricsRow, Row};
use spin_store::Store;

/// The directory of the programs. `cargo test` builds no program of another
/// package, so the test command builds them first.
pub fn programs() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        // target/release/deps/stages-… -> target/release
        let exe = std::env::current_exe().expect("a path");
        let dir = exe.parent().and_then(Path::parent).expect("target/release").to_path_buf();
        for program in ["spin-store", "spin-run", "spin-sample", "spin-pair", "spin-fit", "spin-bench"] {
            let path = dir.join(program);
            assert!(path.exists(), "{} is not built; run `cargo build --release --workspace` first", path.display());
        }
        dir
    })
}

/// Files that ship.
pub fn shipped(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

/// A path in the folder of real data that `SPIN_TEST_DATA` names. Tests that need
/// it are ignored unless asked for.
pub fn shared(path: &str) -> PathBuf {
    let dir = std::env::var_os("SPIN_TEST_DATA").expect("cargo sets it");
    let path = Path::new(&dir).join(path);
    assert!(path.exists(), "this test needs {}", path.display());
    path
}

/// A run in a temporary directory: a model of 13 thousand parameters, 120
/// rows to train on and 40 to score on.
pub struct Project {
    dir: tempfile::TempDir,
}

/// The run file of [`Project`]. Small parts, so that there is something to
/// kill between and to shard.
const RUN: &str = r#"
run = "tiny"
seed = 7
store = "store"

[model]
path = "model"
init = "random"

[data]
train = { path = "train.jsonl" }
test = { path = "test.jsonl" }

[template]
max_prompt_length = 60
max_length = 110

[sft]
objective = "sft"
optimizer = "adamw"
learning_rate = 5e-3
batch_size = 16
micro_batch_size = 8
schedule_epochs = 3
stop_epoch = 3
checkpoint_every = 2
eval_every = 4
eval_rows = 20

[sample]
max_new_tokens = 24
rows_per_part = 12

[fit]
learning_rate = 1e-4
beta = 0.5
batch_size = 16
micro_batch_size = 8
checkpoint_every = 2

[bench]
max_new_tokens = 24

[[iteration]]
[[iteration]]
fit = { beta = 1.0 }

[[baseline]]
name = "sft-more"
match_iterations = 2
fit = { optimizer = "adamw", learning_rate = 1e-4 }
"#;

impl Project {
    /// A fresh project with nothing in its store.
    pub fn new() -> Project {
        let project = Project { dir: tempfile::tempdir().expect("a temporary directory") };
        project.write("run.toml", RUN);
        let demo = shipped("data/raw/demo");
        for (file, rows) in [("train.jsonl", 120), ("test.jsonl", 40)] {
            let text = std::fs::read_to_string(demo.join(file)).expect("the demo's data ships");
            let lines: Vec<&str> = text.lines().take(rows).collect();
            project.write(file, &lines.join("\n"));
        }
        std::fs::create_dir(project.path("model")).expect("fresh");
        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"] {
            std::fs::copy(demo.join("model").join(file), project.path("model").join(file)).expect("ships");
        }
        project.edit("model/config.json", "\"hidden_size\": 64", "\"hidden_size\": 16");
        project.edit("model/config.json", "\"intermediate_size\": 168", "\"intermediate_size\": 32");
        project.edit("model/config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
        project
    }

    /// A copy of a directory that has a run file, and may have a store.
    pub fn of(dir: &Path) -> Project {
        fn copy(from: &Path, to: &Path) {
            std::fs::create_dir_all(to).expect("writable");
            for entry in std::fs::read_dir(from).expect("it ships") {
                let (entry, to) = entry.map(|e| (e.path(), to.join(e.file_name()))).expect("readable");
                match entry.is_dir() {
                    true => copy(&entry, &to),
                    false => drop(std::fs::copy(&entry, &to).expect("writable")),
                }
            }
        }
        let project = Project { dir: tempfile::tempdir().expect("a temporary directory") };
        copy(dir, project.dir.path());
        project
    }

    /// A path inside.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Writes a file.
    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.path(path), text).expect("writable");
    }

    /// Replaces a part of a file that must be there.
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(path)).expect("readable");
        assert!(text.contains(from), "{path} has no {from:?}");
        self.write(path, &text.replace(from, to));
    }

    /// A program with the run file and arguments; `spin-store` and `spin-run`
    /// take their arguments as they are.
    pub fn command(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        let mut command = Command::new(programs().join(program));
        let words: Vec<&str> = words.collect();
        // `spin-bench seeds` has no run file.
        let takes_all = ["spin-store", "spin-run"].contains(&program) || words.first() == Some(&"seeds");
        let in_place: &[&str] = if takes_all { &[] } else { &["run.toml"] };
        // `spin-bench table`, `eval`, `report` and `answers` take the run file after their word.
        let has_word = matches!(words.first(), Some(&("table" | "eval" | "report" | "answers")));
        let (before, after) = words.split_at(has_word.into());
        command.args(before).args(in_place).args(after).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs a program to its end.
    pub fn output(&self, line: &str) -> Output {
        self.command(line).output().expect("the program starts")
    }

    /// Runs a program that must succeed; standard output and error together.
    pub fn run(&self, line: &str) -> String {
        let output = self.output(line);
        let text = both(&output);
        assert!(output.status.success(), "{line} ended with {}: {text}", output.status);
        text
    }

    /// Runs a program that must fail with `code` and say all of `parts`.
    pub fn fails(&self, line: &str, code: i32, parts: &[&str]) {
        let output = self.output(line);
        let text = both(&output);
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
        for part in parts {
            assert!(text.contains(part), "{line} does not say {part:?}: {text}");
        }
    }

    /// Runs the commands of the plan up to (not including) the first that
    /// starts with `until`; all of them when none does.
    pub fn run_plan(&self, until: &str) {
        let plan = self.run("spin-store plan run.toml");
        for line in plan.lines() {
            let command = match line.starts_with("spin-store") {
                true => line.to_owned(),
                false => line.replace(" run.toml", ""),
            };
            if command.starts_with(until) {
                return;
            }
            self.run(&command);
        }
    }

    /// The run file and the store as the programs see them.
    pub fn with_graph<T>(&self, look: impl FnOnce(&Graph<'_>) -> T) -> T {
        let run = RunFile::load(&self.path("run.toml"), &[]).expect("a good run file");
        let store = Store::open(&run.store_dir()).expect("a store");
        look(&Graph::new(&run, &store))
    }

    /// Files of unfinished work whose names contain `part`, sorted.
    pub fn work_files(&self, part: &str) -> Vec<PathBuf> {
        let entries = |dir: &Path| -> Vec<PathBuf> {
            std::fs::read_dir(dir).map_or_else(|_| Vec::new(), |all| all.filter_map(|e| Some(e.ok()?.path())).collect())
        };
        let mut files: Vec<PathBuf> = entries(&self.path("store/.work")).iter().flat_map(|dir| entries(dir)).collect();
        files.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.contains(part) && !name.starts_with('.')
        });
        files.sort();
        files
    }

    /// The metrics of a model's training.
    pub fn metrics(&self, model: &str) -> Vec<MetricsRow> {
        let reference = format!("metrics/tiny/{model}").parse().expect("a reference");
        self.with_graph(|graph| {
            MetricsRow::read_all(&graph.store.get(&reference).expect("published")).expect("readable")
        })
    }

    /// Digests of all published files but manifests, by path below the store.
    pub fn contents(&self) -> Vec<(String, String)> {
        let run = RunFile::load(&self.path("run.toml"), &[]).expect("a good run file");
        let store = Store::open(&run.store_dir()).expect("a store");
        let mut out = Vec::new();
        for entry in store.list().expect("listable") {
            let artifact = store.load_listed(&entry).expect("a good artifact");
            artifact.verify().expect("as recorded");
            for file in &artifact.manifest.files {
                // A model card names parents by digest of content, which is the same.
                let name = format!("{}/{}@v{}/{}", entry.0, entry.1, entry.2, file.path);
                out.push((name, file.blake3.clone()));
            }
        }
        out
    }
}

/// Standard output and standard error.
pub fn both(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
