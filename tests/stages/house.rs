//! The walls: which crate may know which, files that one reader can hold, and
//! no two files that need each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::project::shipped;

/// Lines of a file of logic, and of one that ties a stage together.
const LONGEST: usize = 450;
const LONGEST_STAGE: usize = 250;

fn crates() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        std::fs::read_dir(shipped("crates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    dirs.sort();
    assert!(dirs.len() > 8);
    dirs
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => files.extend(rust_files(&entry)),
            false if entry.extension().is_some_and(|end| end == "rs") => files.push(entry),
            false => {}
        }
    }
    files.sort();
    files
}

fn is_test(path: &Path) -> bool {
    let stem = path.file_stem().unwrap().to_string_lossy();
    // Below `src`: the way to the crates leads through the directory of these tests.
    let mut below = path.iter().skip_while(|part| *part != "src");
    stem == "tests" || stem.ends_with("_tests") || below.any(|part| part == "tests")
}

/// What the documents say of the keys of a run file is what reads it.
#[test]
fn the_documented_settings_are_those_of_the_structs() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let read = |name: &str| std::fs::read_to_string(docs.join(name)).unwrap();
    assert!(
        read("settings.md") == spin_run::settings::markdown(),
        "write it anew: spin-run settings > docs/settings.md"
    );
    // Every struct that reads a table of the file has its own, with at least one key.
    let tables = read("settings.md").matches("\n| key | default | |\n|---|---|---|\n| `").count();
    let structs = spin_run::settings::schema()["$defs"].as_object().unwrap().clone();
    // `DataConfig` only holds the two sources; the top of the file is no definition.
    let structs = structs.iter().filter(|(name, of)| *name != "DataConfig" && of["properties"].is_object()).count();
    assert_eq!(tables, structs + 1, "settings.rs does not list a table");
    let schema: serde_json::Value = serde_json::from_str(&read("run.schema.json")).unwrap();
    assert!(
        schema == spin_run::settings::schema(),
        "write it anew: spin-run settings --format schema > docs/run.schema.json"
    );
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let files: Vec<PathBuf> =
        crates().iter().flat_map(|dir| rust_files(&dir.join("src"))).filter(|path| !is_test(path)).collect();
    assert!(files.len() > 200, "files are looked at: {}", files.len());
    let too_long = files.iter().filter_map(|path| {
        let lines = std::fs::read_to_string(path).unwrap().lines().count();
        let longest = if path.ends_with("stage.rs") { LONGEST_STAGE } else { LONGEST };
        (lines > longest).then(|| format!("{} has {lines} lines", path.display()))
    });
    assert_eq!(too_long.collect::<Vec<_>>(), [""; 0]);
}

/// Files of an artifact are reached by `Artifact::verified` alone.
#[test]
fn stages_read_nothing_that_was_not_checked() {
    let stages = ["spin-sample", "spin-pair", "spin-fit", "spin-bench", "spin-report"];
    let files = stages.iter().flat_map(|name| rust_files(&shipped("crates").join(name).join("src")));
    let files: Vec<PathBuf> = files.filter(|path| !is_test(path)).collect();
    assert!(files.len() > 100, "files are looked at: {}", files.len());
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for way in [".place()", "unverified_parts", "verified_where"] {
            // Of a model without its weights, by one rule.
            let text = text.replace("verified_where(ModelShape::is_beside_weights)", "");
            assert!(!text.contains(way), "{} reads files by {way}", path.display());
        }
    }
}

#[test]
fn crates_know_only_what_is_below_them() {
    let below: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("spin-cli", &[][..]),
        ("spin-cuda", &[]),
        ("spin-noise", &[]),
        ("spin-store", &[]),
        ("spin-text", &["spin-cli", "spin-noise"]),
        ("spin-model", &["spin-cuda", "spin-noise"]),
        ("spin-net", &["spin-noise", "spin-store"]),
        ("spin-run", &["spin-cli", "spin-net", "spin-noise", "spin-store", "spin-text"]),
        ("spin-report", &["spin-run", "spin-store"]),
        ("spin-pair", &["spin-cli", "spin-run", "spin-store", "spin-text"]),
        ("spin-sample", &["spin-cli", "spin-model", "spin-net", "spin-noise", "spin-run", "spin-store", "spin-text"]),
        ("spin-fit", &["spin-cli", "spin-model", "spin-noise", "spin-run", "spin-store", "spin-text"]),
        (
            "spin-bench",
            &["spin-cli", "spin-model", "spin-net", "spin-noise", "spin-report", "spin-run", "spin-store", "spin-text"],
        ),
    ]);
    for dir in crates() {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
        let own = dependencies.into_iter().flat_map(|table| table.keys()).filter(|key| key.starts_with("spin-"));
        let allowed = below.get(name.as_str()).unwrap_or_else(|| panic!("say what {name} may know"));
        for dependency in own {
            assert!(allowed.contains(&dependency.as_str()), "{name} knows {dependency}");
        }
    }
}

/// A module as its path within a crate.
type Module = Vec<String>;

/// The modules of a crate's library, and what each imports from others of it.
struct Imports {
    files: BTreeMap<Module, String>,
    /// What a module gives on that another defines.
    given_on: BTreeMap<(Module, String), Module>,
}

