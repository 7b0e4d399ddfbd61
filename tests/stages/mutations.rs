//! Inputs that nobody wrote, thrown for a moment at everything that reads files from
//! outside; `mutate TARGET SECONDS` does it for longer, `just fuzz TARGET SECONDS` with
//! coverage.

use std::collections::BTreeSet;
use std::time::Duration;

use spin_tests::mutate::{TARGETS, run};

use crate::project::shipped;

#[test]
fn no_mutation_makes_a_reader_panic() {
    for target in TARGETS {
        let outcome = run(target, Duration::from_millis(1000), 7, &std::env::temp_dir()).unwrap();
        assert!(outcome.tried > 10, "{target}: only {} tried", outcome.tried);
        assert!(outcome.slowest < Duration::from_secs(20), "{target}: one took {:?}", outcome.slowest);
    }
}

/// Mutations of nothing: the good inputs are taken.
#[test]
fn what_is_mutated_is_good() {
    for target in TARGETS {
        let reader = spin_readers::Reader::new(target).unwrap();
        if let Err(error) = reader.take(&reader.seeds()[0]) {
            panic!("{target} refuses a good input: {error:#}");
        }
    }
}

/// The fuzzer's workspace is its own; no build of ours sees whether it still fits.
#[test]
fn the_fuzzer_has_every_reader_and_our_releases_of_packages() {
    let fuzz = shipped("tests/fuzz");
    let read = |path: &str| -> toml::Table { std::fs::read_to_string(fuzz.join(path)).unwrap().parse().unwrap() };
    let manifest = read("Cargo.toml");
    let programs: Vec<&str> =
        manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap()).collect();
    assert_eq!(programs, TARGETS);
    for target in TARGETS {
        let text = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(text.contains(&format!("reader!(\"{target}\")")), "{target} fuzzes another");
    }
    let releases = |lock: toml::Table| -> BTreeSet<(String, String)> {
        let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
        lock["package"].as_array().unwrap().iter().map(|one| (text(&one["name"]), text(&one["version"]))).collect()
    };
    let ours = releases(std::fs::read_to_string(shipped("Cargo.lock")).unwrap().parse().unwrap());
    let other: Vec<_> = releases(read("Cargo.lock")).into_iter().filter(|one| !ours.contains(one)).collect();
    assert_eq!(other, [("spin-fuzz".to_owned(), "0.0.0".to_owned())]);
}
