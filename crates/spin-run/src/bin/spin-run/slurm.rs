//! Slurm's commands, and a run's jobs as they know them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use spin_run::cluster::queue::{self, SACCT, SQUEUE};
use spin_run::cluster::record::Record;
use spin_run::cluster::script::Places;
use spin_run::cluster::site::Site;
use spin_run::cluster::state::Jobs;
use spin_run::run::RunFile;

/// The variable that names the site's profile where no flag does.
const SITE: &str = "SPIN_SITE";

/// Runs one of Slurm's commands; what it printed. `None` when there is no such
/// command here.
pub fn call(program: &str, arguments: &[String]) -> anyhow::Result<Option<String>> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = match output {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        output => output.with_context(|| format!("failed to start {program}"))?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{program} {} ended with {}: {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The profile of a flag, or else of the variable; one that asks for nothing where
/// there is neither.
pub fn site(flag: Option<&Path>) -> anyhow::Result<Site> {
    let path =
        flag.map(Path::to_path_buf).or_else(|| std::env::var_os(SITE).filter(|v| !v.is_empty()).map(PathBuf::from));
    Ok(path.map_or_else(|| Ok(Site::default()), |path| Site::load(&path))?)
}

/// Where the jobs of a run lie: in its store, out of the way of artifacts.
pub fn places(run: &RunFile, programs: Option<&Path>) -> anyhow::Result<Places> {
    let store = one_place(&std::path::absolute(run.store_dir())?);
    let own = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_path_buf()));
    Ok(Places {
        jobs: store.join(".slurm").join(&run.run),
        start: std::env::current_dir().context("no directory to start from")?,
        programs: programs.map(std::path::absolute).transpose()?.or(own),
    })
}

/// A path by the one name that it has whichever way leads there, also before it is
/// made: jobs are known by it.
fn one_place(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => one_place(parent).join(name),
        _ => path.to_path_buf(),
    })
}

/// The run's jobs: what was submitted, and what of it the queue has. Where no
/// Slurm is, or it does not answer, the second is `None` with why.
pub fn jobs(places: &Places) -> anyhow::Result<(Jobs<'_>, Option<String>)> {
    let record = Record::read(&places.jobs)?;
    let (text, problem) = match call("squeue", &SQUEUE.map(str::to_owned)) {
        Ok(Some(text)) => (text, None),
        Ok(None) => (String::new(), Some("there is no squeue here".to_owned())),
        Err(error) => (String::new(), Some(error.to_string())),
    };
    let own = format!(":{}", places.jobs.display());
    let mut queue = queue::parse(&text);
    queue.retain(|job| job.comment.starts_with("spin:") && job.comment.ends_with(&own));
    Ok((Jobs { places, record, queue, accounts: BTreeMap::new() }, problem))
}

/// How jobs ended that left no word, where accounts are kept.
pub fn accounts(jobs: &mut Jobs<'_>) {
    let mut ids: Vec<&str> = jobs.record.jobs.iter().map(|job| job.job.as_str()).collect();
    ids.dedup();
    if ids.is_empty() {
        return;
    }
    let asked = [SACCT.map(str::to_owned).to_vec(), vec![format!("--jobs={}", ids.join(","))]].concat();
    if let Ok(Some(text)) = call("sacct", &asked) {
        jobs.accounts = queue::parse_accounts(&text).into_iter().collect();
    }
}
