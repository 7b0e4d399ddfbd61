//! A store that says what became of everything, and from which a run can be done
//! again: the journal, pinned parents, the run file in every manifest, replay.

use std::fs;

use spin_run::schema::{Pair, Row};
use spin_store::manifest::content_of;
use spin_store::{Manifest, Store, digest, table};

use crate::project::Project;

/// A small run with scores of θ0 and θ1.
fn played() -> Project {
    let project = Project::new();
    project.edit("run.toml", "[[iteration]]\nfit = { beta = 1.0 }\n", "");
    project.edit("run.toml", "match_iterations = 2", "match_iterations = 1");
    project.run_plan("spin-bench table");
    project
}

/// Changes a manifest and seals it anew.
fn forge(project: &Project, dir: &str, change: impl FnOnce(&mut Manifest)) {
    let dir = project.path(dir);
    let mut manifest = Manifest::read(&dir).unwrap();
    change(&mut manifest);
    manifest.content = content_of(&manifest.files);
    fs::write(dir.join("manifest.json"), manifest.sealed().to_text()).unwrap();
}

const VERIFY: &str = "spin-store verify --store store --level structure";

#[test]
fn nothing_is_deleted_forged_or_put_there_unseen() {
    let project = Project::new();
    project.run("spin-store import run.toml");
    project.run("spin-fit --sft");
    let said = project.run(VERIFY);
    let head = said.split("head ").nth(1).expect("a head").trim().to_owned();
    let with_head = format!("{VERIFY} --head {head}");
    project.run(&with_head);

    // A leaf that nothing was made from.
    let leaf = project.path("store/metrics/tiny/iter-0/v1");
    fs::rename(&leaf, project.path("kept")).unwrap();
    project.fails(VERIFY, 4, &["metrics/tiny/iter-0@v1", "and it is gone", "spin-store rm"]);
    project.run("spin-store rm metrics/tiny/iter-0@v1 --store store");
    project.run(VERIFY);
    fs::rename(project.path("kept"), &leaf).unwrap();
    project.fails(VERIFY, 4, &["has it removed", "and it is there"]);
    project.run("spin-store adopt metrics/tiny/iter-0@v1 --store store");
    project.run(&with_head);

    // A parent's manifest under its children: the seed of the model, say.
    let forged = |manifest: &mut Manifest| {
        manifest.environment.insert("commit".into(), "another".into());
    };
    let before = fs::read(project.path("store/model/tiny/base/v1/manifest.json")).unwrap();
    forge(&project, "store/model/tiny/base/v1", forged);
    let parts = ["model/tiny/base@v1", "its manifest was written anew", "another manifest than it was made from"];
    project.fails(VERIFY, 4, &parts);
    project.fails("spin-store lineage model/tiny/iter-0 --store store", 3, &parts[2..]);
    project.fails("spin-store verify model/tiny/iter-0 --store store", 4, &parts[2..]);
    fs::write(project.path("store/model/tiny/base/v1/manifest.json"), before).unwrap();
    project.run(VERIFY);

    // Who adopts what they forged is seen from a head of before, and from a child.
    let journal = fs::read(project.path("store/JOURNAL.jsonl")).unwrap();
    let before = fs::read(project.path("store/model/tiny/base/v1/manifest.json")).unwrap();
    forge(&project, "store/model/tiny/base/v1", forged);
    project.run("spin-store adopt model/tiny/base@v1 --store store");
    project.fails(VERIFY, 4, &["another manifest than it was made from"]);
    project.fails(&with_head, 4, &[&format!("had another model/tiny/base@v1 when its head was {head}")]);
    fs::write(project.path("store/model/tiny/base/v1/manifest.json"), before).unwrap();
    fs::write(project.path("store/JOURNAL.jsonl"), journal).unwrap();
    project.run(&with_head);
    // A false SHA-256 beside a true BLAKE3.
    let manifest = project.path("store/metrics/tiny/iter-0/v1/manifest.json");
    let before = fs::read(&manifest).unwrap();
    forge(&project, "store/metrics/tiny/iter-0/v1", |manifest| manifest.files[0].sha256 = Some("0".repeat(64)));
    project.fails("spin-store verify --store store", 4, &["does not have the SHA-256 in its manifest"]);
    fs::write(&manifest, before).unwrap();
    project.fails("spin-store rm model/typo@v9 --store store", 3, &["no artifact model/typo@v9"]);

    // One that others were made from is not removed by mistake.
    project.fails("spin-store rm model/tiny/base@v1 --store store", 3, &["are made from it", "remove those first"]);

    // The journal itself.
    let path = project.path("store/JOURNAL.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("base@v1", "base@v2", 1)).unwrap();
    project.fails(VERIFY, 4, &["JOURNAL.jsonl, row", "was altered after it was written"]);
    let shorter: Vec<&str> = text.lines().take(2).collect();
    fs::write(&path, shorter.join("\n") + "\n").unwrap();
    project.fails(&with_head, 4, &["knows nothing of it", &format!("never had the head {head}")]);
    fs::remove_file(&path).unwrap();
    project.fails(VERIFY, 4, &["JOURNAL.jsonl: is gone"]);
    project.fails("spin-sample --iteration 0", 3, &["JOURNAL.jsonl: is gone", "adopt --all"]);
    fs::write(&path, text).unwrap();
    project.run(&with_head);
}

/// What was lost and made again has another time in its manifest; its children are
/// none the worse.
#[test]
fn what_is_lost_can_be_made_again() {
    let project = Project::new();
    project.run("spin-store import run.toml");
    project.run("spin-fit --sft");
    project.run("spin-sample --iteration 0");
    fs::remove_dir_all(project.path("store/model/tiny/iter-0")).unwrap();
    project.fails(VERIFY, 4, &["model/tiny/iter-0@v1 is not there"]);
    forge_time_passes();
    project.run("spin-fit --sft");
    project.run("spin-store verify --store store");
}

/// Manifests have seconds.
fn forge_time_passes() {
    std::thread::sleep(std::time::Duration::from_millis(1100));
}

#[test]
fn a_run_is_recovered_from_a_score_and_done_again() {
    let project = played();
    let replay = "spin-store verify --store store --level replay";
    let said = project.run(&format!("{replay} scores/tiny/iter-1"));
    assert!(said.contains("3 imports taken as they are") && !said.contains("unknown"), "{said}");
    let all = project.run(replay);
    let artifacts = all.split(" artifacts, all as recorded").next().unwrap().trim().parse::<usize>().unwrap();
    assert!(all.contains(&format!("repeated: {} equal; 3 imports", artifacts - 3)), "{all}");
    assert_eq!(fs::read_dir(project.path("store/.staging")).unwrap().count(), 0);

    // The run file alone: from a store, in another place, without the sources.
    let printed = project.run("spin-store extract scores/tiny/iter-1 --store store");
    assert!(printed.contains("# The run file of scores/tiny/iter-1@v1") && printed.contains("beta = 0.5"), "{printed}");
    for source in ["train.jsonl", "test.jsonl", "run.toml"] {
        fs::remove_file(project.path(source)).unwrap();
    }
    fs::remove_dir_all(project.path("model")).unwrap();
    project.run("spin-store extract scores/tiny/iter-1 --store store --out run.toml");
    let status = project.run("spin-run status run.toml");
    assert!(status.contains("0 stale, 0 missing"), "{status}");
    project.run("spin-run run run.toml");

    // A table of false values with all seals and digests to fit, made by nobody.
    let dir = "store/pairs/tiny/iter-0/v1";
    let path = project.path(dir).join("part-00000.parquet");
    let mut rows = Pair::read_part(&path).unwrap();
    rows[3].generated.last_mut().unwrap().content = "tampered".into();
    let identity = Manifest::read(&project.path(dir)).unwrap().identity;
    Pair::write_part(&path, &rows, &identity, 0).unwrap();
    forge(&project, dir, |manifest| {
        let file = manifest.files.iter_mut().find(|file| file.path == "part-00000.parquet").unwrap();
        let digests = digest::both_of_file(&path).unwrap();
        (file.blake3, file.bytes, file.sha256) = (digests.blake3, digests.bytes, Some(digests.sha256));
        let (rows, digest) = table::rows_digest(&path).unwrap();
        (file.rows, file.rows_digest) = (Some(rows), Some(digest));
    });
    for child in ["reference/tiny/iter-0", "model/tiny/iter-1", "metrics/tiny/iter-1"] {
        fs::remove_dir_all(project.path(&format!("store/{child}"))).unwrap();
    }
    for gone in ["scores/tiny/iter-1", "samples/tiny/bench/iter-1", "model/tiny/sft-more", "metrics/tiny/sft-more"] {
        fs::remove_dir_all(project.path(&format!("store/{gone}"))).unwrap();
    }
    for gone in ["scores/tiny/sft-more", "samples/tiny/bench/sft-more"] {
        fs::remove_dir_all(project.path(&format!("store/{gone}"))).unwrap();
    }
    // Whoever forges may forge the journal, too.
    fs::remove_file(project.path("store/JOURNAL.jsonl")).unwrap();
    fs::write(project.path("store/STORE.json"), "{\"layout\":1,\"made_by\":\"spin-store\"}\n").unwrap();
    project.run("spin-store verify --store store --level rows");
    let parts = ["pairs/tiny/iter-0@v1: is not what comes out again", "1 changed", "generated was", "tampered"];
    project.fails(&format!("{replay} pairs/tiny/iter-0"), 4, &parts);
}

/// With OpenSSL's keys, and as OpenSSL checks them.
#[test]
fn a_signature_covers_all_that_an_artifact_is_from() {
    let project = Project::new();
    project.run("spin-store import run.toml");
    project.run("spin-fit --sft");
    // RFC 8410's example (section 10.3), and a key of nobody's.
    let private = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
    let public = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
    let other = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuA=";
    let pem = |label: &str, key: &str| format!("-----BEGIN {label}-----\n{key}\n-----END {label}-----\n");
    project.write("key.pem", &pem("PRIVATE KEY", private));
    fs::create_dir(project.path("keys")).unwrap();
    project.write("keys/ada.pub", &pem("PUBLIC KEY", public));
    project.write("nobody.pub", &pem("PUBLIC KEY", other));
    let said = project.run("spin-store seal model/tiny/iter-0 --key key.pem --store store");
    let envelope = said.split(": ").last().unwrap().trim().to_owned();
    let trusted = "spin-store verify model/tiny/iter-0 --store store --trust";
    let said = project.run(&format!("{trusted} keys"));
    for line in ["signed by ada: model/tiny/iter-0@v1", "covered by a signature of ada: demonstrations/tiny/train@v1"] {
        assert!(said.contains(line), "{said}");
    }
    assert!(!project.run(&format!("{trusted} nobody.pub")).contains("signed by"));
    assert!(project.run("spin-store verify --store store --trust keys").contains("not signed: metrics/tiny/iter-0@v1"));
    project.fails("spin-store seal model/tiny/iter-0 --key run.toml --store store", 3, &["openssl genpkey"]);

    // Another signature, another statement, another manifest.
    let good = fs::read_to_string(&envelope).unwrap();
    let value: serde_json::Value = serde_json::from_str(&good).unwrap();
    for (from, to) in [("sig", "AAAA"), ("payload", "e30=")] {
        let mut bad = value.clone();
        match from {
            "sig" => bad["signatures"][0]["sig"] = to.into(),
            _ => bad["payload"] = to.into(),
        }
        fs::write(&envelope, bad.to_string()).unwrap();
        project.fails(&format!("{trusted} keys"), 4, &["was not signed with the key ada"]);
    }
    fs::write(&envelope, good).unwrap();
    forge(&project, "store/model/tiny/iter-0/v1", |manifest| {
        manifest.environment.insert("commit".into(), "another".into());
    });
    project.fails(&format!("{trusted} keys"), 4, &["is of another manifest than model/tiny/iter-0@v1 has"]);
}

#[test]
fn a_manifest_says_by_what_it_was_made() {
    let project = Project::new();
    project.run("spin-store import run.toml");
    project.run("spin-fit --sft");
    let store = Store::open_existing(&project.path("store")).unwrap();
    let model = store.get(&"model/tiny/iter-0".parse().unwrap()).unwrap();
    let m = &model.manifest;
    for key in
        ["commit", "cargo_lock", "compiler", "processor", "device", "features", "threads", "seconds", "peak_memory_mib"]
    {
        assert!(m.environment.contains_key(key), "no {key}");
    }
    assert_eq!(m.environment["run_file"]["keys"]["seed"], m.params["seed"]);
    assert!(m.files.iter().all(|file| file.sha256.as_ref().is_some_and(|digest| digest.len() == 64)));
    assert!(m.parents.iter().all(|parent| parent.is_outside() || parent.seal.is_some()));
    // PROV: every relation is between things that the document has.
    let prov = project.output("spin-store lineage model/tiny/iter-0 --store store --format prov");
    let prov: serde_json::Value = serde_json::from_slice(&prov.stdout).unwrap();
    let has = |kind: &str, id: &serde_json::Value| prov[kind].get(id.as_str().unwrap()).is_some();
    for (relation, ends) in [
        ("used", [("prov:activity", "activity"), ("prov:entity", "entity")]),
        ("wasGeneratedBy", [("prov:activity", "activity"), ("prov:entity", "entity")]),
        ("wasDerivedFrom", [("prov:generatedEntity", "entity"), ("prov:usedEntity", "entity")]),
        ("wasAssociatedWith", [("prov:activity", "activity"), ("prov:agent", "agent")]),
    ] {
        let all = prov[relation].as_object().unwrap();
        assert!(!all.is_empty(), "no {relation}");
        for one in all.values() {
            assert!(ends.iter().all(|(end, kind)| has(kind, &one[*end])), "{relation}: {one}");
        }
    }
    // The committed schema is that of the structs, and knows every key that is written.
    let schema = project.run("spin-store schema");
    let docs = crate::project::shipped("docs/manifest.schema.json");
    let hint = "write it anew: spin-store schema > docs/manifest.schema.json";
    assert!(schema == fs::read_to_string(docs).unwrap(), "{hint}");
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let written = serde_json::to_value(m).unwrap();
    for key in written.as_object().unwrap().keys() {
        assert!(schema["properties"].get(key).is_some(), "no {key}");
    }
}
