//! What a table shares with what it is tested on, and with itself.
//!
//! Three looks. *Exact*: a text that is the same after normalisation. *n-gram*: a
//! text that shares a run of `n` words with a document; 13 words is the length of
//! GPT-3's report (Brown et al. 2020, appendix C) and of lm-evaluation-harness's
//! decontamination. *Near*: two rows of the table whose runs of five words are
//! mostly the same, by MinHash (Broder 1997), each candidate then counted exactly.

mod index;
mod near;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Value, json};

use crate::Maker;
use crate::records::{self, Budget, Files};
use crate::schema::{Demonstration, Overlap, Pair, Preference, Row, Sample};
use index::Index;
use spin_store::error::{Result, StoreError};
use spin_store::manifest::Parent;
use spin_store::{Artifact, Context, Kind, Recipe, Staged, digest, table};

/// Words that a text of a benchmark's file must have to count as the same: names of
/// answers and tasks stand everywhere.
const LEAST_WORDS: usize = 5;

/// Documents, names and texts in a table of overlaps, in characters.
const SHOWN: usize = 200;

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Words of a run that counts.
    pub n: usize,
    /// Share of runs of five words that near-duplicates have in common.
    pub similarity: f64,
}

impl Default for Options {
    fn default() -> Self {
        Options { n: 13, similarity: 0.8 }
    }
}

/// What a table is held against.
pub enum Against {
    /// Another table of the store.
    Table(Box<Artifact>),
    /// Data files, as those of leaderboard tasks.
    Files(Files),
}

/// A text of a row.
struct Text {
    row_id: String,
    column: &'static str,
    text: String,
}

/// Hands out all texts of a table, a part in memory at a time, with the number of
/// each row.
fn each_text(artifact: &Artifact, take: &mut dyn FnMut(u32, Vec<Text>)) -> Result<()> {
    fn rows<R: Row>(
        artifact: &Artifact,
        told: impl Fn(R) -> Vec<Text>,
        take: &mut dyn FnMut(u32, Vec<Text>),
    ) -> Result<()> {
        let mut number = 0;
        for part in artifact.verified()?.parts() {
            for row in R::read_part(&part)? {
                take(number, told(row));
                number += 1;
            }
        }
        Ok(())
    }
    let said = |messages: &[crate::schema::Message]| {
        messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
    };
    let text = |row_id: &str, column, text: String| Text { row_id: row_id.to_owned(), column, text };
    match artifact.manifest.kind {
        Kind::Demonstrations => rows(
            artifact,
            |row: Demonstration| {
                vec![text(&row.row_id, "prompt", said(&row.prompt)), text(&row.row_id, "response", row.response)]
            },
            take,
        ),
        Kind::Preferences => rows(
            artifact,
            |row: Preference| {
                let of = |column, words| text(&row.row_id, column, words);
                vec![
                    of("prompt", said(&row.prompt)),
                    of("chosen", row.chosen.clone()),
                    of("rejected", row.rejected.clone()),
                ]
            },
            take,
        ),
        Kind::Samples => rows(
            artifact,
            |row: Sample| vec![text(&format!("{}#{}", row.row_id, row.sample_index), "response", row.response)],
            take,
        ),
        Kind::Pairs => rows(
            artifact,
            |row: Pair| {
                let id = format!("{}#{}.{}", row.row_id, row.iteration, row.sample_index);
                let answer = |messages: &[crate::schema::Message]| said(&messages[messages.len().saturating_sub(1)..]);
                let prompt = said(&row.real[..row.real.len().saturating_sub(1)]);
                vec![
                    text(&id, "prompt", prompt),
                    text(&id, "real", answer(&row.real)),
                    text(&id, "generated", answer(&row.generated)),
                ]
            },
            take,
        ),
        kind => {
            let problem = format!("is of the kind {kind}, which has no texts to compare");
            let remedy = "give demonstrations, preferences, samples or pairs";
            Err(StoreError::corrupt(artifact.place(), problem, remedy))
        }
    }
}

/// The leaves of a document that are texts.
fn leaves(value: &Value, take: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => take(text),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, take)),
        Value::Object(map) => map.values().for_each(|item| leaves(item, take)),
        _ => {}
    }
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Recipe of the overlaps of a table.
///
/// # Errors
/// When a file cannot be read.
pub fn recipe(of: &Artifact, against: &[Against], options: Options) -> Result<Recipe> {
    let mut parents = vec![of.as_parent("table")];
    for one in against {
        match one {
            Against::Table(artifact) => parents.push(artifact.as_parent("against")),
            Against::Files(files) => {
                for file in &files.list {
                    parents.push(Parent::file("against", &file.name, digest::of_file(&file.path)?.0));
                }
            }
        }
    }
    let params = json!({"n": options.n, "similarity": options.similarity});
    let name = format!("{}/{}", of.manifest.kind, of.manifest.name);
    Ok(Recipe { kind: Kind::Overlaps, name, stage: Maker::Overlap.id(), params, parents })
}

