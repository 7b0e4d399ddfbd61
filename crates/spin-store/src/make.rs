//! The one way to make an artifact.
//!
//! Every stage goes through the same steps: look whether the artifact is
//! there, take the lock on its unfinished work, look again (another process
//! may have finished in between), assemble, publish, clear the work away. They
//! stand here once. A stage brings the [`Recipe`] and a body that assembles;
//! it never publishes by itself.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::artifact::Artifact;
use crate::error::{Result, StoreError};
use crate::store::{Recipe, Store};
use crate::work::{WorkDir, WorkLock};

/// Between looks at who publishes.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Told how a making goes. Every method may be left as it is.
pub trait Watch: Sync {
    /// Pieces done, and all pieces.
    fn progress(&self, _done: u64, _all: u64) {}

    /// Something that people should know.
    fn note(&self, _text: &str) {}
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Watch for Silent {}

/// Who only wants to know what people should know.
impl<F: Fn(&str) + Sync> Watch for F {
    fn note(&self, text: &str) {
        self(text);
    }
}

/// What a making has of the process that it runs in: libraries look around by
/// no other way.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Where artifacts are.
    pub store: &'a Store,
    /// Facts about the process for a manifest, asked for at the end.
    pub environment: &'a (dyn Fn() -> Map<String, Value> + 'a),
    /// The process in words, for others that find its locks.
    pub holder: &'a str,
    /// What computes, e.g. `cpu` or `cuda:0`; recorded, because another device
    /// may round in another way.
    pub device: &'a str,
    /// Becomes true when the process is asked to stop.
    pub stop: &'a AtomicBool,
    /// Who is told how it goes.
    pub watch: &'a dyn Watch,
    /// How long a making waits for another process that is at the same; most
    /// leave it to that one at once.
    pub patience: Duration,
}

/// Why a call ends without the artifact. What was done is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// A stop was asked for; at which place.
    Stopped(String),
    /// Other processes are at what is missing; how far it is, and who.
    Held(String),
    /// This process's share is done, those of others are not; how far it is.
    Partial(String),
}

/// How far a call came.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The artifact was there already.
    Found(Artifact),
    /// The artifact is published.
    Made(Artifact),
    /// It is not there yet.
    Left(Left),
}

/// An artifact that is assembled and not published yet.
#[derive(Debug)]
pub struct Staged {
    /// Its files, in a directory from [`Making::staging`].
    pub dir: TempDir,
    /// What was counted or measured about them.
    pub facts: Map<String, Value>,
    /// What is noted outside both digests, beside the facts about the process.
    pub environment: Map<String, Value>,
}

impl Staged {
    /// Files with what was counted about them.
    pub fn new(dir: TempDir, facts: Map<String, Value>) -> Staged {
        Staged { dir, facts, environment: Map::new() }
    }
}

/// What the body of a making ends with.
#[derive(Debug)]
pub enum Ending {
    /// The artifact is to be published.
    Publish(Staged),
    /// No artifact this time.
    Leave(Left),
}

/// What a process's share of a making ends with.
#[derive(Debug)]
pub enum Share<W> {
    /// The whole is there.
    Whole {
        /// How far it is, in words, should a stop come before it is published.
        place: String,
        /// What this process assembles it with.
        with: W,
    },
    /// Something is missing.
    Left(Left),
}

/// An artifact that is being made.
pub struct Making<'a> {
    /// What is made.
    pub recipe: &'a Recipe,
    /// The process.
    pub context: &'a Context<'a>,
    /// Its unfinished work.
    pub work: WorkDir,
    /// An artifact of the same identity that was found wanting
    /// ([`Context::make_unless`]).
    pub earlier: Option<Artifact>,
}

impl Making<'_> {
    /// An empty directory to assemble the artifact in.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn staging(&self) -> Result<TempDir> {
        self.context.store.staging()
    }

    /// Whether the process is asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.context.stop.load(Ordering::Relaxed)
    }
}

