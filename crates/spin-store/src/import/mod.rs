//! Bringing demonstrations and models into the store.
//!
//! An imported artifact is a copy: what the run used cannot change under it.
//! The identity is the digest of the source, so importing the same file again
//! does nothing.

mod demonstrations;
mod intake;
mod layout;
mod model;
mod preferences;
#[cfg(test)]
mod tests;
mod turns;

use std::path::Path;

use crate::manifest::{Parent, StageId};

pub use crate::records::is_data_dir;
pub use demonstrations::{LATER_TURNS, demonstrations, demonstrations_recipe};
pub use model::{model, model_recipe};
pub use preferences::{IDENTICAL, preferences, preferences_recipe};

/// Rows per part of imported demonstrations.
const ROWS_PER_PART: usize = 65_536;

/// The behaviour version of both imports.
const VERSION: u32 = 1;

fn stage() -> StageId {
    StageId { name: "spin-store import".into(), version: VERSION }
}

fn file_parent(role: &str, path: &Path, content: String) -> Parent {
    let name = path.to_string_lossy();
    Parent { role: role.into(), reference: format!("file:{name}"), content }
}
