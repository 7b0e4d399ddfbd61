use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::Endpoints;
use crate::secret::Secret;
use crate::testing::Server;
use crate::testing::hub::{Repositories, Repository, commit, git, serve, sha256};

static NEVER: AtomicBool = AtomicBool::new(false);

/// A hub with one repository, and a cache.
struct World {
    repositories: Repositories,
    server: Server,
    settings: Settings,
    notes: Mutex<Vec<String>>,
    _home: tempfile::TempDir,
}

impl World {
    fn new(name: &str, files: &[(&str, &[u8])]) -> World {
        let repositories: Repositories = Arc::new(Mutex::new([(name.to_owned(), Repository::of(files))].into()));
        let server = serve(repositories.clone());
        let home = tempfile::tempdir().unwrap();
        let endpoints = Endpoints {
            hub: server.url.clone(),
            tries: 3,
            base_delay: Duration::from_millis(1),
            timeout: Duration::from_secs(5),
            ..Endpoints::default()
        };
        let settings = Settings { endpoints, cache: home.path().join("hub"), offline: false };
        World { repositories, server, settings, notes: Mutex::default(), _home: home }
    }

    /// A model of one file of weights.
    fn model() -> World {
        let weights = vec![7; 300_000];
        World::new("o/m", &[("config.json", b"{}"), ("model.safetensors", &weights), ("a b.txt", b"x")])
    }

    fn change(&self, change: impl FnOnce(&mut Repository)) {
        change(self.repositories.lock().unwrap().values_mut().next().unwrap());
    }

    fn bring(&self, name: &str, recorded: Option<&str>) -> Result<Snapshot> {
        let note = |text: &str| self.notes.lock().unwrap().push(text.to_owned());
        let all = |paths: &[&str]| Ok(paths.iter().map(|path| (*path).to_owned()).collect());
        Hub::new(&self.settings, &NEVER, &note).bring(&name.parse()?, recorded, &all)
    }

    fn requests(&self) -> usize {
        self.server.seen().len()
    }
}

fn read(snapshot: &Snapshot, path: &str) -> Vec<u8> {
    fs::read(snapshot.dir.join(path)).unwrap()
}

/// Names of all files below a directory that are no links.
fn plain_files(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(plain_files(&path));
        } else if !path.is_symlink() {
            files.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    files.sort();
    files
}

#[test]
fn a_snapshot_lies_as_pythons_and_is_asked_for_once() {
    let world = World::model();
    let snapshot = world.bring("hf:o/m", None).unwrap();
    assert_eq!(snapshot.commit, commit('1'));
    assert_eq!(snapshot.files, ["a b.txt", "config.json", "model.safetensors"]);
    assert_eq!(read(&snapshot, "model.safetensors"), vec![7; 300_000]);
    let repo = world.settings.cache.join("models--o--m");
    assert_eq!(snapshot.dir, repo.join("snapshots").join(commit('1')));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), commit('1'));
    let blob = format!("../../blobs/{}", sha256(&[7; 300_000]));
    assert_eq!(fs::read_link(snapshot.dir.join("model.safetensors")).unwrap(), Path::new(&blob));
    let blob = format!("../../blobs/{}", git(b"{}"));
    assert_eq!(fs::read_link(snapshot.dir.join("config.json")).unwrap(), Path::new(&blob));
    assert!(
        !plain_files(&world.settings.cache).iter().any(|name| name.contains("incomplete") || name.contains(".tmp"))
    );
    // The list and three files; a second time the branch alone, a commit nothing.
    assert_eq!(world.requests(), 4);
    assert_eq!(world.bring("hf:o/m@main", None).unwrap(), snapshot);
    assert_eq!(world.requests(), 5);
    assert_eq!(world.bring(&format!("hf:o/m@{}", commit('1')), None).unwrap(), snapshot);
    assert_eq!(world.requests(), 5);
}

#[test]
fn data_sets_have_their_own_routes_and_branches_with_slashes() {
    let files: [(&str, &[u8]); 2] = [("main/train.parquet", b"PAR1"), ("README.md", b"#")];
    let world = World::new("datasets/o/d", &files);
    world.change(|repository| drop(repository.branches.insert("refs/convert/parquet".into(), commit('1'))));
    let snapshot = world.bring("hf:datasets/o/d/main@refs/convert/parquet", None).unwrap();
    assert_eq!(read(&snapshot, "main/train.parquet"), b"PAR1");
    let link = fs::read_link(snapshot.dir.join("main/train.parquet")).unwrap();
    assert_eq!(link, Path::new(&format!("../../../blobs/{}", sha256(b"PAR1"))));
    let repo = world.settings.cache.join("datasets--o--d");
    assert_eq!(fs::read_to_string(repo.join("refs/refs/convert/parquet")).unwrap(), commit('1'));
}