impl<'a> Context<'a> {
    /// A process that tells nothing of itself, hears of no stop and talks to
    /// nobody: for tests and small tools.
    pub fn silent(store: &'a Store) -> Context<'a> {
        static NO_STOP: AtomicBool = AtomicBool::new(false);
        Context {
            store,
            environment: &Map::new,
            holder: "a process without a name",
            device: "cpu",
            stop: &NO_STOP,
            watch: &Silent,
            patience: Duration::ZERO,
        }
    }

    /// Publishes what is assembled; `anew` as a further version.
    fn publish(&self, recipe: &Recipe, staged: Staged, anew: bool) -> Result<Artifact> {
        let Staged { dir, facts, environment: mut beside } = staged;
        let mut environment = (self.environment)();
        environment.insert("device".into(), json!(self.device));
        environment.append(&mut beside);
        match anew {
            false => self.store.publish(dir, recipe, facts, environment),
            true => self.store.publish_anew(dir, recipe, facts, environment),
        }
    }

    /// Says once of a store whose file system has no locks what that means.
    fn look_at(&self, lock: &WorkLock) {
        if !lock.is_held() && !self.store.told_of_locks.swap(true, Ordering::Relaxed) {
            self.watch.note(&format!(
                "the file system of {} has no locks: nothing is published twice, but two processes may do the same work, \
                 and the journal may lose a line of two that are written at once; run one program at a time there",
                self.store.root().display()
            ));
        }
    }

    /// The lock on unfinished work, waited for as long as there is patience.
    fn lock(&self, work: &WorkDir) -> Result<WorkLock> {
        let start = Instant::now();
        loop {
            match work.lock_as("lock", self.holder) {
                Err(StoreError::Locked { .. }) if start.elapsed() < self.patience => std::thread::sleep(LOOK_EVERY),
                // Another process has published and cleared the work away.
                Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    self.store.work(work.identity())?;
                }
                lock => return lock,
            }
        }
    }

