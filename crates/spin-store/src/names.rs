//! Further names of artifacts.
//!
//! What was made from an artifact pins the place in which it was made, so nothing is
//! ever moved: to rename is to write down by which other name it is meant. The list
//! has the artifact's seal, so that a name never comes to mean another one unseen;
//! it is no evidence of anything else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::artifact::Artifact;
use crate::error::{Result, StoreError};
use crate::fsutil;
use crate::kind::Kind;
use crate::store::{Reference, Store, Version};

/// The list's name in the store.
const NAMES: &str = "NAMES.json";

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// `kind/name@vN`.
    pub artifact: String,
    /// The seal of its manifest.
    pub seal: String,
}

impl Store {
    /// All further names, `kind/name`, with what they stand for.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn names(&self) -> Result<BTreeMap<String, Named>> {
        let path = self.root().join(NAMES);
        let Some(bytes) = fsutil::read_if_there(&path)? else { return Ok(BTreeMap::new()) };
        serde_json::from_slice(&bytes).map_err(|e| {
            let remedy = "restore it from a copy, or remove it: names are lost with it, and no artifact";
            StoreError::corrupt(&path, format!("is no list of names ({e})"), remedy)
        })
    }

    /// Gives an artifact a further name, `kind/name` with its own kind, by which it is
    /// found from then on; what it was called it is called still. A name that stands
    /// for another artifact is given away only if `is_moved`.
    ///
    /// # Errors
    /// When it is no name, artifacts were made under it, or it stands for something
    /// else; when the list cannot be read or written.
    pub fn rename(&self, artifact: &Artifact, name: &str, is_moved: bool) -> Result<()> {
        let own = artifact.manifest.kind;
        let to: Reference = name.parse()?;
        let place = self.root().join(name);
        if name.contains('@') {
            return Err(StoreError::corrupt(&place, "has a version, which a name has not", "write kind/name"));
        }
        if to.kind != own {
            let problem = format!("is no name of {}, which is of the kind {own}", artifact.reference());
            return Err(StoreError::corrupt(&place, problem, format!("write {own}/{}", to.name)));
        }
        let named = Named { artifact: artifact.reference(), seal: artifact.manifest.seal.clone() };
        // As a publication under that name takes it.
        let _published = self.lock_versions(to.kind, &to.name, "")?;
        if !self.versions(to.kind, &to.name)?.is_empty() {
            let remedy = "take another name: an artifact's own goes before any other";
            return Err(StoreError::corrupt(&place, "is what artifacts were made under", remedy));
        }
        self.change_names(|names| match names.get(name) {
            Some(other) if *other != named && !is_moved => {
                let problem = format!("is a name of {}", other.artifact);
                Err(StoreError::corrupt(&place, problem, "give --force to let it stand for this one"))
            }
            _ => {
                names.insert(name.to_owned(), named);
                Ok(())
            }
        })
    }

    /// Takes a further name away; the artifact is left alone. The flag says whether
    /// there was one.
    ///
    /// # Errors
    /// When the list cannot be read or written.
    pub fn drop_name(&self, name: &str) -> Result<bool> {
        self.change_names(|names| Ok(names.remove(name).is_some()))
    }

    fn change_names<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Named>) -> Result<T>) -> Result<T> {
        let _lock = self.lock_list("names")?;
        let mut names = self.names()?;
        let answer = change(&mut names)?;
        let text = serde_json::to_string_pretty(&names).expect("names are plain JSON");
        fsutil::write_atomic(&self.root().join(NAMES), format!("{text}\n").as_bytes())?;
        Ok(answer)
    }

    /// The artifact that a further name stands for, where there is such a name.
    pub(crate) fn named(&self, reference: &Reference) -> Result<Option<Artifact>> {
        let name = format!("{}/{}", reference.kind, reference.name);
        let Some(named) = self.names()?.remove(&name) else { return Ok(None) };
        let artifact = self.meant(&name, &named)?;
        let is_meant = match &reference.version {
            Version::Latest => true,
            Version::Digest(prefix) => artifact.manifest.has_digest(prefix),
            Version::Number(_) => false,
        };
        Ok(is_meant.then_some(artifact))
    }

    fn meant(&self, name: &str, named: &Named) -> Result<Artifact> {
        let path = self.root().join(NAMES);
        let wrong = |problem: String| {
            let remedy = format!("`spin-store rename --drop {name}`, or name another artifact with --force");
            StoreError::corrupt(&path, problem, remedy)
        };
        let target: Reference = named.artifact.parse()?;
        if !matches!(target.version, Version::Number(_)) {
            return Err(wrong(format!("says of {name} no version that it stands for")));
        }
        let artifact = self.get(&target).map_err(|e| match e {
            StoreError::Missing { .. } => {
                wrong(format!("says that {name} stands for {}, which is gone", named.artifact))
            }
            other => other,
        })?;
        if artifact.manifest.seal != named.seal {
            return Err(wrong(format!(
                "says that {name} stands for {}, whose manifest is another now",
                named.artifact
            )));
        }
        Ok(artifact)
    }

    /// Refuses to make an artifact under a name that another one goes by.
    pub(crate) fn refuse_further_name(&self, kind: Kind, name: &str) -> Result<()> {
        let name = format!("{kind}/{name}");
        match self.names()?.get(&name) {
            Some(named) => Err(StoreError::corrupt(
                &self.root().join(NAMES),
                format!("has {name} as a name of {}, and nothing else is made under it", named.artifact),
                format!("give the run another name, or `spin-store rename --drop {name}`"),
            )),
            None => Ok(()),
        }
    }

    /// What is wrong with the list: names that stand for nothing, or for several.
    pub(crate) fn problems_of_names(&self) -> Vec<StoreError> {
        let names = match self.names() {
            Ok(names) => names,
            Err(error) => return vec![error],
        };
        let wrong = |(name, named): (&String, &Named)| -> Result<()> {
            let own: Reference = name.parse()?;
            self.meant(name, named)?;
            match self.versions(own.kind, &own.name)?.is_empty() {
                true => Ok(()),
                false => self.refuse_further_name(own.kind, &own.name),
            }
        };
        names.iter().filter_map(|entry| wrong(entry).err()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::audit;
    use crate::fault::tests::publish;

    fn get(store: &Store, text: &str) -> Result<String> {
        store.get(&text.parse().unwrap()).map(|artifact| artifact.reference())
    }

    fn problems(store: &Store) -> Vec<String> {
        let (_, found) = audit::verify(store, audit::Level::Structure, &|_| Ok(None)).unwrap();
        found.into_iter().map(|finding| finding.error.to_string()).collect()
    }

    #[test]
    fn a_name_stands_for_one_artifact_and_moves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let [a, b] = ["run/a", "b"].map(|name| publish(&store, name, None).unwrap());
        let child = publish(&store, "c", Some(&a)).unwrap();
        store.rename(&a, "reference/best", false).unwrap();
        assert_eq!(get(&store, "reference/best").unwrap(), "reference/run/a@v1");
        assert_eq!(get(&store, &format!("reference/best@{}", &a.manifest.content[..8])).unwrap(), "reference/run/a@v1");
        assert_eq!(get(&store, "reference/run/a").unwrap(), "reference/run/a@v1");
        assert_eq!(store.parent(&child.manifest.parents[0]).unwrap().reference(), "reference/run/a@v1");
        for other in ["reference/best@v1", "reference/best@0123abcd", "reference/better"] {
            assert!(get(&store, other).unwrap_err().to_string().contains("no artifact"), "{other}");
        }
        // Again is no change, another one is, and says so.
        store.rename(&a, "reference/best", false).unwrap();
        let error = store.rename(&b, "reference/best", false).unwrap_err().to_string();
        assert!(error.contains("is a name of reference/run/a@v1; give --force"), "{error}");
        store.rename(&b, "reference/best", true).unwrap();
        assert_eq!(get(&store, "reference/best").unwrap(), "reference/b@v1");
        assert!(problems(&store).is_empty());
        assert!(store.drop_name("reference/best").unwrap() && !store.drop_name("reference/best").unwrap());
        assert!(get(&store, "reference/best").is_err() && get(&store, "reference/b").is_ok());
    }

    #[test]
    fn what_is_no_name_or_somebody_elses_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let [a, _] = ["a", "b"].map(|name| publish(&store, name, None).unwrap());
        for (name, part) in [
            ("reference/b", "is what artifacts were made under"),
            ("reference/x@v1", "has a version"),
            ("model/x", "write reference/x"),
            ("reference/../x", "is not a reference"),
            ("reference/v1", "is not a reference"),
            ("x", "is not a reference"),
        ] {
            let error = store.rename(&a, name, true).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        }
        assert!(store.names().unwrap().is_empty());
        // Nothing is made under a name that means something else.
        store.rename(&a, "reference/c", false).unwrap();
        let error = publish(&store, "c", None).unwrap_err().to_string();
        assert!(error.contains("reference/c as a name of reference/a@v1"), "{error}");
        assert_eq!(get(&store, "reference/c").unwrap(), "reference/a@v1");
    }

    #[test]
    fn a_name_never_comes_to_mean_another_unseen() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let a = publish(&store, "a", None).unwrap();
        store.rename(&a, "reference/best", false).unwrap();
        // Kept where it is needed, unless that is said.
        let reference: Reference = "reference/a@v1".parse().unwrap();
        assert!(
            store.remove(&reference, None, false).unwrap_err().to_string().contains("reference/best stands for it")
        );
        store.remove(&reference, None, true).unwrap();
        for text in [get(&store, "reference/best").unwrap_err().to_string(), problems(&store).concat()] {
            assert!(text.contains("which is gone; `spin-store rename --drop reference/best`"), "{text}");
        }
        let other = publish(&store, "other", None).unwrap();
        let list = store.root().join(NAMES);
        let text = fs::read_to_string(&list).unwrap().replace("reference/a@v1", &other.reference());
        fs::write(&list, text).unwrap();
        assert!(get(&store, "reference/best").unwrap_err().to_string().contains("whose manifest is another now"));
        fs::write(&list, "[").unwrap();
        assert!(get(&store, "reference/best").unwrap_err().to_string().contains("is no list of names"));
        assert!(problems(&store)[0].contains("is no list of names") && get(&store, "reference/other").is_ok());
    }
}
