//! Which documents a file must hold: digests of its rows as the tasks read
//! them, the same for every layout of the file.

use std::path::Path;

use serde_json::Value;
use spin_report::names::MMLU_SUBJECTS;
use spin_store::digest;

use super::tasks::{arc, gsm8k, hellaswag, mmlu, openbookqa, truthfulqa, winogrande};
use super::{Doc, Profile, Task, dataset};

/// Made by the test `pins_are_what_the_data_gives` of [`dataset`].
const PINS: &str = include_str!("pins.tsv");

/// The beginning of the digest of a split's documents, where it is known;
/// `key` is `task/split`.
fn pin(key: &str) -> Option<&'static str> {
    let mut fields = PINS.lines().find(|line| line.split('\t').next() == Some(key))?.split('\t');
    fields.nth(2).filter(|digest| !digest.is_empty())
}

/// The tasks whose documents are whole files of the hub.
fn tasks() -> Vec<Task> {
    let profile = Profile::Current;
    let mut tasks = vec![
        arc::arc_challenge(),
        hellaswag::hellaswag(profile),
        truthfulqa::mc1(),
        truthfulqa::mc2(),
        winogrande::winogrande(profile),
        gsm8k::gsm8k(profile),
        openbookqa::openbookqa(),
    ];
    tasks.extend(MMLU_SUBJECTS.iter().flat_map(|(_, subjects)| *subjects).map(|name| mmlu::subject(name)));
    tasks
}

/// Checks that the rows of a file are those that the tasks of `repo`'s `path`
/// are scored on. `Ok(false)` where no digest of them is known. The problem
/// follows "a file that".
///
/// # Errors
/// What is wrong with it.
pub fn check(repo: &str, path: &str, file: &Path) -> Result<bool, String> {
    let mut known = false;
    for task in tasks().iter().filter(|task| task.source.repo == repo) {
        for split in [Some(&task.split), task.fewshot_split.as_ref()].into_iter().flatten() {
            let Some(pinned) = pin(&format!("{}/{split}", task.name)) else { continue };
            if task.source.path.replace("{split}", split) != path {
                continue;
            }
            known = true;
            let (rows, _) = dataset::read_rows(file).map_err(|e| format!("cannot be read: {e}"))?;
            let read = |(i, row)| (task.read)(row).map_err(|problem| format!("has a row {i} that {problem}"));
            let docs: Vec<Doc> = rows.iter().enumerate().map(read).collect::<Result<_, _>>()?;
            let docs: Value = serde_json::to_value(&docs).expect("documents are plain data");
            let found = digest::of_json(&docs);
            if !found.starts_with(pinned) {
                return Err(format!(
                    "has other rows than the pinned revision (digest {} instead of {pinned})",
                    &found[..pinned.len()]
                ));
            }
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::Dataset;

    /// Every file of the hub is pinned but HellaSwag's, of which there was no
    /// copy to compute it from.
    #[test]
    fn files_of_the_hub_are_pinned() {
        let keyed = |repo: &str, path: &str| {
            tasks().iter().filter(|task| task.source.repo == repo).any(|task| {
                [Some(&task.split), task.fewshot_split.as_ref()].into_iter().flatten().any(|split| {
                    task.source.path.replace("{split}", split) == path
                        && pin(&format!("{}/{split}", task.name)).is_some()
                })
            })
        };
        for dataset in Dataset::ALL {
            let hub = !matches!(dataset, Dataset::Bbh | Dataset::MtBench | Dataset::HellaSwag);
            for item in dataset.items() {
                assert_eq!(keyed(dataset.source().repo, &item.path), hub, "{item:?}");
            }
        }
    }
}