/// Finds the overlaps of a table and publishes them; the flag is false when they
/// were there.
///
/// # Errors
/// When a table or file is damaged or of a kind without texts, or the disk is full.
pub fn run(context: &Context<'_>, of: &Artifact, against: &[Against], options: Options) -> Result<(Artifact, bool)> {
    let recipe = recipe(of, against, options)?;
    context.make(&recipe, |making| {
        let (mut rows, mut counts) = (Vec::new(), BTreeMap::new());
        for one in against {
            let (name, index) = indexed(one, options.n)?;
            let count = found(of, &name, &index, &mut rows)?;
            counts.insert(name, count);
        }
        let near = near::pairs(of, options.similarity)?;
        let facts = json!({"rows": of.manifest.rows(), "against": counts, "near_duplicates": near.len()});
        rows.extend(near);
        let staged = making.staging()?;
        Overlap::write_part(&staged.path().join(table::part_name(0)), &rows, &recipe.identity(), 0)?;
        Ok(Staged::new(staged, facts.as_object().cloned().unwrap_or_default()))
    })
}

/// An index of what a table is held against, and its name.
fn indexed(against: &Against, n: usize) -> Result<(String, Index)> {
    let mut index = Index::new(n);
    match against {
        Against::Table(artifact) => {
            each_text(artifact, &mut |_, texts| {
                for Text { row_id, column, text } in texts {
                    index.add(&row_id, column, &text, 1);
                }
            })?;
            Ok((artifact.reference(), index))
        }
        Against::Files(files) => {
            let mut budget = Budget::new(&files.list, None, None);
            for file in &files.list {
                records::read(&file.path, &[], &mut budget, &mut |row, record| {
                    let Ok(record) = record else { return Ok(ControlFlow::Continue(())) };
                    let document = format!("{}#{row}", file.name);
                    leaves(&Value::Object(record.into_map()), &mut |text| {
                        index.add(&document, "", text, LEAST_WORDS);
                    });
                    Ok(ControlFlow::Continue(()))
                })?;
            }
            Ok((files.path.to_string_lossy().into_owned(), index))
        }
    }
}

/// The texts of a table that an index has, as rows, and how many.
fn found(of: &Artifact, against: &str, index: &Index, out: &mut Vec<Overlap>) -> Result<Value> {
    let (mut exact, mut shared, mut touched) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    each_text(of, &mut |number, texts| {
        for Text { row_id, column, text } in texts {
            if let Some(hit) = index.hits(column, &text) {
                if hit.is_exact {
                    exact.insert(number)
                } else {
                    shared.insert(number)
                };
                touched.insert(hit.document.to_owned());
                out.push(Overlap {
                    how: if hit.is_exact { "exact" } else { "ngram" }.into(),
                    row_id: row_id.clone(),
                    column: column.into(),
                    against: against.into(),
                    document: cut(hit.document),
                    text: cut(&hit.text),
                    similarity: hit.share,
                });
            }
        }
    })?;
    Ok(json!({
        "documents": index.documents(), "documents_touched": touched.len(),
        "rows_exact": exact.len(), "rows_ngram": shared.len(),
    }))
}

/// All data files below a directory, as benchmarks lie: whatever their layouts.
///
/// # Errors
/// When there are none, or the directory cannot be read.
pub fn data_below(dir: &Path) -> Result<Files> {
    let mut names = Vec::new();
    for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
        let entry = entry.map_err(|e| StoreError::io("read", dir)(e.into()))?;
        let ends = ["jsonl", "json", "parquet", "csv", "tsv", "arrow"];
        if entry.file_type().is_file() && ends.contains(&records::ending(entry.path()).as_str()) {
            let name = entry.path().strip_prefix(dir).unwrap_or(entry.path());
            names.push(name.to_string_lossy().into_owned());
        }
    }
    if names.is_empty() {
        return Err(StoreError::corrupt(dir, "has no data file", "give a reference, or a directory of data files"));
    }
    Files::below(dir, &names, dir.to_path_buf(), Value::Null)
}

#[cfg(test)]
mod tests;
