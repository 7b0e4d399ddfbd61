//! Importing demonstrations.

use std::ops::ControlFlow;
use std::path::Path;

use super::intake::{self, Imported, Taken};
use super::layout;
use super::noted;
use crate::records::{self, Bad, Budget, Files, Record};
use crate::run::{SourceConfig, SourceFormat, Turns};
use crate::schema::{Demonstration, Message, Row as _};
use spin_store::error::{Result, StoreError};
use spin_store::kind::Kind;
use spin_store::{Artifact, Context, Recipe, Staged};

/// The recipe of demonstrations imported from a source; hashes its files.
///
/// # Errors
/// When there is no such source, or a file cannot be read.
pub fn demonstrations_recipe(name: &str, source: &SourceConfig, files: &Files) -> Result<Recipe> {
    intake::recipe(Kind::Demonstrations, name, source, files, &layout::COLUMNS)
}

/// Imports demonstrations unless the store has them. The flag says whether
/// something was made. The artifact's facts count the rows read and kept, the
/// prompts and rows that stand more than once, and what was left out, by
/// reason.
///
/// # Errors
/// Bad rows, with file and row; no rows; a source that changed after the
/// recipe was made; a full disk.
pub fn demonstrations(
    context: &Context<'_>,
    recipe: &Recipe,
    source: &SourceConfig,
    files: &Files,
) -> Result<(Artifact, bool)> {
    let (artifact, made) = context.make(recipe, |making| {
        let staged = making.staging()?;
        let mut reader = Reader { format: source.format, turns: source.turns };
        let facts = intake::run(recipe, source, files, staged.path(), &layout::COLUMNS, &mut |path, row, record| {
            reader.convert(path, row, record)
        })?;
        Ok(Staged { environment: noted(&files.hub), ..Staged::new(staged, facts) })
    })?;
    if !made && !artifact.manifest.facts.contains_key(intake::READ) {
        check_earlier(&artifact, source, files)?;
    }
    Ok((artifact, made))
}

/// How many prompts stand in both of two tables; of the second only digests are in
/// memory, of the first one part.
///
/// # Errors
/// When one of them is damaged.
pub fn shared_prompts(train: &Artifact, test: &Artifact) -> Result<usize> {
    fn each(table: &Artifact, take: &mut dyn FnMut(blake3::Hash)) -> Result<()> {
        for part in table.verified()?.parts() {
            for row in Demonstration::read_part(&part)? {
                take(blake3::hash(format!("{:?}", row.prompt).as_bytes()));
            }
        }
        Ok(())
    }
    let mut of_test = std::collections::HashSet::new();
    each(test, &mut |prompt| {
        of_test.insert(prompt);
    })?;
    let before = of_test.len();
    each(train, &mut |prompt| {
        of_test.remove(&prompt);
    })?;
    Ok(before - of_test.len())
}

/// Earlier releases took the first turn of a completion for the answer,
/// whoever spoke. What they made of other rows is what is made now and keeps
/// its identity, so these are looked for where such an import is found.
fn check_earlier(found: &Artifact, source: &SourceConfig, files: &Files) -> Result<()> {
    if !matches!(source.format, SourceFormat::Auto | SourceFormat::Prompt) {
        return Ok(());
    }
    let mut budget = Budget::new(&files.list, source.max_row_bytes, source.max_bytes);
    for file in &files.list {
        records::read(&file.path, &layout::COLUMNS, &mut budget, &mut |row, record| {
            let Ok(mut record) = record else { return Ok(ControlFlow::Continue(())) };
            if !layout::detect(&record).is_ok_and(|format| format == SourceFormat::Prompt) {
                return Ok(ControlFlow::Break(()));
            }
            if let Some((key, role)) = layout::other_speaker(&mut record) {
                let problem = format!(
                    "`{key}` begins with a turn of role {role:?}, which an earlier release took for the answer in {}",
                    found.reference()
                );
                let remedy = "correct or remove the row, or set on_bad_row = \"drop\" for its source";
                return Err(StoreError::row(&file.path, row, problem, remedy));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(())
}

impl Imported for Demonstration {
    fn row_id(&mut self) -> &mut String {
        &mut self.row_id
    }

    fn prompt(&self) -> &[Message] {
        &self.prompt
    }

    fn answers(&self) -> Vec<&str> {
        vec![&self.response]
    }
}

struct Reader {
    format: SourceFormat,
    turns: Turns,
}

impl Reader {
    fn convert(&mut self, path: &Path, row: usize, record: &mut Record) -> Result<Result<Taken<Demonstration>, Bad>> {
        if self.format == SourceFormat::Auto {
            self.format = layout::detect(record).map_err(|problem| {
                let remedy = if problem.contains("preference") {
                    "name it as `preferences` of a [[baseline]], or import it with --preferences"
                } else {
                    "use messages, prompt/response, question/answer or instruction/input/output, or set `format`"
                };
                StoreError::row(path, row, problem, remedy)
            })?;
        }
        let beside = match self.format {
            SourceFormat::Chat => record.peek("prompt").and_then(|prompt| prompt.as_str().map(str::to_owned)),
            _ => None,
        };
        Ok(layout::convert(record, self.format, self.turns).map(|(exchanges, later)| {
            // Published sets repeat the first turn as `prompt`; another text is told.
            let other = beside.as_ref().is_some_and(|prompt| {
                let said = |message: &Message| message.content.trim() == prompt.trim();
                !exchanges.iter().any(|exchange| exchange.prompt.iter().any(said))
            });
            let rows = exchanges.into_iter().enumerate().map(|(i, exchange)| {
                let suffix = (self.turns == Turns::All).then(|| (i + 1).to_string());
                let row = Demonstration { row_id: String::new(), prompt: exchange.prompt, response: exchange.answer };
                (suffix, row)
            });
            let label = if self.format == SourceFormat::Alpaca { OTHER_INSTANCES } else { LATER_TURNS };
            let mut left_out = if later > 0 { vec![(label, later as u64)] } else { Vec::new() };
            if other {
                left_out.push((OTHER_PROMPT, 1));
            }
            Taken { rows: rows.collect(), left_out }
        }))
    }
}

/// What is counted for prompts beside messages that say something else.
const OTHER_PROMPT: &str = "prompts that the messages do not say";

/// What is counted for inputs and outputs beside the one that is used.
const OTHER_INSTANCES: &str = "other instances of an instruction";

/// What is counted for turns that are in no demonstration.
pub const LATER_TURNS: &str = "later turns";
