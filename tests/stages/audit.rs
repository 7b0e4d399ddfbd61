//! What `spin-store verify` must see: forgeries with good seals, and what was
//! deleted or put beside. Each is done to a copy of a store of release 0.1.

use std::fs;
use std::os::unix::fs::symlink;

use spin_run::schema::{Pair, Row};
use spin_store::manifest::{content_of, identity_of};
use spin_store::{Manifest, Parent, digest, table};

use crate::project::{Project, shipped};

const FIXTURE: &str = "tests/fixtures/store-0.1";
const PAIRS: &str = "store/pairs/tiny/iter-0/v1";
const SCORES: &str = "store/scores/tiny/iter-1";

/// Changes a manifest and makes everything fit again that follows from it, as
/// somebody who writes in the store can.
fn forge(project: &Project, dir: &str, change: impl FnOnce(&mut Manifest)) {
    let dir = project.path(dir);
    let mut manifest = Manifest::read(&dir).unwrap();
    change(&mut manifest);
    manifest.content = content_of(&manifest.files);
    manifest.identity = identity_of(&manifest.stage, manifest.kind, &manifest.params, &manifest.parents);
    fs::write(dir.join("manifest.json"), manifest.sealed().to_text()).unwrap();
}

/// Puts the digests of a changed part into the manifest.
fn record(project: &Project, dir: &str, with_rows: bool) {
    let path = project.path(dir).join("part-00000.parquet");
    forge(project, dir, |manifest| {
        let file = manifest.files.iter_mut().find(|file| file.path == "part-00000.parquet").unwrap();
        (file.blake3, file.bytes) = digest::of_file(&path).unwrap();
        if with_rows {
            let (rows, digest) = table::rows_digest(&path).unwrap();
            (file.rows, file.rows_digest) = (Some(rows), Some(digest));
        }
    });
}

