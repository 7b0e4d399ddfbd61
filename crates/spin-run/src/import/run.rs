//! Imports of a run file's sources, one process at a time.

use std::path::Path;
use std::time::Duration;

use super::recall::{Source, is_gone, recall, remember};
use super::{demonstrations, model, model_files, model_recipe_of, preferences};
use crate::graph::{Graph, Product, Split};
use crate::run::{Init, RunFile};
use spin_store::Context;
use spin_store::error::Result;
use spin_store::kind::Kind;
use spin_store::store::Artifact;
use spin_store::work::NameLock;

/// How long an import waits for another of the same name: a large model over a
/// network takes its time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Who imports, and how.
pub struct Importer<'a> {
    /// The process; told who imports the same just now, and that a source is
    /// gone.
    pub context: Context<'a>,
    /// Hash everything, whatever the file system says.
    pub rehash: bool,
}

impl<'a> Importer<'a> {
    /// An importer that takes the file system's word for files that were left
    /// alone since they were hashed.
    pub fn new(context: Context<'a>) -> Importer<'a> {
        // One that comes second waits for what the first makes.
        Importer { context: Context { patience: PATIENCE, ..context }, rehash: false }
    }

    /// The right to import under a name; who comes second waits, and then
    /// finds what the first made.
    ///
    /// # Errors
    /// [`crate::StoreError::Locked`] when the other takes an hour.
    pub fn lock(&self, kind: Kind, name: &str) -> Result<NameLock> {
        let mut waiting =
            |who: &str| self.context.watch.note(&format!("{kind}/{name} is being imported by {who}; waiting for it"));
        self.context.store.lock_import(kind, name, self.context.holder, PATIENCE, &mut waiting)
    }

    /// What was imported of a source that is there no more: it disturbs nobody,
    /// and so neither a run that is started again with its import first.
    fn or_imported(
        &self,
        made: Result<(Artifact, bool)>,
        (kind, name): (Kind, &str),
        path: &Path,
        source: &Source,
    ) -> Result<(Artifact, bool)> {
        match made {
            Err(error) if is_gone(&error) && matches!(path.try_exists(), Ok(false)) => {
                match recall(self.context.store, kind, name, source)? {
                    Some(found) => {
                        self.context.watch.note(&format!(
                            "warning: {} is not there any more; what was imported from it is used",
                            path.display()
                        ));
                        Ok((found, false))
                    }
                    None => Err(error),
                }
            }
            Ok((artifact, made)) => {
                remember(self.context.store, &artifact, source)?;
                Ok((artifact, made))
            }
            error => error,
        }
    }

    /// The base model of a run; whether it was made. Its weights must be
    /// there if they are to be used.
    ///
    /// # Errors
    /// When its directory is no model's, or cannot be read.
    pub fn base(&self, run: &RunFile) -> Result<(Artifact, bool)> {
        let dir = run.resolve(&run.model.path);
        let name = Graph::new(run, self.context.store).name_of(&Product::Base);
        let _lock = self.lock(Kind::Model, &name)?;
        let import = || {
            if run.model.init == Init::Pretrained {
                model_files::check_weights(&dir)?;
            }
            let recipe = model_recipe_of(self.context.store, &name, &dir, self.rehash)?;
            model(&self.context, &recipe, &dir)
        };
        self.or_imported(import(), (Kind::Model, &name), &dir, &Source::of_model(run, self.context.store))
    }

    /// A split of a run's demonstrations; whether it was made.
    ///
    /// # Errors
    /// Bad rows, a source that cannot be read.
    pub fn demonstrations(&self, run: &RunFile, split: Split) -> Result<(Artifact, bool)> {
        let graph = Graph::new(run, self.context.store);
        let (source, path) = graph.source(split)?;
        let name = graph.name_of(&Product::Demonstrations(split));
        let _lock = self.lock(Kind::Demonstrations, &name)?;
        let import = || {
            let recipe = graph.recipe(&Product::Demonstrations(split))?;
            demonstrations(&self.context, &recipe, source, &path)
        };
        let wanted = Source::of_rows(run, self.context.store, source);
        self.or_imported(import(), (Kind::Demonstrations, &name), &path, &wanted)
    }

    /// The preference set of a run's baseline; whether it was made.
    ///
    /// # Errors
    /// As [`demonstrations`](Self::demonstrations), and when the baseline has
    /// none.
    pub fn preferences(&self, run: &RunFile, baseline: &str) -> Result<(Artifact, bool)> {
        let graph = Graph::new(run, self.context.store);
        let (source, path) = graph.preference_source(baseline)?;
        let name = graph.name_of(&Product::Preferences(baseline.into()));
        let _lock = self.lock(Kind::Preferences, &name)?;
        let import = || {
            let recipe = graph.recipe(&Product::Preferences(baseline.into()))?;
            preferences(&self.context, &recipe, source, &path)
        };
        let wanted = Source::of_rows(run, self.context.store, source);
        self.or_imported(import(), (Kind::Preferences, &name), &path, &wanted)
    }
}