impl Imports {
    fn of(src: &Path) -> Imports {
        let mut files = BTreeMap::new();
        for path in rust_files(src).into_iter().filter(|path| !is_test(path)) {
            let relative = path.strip_prefix(src).unwrap().with_extension("");
            let mut parts: Module = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            // Programs import their library, never the other way round.
            if ["main", "bin"].contains(&parts[0].as_str()) {
                continue;
            }
            if ["mod", "lib"].contains(&parts.last().unwrap().as_str()) {
                parts.pop();
            }
            files.insert(parts, code(&std::fs::read_to_string(&path).unwrap()));
        }
        let mut imports = Imports { files, given_on: BTreeMap::new() };
        let given_on = imports.files.iter().flat_map(|(module, text)| {
            let all = uses(text).into_iter().filter(|(_, is_given_on)| *is_given_on);
            all.filter_map(|(path, _)| {
                let target = imports.absolute(module, &path)?;
                Some(((module.clone(), target.last()?.clone()), target))
            })
        });
        imports.given_on = given_on.collect();
        imports
    }

    /// A path from the crate's root, where it is one of the crate.
    fn absolute(&self, module: &Module, path: &str) -> Option<Module> {
        let mut parts: Vec<&str> = path.split("::").map(str::trim).collect();
        let mut at = module.clone();
        match parts[0] {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                while parts.first() == Some(&"super") {
                    at.pop();
                    parts.remove(0);
                }
                parts.insert(0, "super");
            }
            first => {
                at.push(first.to_owned());
                if !self.files.contains_key(&at) {
                    return None;
                }
            }
        }
        at.extend(parts.into_iter().skip(1).map(str::to_owned));
        Some(at)
    }

    /// The module that defines what a path names.
    fn definer(&self, path: &[String], depth: usize) -> Option<Module> {
        let length = (0..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length]))?;
        let (module, rest) = path.split_at(length);
        let next = rest.first().and_then(|name| self.given_on.get(&(module.to_vec(), name.clone())));
        match next {
            Some(target) if depth < 9 => self.definer(&[target.as_slice(), &rest[1..]].concat(), depth + 1),
            _ => Some(module.to_vec()),
        }
    }

    fn needs(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let inline = Regex::new(r"\b(?:crate|super)(?:::\w+)+").unwrap();
        let imports = Regex::new(r"use\s+[^;]+;").unwrap();
        let mut needs = BTreeMap::new();
        for (module, text) in &self.files {
            let mut paths: Vec<String> = uses(text).into_iter().filter(|(_, on)| !on).map(|(path, _)| path).collect();
            let bare = imports.replace_all(text, "");
            paths.extend(inline.find_iter(&bare).map(|found| found.as_str().to_owned()));
            let targets = paths.iter().filter_map(|path| self.definer(&self.absolute(module, path)?, 0));
            needs.insert(module, targets.filter(|target| target != module).collect());
        }
        needs
    }

    /// Modules that need themselves by way of others.
    fn circles(&self) -> Vec<String> {
        let needs = self.needs();
        let reaches = |from: &Module| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
            while let Some(module) = open.pop() {
                for next in needs.get(module).into_iter().flatten() {
                    if seen.insert(next) {
                        open.push(next);
                    }
                }
            }
            seen.contains(from)
        };
        needs.keys().filter(|module| reaches(module)).map(|module| module.join("/")).collect()
    }
}

/// The text without comments and without tests at its end.
fn code(text: &str) -> String {
    let end = Regex::new(r"#\[cfg\(test\)\]\s*mod \w+ \{").unwrap();
    let end = end.find(text).map_or(text.len(), |found| found.start());
    Regex::new(r"//[^\n]*").unwrap().replace_all(&text[..end], "").into_owned()
}

/// Every path of every `use`, and whether it is given on.
fn uses(text: &str) -> Vec<(String, bool)> {
    let one = Regex::new(r"(pub(?:\([^)]*\))?\s+)?\buse\s+([^;]+);").unwrap();
    let mut found = Vec::new();
    for captures in one.captures_iter(text) {
        expanded(captures[2].trim(), &mut |path| found.push((path, captures.get(1).is_some())));
    }
    found
}

fn expanded(text: &str, tell: &mut dyn FnMut(String)) {
    let Some((before, inner)) =
        text.split_once('{').and_then(|(before, rest)| Some((before, rest.rsplit_once('}')?.0)))
    else {
        let path = text.split(" as ").next().unwrap_or(text);
        return tell(path.trim().to_owned());
    };
    let (mut depth, mut start) = (0, 0);
    let parts = inner.char_indices().chain([(inner.len(), ',')]);
    for (at, c) in parts {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inner[start..at].trim();
                start = (at + 1).min(inner.len());
                if !part.is_empty() {
                    expanded(&format!("{before}{part}"), tell);
                }
            }
            _ => {}
        }
    }
}

#[test]
fn no_two_files_need_each_other() {
    let mut all = Vec::new();
    for dir in crates() {
        let circles = Imports::of(&dir.join("src")).circles();
        all.extend(circles.into_iter().map(|circle| format!("{}: {circle}", dir.display())));
    }
    assert_eq!(all, [""; 0]);
}

#[test]
fn a_circle_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub use a::{A, Other};\n");
    write("a.rs", "use crate::b::{self, B};\npub struct A;\n");
    write("b.rs", "use std::fmt;\nuse crate::c::C;\npub struct B;\n");
    write("c.rs", "pub struct C;\n#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}\n");
    assert!(Imports::of(dir.path()).circles().is_empty());
    // By way of what the root gives on, and of a path in the text.
    write("c.rs", "pub struct C;\nfn f() -> crate::A { crate::A }\n");
    assert_eq!(Imports::of(dir.path()).circles(), ["a", "b", "c"]);
}
