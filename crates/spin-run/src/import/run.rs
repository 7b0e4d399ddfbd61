//! Imports of a run file's sources, one process at a time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::model::model_of;
#[cfg(feature = "hub")]
use super::named;
use super::recall::{Source, is_gone, recall, recorded_commit, remember};
use super::{Files, ImportError, preferences, preferences_recipe};
use super::{demonstrations, demonstrations_recipe, model_files, model_recipe_of};
use crate::graph::{Graph, Product, Split};
use crate::run::{Init, RunFile, SourceConfig};
use spin_net::Name;
use spin_net::NetError;
#[cfg(feature = "hub")]
use spin_net::hub::{Hub, Settings};
use spin_store::error::StoreError;
use spin_store::kind::Kind;
use spin_store::store::Artifact;
use spin_store::work::NameLock;
use spin_store::{Context, Recipe};

/// What is imported, and whether it was made.
type Imported = Result<(Artifact, bool), ImportError>;

/// How long an import waits for another of the same name: a large model over a
/// network takes its time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Why a name on the hub is refused.
fn no_hub(name: &Name) -> NetError {
    NetError::Name {
        name: name.to_string(),
        problem: "is a name on the hub, and this program does not go there".into(),
        remedy: "import it first, with spin-store import".into(),
    }
}

/// Who imports, and how.
pub struct Importer<'a> {
    /// The process; told who imports the same just now, and that a source is
    /// gone.
    pub context: Context<'a>,
    /// Hash everything, whatever the file system says.
    pub rehash: bool,
    /// Where names on the hub are looked up; without it they are refused.
    #[cfg(feature = "hub")]
    pub hub: Option<&'a Settings>,
}

impl<'a> Importer<'a> {
    /// An importer that takes the file system's word for files that were left
    /// alone since they were hashed, and knows no hub.
    pub fn new(context: Context<'a>) -> Importer<'a> {
        // One that comes second waits for what the first makes.
        Importer {
            context: Context { patience: PATIENCE, ..context },
            rehash: false,
            #[cfg(feature = "hub")]
            hub: None,
        }
    }

    /// The right to import under a name; who comes second waits, and then
    /// finds what the first made.
    ///
    /// # Errors
    /// [`crate::StoreError::Locked`] when the other takes an hour.
    pub fn lock(&self, kind: Kind, name: &str) -> Result<NameLock, StoreError> {
        let mut waiting =
            |who: &str| self.context.watch.note(&format!("{kind}/{name} is being imported by {who}; waiting for it"));
        self.context.store.lock_import(kind, name, self.context.holder, PATIENCE, &mut waiting)
    }

    /// The hub, for a name on it.
    #[cfg(feature = "hub")]
    fn hub(&self, name: &Name) -> Result<Hub<'a>, NetError> {
        let settings = self.hub.ok_or_else(|| no_hub(name))?;
        Ok(Hub::new(settings, self.context.stop, self.context.watch))
    }

    /// The files of rows that a name stands for.
    #[cfg(feature = "hub")]
    fn named_rows(&self, name: &Name, recorded: Option<&str>) -> Result<Files, ImportError> {
        named::rows(&self.hub(name)?, name, recorded)
    }

    #[cfg(not(feature = "hub"))]
    fn named_rows(&self, name: &Name, _recorded: Option<&str>) -> Result<Files, ImportError> {
        Err(no_hub(name).into())
    }

    /// The directory of a model that a name stands for, with what is noted of it.
    #[cfg(feature = "hub")]
    fn named_model(&self, name: &Name, recorded: Option<&str>, weights: bool) -> Result<(PathBuf, Value), ImportError> {
        named::model(&self.hub(name)?, name, recorded, weights)
    }

    #[cfg(not(feature = "hub"))]
    fn named_model(
        &self,
        name: &Name,
        _recorded: Option<&str>,
        _weights: bool,
    ) -> Result<(PathBuf, Value), ImportError> {
        Err(no_hub(name).into())
    }

    /// The files of rows that a path or a name stands for; of a name, at the
    /// commit `recorded`.
    ///
    /// # Errors
    /// When they cannot be read or had.
    pub fn files(&self, path: &Path, recorded: Option<&str>) -> Result<Files, ImportError> {
        match Name::of_path(path)? {
            Some(name) => self.named_rows(&name, recorded),
            None => Ok(Files::at(path)?),
        }
    }