/// Copies a version under another number.
fn copy_version(project: &Project, name: &str, to: &str) {
    let (from, to) = (project.path(name).join("v1"), project.path(name).join(to));
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn seen(done: impl FnOnce(&Project), level: &str, parts: &[&str]) {
    let project = Project::of(&shipped(FIXTURE));
    project.run("spin-store verify --store store --level rows");
    done(&project);
    project.fails(&format!("spin-store verify --store store --level {level}"), 4, parts);
}

#[test]
fn what_was_deleted_is_missed() {
    let delete = |project: &Project| fs::remove_dir_all(project.path("store/model/tiny/base")).unwrap();
    seen(delete, "structure", &["its parent model/tiny/base@v1 is not there"]);
    let renumber = |project: &Project| {
        fs::rename(project.path(SCORES).join("v1"), project.path(SCORES).join("v2")).unwrap();
        forge(project, &format!("{SCORES}/v2"), |manifest| manifest.version = 2);
    };
    seen(renumber, "structure", &["has a version 2 and no version 1: it was deleted"]);
}

#[test]
fn what_belongs_nowhere_is_named() {
    for name in ["v01", "v0", "v99999999999"] {
        let add = |project: &Project| copy_version(project, SCORES, name);
        seen(add, "structure", &[name, "is called as no version is"]);
    }
    let file = |project: &Project| project.write("store/scores/tiny/notes.txt", "x");
    seen(file, "structure", &["notes.txt: is a file where only versions belong"]);
    let kind = |project: &Project| {
        fs::create_dir_all(project.path("store/rewards/tiny/v1")).unwrap();
        project.write("store/rewards/tiny/v1/manifest.json", "{}");
    };
    seen(kind, "structure", &["rewards: holds artifacts of a kind that this program does not know"]);
    // What people keep beside the kinds is theirs.
    let project = Project::of(&shipped(FIXTURE));
    fs::create_dir_all(project.path("store/benchmarks/v1/x")).unwrap();
    project.write("store/oracle.jsonl", "{}");
    project.run("spin-store verify --store store --level rows");
}

/// A walk follows no link, and so no reader does: both see the same store.
#[test]
fn links_are_refused_by_verify_and_by_readers() {
    let link = |project: &Project| {
        fs::rename(project.path(SCORES), project.path("forged")).unwrap();
        symlink(project.path("forged"), project.path(SCORES)).unwrap();
    };
    seen(link, "structure", &["scores/tiny/iter-1: is a link, which no reader follows"]);
    let project = Project::of(&shipped(FIXTURE));
    link(&project);
    project.fails("spin-store show scores/tiny/iter-1 --store store", 3, &["is a link, which no reader follows"]);
    project.fails("spin-store lineage scores/tiny/iter-1 --store store", 3, &["is a link"]);
    // A whole kind may lie on another disk.
    let project = Project::of(&shipped(FIXTURE));
    fs::rename(project.path("store/scores"), project.path("elsewhere")).unwrap();
    symlink(project.path("elsewhere"), project.path("store/scores")).unwrap();
    project.run("spin-store verify --store store --level rows");
    project.run("spin-store show scores/tiny/iter-1 --store store");
}

#[test]
fn files_outside_of_their_artifact_are_no_files_of_it() {
    for path in ["/etc/hostname", "../v1/results.json"] {
        let outside = |project: &Project| {
            forge(project, &format!("{SCORES}/v1"), |manifest| manifest.files[0].path = path.into());
        };
        seen(outside, "structure", &[path, "which is no file of an artifact"]);
    }
}

#[test]
fn equal_inputs_twice_and_circles_are_named() {
    let twice = |project: &Project| {
        copy_version(project, SCORES, "v2");
        forge(project, &format!("{SCORES}/v2"), |manifest| manifest.version = 2);
    };
    seen(twice, "structure", &["has the identity of scores/tiny/iter-1@v1 and the same content"]);
    let other = |project: &Project| {
        twice(project);
        fs::write(project.path(SCORES).join("v2/results.json"), "{}").unwrap();
        forge(project, &format!("{SCORES}/v2"), |manifest| {
            let file = manifest.files.iter_mut().find(|file| file.path == "results.json").unwrap();
            (file.blake3, file.bytes) = digest::of_file(&project.path(SCORES).join("v2/results.json")).unwrap();
        });
    };
    seen(other, "structure", &["has the identity of scores/tiny/iter-1@v1 and another content"]);
    let circle = |project: &Project| {
        let scores = Manifest::read(&project.path(SCORES).join("v1")).unwrap();
        forge(project, "store/model/tiny/iter-1/v1", |manifest| {
            let origin = scores.reference().into();
            manifest.parents.push(Parent {
                role: "scores".into(),
                origin,
                content: scores.content.clone(),
                seal: None,
            });
        });
    };
    seen(circle, "structure", &["which is made from it"]);
}

/// The seal says that nobody edited a manifest, not that it was true.
#[test]
fn false_rows_are_found_by_reading_them() {
    let count = |project: &Project| {
        forge(project, PAIRS, |manifest| {
            let file = manifest.files.iter_mut().find(|file| file.rows.is_some()).unwrap();
            file.rows = file.rows.map(|rows| rows + 1);
        });
        project.run("spin-store verify --store store --level hash");
    };
    seen(count, "rows", &["rows, its manifest says"]);
    let values = |project: &Project| {
        forge(project, PAIRS, |manifest| {
            let file = manifest.files.iter_mut().find(|file| file.rows_digest.is_some()).unwrap();
            file.rows_digest = Some("0".repeat(64));
        });
    };
    seen(values, "rows", &["has other values than the digest of its rows"]);
    let label = |project: &Project| {
        let path = project.path(PAIRS).join("part-00000.parquet");
        let rows = Pair::read_part(&path).unwrap();
        Pair::write_part(&path, &rows, &"1".repeat(64), 0).unwrap();
        record(project, PAIRS, true);
    };
    seen(label, "rows", &["says spin.identity = 1111"]);
}

/// Parts of two tables exchanged, with digests to fit or not.
#[test]
fn swapped_parts_are_found() {
    let [train, test] = ["train", "test"].map(|split| format!("store/demonstrations/tiny/{split}/v1"));
    let part = |project: &Project, dir: &str| project.path(dir).join("part-00000.parquet");
    let swap = |project: &Project| {
        let kept = fs::read(part(project, &train)).unwrap();
        fs::copy(part(project, &test), part(project, &train)).unwrap();
        fs::write(part(project, &test), kept).unwrap();
    };
    seen(swap, "hash", &["demonstrations/tiny/train@v1", "its manifest says"]);
    let forged = |project: &Project| {
        swap(project);
        for dir in [&train, &test] {
            record(project, dir, true);
        }
    };
    seen(forged, "rows", &["demonstrations/tiny/train@v1", "says spin.identity = "]);
}

/// As the original's data sets had every row.
#[test]
fn doubled_rows_are_found() {
    let double = |project: &Project| {
        let dir = project.path(PAIRS);
        let (path, identity) = (dir.join("part-00000.parquet"), Manifest::read(&dir).unwrap().identity);
        let rows = Pair::read_part(&path).unwrap();
        Pair::write_part(&path, &[&rows[..], &rows[..]].concat(), &identity, 0).unwrap();
        record(project, PAIRS, true);
    };
    seen(double, "rows", &["pairs/tiny/iter-0@v1", "has the row_id, iteration, sample_index of a row before it"]);
    seen(double, "structure", &["other content than it was made from"]);
    let project = Project::of(&shipped(FIXTURE));
    double(&project);
    project.fails("spin-store verify pairs/tiny/iter-0 --store store --level rows", 4, &["of a row before it"]);
}

#[test]
fn what_sets_two_artifacts_apart_is_said() {
    let project = Project::of(&shipped(FIXTURE));
    project.run("spin-store diff model/tiny/iter-0 model/tiny/iter-0 --store store");
    let scores = ["made:", "rows:", "0 added, 0 removed", "changed: task"];
    project.fails("spin-store diff scores/tiny/iter-0 scores/tiny/iter-1 --store store", 4, &scores);
    let models = ["made:", "file:  model.safetensors has other bytes"];
    project.fails("spin-store diff model/tiny/iter-0 model/tiny/iter-1 --store store", 4, &models);
    project.fails("spin-store diff model/tiny/iter-0 scores/tiny/iter-1 --store store", 3, &["of one kind"]);

    // Another version of the pairs: one answer changed, one pair gone, one new.
    copy_version(&project, "store/pairs/tiny/iter-0", "v2");
    forge(&project, "store/pairs/tiny/iter-0/v2", |manifest| {
        manifest.version = 2;
        manifest.params["extra"] = 7.into();
    });
    let dir = project.path("store/pairs/tiny/iter-0/v2");
    let (path, identity) = (dir.join("part-00000.parquet"), Manifest::read(&dir).unwrap().identity);
    let mut rows = Pair::read_part(&path).unwrap();
    rows[0].generated.last_mut().unwrap().content = "other".into();
    let gone = rows.remove(1).row_id;
    rows.last_mut().unwrap().row_id = "new".into();
    Pair::write_part(&path, &rows, &identity, 0).unwrap();
    record(&project, "store/pairs/tiny/iter-0/v2", true);
    let line = "spin-store diff pairs/tiny/iter-0@v1 pairs/tiny/iter-0@v2 --store store";
    let changed = format!("changed: row_id {:?}", rows[0].row_id);
    let parts = [
        "extra was not set, is 7",
        "1 added, 2 removed, 1 changed",
        &changed,
        "generated was",
        "other",
        "added: row_id \"new\"",
        &format!("removed: row_id {gone:?}"),
    ];
    project.fails(line, 4, &parts);
    let json = project.output(&format!("{line} --format json"));
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json["rows"]["added"].as_u64(), json["rows"]["changed"].as_u64()), (Some(1), Some(1)));
}

