use std::fs;

use super::*;
use crate::manifest::LAYOUT;
use crate::store::Store;

fn note(event: Event, artifact: &str, seal: &str) -> Note {
    Note { event, artifact: artifact.into(), seal: seal.into() }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn said(store: &Store, found: &[(&str, &str)]) -> Vec<String> {
    let found = found.iter().map(|(name, seal)| ((*name).to_owned(), Some((*seal).to_owned()))).collect();
    let problems = store.journal().unwrap().unwrap().problems(store.root(), &found);
    problems.into_iter().map(|(artifact, error)| format!("{artifact}: {error}")).collect()
}

#[test]
fn what_was_published_must_be_there_until_it_is_removed() {
    let (_dir, store) = store();
    store.note(None, vec![note(Event::Publishing, "a", "1")]).unwrap();
    // Killed before the rename or after it.
    assert!(said(&store, &[]).is_empty() && said(&store, &[("a", "1")]).is_empty());
    store.note(Some("now"), vec![note(Event::Published, "a", "1")]).unwrap();
    assert!(said(&store, &[("a", "1")]).is_empty());
    assert!(said(&store, &[])[0].contains("has it, in entry 2, and it is gone"));
    assert!(said(&store, &[("a", "2")])[0].contains("its manifest was written anew"));
    assert!(said(&store, &[("a", "1"), ("b", "1")])[0].contains("b: "));
    store.note(None, vec![note(Event::Removing, "a", "1")]).unwrap();
    assert!(said(&store, &[]).is_empty() && said(&store, &[("a", "1")]).is_empty());
    store.note(None, vec![note(Event::Removed, "a", "1")]).unwrap();
    assert!(said(&store, &[]).is_empty());
    assert!(said(&store, &[("a", "1")])[0].contains("has it removed, in entry 4"));
    let journal = store.journal().unwrap().unwrap();
    assert!(journal.knows("a", "1") && !journal.knows("a", "2") && journal.line_of_head(&journal.head()).is_some());
    assert_eq!(journal.entries[1].at.as_deref(), Some("now"));
}

#[test]
fn a_half_line_is_none_and_an_edited_one_breaks_the_chain() {
    let (_dir, store) = store();
    let path = store.root().join(FILE_NAME);
    for seal in ["1", "2", "3"] {
        store.note(None, vec![note(Event::Published, "a", seal)]).unwrap();
    }
    let whole = fs::read(&path).unwrap();
    store.note(None, vec![note(Event::Published, "a", "4")]).unwrap();
    let more = fs::read(&path).unwrap();
    for half in [1, 8, 40, more.len() - whole.len() - 2] {
        fs::write(&path, &more[..whole.len() + half]).unwrap();
        assert_eq!(store.journal().unwrap().unwrap().entries.len(), 3);
    }
    store.note(None, vec![note(Event::Published, "a", "4")]).unwrap();
    assert_eq!(store.journal().unwrap().unwrap().entries.len(), 4);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let without = |gone: usize| {
        let kept = lines.iter().enumerate().filter(|(i, _)| *i != gone).map(|(_, line)| format!("{line}\n"));
        fs::write(&path, kept.collect::<String>()).unwrap();
        store.journal().map(|journal| journal.unwrap().entries.len())
    };
    assert!(without(1).unwrap_err().to_string().contains("row 2: does not follow from the line before it"));
    // Only a head that was kept tells that the last is gone.
    let head = serde_json::from_str::<Entry>(lines[3]).unwrap().digest;
    assert_eq!(without(3).unwrap(), 3);
    assert!(store.journal().unwrap().unwrap().line_of_head(&head).is_none());
    fs::write(&path, text.replace("\"2\"", "\"9\"")).unwrap();
    assert!(store.journal().unwrap_err().to_string().contains("row 2: was altered"));
    // Every bit counts, those of the last line too.
    for (at, byte) in text.bytes().enumerate().skip(text.len() - lines[3].len() - 2) {
        let mut bad = text.clone().into_bytes();
        bad[at] = byte ^ 4;
        fs::write(&path, bad).unwrap();
        assert!(store.journal().is_err(), "byte {at} of {}", text.len());
    }
    // The end of the last line alone may be missing, and comes with the next one.
    fs::write(&path, text.trim_end()).unwrap();
    assert_eq!(store.journal().unwrap().unwrap().entries.len(), 4);
    store.note(None, vec![note(Event::Published, "a", "5")]).unwrap();
    assert_eq!(store.journal().unwrap().unwrap().entries.len(), 5);
}

#[test]
fn eight_writers_make_one_chain() {
    let (_dir, store) = store();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..5 {
                    store.note(None, vec![note(Event::Published, &format!("{writer}"), "1")]).unwrap();
                }
            });
        }
    });
    assert_eq!(store.journal().unwrap().unwrap().entries.len(), 40);
}

/// Killed between the first journal and the layout that promises one.
#[test]
fn a_store_that_has_a_journal_says_so() {
    let (_dir, store) = store();
    fs::write(store.root().join("STORE.json"), "{\"layout\":1,\"made_by\":\"spin-store\"}\n").unwrap();
    store.note(None, vec![note(Event::Published, "a", "1")]).unwrap();
    assert_eq!((store.layout().unwrap(), store.journal().unwrap().unwrap().entries.len()), (LAYOUT, 1));
}

#[test]
fn a_journal_that_is_gone_is_not_begun_anew_unseen() {
    let (_dir, store) = store();
    fs::remove_file(store.root().join(FILE_NAME)).unwrap();
    let error = store.note(None, Vec::new()).unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("JOURNAL.jsonl: is gone"), "{error}");
}
