//! What leaves a store and comes into another: bundles, and data sets for others.

use std::fs;
use std::path::Path;

use spin_store::Store;

use crate::project::Project;

fn paired() -> Project {
    let project = Project::new();
    project.run("spin-store import run.toml");
    project.run("spin-fit --sft");
    project.run("spin-sample --iteration 0");
    project.run("spin-pair --iteration 0");
    project
}

const EXPORT: &str = "spin-store export pairs/tiny/iter-0 --store store --format";

#[test]
fn a_bundle_carries_an_artifact_with_all_it_is_from() {
    let project = paired();
    let said = project.run(&format!("{EXPORT} bundle --out pairs.spin.tar"));
    assert!(said.contains("pairs/tiny/iter-0@v1 with all it is from, 5 artifacts"), "{said}");
    project.run(&format!("{EXPORT} bundle --out again.spin.tar"));
    let bytes = fs::read(project.path("pairs.spin.tar")).unwrap();
    assert!(bytes == fs::read(project.path("again.spin.tar")).unwrap(), "the same artifacts, other bytes");
    project.fails(&format!("{EXPORT} bundle --out again.spin.tar"), 3, &["again.spin.tar: is there already"]);

    let said = project.run("spin-store import pairs.spin.tar --store other");
    assert!(said.matches("imported ").count() == 5 && said.contains("all as recorded"), "{said}");
    project.run("spin-store verify --store other --level rows");
    let said = project.run("spin-store import pairs.spin.tar --store other");
    assert!(said.contains("5 artifacts were there already"), "{said}");
    // It is a store like the one it is from: the run goes on in it.
    project.run("spin-store verify pairs/tiny/iter-0 --store other --level replay");
    project.run("spin-store extract pairs/tiny/iter-0 --store other --out other.toml");
    fs::copy(project.path("other.toml"), project.path("run.toml")).unwrap();
    fs::remove_dir_all(project.path("store")).unwrap();
    project.run("spin-store extract pairs/tiny/iter-0 --store other --out run.toml");
    project.run("spin-fit --iteration 0");

    // Every byte counts: flipped, cut, one file for another.
    let fresh = |name: &str| format!("spin-store import bad.spin.tar --store {name}");
    let rounds = 40;
    for round in 0..rounds {
        let at = bytes.len() * round / rounds;
        let mut bad = bytes.clone();
        bad[at] ^= 0x20;
        fs::write(project.path("bad.spin.tar"), bad).unwrap();
        let output = project.output(&fresh("flipped"));
        // What pads a file to whole blocks is nobody's.
        if !output.status.success() {
            assert_eq!(output.status.code(), Some(3), "byte {at}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(String::from_utf8_lossy(&output.stderr).contains("bad.spin.tar"), "byte {at}");
        }
        project.run("spin-store verify --store flipped");
        fs::remove_dir_all(project.path("flipped")).unwrap();
        fs::write(project.path("bad.spin.tar"), &bytes[..at]).unwrap();
        project.fails(&fresh("cut"), 3, &["bad.spin.tar"]);
        project.run("spin-store verify --store cut");
    }
}

/// Names and links that lead out of a store.
#[test]
fn a_hostile_bundle_writes_nothing_outside() {
    let project = paired();
    project.run(&format!("{EXPORT} bundle --out good.spin.tar"));
    let good = fs::read(project.path("good.spin.tar")).unwrap();
    let text = "demonstrations/tiny/train/v1/part-00000.parquet";
    let header = good.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    let renamed = |name: &str, kind: u8| {
        let mut bad = good.clone();
        bad[header..header + 100].fill(0);
        bad[header..header + name.len()].copy_from_slice(name.as_bytes());
        bad[header + 156] = kind;
        // The checksum of a tar header: its bytes, with blanks for itself.
        bad[header + 148..header + 156].fill(b' ');
        let sum: u32 = bad[header..header + 512].iter().map(|b| u32::from(*b)).sum();
        bad[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        fs::write(project.path("bad.spin.tar"), bad).unwrap();
    };
    let import = "spin-store import bad.spin.tar --store fresh";
    for name in ["../escaped", "/tmp/spin-escaped", "demonstrations/tiny/train/v1/../../../../escaped"] {
        renamed(name, b'0');
        project.fails(import, 3, &["bad.spin.tar", "where part-00000.parquet belongs"]);
    }
    for kind in [b'1', b'2', b'5'] {
        renamed(text, kind);
        project.fails(import, 3, &["bad.spin.tar", "which is no file"]);
    }
    assert!(!project.path("escaped").exists() && !Path::new("/tmp/spin-escaped").exists());
    project.run("spin-store verify --store fresh");
    let store = Store::open_existing(&project.path("fresh")).unwrap();
    assert!(store.list().unwrap().is_empty(), "something was taken");
}

#[test]
fn others_read_what_is_exported() {
    let project = paired();
    project.run(&format!("{EXPORT} trl --out trl"));
    project.run(&format!("{EXPORT} spin --out spin"));
    project.run(&format!("{EXPORT} jsonl --out jsonl"));
    project.fails(&format!("{EXPORT} jsonl --out jsonl"), 3, &["jsonl: is there already"]);
    let samples = "spin-store export samples/tiny/iter-0 --store store --format trl --out x";
    project.fails(samples, 3, &["which has no rows for trainers"]);
    // What this project reads itself, it reads again: as preferences, and as demonstrations.
    let pairs = Store::open_existing(&project.path("store")).unwrap().get(&"pairs/tiny/iter-0".parse().unwrap());
    let rows = pairs.unwrap().manifest.rows();
    for (dir, extra) in [("trl/data", "--preferences"), ("jsonl/data", "--preferences"), ("spin/data", "")] {
        // Some of these opponents said nothing, which trainers are not given.
        let name = dir.replace('/', "-");
        project.run(&format!("spin-store import {dir} --store back --name {name} --on-bad-row drop {extra}"));
        let kind = if extra.is_empty() { "demonstrations" } else { "preferences" };
        let back = Store::open_existing(&project.path("back")).unwrap();
        let back = back.get(&format!("{kind}/{name}").parse().unwrap()).unwrap().manifest.rows();
        assert!(back <= rows && back + 5 > rows, "{dir}: {back} of {rows}");
    }
    let card = fs::read_to_string(project.path("trl/README.md")).unwrap();
    let digest = spin_store::digest::both_of_file(&project.path("trl/data/train-00000-of-00001.parquet")).unwrap();
    assert!(card.contains(&digest.sha256) && card.contains("samples/tiny/iter-0@v1"), "{card}");
    let croissant: serde_json::Value =
        serde_json::from_slice(&fs::read(project.path("trl/croissant.json")).unwrap()).unwrap();
    assert_eq!(croissant["distribution"][0]["sha256"], digest.sha256.as_str());

    project.run("spin-store export model/tiny/iter-0 --store store --format model --out model-dir");
    assert!(!project.path("model-dir/manifest.json").exists());
    project.run("spin-store import model-dir --store back --name again");
}