#[test]
fn the_recorded_commit_wins_over_a_branch_that_moved() {
    let world = World::model();
    let before = world.bring("hf:o/m", None).unwrap();
    world.change(|repository| {
        let files = [("config.json".to_owned(), b"{\"new\": 1}".to_vec())].into();
        repository.commits.insert(commit('2'), files);
        repository.branches.insert("main".into(), commit('2'));
    });
    assert_eq!(world.bring("hf:o/m", Some(&before.commit)).unwrap(), before);
    let after = world.bring("hf:o/m", None).unwrap();
    assert_eq!((after.commit.clone(), read(&after, "config.json")), (commit('2'), b"{\"new\": 1}".to_vec()));
    // Both are there, and an old cache without the network gives the branch as it was last seen.
    let offline = Settings { offline: true, ..world.settings.clone() };
    let all = |paths: &[&str]| Ok(paths.iter().map(|path| (*path).to_owned()).collect());
    let bring = |recorded| Hub::new(&offline, &NEVER, &|_: &str| {}).bring(&"hf:o/m".parse()?, recorded, &all);
    assert_eq!(bring(None).unwrap(), after);
    assert_eq!(bring(Some(&before.commit)).unwrap(), before);
}

#[test]
fn gated_and_missing_things_say_what_to_do() {
    let mut world = World::model();
    world.change(|repository| repository.gate = Some("hf_mine".into()));
    let error = world.bring("hf:o/m", None).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, NetError::Refused { status: 401, .. }) && error.is_bad_input(), "{text}");
    assert!(text.contains("it is gated; accept its terms on the hub, and give a token (HF_TOKEN)"), "{text}");
    world.settings.endpoints.token = Secret::new("hf_other", "t").ok();
    let text = world.bring("hf:o/m", None).unwrap_err().to_string();
    assert!(text.contains("check that the token may read it") && !text.contains("hf_other"), "{text}");
    world.settings.endpoints.token = Secret::new("hf_mine", "t").ok();
    world.bring("hf:o/m", None).unwrap();

    let text = world.bring("hf:o/m@v9", None).unwrap_err().to_string();
    assert!(text.contains("there is no such revision"), "{text}");
    let text = world.bring("hf:o/other", None).unwrap_err().to_string();
    assert!(text.contains("there is no such thing on the hub"), "{text}");
    let bad = |_: &[&str]| Err(("has no weights".to_owned(), "take another".to_owned()));
    let hub = Hub::new(&world.settings, &NEVER, &|_: &str| {});
    let text = hub.bring(&"hf:o/m".parse().unwrap(), None, &bad).unwrap_err().to_string();
    assert_eq!(text, "hf:o/m: has no weights; take another");
}

#[test]
fn without_a_network_the_cache_serves_what_it_has_whole() {
    let mut world = World::model();
    world.settings.offline = true;
    let text = world.bring("hf:o/m", None).unwrap_err().to_string();
    assert!(text.contains("revision main is not in") && text.contains("unset HF_HUB_OFFLINE"), "{text}");
    world.settings.offline = false;
    let snapshot = world.bring("hf:o/m", None).unwrap();
    let before = world.requests();
    world.settings.offline = true;
    assert_eq!(world.bring("hf:o/m", None).unwrap(), snapshot);
    assert_eq!(world.requests(), before);

    // A file that is gone, and one that is damaged.
    let place = snapshot.dir.join("config.json");
    let to = fs::read_link(&place).unwrap();
    fs::remove_file(&place).unwrap();
    let text = world.bring("hf:o/m", None).unwrap_err().to_string();
    assert!(text.contains("config.json is not in the cache"), "{text}");
    fs::write(snapshot.dir.join(&to), "{ }").unwrap();
    symlink(&to, &place).unwrap();
    let text = world.bring("hf:o/m", None).unwrap_err().to_string();
    assert!(text.contains("has git's SHA-1") && text.contains("delete it"), "{text}");
    world.settings.offline = false;
    assert_eq!(read(&world.bring("hf:o/m", None).unwrap(), "config.json"), b"{}");

    // A hub that is not there, but not said to be: the cache, with a warning.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.settings.endpoints.hub = format!("http://{closed}");
    assert_eq!(world.bring("hf:o/m", None).unwrap(), snapshot);
    let notes = world.notes.lock().unwrap().join("\n");
    assert!(notes.contains("cannot be reached") && notes.contains("taken from the cache at 1111"), "{notes}");
    drop(notes);
    let error = world.bring("hf:o/unknown", None).unwrap_err();
    assert!(matches!(error, NetError::Offline { .. }) && !error.is_bad_input(), "{error}");
    assert!(error.to_string().contains("give the path of a copy"), "{error}");
}

