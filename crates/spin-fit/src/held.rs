//! Work that this process alone is at.

use spin_store::work::{WorkDir, WorkLock};
use spin_store::{Artifact, Recipe, Store};

use crate::error::Result;

/// The unfinished work of a recipe, for as long as this is kept.
#[derive(Debug)]
pub struct Held {
    /// What is to be made.
    pub recipe: Recipe,
    /// Its unfinished work.
    pub work: WorkDir,
    _lock: WorkLock,
}

/// What is to be done about a recipe.
#[derive(Debug)]
pub enum Taken {
    /// Nothing: its artifact is there.
    Found(Box<Artifact>),
    /// All that is not in its work directory yet.
    Held(Box<Held>),
}

/// Looks for an artifact, and takes the lock on its work where there is none.
///
/// # Errors
/// [`spin_store::StoreError::Locked`] when another process is at it.
pub fn take(store: &Store, recipe: Recipe) -> Result<Taken> {
    let identity = recipe.identity();
    let found = |artifact| -> Result<Taken> {
        store.discard_work(&identity)?;
        Ok(Taken::Found(Box::new(artifact)))
    };
    if let Some(artifact) = store.find(&recipe)? {
        return found(artifact);
    }
    let work = store.work(&identity)?;
    let lock = work.lock("lock")?;
    // Another process may have finished between the look and the lock.
    match store.find(&recipe)? {
        Some(artifact) => found(artifact),
        None => Ok(Taken::Held(Box::new(Held { recipe, work, _lock: lock }))),
    }
}
