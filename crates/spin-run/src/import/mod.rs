//! Bringing demonstrations and models into the store.
//!
//! An imported artifact is a copy: what the run used cannot change under it.
//! The identity is the digest of the source, so importing the same file again
//! does nothing. Stages find the copy by what the run file says ([`recall`]),
//! and look at the source no more.

mod choice;
mod demonstrations;
mod error;
mod intake;
mod layout;
mod model;
mod model_files;
#[cfg(feature = "hub")]
mod named;
mod preferences;
mod recall;
mod run;
mod stamp;
#[cfg(test)]
mod tests;
mod turns;

use std::path::Path;

use serde_json::{Map, Value};

use spin_store::kind::Kind;
use spin_store::manifest::{Parent, StageId};

use crate::Maker;
pub use crate::records::{Files, is_data_dir};
pub use demonstrations::{LATER_TURNS, demonstrations, demonstrations_recipe, shared_prompts};
pub use error::ImportError;
pub(crate) use error::not_imported;
pub use model::{model, model_recipe, model_recipe_of};
pub use preferences::{IDENTICAL, preferences, preferences_recipe};
pub use recall::problems;
pub use recall::{Source, is_gone, recall, remember};
pub use run::Importer;

/// Rows per part of imported demonstrations.
const ROWS_PER_PART: usize = 65_536;

/// The stage that makes imports of a kind now.
fn stage_of(kind: Kind) -> StageId {
    match kind {
        Kind::Model => Maker::ImportModel,
        _ => Maker::ImportRows,
    }
    .id()
}

/// What a manifest's environment has of where a source is from.
fn noted(hub: &Option<Value>) -> Map<String, Value> {
    hub.iter().map(|hub| ("hub".to_owned(), hub.clone())).collect()
}

fn file_parent(role: &str, path: &Path, content: String) -> Parent {
    Parent::file(role, path.to_string_lossy(), content)
}
