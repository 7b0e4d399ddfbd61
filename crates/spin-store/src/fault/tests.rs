//! Each step of each change of a store goes wrong once. A child process does the
//! change and is killed, stopped half way through a write, or told that the disk is
//! full; the parent looks at what it left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, json};

use super::{Mode, arm, trace};
use crate::artifact::Artifact;
use crate::error::Result;
use crate::row::Row as _;
use crate::row::numbers::Number;
use crate::store::{Recipe, Reference, Store};
use crate::{Kind, StageId, audit, bundle, table};

const CHANGES: [&str; 7] = ["create", "publish", "remove", "adopt", "take", "pin", "rename"];
const MODES: [(&str, Mode); 3] = [("kill", Mode::Kill), ("half", Mode::Half), ("full", Mode::Full)];

/// More than any change has.
const MOST_STEPS: usize = 200;

/// Publishes a table of two parts, made from another one or from nothing.
pub(crate) fn publish(store: &Store, name: &str, from: Option<&Artifact>) -> Result<Artifact> {
    let recipe = Recipe {
        kind: Kind::Reference,
        name: name.into(),
        stage: StageId { name: "test".into(), version: 1 },
        params: json!({"name": name}),
        parents: from.map(|parent| parent.as_parent("from")).into_iter().collect(),
    };
    let staged = store.staging()?;
    for part in 0..2 {
        Number::write_part(
            &staged.path().join(table::part_name(part)),
            &[Number(part as u32)],
            &recipe.identity(),
            part,
        )?;
    }
    store.publish(staged, &recipe, Map::new(), Map::new())
}

/// A store with one artifact, beside it a bundle of two and a store that has been
/// copied into it by hand where that is to be adopted.
fn prepare(dir: &Path, change: &str) {
    if change == "create" {
        return;
    }
    let store = Store::open(&dir.join("store")).unwrap();
    let first = publish(&store, "a", None).unwrap();
    let other = Store::open(&dir.join("other")).unwrap();
    let parent = publish(&other, "x", None).unwrap();
    let child = publish(&other, "y", Some(&parent)).unwrap();
    bundle::write(&[child.clone(), parent], &child, &dir.join("b.spin.tar")).unwrap();
    match change {
        "remove" => {
            publish(&store, "gone", Some(&first)).unwrap();
        }
        "adopt" => fs::rename(dir.join("other/reference/x"), dir.join("store/reference/x")).unwrap(),
        _ => {}
    }
}

fn change(dir: &Path, change: &str) -> Result<()> {
    let store = Store::open(&dir.join("store"))?;
    match change {
        "create" => {}
        "publish" => {
            publish(&store, "b", Some(&store.get(&"reference/a".parse()?)?))?;
        }
        "remove" => {
            store.remove(&"reference/gone@v1".parse::<Reference>()?, None, false)?;
        }
        "adopt" => {
            store.adopt(vec![store.get(&"reference/x".parse()?)?], None)?;
        }
        "take" => {
            bundle::take(&store, &dir.join("b.spin.tar"), None)?;
        }
        "pin" => {
            store.pin("reference/a@v1", true)?;
        }
        "rename" => store.rename(&store.get(&"reference/a".parse()?)?, "reference/best", false)?,
        other => panic!("no change {other}"),
    }
    Ok(())
}

/// What the child does; only with its variables.
#[test]
fn child() {
    let Ok(told) = std::env::var("SPIN_FAULT") else { return };
    let told: Vec<&str> = told.split(',').collect();
    let [dir, what, mode, nth] = told[..] else { panic!("{told:?}") };
    let (_, mode) = MODES.into_iter().find(|(name, _)| *name == mode).unwrap();
    arm(nth.parse().unwrap(), mode);
    let result = change(Path::new(dir), what);
    // To the parent: whether the step was reached, and what was said.
    let reached = trace().len() > nth.parse::<usize>().unwrap();
    let said = result.err().map(|error| error.to_string());
    fs::write(Path::new(dir).join("said.json"), json!({"reached": reached, "said": said}).to_string()).unwrap();
    std::process::exit(if reached { 3 } else { 0 });
}

