//! What a store is made of, and how it travels.

use std::fs;
use std::path::Path;

use spin_run::records::Files;
use spin_store::audit::{self, Level};
use spin_store::bundle;
use spin_store::journal::{self, Event};
use spin_store::{Manifest, Reference, Store};

use crate::{Target, forged, read_as, shipped};

const MANIFESTS: [&str; 3] =
    ["pairs/tiny/iter-0/v1/manifest.json", "model/tiny/base/v1/manifest.json", "scores/tiny/iter-0/v1/manifest.json"];

pub fn manifest(dir: &Path) -> anyhow::Result<Target> {
    let place = |path: &str| shipped("tests/fixtures/store-0.1/store").join(path);
    let good = MANIFESTS.map(|path| fs::read(place(path))).into_iter().collect::<Result<Vec<_>, _>>()?;
    let (dir, seeds) = (dir.to_path_buf(), good.clone());
    let path = dir.join("manifest.json");
    let read = move |bytes: &[u8]| {
        fs::write(&path, bytes)?;
        let result = Manifest::read(&dir);
        // Nothing but what was written is a manifest.
        assert!(result.is_err() || good.iter().any(|good| good == bytes), "an altered manifest is read");
        let Some(forged) = forged::manifest(bytes) else { return read_as(result) };
        fs::write(&path, forged.to_text())?;
        let manifest = Manifest::read(&dir)?;
        assert!(manifest == forged, "another manifest is read than was written");
        for file in &manifest.files {
            let parts = Path::new(&file.path).components();
            let is_inside = |part| matches!(part, std::path::Component::Normal(_));
            assert!(parts.into_iter().all(is_inside), "{:?} leads out of an artifact", file.path);
        }
        Ok(())
    };
    Ok(Target::new(seeds, read))
}

pub fn journal(dir: &Path) -> anyhow::Result<Target> {
    let store = Store::open(&dir.join("store"))?;
    for _ in 0..3 {
        let _ = store.pin("model/a@v1", true)?;
    }
    let events = [Event::Publishing, Event::Published, Event::Adopted, Event::Removing, Event::Removed];
    let line = |(i, event): (usize, &Event)| forged::entry(&format!("model/a/b@v{}", i + 1), *event);
    let chained = forged::journal(events.iter().enumerate().map(line).collect::<String>().as_bytes());
    let path = store.root().join(journal::FILE_NAME);
    let read = move |bytes: &[u8]| {
        fs::write(&path, bytes)?;
        let result = store.journal().map(drop);
        let forged = forged::journal(bytes);
        if forged.is_empty() {
            return read_as(result);
        }
        fs::write(&path, &forged)?;
        let journal = store.journal()?.expect("it was written");
        assert!(journal.entries.len() == forged.lines().count(), "a line is lost");
        for entry in &journal.entries {
            assert!(journal.knows(&entry.artifact, &entry.seal));
        }
        read_as(audit::verify(&store, Level::Structure, &|_| Ok(None)))
    };
    Ok(Target::new(vec![chained.into_bytes()], read))
}

pub fn reference() -> Target {
    let seeds = ["demonstrations/demo/train@v12", "model/a@latest", "pairs/x/iter-0"];
    Target::new(seeds.map(|seed| seed.as_bytes().to_vec()).into(), |bytes| {
        let reference: Reference = String::from_utf8_lossy(bytes).parse()?;
        assert!(spin_store::store::is_name(&reference.name), "{:?} is a name", reference.name);
        assert!(!reference.name.split('/').any(|part| part == ".." || part.is_empty()), "a way out");
        Ok(())
    })
}

pub fn bundle(dir: &Path) -> anyhow::Result<Target> {
    let store = Store::open(&dir.join("from"))?;
    let context = spin_store::Context::silent(&store);
    let source = spin_run::run::SourceConfig::new(shipped("data/raw/demo/test.jsonl"));
    let files = Files::at(&source.path)?;
    let recipe = spin_run::import::demonstrations_recipe("a", &source, &files)?;
    let (artifact, _) = spin_run::import::demonstrations(&context, &recipe, &source, &files)?;
    let path = dir.join("b.spin.tar");
    bundle::write(std::slice::from_ref(&artifact), &artifact, &path)?;
    let good = fs::read(&path)?;
    let (path, to, dir) = (dir.join("bad.spin.tar"), dir.join("to"), dir.to_path_buf());
    let read = move |bytes: &[u8]| {
        let take = |bytes: &[u8]| {
            fs::write(&path, bytes)?;
            let _ = fs::remove_dir_all(&to);
            let result = bundle::take(&Store::open(&to)?, &path, None);
            let all = fs::read_dir(&dir)?.count();
            assert!(all == 4, "{all} things lie beside the store");
            for entry in walk(&to)? {
                assert!(entry.is_file(), "{} is neither a file nor a directory", entry.display());
            }
            read_as(result)
        };
        // As it is where it cannot be sealed anew.
        match forged::bundle(bytes) {
            Some(forged) => take(&forged),
            None => take(bytes),
        }
    };
    Ok(Target::new(vec![good], read))
}

/// All that is in a directory and no directory, links unfollowed.
fn walk(dir: &Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => all.extend(walk(&entry.path())?),
            false if entry.file_type()?.is_symlink() => anyhow::bail!("{} is a link", entry.path().display()),
            false => all.push(entry.path()),
        }
    }
    Ok(all)
}
