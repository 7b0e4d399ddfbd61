//! Unfinished training is checked before it is used, and equal trainings are
//! equal bytes, whatever happened on the way and whatever a run is called.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use spin_run::graph::{ModelId, PairsOf, Product};
use spin_run::schema::{ReferenceRow, Row};

use crate::project::{Project, both, shipped};

/// Settings of a training of θ0 in which every kind of unfinished file is made.
const SFT: &str = "spin-fit --sft --set sft.checkpoint_every=2 --set sft.patience=0 --set sft.schedule_epochs=6 \
                   --set sft.stop_epoch=6";

fn start(project: &Project, line: &str) -> Child {
    project.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Starts a training and kills it once it has made a checkpoint after an evaluation.
fn kill_with_a_checkpoint(project: &Project, line: &str) {
    let mut child = start(project, line);
    let start = Instant::now();
    let updates = || project.work_files("checkpoint.safetensors").first().map_or(0, |path| update_of(path));
    while updates() < 6 {
        assert!(start.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "no checkpoint");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The number of updates in a checkpoint.
fn update_of(path: &Path) -> usize {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let rest = text.split("\\\"update\\\":").nth(1).unwrap_or("0");
    rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

fn content(project: &Project, reference: &str) -> String {
    project.with_graph(|graph| graph.store.get(&reference.parse().unwrap()).unwrap().manifest.content)
}

/// One file of unfinished training, one way to damage it.
type Damage = (&'static str, fn(&mut Vec<u8>));

#[test]
fn a_damaged_checkpoint_is_named_set_aside_and_not_published() {
    let prepared = || {
        let project = Project::new();
        project.run("spin-store import run.toml");
        project
    };
    let undisturbed = prepared();
    undisturbed.run(SFT);
    let expected = content(&undisturbed, "model/tiny/iter-0");
    let damages: [Damage; 7] = [
        // In the last tensor, in the first, in the header's numbers; half a file.
        ("checkpoint.safetensors", |bytes| {
            let last = bytes.len() - 3;
            bytes[last] ^= 0x10;
        }),
        ("checkpoint.safetensors", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("checkpoint.safetensors", |bytes| {
            let at = bytes.windows(6).position(|w| w == b"update").unwrap() + 9;
            bytes[at] ^= 1;
        }),
        ("checkpoint.safetensors", |bytes| bytes.truncate(bytes.len() / 2)),
        ("best.safetensors", |bytes| {
            let last = bytes.len() - 3;
            bytes[last] ^= 0x10;
        }),
        // A digit of a loss: it would be published.
        ("training_log.jsonl", |bytes| {
            let at = bytes.windows(7).position(|w| w == b"\"loss\":").unwrap() + 9;
            bytes[at] ^= 1;
        }),
        ("training_log.jsonl", |bytes| bytes.clear()),
    ];
    for (number, (file, damage)) in damages.into_iter().enumerate() {
        let project = prepared();
        kill_with_a_checkpoint(&project, SFT);
        let path = project.work_files(file).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let said = project.run(SFT);
        for part in [file, "training starts from the beginning", "checkpoint.damaged"] {
            assert!(said.contains(part), "damage {number} does not say {part:?}: {said}");
        }
        assert_eq!(content(&project, "model/tiny/iter-0"), expected, "damage {number} was published");
        assert!(project.work_files("").is_empty(), "nothing is left over");
    }
    // Without damage it goes on where it was.
    let project = prepared();
    kill_with_a_checkpoint(&project, SFT);
    assert!(!project.run(SFT).contains("from the beginning"));
    assert_eq!(content(&project, "model/tiny/iter-0"), expected);
}

#[test]
fn parts_of_a_reference_that_are_not_its_own_are_computed_again() {
    let project = Project::new();
    project.run_plan("spin-fit --iteration");
    let pairs = PairsOf::Iteration(0);
    let undisturbed = Project::new();
    undisturbed.run_plan("spin-sample --iteration 1");
    let rows = undisturbed.with_graph(|graph| ReferenceRow::read_all(&graph.reference(0).unwrap()).unwrap());
    project.with_graph(|graph| {
        let recipe = graph.recipe(&Product::Reference(pairs)).unwrap();
        let work = graph.store.work(&recipe.identity()).unwrap();
        // Right columns, right rows, right label, other numbers: and nothing beside it that vouches for them.
        let wrong: Vec<_> = rows.iter().map(|r| ReferenceRow { real_logps: r.real_logps + 1.0, ..r.clone() }).collect();
        ReferenceRow::write_part(&work.path("part-00000.parquet"), &wrong, &recipe.identity(), 0).unwrap();
    });
    let said = project.run("spin-fit --iteration 0");
    assert!(said.contains("part-00000.parquet is computed again"), "{said}");
    for reference in ["reference/tiny/iter-0", "model/tiny/iter-1"] {
        assert_eq!(content(&project, reference), content(&undisturbed, reference));
    }
}

/// A project whose θ0 is an adapter's, on a model with weights of its own.
fn lora_project() -> Project {
    let project = Project::new();
    let golden = shipped("tests/golden/dpo/chat");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(file), project.path("model").join(file)).unwrap();
    }
    project.edit("run.toml", "init = \"random\"", "");
    let lora = "[sft.lora]\nr = 2\nlora_alpha = 4\ntarget_modules = [\"all-linear\"]\n\n[sample]";
    project.edit("run.toml", "[sample]", lora);
    project
}

#[test]
fn eight_equal_trainings_of_an_adapter_in_runs_of_eight_names_are_one_content() {
    let project = lora_project();
    let names = ["aa", "bb", "a", "tiny", "t-1", "t_2", "zz", "q"];
    let mut contents = std::collections::BTreeSet::new();
    for name in names {
        project.run(&format!("spin-store import run.toml --set run={name}"));
        project.run(&format!("spin-fit --sft --set run={name}"));
        contents.insert(content(&project, &format!("model/{name}/iter-0")));
    }
    assert_eq!(contents.len(), 1, "{contents:?}");
    // Another seed is another adapter, and no name or number of the store is in any file.
    project.run("spin-fit --sft --set seed=8");
    assert!(contents.insert(content(&project, "model/tiny/iter-0")));
    project.with_graph(|graph| {
        let model = graph.store.get(&"model/aa/iter-0".parse().unwrap()).unwrap();
        for file in ["README.md", "adapter/adapter_config.json", "training_metrics.jsonl"] {
            let text = std::fs::read_to_string(model.place().join(file)).unwrap();
            assert!(!text.contains("@v") && !text.contains("aa/"), "{file}: {text}");
        }
    });
}

#[test]
fn a_run_that_was_killed_under_another_name_is_carried_on_to_the_same_bytes() {
    let project = lora_project();
    for name in ["aa", "bb", "cc"] {
        project.run(&format!("spin-store import run.toml --set run={name}"));
    }
    kill_with_a_checkpoint(&project, &format!("{SFT} --set run=aa"));
    project.run(&format!("{SFT} --set run=bb"));
    assert!(project.work_files("checkpoint").is_empty(), "bb carried aa's work on");
    project.run(&format!("{SFT} --set run=cc"));
    assert_eq!(content(&project, "model/bb/iter-0"), content(&project, "model/cc/iter-0"));
}

#[test]
fn a_version_number_enters_no_byte_of_a_model() {
    let projects = [Project::new(), Project::new()];
    // In the second store everything is version 2: another base and other data came first.
    let (train, config) = ("train.jsonl", "model/config.json");
    let original = [train, config].map(|file| std::fs::read_to_string(projects[1].path(file)).unwrap());
    projects[1].edit(config, "\"hidden_size\": 16", "\"hidden_size\": 24");
    projects[1].write(train, &original[0].lines().take(100).collect::<Vec<_>>().join("\n"));
    projects[1].run("spin-store import run.toml");
    projects[1].run("spin-fit --sft");
    projects[1].write(train, &original[0]);
    projects[1].write(config, &original[1]);
    for project in &projects {
        project.run_plan("spin-sample --iteration 1");
    }
    for t in [0, 1] {
        let of = |project: &Project| {
            project.with_graph(|graph| {
                let manifest = graph.model(&ModelId::Iteration(t)).unwrap().manifest;
                (manifest.version, manifest.content)
            })
        };
        let (first, second) = (of(&projects[0]), of(&projects[1]));
        assert_eq!(first.1, second.1, "iteration {t}");
        assert!(t > 0 || (first.0, second.0) == (1, 2));
    }
}

#[test]
fn a_second_training_leaves_the_work_to_the_first() {
    let project = Project::new();
    project.run("spin-store import run.toml");
    let long = "spin-fit --sft --set sft.schedule_epochs=3000 --set sft.stop_epoch=3000 --set sft.patience=0";
    let mut first = start(&project, long);
    let start = Instant::now();
    while project.work_files("checkpoint.safetensors").is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60) && first.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    project.fails(long, 75, &["locked by process", &first.id().to_string()]);
    assert!(Command::new("kill").args(["-TERM", &first.id().to_string()]).status().unwrap().success());
    assert_eq!(first.wait().unwrap().code(), Some(75));
}

#[test]
fn what_data_and_settings_can_refuse_is_refused_before_the_reference_pass() {
    let project = Project::new();
    project.run_plan("spin-fit --iteration");
    let refused: [(&str, &[&str]); 5] = [
        ("--set fit.eval_every=1 --set fit.eval_rows=500", &["no row to train on", "lower eval_rows"]),
        ("--set fit.lora.from=nowhere", &["nowhere/adapter_model.safetensors"]),
        ("--set fit.lora.target_modules=[\"query\"]", &["names no projection"]),
        ("--set fit.checkpoint_minutes=-1", &["checkpoint_minutes = -1 must be 0 or more"]),
        ("--set fit.lora.r=0", &["[lora] needs r of at least 1"]),
    ];
    for (settings, parts) in refused {
        project.fails(&format!("spin-fit --iteration 0 {settings}"), 3, parts);
        let left = project.work_files("part-");
        assert!(left.is_empty(), "{settings} came after {left:?}");
    }
    assert!(!project.path("store/reference").exists());
    let output = project.output("spin-fit --iteration 18446744073709551615");
    let said = both(&output);
    assert!(output.status.code() == Some(3) && said.contains("no iteration 18446744073709551615"), "{said}");
}