/// How one try ended: whether the step was reached.
fn attempt(dir: &Path, what: &str, mode: &str, nth: usize) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fault::tests::child", "--nocapture", "--test-threads=1"])
        .env("SPIN_FAULT", format!("{},{what},{mode},{nth}", dir.display()))
        .output()
        .unwrap();
    let said: serde_json::Value =
        fs::read(dir.join("said.json")).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    match output.status.code() {
        Some(0) => false,
        Some(3) => {
            // An error that is told, unless the change is done by then.
            let said = said["said"].as_str().unwrap_or_default();
            let is_done = what == "publish" && said.is_empty();
            assert!(is_done || said.contains("No space left") && said.contains('/'), "{what} {mode} {nth}: {said:?}");
            true
        }
        None => true,
        other => panic!("{what} {mode} {nth} ended with {other:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn whatever_step_goes_wrong_nothing_is_lost_or_half_accepted() {
    let (mut tried, mut lost) = (0, Vec::new());
    for what in CHANGES {
        for (mode, _) in MODES {
            for nth in 0..MOST_STEPS {
                let dir = tempfile::tempdir().unwrap();
                prepare(dir.path(), what);
                if !attempt(dir.path(), what, mode, nth) {
                    assert!(nth > 1, "{what} passes no step");
                    break;
                }
                tried += 1;
                let case = format!("{what} {mode} {nth}");
                let mut bad = |problem: String| lost.push(format!("{case}: {problem}"));
                if dir.path().join("store/STORE.json").exists() {
                    let store = Store::open_existing(&dir.path().join("store")).unwrap();
                    // What is to be adopted is named until it is.
                    let mut findings = audit::verify(&store, audit::Level::Rows, &|_| Ok(None)).unwrap().1;
                    findings.retain(|one| what != "adopt" || !one.error.to_string().contains("knows nothing of it"));
                    findings.iter().for_each(|one| bad(format!("{}: {}", one.artifact, one.error)));
                    if what != "create" && store.get(&"reference/a@v1".parse().unwrap()).is_err() {
                        bad("the first artifact is gone".into());
                    }
                }
                // And it can be done again.
                match change(dir.path(), what) {
                    Ok(()) => {}
                    // It was removed before the fault, or with it.
                    Err(error) => bad(format!("cannot be done again: {error}")),
                }
                let store = Store::open_existing(&dir.path().join("store")).unwrap();
                let findings = audit::verify(&store, audit::Level::Rows, &|_| Ok(None)).unwrap().1;
                findings.iter().for_each(|one| bad(format!("after: {}: {}", one.artifact, one.error)));
            }
        }
    }
    assert!(lost.is_empty(), "{} of {tried}:\n{}", lost.len(), lost.join("\n"));
    assert!(tried > 100, "only {tried} faults");
}

/// A name is durable when the directory that has it was synced after the rename, and
/// bytes when their file was synced before it.
#[test]
fn what_is_renamed_was_synced_and_its_directory_is_after() {
    let Ok(dir) = std::env::var("SPIN_TRACE") else {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), "publish");
        let name = "fault::tests::what_is_renamed_was_synced_and_its_directory_is_after";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env("SPIN_TRACE", dir.path())
            .status()
            .unwrap();
        assert!(status.success());
        return;
    };
    arm(usize::MAX, Mode::Kill);
    change(Path::new(&dir), "publish").unwrap();
    let steps = trace();
    let renames: Vec<usize> = (0..steps.len()).filter(|at| steps[*at].0 == "rename").collect();
    assert!(renames.len() >= 4, "{steps:?}");
    for at in renames {
        let path = &steps[at].1;
        let parent: PathBuf = path.parent().unwrap().into();
        let after = steps[at..].iter().any(|(step, of)| *step == "sync directory" && *of == parent);
        let before = steps[..at].iter().rev().find(|(step, _)| *step != "create");
        assert!(after, "{} is renamed and its directory not synced: {steps:?}", path.display());
        assert!(before.is_some_and(|(step, _)| step.starts_with("sync") || *step == "write"), "{steps:?}");
    }
}