#[test]
fn a_cache_that_another_program_filled_is_used_unless_parts_lack() {
    let world = World::model();
    let settings = Settings { offline: true, ..world.settings.clone() };
    let repo = settings.cache.join("datasets--o--d");
    let dir = repo.join("snapshots").join(commit('3'));
    for sub in ["refs", "blobs"] {
        fs::create_dir_all(repo.join(sub)).unwrap();
    }
    fs::create_dir_all(dir.join("data")).unwrap();
    fs::write(repo.join("refs/main"), commit('3')).unwrap();
    let put = |part: usize, bytes: &[u8]| {
        let blob = sha256(bytes);
        fs::write(repo.join("blobs").join(&blob), bytes).unwrap();
        symlink(format!("../../../blobs/{blob}"), dir.join(format!("data/train-0000{part}-of-00002.parquet"))).unwrap();
    };
    let all = |paths: &[&str]| Ok(paths.iter().map(|path| (*path).to_owned()).collect());
    let bring = || Hub::new(&settings, &NEVER, &|_: &str| {}).bring(&"hf:datasets/o/d".parse()?, None, &all);
    put(0, b"one");
    let text = bring().unwrap_err().to_string();
    assert!(text.contains("has 1 of 2 parts of data/train-"), "{text}");
    put(1, b"two");
    assert_eq!(bring().unwrap().files.len(), 2);
    fs::write(repo.join("blobs").join(sha256(b"two")), "2wo").unwrap();
    let text = bring().unwrap_err().to_string();
    assert!(text.contains("has SHA-256"), "{text}");
}

#[test]
fn what_broke_off_is_gone_on_with() {
    let world = World::model();
    world.change(|repository| repository.breaks = 1000);
    // Each answer brings half of what is left, of three tries: 1/8 is left.
    let error = world.bring("hf:o/m", None).unwrap_err().to_string();
    assert!(error.contains("broke") || error.contains("cannot be reached"), "{error}");
    world.change(|repository| repository.breaks = 0);
    let before = world.requests();
    let snapshot = world.bring("hf:o/m", None).unwrap();
    assert_eq!(read(&snapshot, "model.safetensors"), vec![7; 300_000]);
    assert!(world.requests() > before);

    // As a killed process leaves it: half a file, and none that a reader takes.
    let blob = world.settings.cache.join("models--o--m/blobs").join(sha256(&[7; 300_000]));
    let part = blob.with_extension("incomplete");
    fs::rename(&blob, &part).unwrap();
    File::options().write(true).open(&part).unwrap().set_len(100_000).unwrap();
    let snapshot = world.bring("hf:o/m", None).unwrap();
    assert_eq!(read(&snapshot, "model.safetensors"), vec![7; 300_000]);
    let last = world.server.seen().pop().unwrap();
    assert_eq!(last.header("range"), Some("bytes=100000-"));
    assert!(!part.exists());

    // Half of another file: found by its digest, fetched anew.
    fs::remove_file(&blob).unwrap();
    fs::write(&part, vec![8; 100_000]).unwrap();
    assert_eq!(read(&world.bring("hf:o/m", None).unwrap(), "model.safetensors"), vec![7; 300_000]);
    // More than there is of it.
    fs::remove_file(&blob).unwrap();
    fs::write(&part, vec![7; 300_001]).unwrap();
    assert_eq!(read(&world.bring("hf:o/m", None).unwrap(), "model.safetensors"), vec![7; 300_000]);
}

#[test]
fn a_wrong_digest_is_refused_and_leaves_nothing() {
    let world = World::model();
    world.change(|repository| repository.forged = Some(vec![9; 300_000]));
    let error = world.bring("hf:o/m", None).unwrap_err();
    assert!(matches!(error, NetError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("the hub says"), "{error}");
    let blobs = world.settings.cache.join("models--o--m/blobs");
    let part = blobs.join(sha256(&[7; 300_000])).with_extension("incomplete");
    assert_eq!(part.metadata().unwrap().len(), 0);
    assert!(!blobs.join(sha256(&[7; 300_000])).exists());
    world.change(|repository| repository.forged = None);
    world.bring("hf:o/m", None).unwrap();
}

#[test]
fn two_at_once_fetch_a_file_once() {
    let world = World::model();
    std::thread::scope(|scope| {
        let both = [(); 4].map(|()| scope.spawn(|| world.bring("hf:o/m", None).unwrap()));
        for one in both {
            assert_eq!(read(&one.join().unwrap(), "model.safetensors").len(), 300_000);
        }
    });
    let weights = world.server.seen().iter().filter(|sent| sent.line.contains("model.safetensors")).count();
    assert_eq!(weights, 1);
    // A lock that another holds is waited for, until a stop.
    let locks = world.settings.cache.join(".locks/models--o--m");
    let blob = world.settings.cache.join("models--o--m/blobs").join(sha256(&[7; 300_000]));
    fs::remove_file(&blob).unwrap();
    let held = File::create(locks.join(format!("{}.lock", sha256(&[7; 300_000])))).unwrap();
    held.lock().unwrap();
    let stop = AtomicBool::new(false);
    let all = |paths: &[&str]| Ok(paths.iter().map(|path| (*path).to_owned()).collect());
    let result = std::thread::scope(|scope| {
        let hub = scope.spawn(|| Hub::new(&world.settings, &stop, &|_: &str| {}).bring(&"hf:o/m".parse()?, None, &all));
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        hub.join().unwrap()
    });
    assert!(matches!(result, Err(NetError::Stopped)));
}
