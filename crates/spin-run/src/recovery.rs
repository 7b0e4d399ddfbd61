//! The run file in every manifest: by it a score alone is enough to repeat a
//! run. It stands among the facts about the process, outside both digests.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::graph::{Graph, ModelId, Product, Split};
use crate::import;
use crate::run::{RunFile, as_params};
use spin_store::error::{Result, StoreError};
use spin_store::{Artifact, Store, digest};

/// The key that holds it.
pub const KEY: &str = "run_file";

/// Where a template that was a file stands beside a recovered run file.
const TEMPLATE: &str = "template.jinja";

impl RunFile {
    /// Facts about a process with this run file beside them: its keys as they
    /// were resolved, where relative paths count from, and the template's text
    /// where that was a file.
    pub fn noted(&self, mut facts: Map<String, Value>) -> Map<String, Value> {
        let mut keys = as_params(self);
        if let Some(url) = keys.pointer_mut("/eval/judge/base_url").filter(|url| url.is_string()) {
            *url = json!(spin_net::url::public(url.as_str().unwrap_or_default()));
        }
        let place = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let place = std::path::absolute(place).unwrap_or_else(|_| place.to_path_buf());
        let mut noted = json!({"keys": keys, "place": place.to_string_lossy()});
        if let Some(text) = self.template_path().and_then(|path| std::fs::read_to_string(path).ok()) {
            noted["template"] = json!(text);
        }
        facts.insert(KEY.into(), noted);
        facts
    }

    /// The Jinja file of `template.chat`, when it names one.
    pub fn template_path(&self) -> Option<PathBuf> {
        match self.template.chat.as_str() {
            "model" | "alpaca" => None,
            path => Some(self.resolve(path.as_ref())),
        }
    }
}

/// A run file that a manifest has.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The run, its paths as they were written.
    pub run: RunFile,
    /// Where relative paths counted from.
    pub place: PathBuf,
    /// The template's text, where it was a file.
    template: Option<String>,
    /// Digest of its keys: two artifacts of one run file have one.
    pub digest: String,
}

impl Recovered {
    /// The run file of an artifact.
    ///
    /// # Errors
    /// When its manifest has none, as those of earlier releases and of imports by
    /// name, or one that this program does not understand.
    pub fn of(artifact: &Artifact) -> Result<Recovered> {
        let bad = |problem: String| {
            let remedy = "use the release that made it, or write the run file again from `spin-store show`";
            StoreError::corrupt(artifact.place(), problem, remedy)
        };
        let noted = artifact.manifest.environment.get(KEY);
        let noted = noted.ok_or_else(|| bad("has no run file in its manifest".into()))?;
        let run = serde_json::from_value(noted["keys"].clone())
            .map_err(|e| bad(format!("has a run file that this program does not understand ({e})")))?;
        let text = |key: &str| noted[key].as_str().map(str::to_owned);
        Ok(Recovered {
            run,
            place: text("place").unwrap_or_default().into(),
            template: text("template"),
            digest: digest::of_json(noted),
        })
    }

    /// The run file as text.
    ///
    /// # Errors
    /// When it has what TOML has no words for.
    pub fn to_toml(&self) -> std::result::Result<String, toml::ser::Error> {
        toml::to_string(&self.run)
    }

    /// Writes it to `path` for the store `store`, which may be another one than
    /// it was made with, and notes there what its sources were imported as: the
    /// run goes on from what the store has, wherever its sources are now. Paths
    /// that others are read from become absolute.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(mut self, path: &Path, store: &Store) -> Result<RunFile> {
        let place = self.place.clone();
        let absolute = |path: &Path| if path.is_absolute() { path.to_path_buf() } else { place.join(path) };
        if let Some(text) = &self.template {
            let file = path.with_extension(TEMPLATE);
            spin_store::fsutil::write_atomic(&file, text.as_bytes())?;
            let file = std::path::absolute(&file).map_err(StoreError::io("read", &file))?;
            self.run.template.chat = file.to_string_lossy().into_owned();
        }
        self.run.store = store.root().to_path_buf();
        self.run.eval.data = absolute(&self.run.eval.data);
        for include in &mut self.run.eval.include {
            *include = absolute(include);
        }
        // Adapters to start from, wherever a table names one.
        for fit in [Some(&mut self.run.fit), self.run.sft.as_mut()].into_iter().flatten() {
            if let Some(from) = fit.lora.as_mut().and_then(|lora| lora.from.as_mut()) {
                *from = absolute(from);
            }
        }
        let tables = self.run.iteration.iter_mut().map(|one| &mut one.fit);
        for fit in tables.chain(self.run.baseline.iter_mut().map(|one| &mut one.fit)) {
            let from = fit.get_mut("lora").and_then(|lora| lora.get_mut("from"));
            if let Some(toml::Value::String(from)) = from {
                *from = absolute(Path::new(from)).to_string_lossy().into_owned();
            }
        }
        let text = self.to_toml().map_err(|e| StoreError::run(path, format!("cannot be written as TOML ({e})")))?;
        spin_store::fsutil::write_atomic(path, text.as_bytes())?;
        let run = RunFile::load(path, &[])?;
        note_imports(&run, store)?;
        Ok(run)
    }
}

/// Notes what the sources of a run file are imported as: the newest artifacts of
/// their names.
fn note_imports(run: &RunFile, store: &Store) -> Result<()> {
    let graph = Graph::new(run, store);
    let mut products = vec![Product::Base];
    if run.data.is_some() {
        products.extend([Split::Train, Split::Test].map(Product::Demonstrations));
    }
    let with_preferences = run.baseline.iter().filter(|baseline| baseline.preferences.is_some());
    products.extend(with_preferences.map(|baseline| Product::Preferences(baseline.name.clone())));
    for product in products {
        let (kind, name) = (product.kind(), graph.name_of(&product));
        let Some(version) = store.versions(kind, &name)?.last().copied() else { continue };
        let artifact = store.load_listed(&(kind, name, version))?;
        if let Some(source) = graph.import_source(&product)? {
            import::remember(store, &artifact, &source, None)?;
        }
    }
    Ok(())
}

/// The model that the name of an artifact of a run speaks of: `RUN/MODEL/…`.
pub(crate) fn model_in(name: &str) -> Option<ModelId> {
    let model = name.split('/').nth(1)?;
    Some(match model.strip_prefix("iter-").and_then(|t| t.parse().ok()) {
        Some(t) => ModelId::Iteration(t),
        None => ModelId::Baseline(model.into()),
    })
}
