//! Removing artifacts on purpose, and taking in what others put there: the two
//! changes of a store beside publishing, and the journal knows both.

use std::fs;
use std::path::PathBuf;

use crate::artifact::Artifact;
use crate::error::{Result, StoreError};
use crate::fault;
use crate::fsutil;
use crate::journal::{Event, Journal, Note};
use crate::store::{Reference, Store, Version};

/// What became of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, with this many bytes.
    Removed(u64),
    /// It was gone already; the journal says now that it was meant.
    Noted,
}

impl Store {
    /// The artifacts that were made from another one, by their references.
    ///
    /// # Errors
    /// When the store cannot be listed. Manifests that cannot be read name nobody.
    pub fn children(&self, reference: &str) -> Result<Vec<String>> {
        let is_child = |child: &Artifact| {
            child.manifest.parents.iter().any(|parent| !parent.is_outside() && parent.origin.to_string() == reference)
        };
        Ok(self.readable()?.filter(is_child).map(|child| child.reference()).collect())
    }

    /// Removes a version on purpose; its number is given by `reference`. One
    /// that others were made from, or that has a further name, stays, unless `with_children_left`.
    ///
    /// # Errors
    /// When the reference has no number, others were made from it, or it cannot
    /// be removed.
    pub fn remove(&self, reference: &Reference, at: Option<&str>, with_children_left: bool) -> Result<Removal> {
        let Version::Number(number) = reference.version else {
            let problem = "names no version by its number, which a removal needs";
            let dir = self.name_dir(reference.kind, &reference.name);
            return Err(StoreError::corrupt(&dir, problem, "write kind/name@vN"));
        };
        let name = format!("{}/{}@v{number}", reference.kind, reference.name);
        let dir = self.name_dir(reference.kind, &reference.name).join(format!("v{number}"));
        let children = if with_children_left { Vec::new() } else { self.children(&name)? };
        if !children.is_empty() {
            let problem = format!("{} artifacts are made from it, {} among them", children.len(), children[0]);
            return Err(StoreError::corrupt(&dir, problem, "remove those first"));
        }
        if !with_children_left && let Some((other, _)) = self.names()?.iter().find(|(_, named)| named.artifact == name)
        {
            let remedy = format!("`spin-store rename --drop {other}` first");
            return Err(StoreError::corrupt(&dir, format!("the name {other} stands for it"), remedy));
        }
        self.refuse_links(reference.kind, &format!("{}/v{number}", reference.name))?;
        let _lock = self.lock_versions(reference.kind, &reference.name, "")?;
        let artifact = self.load_listed(&(reference.kind, reference.name.clone(), number));
        let seal = artifact.as_ref().map(|artifact| artifact.manifest.seal.clone()).unwrap_or_default();
        let note = |event| Note { event, artifact: name.clone(), seal: seal.clone() };
        if matches!(fs::symlink_metadata(&dir), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
            if !self.journal()?.is_some_and(|journal| journal.last().contains_key(name.as_str())) {
                let (store, remedy) = (self.root().to_path_buf(), "`spin-store ls` shows what there is".into());
                return Err(StoreError::Missing { reference: name, store, remedy });
            }
            self.note(at, vec![note(Event::Removed)])?;
            return Ok(Removal::Noted);
        }
        self.note(at, vec![note(Event::Removing)])?;
        // Gone at once for readers, whatever becomes of the rest.
        let staging = self.staging()?;
        fault::point("rename", &dir).map_err(StoreError::io("remove", &dir))?;
        fsutil::move_dir(&dir, &staging.path().join("removed")).map_err(StoreError::io("remove", &dir))?;
        let parent: PathBuf = dir.parent().map(Into::into).unwrap_or_default();
        fsutil::sync_dir(&parent)?;
        self.note(at, vec![note(Event::Removed)])?;
        Ok(Removal::Removed(artifact.map(|artifact| artifact.manifest.bytes()).unwrap_or_default()))
    }

