use std::fs;
use std::path::PathBuf;

use super::*;
use crate::run::RunFile;
use spin_store::{Context, Store};

/// A directory with a model of two files, and a store.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let place = Place { dir, store };
        fs::create_dir(place.path("")).unwrap();
        place.write("config.json", "{}");
        place.write("model.safetensors", "weights");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("model").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn recipe(&self) -> Recipe {
        model_recipe(&self.store, "m", &self.path("")).unwrap()
    }

    fn import(&self) -> (Artifact, bool) {
        model(&Context::silent(&self.store), &self.recipe(), &self.path("")).unwrap()
    }

    /// As earlier releases imported: every file there is, and its size and
    /// time.
    fn import_as_before(&self, files: &[&str]) -> Artifact {
        let staged = self.store.staging().unwrap();
        let mut recipe = Recipe { parents: Vec::new(), ..self.recipe() };
        for file in files {
            let to = staged.path().join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(self.path(file), to).unwrap();
            let content = digest::of_file(&self.path(file)).unwrap().0;
            recipe.parents.push(Parent::file("file", file, content));
        }
        let mut environment = Map::new();
        let dir = self.path("").canonicalize().unwrap();
        environment.insert("source".into(), json!({"dir": dir, "digest": "of sizes and times"}));
        publish(&self.store, &recipe, Staged { dir: staged, facts: Map::new(), environment })
    }
}

fn publish(store: &Store, recipe: &Recipe, staged: Staged) -> Artifact {
    Context::silent(store).make(recipe, |_| Ok::<_, StoreError>(staged)).unwrap().0
}

#[test]
fn what_lies_beside_a_model_decides_nothing() {
    let place = Place::new();
    let (first, made) = place.import();
    assert!(made && first.manifest.facts.get("left_out_files").is_none());
    for name in ["README.md", "checkpoint-500/model.safetensors", "optimizer.pt", "train.parquet", ".git/HEAD"] {
        place.write(name, "more");
        let (again, made) = place.import();
        assert!(!made && again.manifest.version == 1, "{name}");
    }
    place.write("tokenizer.json", "{}");
    let (second, made) = place.import();
    assert!(made);
    let paths: Vec<_> = second.manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["config.json", "model.safetensors", "tokenizer.json"]);
    let left_out = &second.manifest.facts["left_out_files"];
    assert_eq!(left_out["count"], 4);
    assert_eq!(left_out["names"], json!(["README.md", "checkpoint-500/", "optimizer.pt", "train.parquet"]));
}

#[test]
fn a_model_without_anything_beside_it_has_the_identity_it_always_had() {
    let place = Place::new();
    let before = place.import_as_before(&["config.json", "model.safetensors"]);
    let recipe = place.recipe();
    assert_eq!(recipe.identity(), before.manifest.identity);
    // Pinned: what release 0.1 made of these two files.
    let expected = "3e805fa0e56866cd81b84807019cb39ff996f45d8bb00bb9e7b99e90a1af5328";
    assert_eq!(recipe.identity(), expected);
    assert_eq!(place.import().0.manifest.version, 1);
}

#[test]
fn what_earlier_releases_imported_with_all_that_lay_there_is_found() {
    let place = Place::new();
    place.write("README.md", "a card");
    place.write("runs/a", "events");
    place.write("model.safetensors.index.json", "{}");
    let all = ["README.md", "config.json", "model.safetensors", "model.safetensors.index.json", "runs/a"];
    let before = place.import_as_before(&all);
    let (found, made) = place.import();
    assert!(!made && found.manifest.identity == before.manifest.identity);
    // Also when the card is another, or gone, but not with other weights.
    fs::remove_file(place.path("README.md")).unwrap();
    assert!(!place.import().1);
    place.write("model.safetensors", "WEIGHTS");
    assert!(place.import().1);
    // Nor with fewer parts of the model than were imported.
    place.write("model.safetensors", "weights");
    place.write("tokenizer.json", "{}");
    assert!(place.import().1);
    fs::remove_file(place.path("tokenizer.json")).unwrap();
    assert_eq!(place.import().0.manifest.version, 1);
}

#[test]
fn weights_of_the_same_size_and_time_are_other_weights() {
    let place = Place::new();
    let path = place.path("model.safetensors");
    let modified = path.metadata().unwrap().modified().unwrap();
    assert!(place.import().1);
    place.write("model.safetensors", "WEIGHTS");
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(path.metadata().unwrap().modified().unwrap(), modified);
    let (second, made) = place.import();
    assert!(made && second.manifest.version == 2);
    assert_eq!(fs::read(second.place().join("model.safetensors")).unwrap(), b"WEIGHTS");
}

#[test]
fn the_file_systems_word_is_taken_where_it_proves_something_and_never_with_rehash() {
    let place = Place::new();
    let listing = model_files::list(&place.path("")).unwrap();
    let mut source = Stamp::of(&place.path(""), &listing.files).unwrap().to_json();
    let looked: i128 = source["looked"].as_str().unwrap().parse().unwrap();
    source["looked"] = json!((looked + 3_600_000_000_000).to_string());
    // Of other contents, so that one sees who was asked.
    let staged = place.store.staging().unwrap();
    fs::write(staged.path().join("config.json"), "other").unwrap();
    let content = digest::of_bytes(b"other");
    let parents = vec![Parent::file("file", "config.json", content)];
    let recipe = Recipe { parents: parents.clone(), ..place.recipe() };
    let environment = [("source".to_owned(), source)].into_iter().collect();
    publish(&place.store, &recipe, Staged { dir: staged, facts: Map::new(), environment });
    assert_eq!(place.recipe().parents, parents);
    let hashed = model_recipe_of(&place.store, "m", &place.path(""), true).unwrap();
    assert_eq!(hashed.parents.len(), 2);
    place.write("config.json", "[]");
    assert_eq!(place.recipe().parents.len(), 2);
}

#[test]
fn the_store_knows_what_a_source_was_imported_as_last() {
    let place = Place::new();
    let run = RunFile::for_model(
        "m",
        serde_json::from_value(json!({"path": place.path("")})).unwrap(),
        PathBuf::new(),
        Default::default(),
    );
    let source = super::super::Source::of_model(&run, &place.store);
    let recall = || super::super::recall(&place.store, Kind::Model, "m", &source).unwrap();
    let remember = |artifact: &Artifact| super::super::remember(&place.store, artifact, &source, None).unwrap();
    assert!(recall().is_none());
    let first = place.import().0;
    remember(&first);
    place.write("model.safetensors", "other");
    let second = place.import().0;
    remember(&second);
    assert_eq!(recall().unwrap().manifest.version, 2);
    // Back to the first content: no third version, and the first is meant.
    place.write("model.safetensors", "weights");
    let again = place.import().0;
    assert_eq!(again.manifest.version, 1);
    remember(&again);
    assert_eq!(recall().unwrap().manifest.version, 1);
    // Another place, and a damaged note, are not known.
    let elsewhere =
        super::super::Source::new(&run, &place.store, std::path::Path::new("/elsewhere"), serde_json::Value::Null);
    assert!(super::super::recall(&place.store, Kind::Model, "m", &elsewhere).unwrap().is_none());
    let note = place.store.root().join(".imports/model,m.json");
    let text = fs::read_to_string(&note).unwrap();
    fs::write(&note, text.replace(&again.manifest.identity, &second.manifest.identity)).unwrap();
    assert!(recall().is_none());
    remember(&again);
    fs::remove_dir_all(again.place()).unwrap();
    assert!(recall().is_none());
}