#[test]
fn one_artifact_is_verified_with_all_it_is_from() {
    let project = Project::of(&shipped(FIXTURE));
    let said = project.run("spin-store verify scores/tiny/iter-0 --store store --level rows");
    let count = |said: &str| said.split_whitespace().next().unwrap().parse::<usize>().unwrap();
    let all = project.run("spin-store verify --store store");
    assert!(said.contains("all as recorded") && count(&said) < count(&all) && count(&said) > 2, "{said} {all}");
    // What it is not from does not count; what it is from does.
    let damage = |path: &str| fs::write(project.path(path), "x").unwrap();
    damage("store/scores/tiny/iter-1/v1/results.json");
    project.run("spin-store verify scores/tiny/iter-0 --store store");
    damage("store/model/tiny/base/v1/config.json");
    project.fails("spin-store verify scores/tiny/iter-0 --store store", 4, &["model/tiny/base@v1", "config.json"]);
    project.run("spin-store verify scores/tiny/iter-0 --store store --level structure");
}

#[test]
fn rows_are_asked_in_sql_once_their_bytes_held() {
    let project = Project::of(&shipped(FIXTURE));
    let ask = |sql: &str, more: &str| {
        let mut command = project.command(&format!("spin-store query --store store {more}"));
        let output = command.arg(sql).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let manifest = Manifest::read(&project.path(PAIRS)).unwrap();
    let (code, out, said) = ask("SELECT count(*) AS n FROM pairs", "--from pairs/tiny/iter-0");
    assert_eq!((code, out), (Some(0), format!("n\n{}\n", manifest.rows())), "{said}");
    let sql = "SELECT p.row_id, s.response_ids FROM p JOIN s USING (row_id, sample_index) ORDER BY p.row_id LIMIT 1";
    let tables = "--from p=pairs/tiny/iter-0 --from s=samples/tiny/iter-0";
    let (code, out, said) = ask(sql, &format!("{tables} --format jsonl"));
    assert!(code == Some(0) && out.contains("\"response_ids\":["), "{out}{said}");
    for (sql, from, says) in [
        ("SELECT nothing FROM pairs", "--from pairs/tiny/iter-0", "the tables are pairs"),
        ("SELECT 1", "--from pairs/tiny/iter-0 --from pairs/tiny/iter-0", "two tables are called pairs"),
        ("SELECT 1", "--from model/tiny/iter-0", "has no table"),
    ] {
        let (code, _, said) = ask(sql, from);
        assert!(code == Some(3) && said.contains(says), "{code:?} {said}");
    }
    let part = project.path(PAIRS).join("part-00000.parquet");
    let mut bytes = fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&part, bytes).unwrap();
    let (code, out, said) = ask("SELECT count(*) AS n FROM pairs", "--from pairs/tiny/iter-0");
    assert!(code != Some(0) && out.is_empty() && said.contains("part-00000.parquet"), "{code:?} {out}{said}");
}