    fn making(&'a self, recipe: &'a Recipe) -> Result<Making<'a>> {
        // Not when the work is done.
        self.store.refuse_further_name(recipe.kind, &recipe.name)?;
        let work = self.store.work(&recipe.identity())?;
        Ok(Making { recipe, context: self, work, earlier: None })
    }

    /// Makes an artifact in one go, unless it is there: one process at a time.
    /// The flag says whether this call made it.
    ///
    /// # Errors
    /// What `body` fails with; [`StoreError::Locked`] when another process is
    /// at it; when the disk is full.
    pub fn make<E: From<StoreError>>(
        &self,
        recipe: &Recipe,
        body: impl FnOnce(&Making<'_>) -> Result<Staged, E>,
    ) -> Result<(Artifact, bool), E> {
        match self.make_or_leave(recipe, |making| body(making).map(Ending::Publish))? {
            Outcome::Found(artifact) => Ok((artifact, false)),
            Outcome::Made(artifact) => Ok((artifact, true)),
            Outcome::Left(left) => unreachable!("a body that assembles leaves nothing: {left:?}"),
        }
    }

    /// As [`make`](Self::make), where a stop may end the work half way.
    ///
    /// # Errors
    /// As [`make`](Self::make).
    pub fn make_or_leave<E: From<StoreError>>(
        &self,
        recipe: &Recipe,
        body: impl FnOnce(&Making<'_>) -> Result<Ending, E>,
    ) -> Result<Outcome, E> {
        self.make_unless(recipe, |_| Ok(true), body)
    }

    /// As [`make_or_leave`](Self::make_or_leave), where an artifact may be there and not be
    /// final: answers by others, who may say now what they did not say then.
    /// One that is not is handed to `body`, and a further version is made.
    ///
    /// # Errors
    /// As [`make`](Self::make).
    pub fn make_unless<E: From<StoreError>>(
        &self,
        recipe: &Recipe,
        is_final: impl Fn(&Artifact) -> Result<bool, E>,
        body: impl FnOnce(&Making<'_>) -> Result<Ending, E>,
    ) -> Result<Outcome, E> {
        let identity = recipe.identity();
        if let Some(found) = self.store.find(recipe)?
            && is_final(&found)?
        {
            self.store.discard_work(&identity)?;
            return Ok(Outcome::Found(found));
        }
        let mut making = self.making(recipe)?;
        let lock = self.lock(&making.work)?;
        self.look_at(&lock);
        match self.store.find(recipe)? {
            Some(found) if is_final(&found)? => {
                self.store.discard_work(&identity)?;
                return Ok(Outcome::Found(found));
            }
            earlier => making.earlier = earlier,
        }
        match body(&making)? {
            Ending::Leave(left) => Ok(Outcome::Left(left)),
            Ending::Publish(staged) => {
                let artifact = self.publish(recipe, staged, making.earlier.is_some())?;
                self.store.discard_work(&identity)?;
                Ok(Outcome::Made(artifact))
            }
        }
    }

    /// Makes an artifact that several processes work on side by side. `share`
    /// does what is this process's, under locks of its own; when the whole is
    /// there, one process assembles it by `body` with what its share is left
    /// with, while others wait. `is_taken_away` tells an error that comes when
    /// another process publishes and clears the work away meanwhile.
    ///
    /// # Errors
    /// What the bodies fail with; when the disk is full.
    pub fn make_together<W, E: From<StoreError>>(
        &self,
        recipe: &Recipe,
        is_taken_away: impl Fn(&E) -> bool,
        share: impl FnOnce(&Making<'_>) -> Result<Share<W>, E>,
        body: impl FnOnce(&Making<'_>, W) -> Result<Staged, E>,
    ) -> Result<Outcome, E> {
        if let Some(found) = self.store.find(recipe)? {
            self.store.discard_work(&recipe.identity())?;
            return Ok(Outcome::Found(found));
        }
        let making = self.making(recipe)?;
        let outcome = match share(&making) {
            Ok(Share::Whole { place, with }) => self.assembled(&making, place, |making| body(making, with)),
            Ok(Share::Left(left)) => Ok(Outcome::Left(left)),
            Err(error) => Err(error),
        };
        match outcome {
            // What else went wrong is no less wrong for what is published: a
            // directory that could not be flushed, say.
            Err(error) if !is_taken_away(&error) => Err(error),
            outcome @ (Err(_) | Ok(Outcome::Left(Left::Held(_) | Left::Partial(_)))) => {
                match self.store.find(recipe)? {
                    Some(found) => Ok(Outcome::Found(found)),
                    None => outcome,
                }
            }
            outcome => outcome,
        }
    }

    /// Publishes what is whole, unless somebody did.
    fn assembled<E: From<StoreError>>(
        &self,
        making: &Making<'_>,
        place: String,
        body: impl FnOnce(&Making<'_>) -> Result<Staged, E>,
    ) -> Result<Outcome, E> {
        // The last shares may arrive together: one publishes, the others wait,
        // for it may fail.
        let lock = loop {
            let lock = making.work.lock_as("publish.lock", self.holder);
            if let Some(found) = self.store.find(making.recipe)? {
                return Ok(Outcome::Found(found));
            }
            match lock {
                Ok(lock) => break lock,
                Err(StoreError::Locked { .. }) if making.is_stopped() => {
                    return Ok(Outcome::Left(Left::Stopped(place)));
                }
                Err(StoreError::Locked { .. }) => std::thread::sleep(LOOK_EVERY),
                Err(error) => return Err(error.into()),
            }
        };
        self.look_at(&lock);
        let artifact = self.publish(making.recipe, body(making)?, false)?;
        // What is left of it is cleared by the next call.
        let _ = self.store.discard_work(&making.recipe.identity());
        Ok(Outcome::Made(artifact))
    }
}

#[cfg(test)]
mod tests;