    /// Imports the model in a directory or of a name under the name `name`;
    /// `weights` says whether it must have any that can be read. Returns the
    /// commit too, where there is one.
    ///
    /// # Errors
    /// When it is no model's, or cannot be read or had.
    pub fn model(
        &self,
        name: &str,
        path: &Path,
        recorded: Option<&str>,
        weights: bool,
    ) -> Result<(Artifact, bool, Option<String>), ImportError> {
        let (dir, hub) = match Name::of_path(path)? {
            Some(named) => {
                let (dir, hub) = self.named_model(&named, recorded, weights)?;
                (dir, Some(hub))
            }
            None => (path.to_path_buf(), None),
        };
        if weights {
            model_files::check_weights(&dir)?;
        }
        let recipe = model_recipe_of(self.context.store, name, &dir, self.rehash)?;
        let (artifact, made) = model_of(&self.context, &recipe, &dir, &hub)?;
        Ok((artifact, made, hub.and_then(|hub| Some(hub["commit"].as_str()?.to_owned()))))
    }

    /// An import of a run file's source, unless it is known: what a name on the
    /// hub was when it was imported is what it is. What was imported of a source
    /// that is there no more disturbs nobody, and so neither a run that is
    /// started again with its import first.
    fn import(
        &self,
        (kind, name): (Kind, &str),
        path: &Path,
        source: &Source,
        import: impl FnOnce(Option<&str>) -> Result<(Artifact, bool, Option<String>), ImportError>,
    ) -> Imported {
        let store = self.context.store;
        if source.is_on_hub()
            && !self.rehash
            && let Some(found) = recall(store, kind, name, source)?
        {
            return Ok((found, false));
        }
        let recorded = recorded_commit(store, kind, name, source);
        match import(recorded.as_deref()) {
            Err(ImportError::Store(error)) if is_gone(&error) && matches!(path.try_exists(), Ok(false)) => {
                match recall(store, kind, name, source)? {
                    Some(found) => {
                        self.context.watch.note(&format!(
                            "warning: {} is not there any more; what was imported from it is used",
                            path.display()
                        ));
                        Ok((found, false))
                    }
                    None => Err(error.into()),
                }
            }
            Ok((artifact, made, commit)) => {
                if let Some(commit) = &commit {
                    self.context.watch.note(&format!("{} is commit {commit}", path.display()));
                }
                remember(store, &artifact, source, commit.as_deref())?;
                Ok((artifact, made))
            }
            Err(error) => Err(error),
        }
    }

    /// The base model of a run; whether it was made. Its weights must be
    /// there if they are to be used.
    ///
    /// # Errors
    /// When its directory is no model's, or it cannot be read or had.
    pub fn base(&self, run: &RunFile) -> Imported {
        let path = run.resolve(&run.model.path);
        let name = Graph::new(run, self.context.store).name_of(&Product::Base);
        let _lock = self.lock(Kind::Model, &name)?;
        let source = Source::of_model(run, self.context.store);
        self.import((Kind::Model, &name), &path, &source, |recorded| {
            self.model(&name, &path, recorded, run.model.init == Init::Pretrained)
        })
    }

    /// A split of a run's demonstrations; whether it was made.
    ///
    /// # Errors
    /// Bad rows, a source that cannot be read or had.
    pub fn demonstrations(&self, run: &RunFile, split: Split) -> Imported {
        let (source, path) = Graph::new(run, self.context.store).source(split)?;
        self.rows(run, &Product::Demonstrations(split), (source, &path))
    }

    /// The preference set of a run's baseline; whether it was made.
    ///
    /// # Errors
    /// As [`demonstrations`](Self::demonstrations), and when the baseline has
    /// none.
    pub fn preferences(&self, run: &RunFile, baseline: &str) -> Imported {
        let graph = Graph::new(run, self.context.store);
        let (source, path) = graph.preference_source(baseline)?;
        self.rows(run, &Product::Preferences(baseline.into()), (source, &path))
    }

    fn rows(&self, run: &RunFile, product: &Product, (source, path): (&SourceConfig, &Path)) -> Imported {
        let name = Graph::new(run, self.context.store).name_of(product);
        let kind = product.kind();
        let _lock = self.lock(kind, &name)?;
        let wanted = Source::of_rows(run, self.context.store, source);
        self.import((kind, &name), path, &wanted, |recorded| {
            let files = self.files(path, recorded)?;
            let (artifact, made) = self.rows_of(kind, &name, source, &files)?;
            Ok((artifact, made, files.hub.and_then(|hub| Some(hub["commit"].as_str()?.to_owned()))))
        })
    }

    /// Imports rows of files under a name, as demonstrations or, where that is
    /// the kind, as preferences.
    ///
    /// # Errors
    /// Bad rows, files that cannot be read.
    pub fn rows_of(&self, kind: Kind, name: &str, source: &SourceConfig, files: &Files) -> Imported {
        type Make = fn(&Context<'_>, &Recipe, &SourceConfig, &Files) -> Result<(Artifact, bool), StoreError>;
        let (recipe, make): (_, Make) = match kind {
            Kind::Preferences => (preferences_recipe(name, source, files)?, preferences),
            _ => (demonstrations_recipe(name, source, files)?, demonstrations),
        };
        Ok(make(&self.context, &recipe, source, files)?)
    }
}
