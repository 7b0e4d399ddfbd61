//! What people and schedulers do to a program's streams and signals: nothing
//! that only informs ends the work, and no verdict is lost.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::project::{Project, both, programs};

/// A line for bash with the programs on its path.
fn bash(project: &Project, line: &str) -> Command {
    let path = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("bash");
    command.args(["-c", line]).env("PATH", path).current_dir(project.path("")).stdin(Stdio::null());
    command
}

fn bash_output(project: &Project, line: &str) -> Output {
    bash(project, line).output().expect("bash starts")
}

/// The plan of a project as lines for bash.
fn plan(project: &Project) -> Vec<String> {
    project.run("spin-store plan run.toml").lines().map(str::to_owned).collect()
}

#[test]
fn full_and_closed_streams_end_no_work() {
    for (errors, data) in [("2>/dev/full", ""), ("2>&-", ">&-"), ("2>/dev/full", "0<&-")] {
        let project = Project::new();
        for line in plan(&project) {
            // The table's data must not get lost, so its output stays.
            let data = if line.contains(" table ") && data == ">&-" { ">/dev/null" } else { data };
            let output = bash_output(&project, &format!("{line} {errors} {data}"));
            assert_eq!(output.status.code(), Some(0), "{line} {errors} {data}: {}", both(&output));
        }
        project.run("spin-bench table");
        project.run("spin-store verify --store store");
    }
}

#[test]
fn verdicts_survive_readers_that_leave() {
    let project = Project::new();
    project.run("spin-store import run.toml");
    let status = |line: &str| bash_output(&project, &format!("({line}) | true; exit ${{PIPESTATUS[0]}}")).status.code();
    let verify = "sleep 0.2; spin-store verify --store store";
    assert_eq!(status(verify), Some(0));
    assert_eq!(status("sleep 0.2; spin-store ls --store store"), Some(0));
    // What was not written to a full disk was not said.
    let full = bash_output(&project, "spin-store ls --store store >/dev/full");
    assert_eq!(full.status.code(), Some(1), "{}", both(&full));
    assert!(both(&full).contains("standard output"), "{}", both(&full));

    let config = project.path("store/model/tiny/base/v1/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("16", "17")).unwrap();
    assert_eq!(status(verify), Some(4));
}

/// A training that goes on for long, once it has made a checkpoint.
fn long_training(project: &Project, before: &str) -> Child {
    // Whoever started the tests may have had hang-ups ignored, as by nohup.
    let before = if before.is_empty() { "exec env --default-signal=HUP" } else { &format!("{before} exec") };
    let line = format!("{before} spin-fit run.toml --sft --set sft.schedule_epochs=100000 --set sft.stop_epoch=100000");
    let child = bash(project, &line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("bash starts");
    let start = Instant::now();
    while project.work_files("checkpoint.safetensors").is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn signal(child: &Child, name: &str) {
    let done = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().expect("kill starts");
    assert!(done.success());
}

#[test]
fn every_signal_of_schedulers_and_terminals_keeps_the_work() {
    for name in ["HUP", "USR1", "USR2", "TERM", "INT"] {
        let project = Project::new();
        project.run("spin-store import run.toml");
        let child = long_training(&project, "");
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let text = both(&output);
        assert_eq!(output.status.code(), Some(75), "{name}: {text}");
        assert!(text.contains("run it again"), "{name}: {text}");
        assert!(!project.work_files("checkpoint.safetensors").is_empty());
    }
}

#[test]
fn a_program_that_is_to_outlive_its_terminal_does() {
    let project = Project::new();
    project.run("spin-store import run.toml");
    let mut child = long_training(&project, "trap '' HUP;");
    signal(&child, "HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "ended by a signal that was to be ignored");
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(75));
}

#[test]
fn names_that_are_no_text_are_no_panic() {
    let project = Project::new();
    let odd = OsStr::from_bytes(b"caf\xe9");
    // A project in such a directory is a project, if its store is elsewhere.
    let dir = project.path("").join(odd);
    std::fs::create_dir(&dir).unwrap();
    for file in ["run.toml", "train.jsonl", "test.jsonl"] {
        std::fs::copy(project.path(file), dir.join(file)).unwrap();
    }
    std::fs::create_dir(dir.join("model")).unwrap();
    for entry in std::fs::read_dir(project.path("model")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.join("model").join(entry.file_name())).unwrap();
    }
    std::fs::write(dir.join("model").join(odd), "beside the model").unwrap();
    let import =
        Command::new(programs().join("spin-store")).args(["import", "run.toml"]).current_dir(&dir).output().unwrap();
    assert_eq!(import.status.code(), Some(3), "{}", both(&import));
    assert!(both(&import).contains("is not UTF-8"), "{}", both(&import));
    let elsewhere = format!("store={}", project.path("elsewhere").display());
    for line in plan(&project) {
        let words: Vec<&str> = line.split(' ').chain(["--set", &elsewhere]).collect();
        let output = Command::new(programs().join(words[0])).args(&words[1..]).current_dir(&dir).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}: {}", both(&output));
    }
    // And so it is from outside.
    let file = dir.join("run.toml");
    for words in [&["spin-store", "plan"][..], &["spin-store", "import"], &["spin-bench", "table"]] {
        let output = Command::new(programs().join(words[0])).args(&words[1..]).arg(&file).output().unwrap();
        let code = output.status.code();
        assert!(code == Some(0) || code == Some(3), "{words:?} ended with {code:?}: {}", both(&output));
    }
    // Arguments and files that are not there.
    for program in ["spin-store", "spin-sample", "spin-pair", "spin-fit", "spin-bench"] {
        for words in [&["import"][..], &["--set"], &[]] {
            let output = Command::new(programs().join(program)).args(words).arg(odd).arg(odd).output().unwrap();
            let code = output.status.code();
            assert!(matches!(code, Some(2 | 3)), "{program} {words:?} ended with {code:?}: {}", both(&output));
        }
    }
}
