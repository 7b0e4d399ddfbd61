//! Stores of earlier releases: today's programs read them, and make what is
//! new beside what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use spin_run::Maker;
use spin_run::schema::{Demonstration, EvaluationRow, MetricsRow, Pair, ReferenceRow, Row, Sample, ScoreRow};
use spin_store::journal::Event;
use spin_store::manifest::{LAYOUT, content_of};
use spin_store::table::{self, PartLabel};
use spin_store::{Artifact, Kind, Manifest, Store, digest};

use crate::project::{Project, shipped};

const FIXTURE: &str = "tests/fixtures/store-0.1";

/// The artifacts of a store by `kind/name@vN`.
fn artifacts(store: &Path) -> BTreeMap<String, Artifact> {
    let store = Store::open_existing(store).unwrap();
    let load = |entry| store.load_listed(entry).unwrap();
    store.list().unwrap().iter().map(load).map(|artifact| (artifact.reference(), artifact)).collect()
}

/// All files below a directory with their bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(root, &path, out),
                false => drop(out.insert(path.strip_prefix(root).unwrap().into(), fs::read(&path).unwrap())),
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(dir, dir, &mut out);
    out
}

#[test]
fn an_old_store_is_read_verified_and_listed() {
    let project = Project::of(&shipped(FIXTURE));
    let verified = project.run("spin-store verify --store store");
    assert!(verified.contains("24 artifacts, all as recorded"), "{verified}");
    let listed = project.run("spin-store ls --store store");
    let all = artifacts(&project.path("store"));
    assert_eq!((listed.lines().count(), all.len()), (24, 24), "{listed}");
    for (reference, artifact) in &all {
        assert!(listed.contains(&format!("{reference} ")), "no {reference} in\n{listed}");
        assert!(project.run(&format!("spin-store show {reference} --store store")).contains(&artifact.manifest.seal));
    }
    let lineage = project.run("spin-store lineage scores/tiny/iter-1@v1 --store store");
    for part in [
        "scores/tiny/iter-1@v1  ef9583fca902  by spin-bench 1",
        "model/tiny/iter-0@v1  4d5958a25eaf  by spin-fit 3  seed 7",
        "samples/tiny/iter-0@v1  eaea050dbc1a  by spin-sample 2  seed 7",
        "file:train.jsonl  86e0c6d64d8a",
    ] {
        assert!(lineage.contains(part), "no {part:?} in\n{lineage}");
    }

    // Every table has the rows that its manifest counts.
    fn rows<R: Row>(artifact: &Artifact) -> usize {
        R::read_all(artifact).unwrap_or_else(|e| panic!("{}: {e}", artifact.reference())).len()
    }
    let mut kinds = BTreeMap::new();
    for artifact in all.values() {
        let found = match artifact.manifest.kind {
            Kind::Demonstrations => rows::<Demonstration>(artifact),
            Kind::Samples => rows::<Sample>(artifact),
            Kind::Pairs => rows::<Pair>(artifact),
            Kind::Reference => rows::<ReferenceRow>(artifact),
            Kind::Metrics => rows::<MetricsRow>(artifact),
            Kind::Scores => rows::<ScoreRow>(artifact),
            Kind::Evaluations => rows::<EvaluationRow>(artifact),
            Kind::Model => 0,
            other => panic!("a store of 0.1 has no {other}"),
        };
        assert_eq!(found as u64, artifact.manifest.rows(), "{}", artifact.reference());
        *kinds.entry(artifact.manifest.kind).or_insert(0) += 1;
    }
    assert_eq!(kinds.into_values().sum::<i32>(), 24);
}

