//! `extract` and `verify --level replay`: from an artifact back to its run, and the
//! run's stages done again.

use std::path::Path;
use std::process::{Command, Stdio};

use spin_cli::{Exit, say};
use spin_run::recovery::Recovered;
use spin_run::replay::{self, Job, Likeness};
use spin_store::{Artifact, Reference, Store};

use crate::looks::shown;
use crate::out;

pub fn extract(store: &Store, reference: &str, file: Option<&Path>) -> anyhow::Result<Exit> {
    let artifact = store.get(&reference.parse::<Reference>()?)?;
    let recovered = Recovered::of(&artifact)?;
    match file {
        Some(file) => {
            recovered.write(file, store)?;
            say(&format!("wrote {}, the run file of {}", file.display(), artifact.reference()));
        }
        None => {
            let (of, place) = (artifact.reference(), recovered.place.display());
            let head = format!("# The run file of {of}, with all its keys; relative paths count from\n# {place}\n");
            out(&shown(&(head + &recovered.to_toml()?)))?;
        }
    }
    Ok(Exit::Done)
}

/// How many artifacts came out how.
#[derive(Default)]
struct Count {
    equal: usize,
    near: usize,
    different: usize,
    unknown: usize,
}

/// Does again what made the artifacts, or one and what it is from.
pub fn replay(store: &Store, reference: Option<&str>) -> anyhow::Result<Exit> {
    let artifacts: Vec<Artifact> = match reference {
        None => store.artifacts()?,
        Some(reference) => replay::needed_of(store, &store.get(&reference.parse::<Reference>()?)?)?,
    };
    let (jobs, left_out) = replay::jobs(store, &artifacts);
    let mut count = Count::default();
    let processor = spin_cli::processor();
    for (number, job) in jobs.iter().enumerate() {
        say(&shown(&format!("[{}/{}] {}", number + 1, jobs.len(), job.name())));
        let dir = store.staging().or_else(|_| tempfile::tempdir())?;
        if let Err(error) = again(store, job, dir.path(), &processor, &mut count) {
            count.unknown += job.outputs.len();
            say(&shown(&format!("{}: could not be repeated: {error:#}", job.name())));
        }
    }
    for left in &left_out {
        let how = if left.is_import { "taken as it is" } else { "not repeated" };
        say(&shown(&format!("{}: {how}: {}", left.artifact, left.why)));
    }
    let imports = left_out.iter().filter(|left| left.is_import).count();
    let Count { equal, near, different, unknown } = count;
    let unknown = unknown + left_out.len() - imports;
    let mut verdict = format!("repeated: {equal} equal");
    for (n, what) in [(near, "within noise"), (different, "different"), (unknown, "unknown")] {
        if n > 0 {
            verdict += &format!(", {n} {what}");
        }
    }
    out(&format!("{verdict}; {imports} imports taken as they are\n"))?;
    Ok(match (different, unknown) {
        (0, 0) => Exit::Done,
        (0, _) => Exit::Failed,
        _ => Exit::AuditMismatch,
    })
}

/// Does one command again and holds what it made against what is recorded.
fn again(store: &Store, job: &Job, dir: &Path, processor: &str, count: &mut Count) -> anyhow::Result<()> {
    let (scratch, words) = job.prepare(store, dir)?;
    let mut command = Command::new(spin_cli::program(&words[0]));
    command.args(&words[1..]).stdin(Stdio::null());
    spin_cli::stop_with_parent(&mut command);
    let output = command.output().map_err(|e| anyhow::anyhow!("failed to start {}: {e}", words[0]))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("{} ended with {}: {}", words.join(" "), output.status, said.trim_end());
    }
    for recorded in &job.outputs {
        let m = &recorded.manifest;
        let made = scratch.versions(m.kind, &m.name)?.into_iter();
        let made: Vec<Artifact> =
            made.map(|version| scratch.load_listed(&(m.kind, m.name.clone(), version))).collect::<Result<_, _>>()?;
        let Some(made) = made.iter().find(|made| made.manifest.identity == m.identity) else {
            count.different += 1;
            say(&shown(&format!("{}: its settings and inputs are not those of its identity", recorded.reference())));
            continue;
        };
        let name = recorded.reference();
        match replay::compare(recorded, made, processor)? {
            Likeness::Equal => count.equal += 1,
            Likeness::SameRows(how) => {
                count.equal += 1;
                say(&shown(&format!("{name}: equal {how}")));
            }
            Likeness::Near(how) => {
                count.near += 1;
                say(&shown(&format!("{name}: {how}")));
            }
            Likeness::Unknown(how) => {
                count.unknown += 1;
                say(&shown(&format!("{name}: {how}")));
            }
            Likeness::Differs(how) => {
                count.different += 1;
                say(&shown(&format!("{name}: is not what comes out again:\n{how}")));
            }
        }
    }
    Ok(())
}
