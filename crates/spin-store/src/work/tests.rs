use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::row::numbers::Number;

fn work(dir: &Path, identity: &str) -> WorkDir {
    WorkDir::open(&dir.join(identity), identity).unwrap()
}

fn rows(seed: u32) -> Vec<Number> {
    (0..3).map(|i| Number(3 * seed + i)).collect()
}

fn why(work: &WorkDir, name: &str, index: usize) -> String {
    match work.read_part::<Number>(name, index).unwrap() {
        Found::Unusable(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn second_holder_is_told_who_has_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let work = work(dir.path(), "w");
    let held = work.lock("lock").unwrap();
    let error = work.lock("lock").unwrap_err().to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    drop(held);
    work.lock("lock").unwrap();
}

#[test]
fn who_waits_hears_of_the_holder_and_gets_the_lock_or_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let work = work(dir.path(), "w");
    let held = work.lock_as("lock", "somebody").unwrap();
    let mut heard = Vec::new();
    let mut tell = |who: &str| heard.push(who.to_owned());
    let error = work.lock_within("lock", "me", Duration::from_millis(400), &mut tell).unwrap_err();
    assert!(matches!(error, StoreError::Locked { ref holder, .. } if holder == "somebody"), "{error}");
    assert_eq!(heard, ["somebody"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            drop(held);
        });
        work.lock_within("lock", "me", Duration::from_secs(60), &mut |_| {}).unwrap();
    });
    assert!(!work.has("lock"), "nobody has it");
}

#[test]
fn one_at_a_time_has_a_lock_that_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let work = work(dir.path(), "w");
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let lock = work.lock_within("lock", "me", Duration::from_secs(60), &mut |_| {}).unwrap();
                    let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(lock);
                }
            });
        }
    });
    assert_eq!(most.into_inner(), 1);
}

#[test]
fn a_part_comes_back_with_its_facts_and_is_copied_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let work = work(dir.path(), "a");
    let name = table::part_name(2);
    assert_eq!(work.read_part::<Number>(&name, 2).unwrap(), Found::Absent);
    assert_eq!(work.copy_part(&name, &dir.path().join("copy")).unwrap(), Found::Absent);
    work.write_part(&name, 2, &rows(1), &json!({"engine": "e"})).unwrap();
    let part = work.read_part::<Number>(&name, 2).unwrap().whole().unwrap();
    assert_eq!(part, WorkPart { rows: rows(1), facts: json!({"engine": "e"}) });
    // Published parts are what they were without records.
    Number::write_part(&dir.path().join("plain"), &rows(1), "a", 2).unwrap();
    work.copy_part(&name, &dir.path().join("copy")).unwrap().whole().unwrap();
    assert_eq!(std::fs::read(dir.path().join("plain")).unwrap(), std::fs::read(dir.path().join("copy")).unwrap());
}

#[test]
fn every_flipped_bit_of_a_part_or_its_record_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let work = work(dir.path(), "a");
    let name = table::part_name(0);
    work.write_part(&name, 0, &rows(1), &json!({"engine": "e"})).unwrap();
    let expected = work.read_part::<Number>(&name, 0).unwrap();
    for file in [name.clone(), record_name(&name)] {
        let path = work.path(&file);
        let good = std::fs::read(&path).unwrap();
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1 << (byte % 8);
            std::fs::write(&path, &bad).unwrap();
            let found = work.read_part::<Number>(&name, 0).unwrap();
            // White space after the record is no part of it.
            let harmless = file != name && byte + 1 == good.len() && found == expected;
            assert!(matches!(found, Found::Unusable(_)) || harmless, "byte {byte} of {file}: {found:?}");
            if byte % 16 == 0 {
                assert!(work.copy_part(&name, &dir.path().join("copy")).unwrap().whole().is_none());
            }
        }
        std::fs::write(&path, &good).unwrap();
    }
    assert_eq!(work.read_part::<Number>(&name, 0).unwrap(), expected);
}

#[test]
fn parts_of_other_work_other_places_and_earlier_releases_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (work(dir.path(), "ours"), work(dir.path(), "theirs"));
    let (first, second) = (table::part_name(0), table::part_name(1));
    ours.write_part(&first, 0, &rows(1), &Value::Null).unwrap();
    theirs.write_part(&second, 1, &rows(2), &Value::Null).unwrap();
    let copy = |from: &WorkDir, name: &str, to: &str| std::fs::copy(from.path(name), ours.path(to)).unwrap();
    copy(&theirs, &second, &second);
    assert_eq!(why(&ours, &second, 1), "it has no record beside it");
    copy(&theirs, &record_name(&second), &record_name(&second));
    assert_eq!(why(&ours, &second, 1), "it was made for something else");
    copy(&ours, &first, &second);
    copy(&ours, &record_name(&first), &record_name(&second));
    assert_eq!(why(&ours, &second, 1), "it was made for something else");
    std::fs::write(ours.path(&record_name(&first)), r#"{"engine": "of an earlier release"}"#).unwrap();
    assert!(why(&ours, &first, 0).contains("earlier release"));
    // A record that fits a file whose own label does not.
    let bytes = Number::encode_part(&ours.path(&first), &rows(1), "theirs", 0).unwrap();
    std::fs::write(ours.path(&first), &bytes).unwrap();
    std::fs::write(ours.path(&record_name(&first)), record(&first, "ours", &bytes, &Value::Null)).unwrap();
    assert!(why(&ours, &first, 0).contains("says spin.identity = theirs"));
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_absent_part() {
    let dir = tempfile::tempdir().unwrap();
    let work = work(dir.path(), "a");
    // Reading a directory fails with EISDIR, whoever we are.
    std::fs::create_dir(work.path("part-00000.parquet")).unwrap();
    let error = work.read_part::<Number>("part-00000.parquet", 0).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}