#[test]
fn an_old_store_is_extended() {
    let project = Project::of(&shipped(FIXTURE));
    let old = artifacts(&project.path("store"));
    // The sources are known again, though their files are copies with other times.
    let imported = project.run("spin-store import run.toml");
    assert_eq!(imported.matches("already there: ").count(), 3, "{imported}");
    project.run_plan("never");
    let all = artifacts(&project.path("store"));

    // Nothing that was there has changed.
    let (before, after) = (files(&shipped(FIXTURE).join("store")), files(&project.path("store")));
    // But that programs which know of no journal are kept out of a store that has one.
    assert_eq!(after[Path::new("STORE.json")], b"{\"layout\":2,\"made_by\":\"spin-store\"}\n");
    let journal = Store::open_existing(&project.path("store")).unwrap().journal().unwrap().unwrap();
    let adopted = journal.entries.iter().filter(|entry| entry.event == Event::Adopted);
    assert_eq!(adopted.map(|entry| &entry.artifact).collect::<BTreeSet<_>>(), old.keys().collect());
    for (path, bytes) in before.iter().filter(|(path, _)| *path != Path::new("STORE.json")) {
        assert!(after.get(path) == Some(bytes), "{} has changed", path.display());
    }
    // What is there now is the old, and beside it what a stage makes by other
    // rules, or of other inputs, than then.
    for (reference, artifact) in &all {
        let (manifest, name) = (&artifact.manifest, reference.rsplit_once("@v").unwrap().0);
        let Some(then) = (!old.contains_key(reference)).then(|| &old[&format!("{name}@v1")].manifest) else {
            continue;
        };
        let contents = |manifest: &Manifest| manifest.parents.iter().map(|p| p.content.clone()).collect::<Vec<_>>();
        assert_eq!((manifest.version, &manifest.stage.name), (2, &then.stage.name));
        assert!(
            manifest.stage.version > then.stage.version || contents(manifest) != contents(then),
            "{reference} is made again for no reason"
        );
        assert_ne!(manifest.identity, then.identity);
    }
    for (reference, version) in [
        ("model/tiny/iter-0", Maker::Fit.version()),
        ("samples/tiny/iter-0", Maker::Sample.version()),
        ("scores/tiny/iter-1", Maker::Bench.version()),
    ] {
        let then = &old[&format!("{reference}@v1")].manifest.stage;
        assert!(version > then.version, "the fixture no longer shows a stage with a new version");
        assert_eq!(all[&format!("{reference}@v2")].manifest.stage.version, version, "{reference}");
    }
    assert!(!all.contains_key("model/tiny/base@v2") && !all.contains_key("demonstrations/tiny/train@v2"));

    // The same training, up to how this processor rounds.
    for model in ["iter-0", "iter-1", "sft-more"] {
        let loss = |v: u32| all[&format!("model/tiny/{model}@v{v}")].manifest.facts["last_loss"].as_f64().unwrap();
        assert!((loss(1) - loss(2)).abs() < 1e-3, "{model}: {} then, {} now", loss(1), loss(2));
    }
    let columns = |table: &str| -> Vec<String> {
        let models = table.lines().filter(|line| line.starts_with("iter-") || line.starts_with("sft-"));
        models.flat_map(|line| line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    let table = project.run("spin-bench table");
    assert_eq!(columns(&table), columns(&fs::read_to_string(shipped(FIXTURE).join("table.txt")).unwrap()), "{table}");

    let verified = project.run("spin-store verify --store store");
    assert!(verified.contains(&format!("{} artifacts, all as recorded", all.len())), "{verified}");
    let lineage = project.run("spin-store lineage scores/tiny/iter-1 --store store");
    assert!(
        lineage.starts_with("scores/tiny/iter-1@v2") && lineage.contains("demonstrations/tiny/train@v1"),
        "{lineage}"
    );
    // A second time nothing is made.
    let contents = project.contents();
    project.run_plan("never");
    assert_eq!(project.contents(), contents);
}

/// Rewrites the manifest of version 1 of an artifact.
fn edit_manifest(project: &Project, artifact: &str, edit: impl FnOnce(&mut Manifest)) {
    let path = project.path("store").join(artifact).join("v1/manifest.json");
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    manifest.content = content_of(&manifest.files);
    fs::write(&path, manifest.sealed().to_text()).unwrap();
}

#[test]
fn what_a_newer_release_wrote_is_refused_by_name() {
    // A table of the next version of its columns, whole in all else.
    let project = Project::of(&shipped(FIXTURE));
    let part = project.path("store/demonstrations/tiny/train/v1/part-00000.parquet");
    let batch = table::read_any(&part).unwrap();
    let newer = Demonstration::SCHEMA_VERSION + 1;
    let identity = artifacts(&project.path("store"))["demonstrations/tiny/train@v1"].manifest.identity.clone();
    table::write(&part, &batch, &PartLabel { kind: "demonstrations", schema_version: newer, identity, part: 0 })
        .unwrap();
    edit_manifest(&project, "demonstrations/tiny/train", |manifest| {
        (manifest.files[0].blake3, manifest.files[0].bytes) = digest::of_file(&part).unwrap();
    });
    let said = format!("layout version {newer}, this program reads up to {}", newer - 1);
    project.fails("spin-fit --sft", 3, &["tiny/train/v1/part-00000.parquet", &said, "use a newer release"]);

    // A manifest of the next layout.
    let said = format!("layout version {}, this program reads up to {LAYOUT}", LAYOUT + 1);
    let project = Project::of(&shipped(FIXTURE));
    edit_manifest(&project, "demonstrations/tiny/train", |manifest| manifest.layout = LAYOUT + 1);
    let parts = ["tiny/train/v1/manifest.json", &*said, "use a newer release"];
    project.fails("spin-fit --sft", 3, &parts);
    project.fails("spin-store show demonstrations/tiny/train --store store", 3, &parts);
    // What does not need it works on.
    project.run("spin-store show model/tiny/base --store store");
}
