//! Bringing demonstrations and models into the store.
//!
//! An imported artifact is a copy: what the run used cannot change under it.
//! The identity is the digest of the source, so importing the same file again
//! does nothing.

mod demonstrations;
mod model;
mod preferences;
mod rows;

use std::path::Path;

use crate::manifest::{Parent, StageId};

pub use demonstrations::{demonstrations, demonstrations_recipe};
pub use model::{model, model_recipe};
pub use preferences::{preferences, preferences_recipe};

/// Rows per part of imported demonstrations.
const ROWS_PER_PART: usize = 65_536;

/// The behaviour version of both imports.
const VERSION: u32 = 1;

fn stage() -> StageId {
    StageId { name: "spin-store import".into(), version: VERSION }
}

fn file_parent(role: &str, path: &Path, content: String) -> Parent {
    let name = path.file_name().map_or_else(|| "-".into(), |n| n.to_string_lossy().into_owned());
    Parent { role: role.into(), reference: format!("file:{name}"), content }
}
