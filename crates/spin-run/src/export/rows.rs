//! Rows of tables as columns of messages, a part at a time.

use std::path::PathBuf;

use super::{Layout, Table};
use crate::schema::{Demonstration, Message, Pair, Preference, Row};
use spin_store::error::{Result, StoreError};
use spin_store::{Artifact, Kind, Verified};

/// The rows of an artifact in a layout.
///
/// # Errors
/// When it is damaged, or has no rows of that layout.
pub fn of(artifact: &Artifact, layout: Layout) -> Result<Table> {
    let verified = artifact.verified()?;
    let answer = |text: String| vec![Message::new("assistant", text)];
    let with = |mut prompt: Vec<Message>, text: String| {
        prompt.push(Message::new("assistant", text));
        prompt
    };
    Ok(match (artifact.manifest.kind, layout) {
        (Kind::Pairs, Layout::Spin) => {
            table(&["real", "generated"], verified, |row: Pair| vec![row.real, row.generated])
        }
        (Kind::Pairs, _) => table(&["prompt", "chosen", "rejected"], verified, |row: Pair| {
            let (mut prompt, mut generated) = (row.real, row.generated);
            let (chosen, rejected) = (prompt.pop(), generated.pop());
            vec![prompt, chosen.into_iter().collect(), rejected.into_iter().collect()]
        }),
        (Kind::Preferences, Layout::Spin) => table(&["real", "generated"], verified, move |row: Preference| {
            vec![with(row.prompt.clone(), row.chosen), with(row.prompt, row.rejected)]
        }),
        (Kind::Preferences, _) => table(&["prompt", "chosen", "rejected"], verified, move |row: Preference| {
            vec![row.prompt, answer(row.chosen), answer(row.rejected)]
        }),
        // As reformat.py of the original writes what is to be answered.
        (Kind::Demonstrations, Layout::Spin) => table(&["real", "generated"], verified, move |row: Demonstration| {
            vec![with(row.prompt.clone(), row.response), with(row.prompt, String::new())]
        }),
        (Kind::Demonstrations, _) => {
            table(&["prompt", "completion"], verified, move |row: Demonstration| vec![row.prompt, answer(row.response)])
        }
        (kind, _) => {
            let problem = format!("is of the kind {kind}, which has no rows for trainers");
            let remedy = "export pairs, preferences or demonstrations; every table is plain Parquet as it is";
            return Err(StoreError::corrupt(artifact.place(), problem, remedy));
        }
    })
}

fn table<R: Row + 'static>(
    columns: &'static [&'static str],
    artifact: Verified,
    told: impl Fn(R) -> Vec<Vec<Message>> + 'static,
) -> Table {
    let parts: Vec<PathBuf> = artifact.parts();
    let rows = parts.into_iter().flat_map(|part| -> Box<dyn Iterator<Item = Result<R>>> {
        match R::read_part(&part) {
            Ok(rows) => Box::new(rows.into_iter().map(Ok)),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    });
    Table { columns, rows: Box::new(rows.map(move |row| row.map(&told))) }
}