    /// Says of artifacts that the journal knows nothing of, or knows otherwise,
    /// that they belong here. Returns those that it was said of.
    ///
    /// # Errors
    /// When one of them is not what its manifest says.
    pub fn adopt(&self, artifacts: Vec<Artifact>, at: Option<&str>) -> Result<Vec<String>> {
        let journal = self.journal()?.unwrap_or_else(Journal::default);
        let last = journal.last();
        let is_known = |artifact: &Artifact| {
            last.get(artifact.reference().as_str()).is_some_and(|entry| {
                // One whose publication was killed half way is there by chance until then.
                entry.seal == artifact.manifest.seal && matches!(entry.event, Event::Published | Event::Adopted)
            })
        };
        let unknown: Vec<Artifact> = artifacts.into_iter().filter(|artifact| !is_known(artifact)).collect();
        for artifact in &unknown {
            artifact.verify_wholly()?;
        }
        let notes = unknown.iter().map(|artifact| Note::of(Event::Adopted, artifact)).collect();
        self.note(at, notes)?;
        Ok(unknown.iter().map(Artifact::reference).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(store: &Store, name: &str, from: Option<&Artifact>) -> Artifact {
        crate::fault::tests::publish(store, name, from).unwrap()
    }

    fn found(store: &Store) -> usize {
        crate::audit::verify(store, crate::audit::Level::Hash, &|_| Ok(None)).unwrap().1.len()
    }

    #[test]
    fn what_is_removed_is_no_loss_and_what_is_deleted_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = publish(&store, "a", None);
        let second = publish(&store, "b", Some(&first));
        assert_eq!((found(&store), second.manifest.parents[0].seal.as_ref()), (0, Some(&first.manifest.seal)));
        let at = |artifact: &Artifact| artifact.reference().parse::<Reference>().unwrap();
        let error = store.remove(&at(&first), None, false).unwrap_err().to_string();
        assert!(error.contains("1 artifacts are made from it, reference/b@v1"), "{error}");
        assert!(matches!(store.remove(&at(&second), None, false).unwrap(), Removal::Removed(bytes) if bytes > 0));
        assert_eq!(found(&store), 0);
        fs::remove_dir_all(&first.dir).unwrap();
        assert_eq!(found(&store), 1);
        assert_eq!(store.remove(&at(&first), None, false).unwrap(), Removal::Noted);
        assert_eq!((found(&store), fs::read_dir(dir.path().join(".staging")).unwrap().count()), (0, 0));
    }

    #[test]
    fn only_what_no_root_needs_is_collected() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = publish(&store, "a", None);
        let second = publish(&store, "b", Some(&first));
        let loose = publish(&store, "c", Some(&first));
        publish(&store, "d", Some(&loose));
        fs::create_dir_all(dir.path().join(".staging/new-left")).unwrap();
        for identity in [&first.manifest.identity, "0123"] {
            fs::create_dir_all(dir.path().join(".work").join(identity)).unwrap();
            fs::write(dir.path().join(".work").join(identity).join("part"), "12345").unwrap();
        }
        // Without roots no artifact is garbage.
        assert!(store.garbage(None).unwrap().artifacts.is_empty());
        let kept = [first.reference(), second.reference()].into_iter().collect();
        let garbage = store.garbage(Some(&kept)).unwrap();
        let names: Vec<String> = garbage.artifacts.iter().map(Artifact::reference).collect();
        assert_eq!(names, ["reference/d@v1", "reference/c@v1"]);
        let counts = (garbage.assemblies.len(), garbage.leftovers.len(), garbage.unfinished.len());
        assert_eq!(counts, (1, 1, 1));
        // Not while another has the store open.
        let other = Store::open_existing(dir.path()).unwrap();
        assert!(matches!(store.collect(&garbage, false, None), Err(StoreError::Locked { .. })));
        drop(other);
        assert!(store.collect(&garbage, false, None).unwrap() > 5);
        assert_eq!((found(&store), store.list().unwrap().len()), (0, 2));
        assert!(dir.path().join(".work/0123/part").exists());
        assert_eq!(store.collect(&store.garbage(None).unwrap(), true, None).unwrap(), 5);
        assert!(!dir.path().join(".work/0123").exists());
        assert!(store.pin("reference/a@v1", true).unwrap() && !store.pin("reference/a@v1", true).unwrap());
        assert_eq!(store.pins().unwrap(), ["reference/a@v1"]);
        assert!(store.pin("reference/a@v1", false).unwrap() && store.pins().unwrap().is_empty());
    }

    #[test]
    fn what_others_put_there_is_named_until_it_is_adopted() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [source, store] = [&from, &to].map(|dir| Store::open(dir.path()).unwrap());
        publish(&source, "a", None);
        fs::rename(from.path().join("reference"), to.path().join("reference")).unwrap();
        assert_eq!(found(&store), 1);
        let all = || store.artifacts().unwrap();
        assert_eq!(store.adopt(all(), None).unwrap(), ["reference/a@v1"]);
        assert_eq!((found(&store), store.adopt(all(), None).unwrap().len()), (0, 0));
    }
}
