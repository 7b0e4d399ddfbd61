//! What the programs share towards people: flags, exit codes, messages,
//! progress, signals, and the facts about a process that go into a manifest.
//!
//! Libraries never print and never read the environment; the programs do it
//! here, in one way. Data goes to standard output, words for people to
//! standard error.

mod caught;
mod causes;
mod children;
mod launched;
mod log;
mod manual;
mod place;
mod process;
mod progress;
mod streams;
mod units;
mod watchdog;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Map, Value, json};

pub use caught::caught;
pub use children::{program, stop_child, stop_with_parent};
pub use launched::{Launched, launched};
pub use log::{LogArgs, LogFormat, log_as_this, log_format, pass_on, say};
pub use manual::parse;
pub use place::Place;
pub use process::{available_memory, field, peak_memory_mib, processor, resident_memory, resident_memory_mib};
pub use progress::Progress;
pub use streams::{out, printable};
pub use units::{duration, size};
pub use watchdog::bounded;

/// How a program ends. The numbers are a promise to schedulers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything is done.
    Done,
    /// Something failed that is not the input's fault.
    Failed,
    /// An input is missing or wrong.
    BadInput,
    /// An audit found a difference.
    AuditMismatch,
    /// Stopped by a signal, or left to another process that is at it, with the
    /// work so far kept: run it again.
    Again,
}

impl Exit {
    /// The code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::BadInput => 3,
            Exit::AuditMismatch => 4,
            Exit::Again => 75,
        }
    }

    /// How a program ended that this one started: with a code that is none of
    /// these, or by a signal, it failed.
    pub fn of(status: std::process::ExitStatus) -> Exit {
        let exits = [Exit::Done, Exit::BadInput, Exit::AuditMismatch, Exit::Again];
        exits.into_iter().find(|exit| status.code() == Some(exit.code().into())).unwrap_or(Exit::Failed)
    }
}

/// The exit codes, for `--help`.
pub const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 bad input, 4 audit mismatch, \
75 stopped by a signal (TERM, INT, HUP, USR1, USR2), or another process is at it; the work is kept (run it again)";

/// Flags of every stage.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// The run file
    #[arg(value_name = "RUN.toml")]
    pub run: PathBuf,
    /// Override a key of the run file, e.g. --set sample.temperature=0.7
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Whether an error blames the input: it is of one of these types, and says so
/// by its `is_bad_input`.
#[macro_export]
macro_rules! bad_input {
    ($($error:ty),+ $(,)?) => {
        |error: &(dyn std::error::Error + 'static)| {
            false $(|| error.downcast_ref::<$error>().is_some_and(<$error>::is_bad_input))+
        }
    };
}

/// Runs a program's body and turns its result into an exit code and, on an
/// error, one message with its causes. `is_bad_input`, made by [`bad_input!`],
/// tells for an error of
/// the chain whether the input is to blame; a lock that another process holds
/// ([`std::fs::TryLockError::WouldBlock`] in the chain) is [`Exit::Again`] in
/// every program.
///
/// The body's verdict stands whatever becomes of its words: a reader that
/// closes the pipe changes nothing, and a standard output that failed in
/// another way turns success, and nothing else, into failure.
pub fn run(
    log: LogArgs,
    is_bad_input: fn(&(dyn Error + 'static)) -> bool,
    body: impl FnOnce() -> anyhow::Result<Exit>,
) -> ExitCode {
    run_then(log, is_bad_input, body, |_| {})
}

/// As [`run`], with something that is to be done last, after the last word: it
/// is told how the program ends.
pub fn run_then(
    log: LogArgs,
    is_bad_input: fn(&(dyn Error + 'static)) -> bool,
    body: impl FnOnce() -> anyhow::Result<Exit>,
    last: impl FnOnce(Exit),
) -> ExitCode {
    started();
    log.start();
    keep_freed_memory();
    caught::quiet_hook();
    watchdog::start();
    let result = body();
    let lost = streams::lost();
    let exit = match (result, lost) {
        (Ok(Exit::Done), Some(error)) => {
            say(&format!("error: standard output did not take everything: {error}"));
            Exit::Failed
        }
        (Ok(exit), _) => exit,
        (Err(error), _) => {
            say(&format!("error: {}", causes::message(error.chain())));
            exit_of(&error, is_bad_input)
        }
    };
    last(exit);
    ExitCode::from(exit.code())
}

/// How an error ends the program.
fn exit_of(error: &anyhow::Error, is_bad_input: fn(&(dyn Error + 'static)) -> bool) -> Exit {
    if error.chain().any(causes::is_held) {
        Exit::Again
    } else if error.chain().any(is_bad_input) {
        Exit::BadInput
    } else {
        Exit::Failed
    }
}

/// Tells the C library to keep freed memory instead of handing it back: the
/// tensors of a step are as large as those of the last, and giving pages back
/// and faulting them in again took a third of a small training's time.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only sets parameters of the allocator.
    unsafe {
        // The largest threshold it takes; larger blocks are mapped as before.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 512 << 20);
    }
}

/// A flag that becomes true on SIGTERM, SIGINT, SIGHUP (a closed terminal, unless
/// the program was started to outlive it, as by `nohup`), SIGUSR1 or SIGUSR2
/// (which schedulers send ahead of a time limit). A second SIGTERM or SIGINT ends
/// the process at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(Exit::Again.code()), flag.clone())?;
    }
    for signal in [SIGTERM, SIGINT, SIGUSR1, SIGUSR2] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    if !is_ignored(SIGHUP) {
        signal_hook::flag::register(SIGHUP, flag.clone())?;
    }
    Ok(flag)
}

/// Whether this process was started with a signal ignored.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: with no new action sigaction only fills in the old one, which is
    // plain data for which zeroes are valid.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut old) == 0 && old.sa_sigaction == libc::SIG_IGN
    }
}

/// Whether a stop was asked for.
pub fn stopping(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Relaxed)
}

fn started() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// Seconds since the program started.
pub fn elapsed_seconds() -> f64 {
    started().elapsed().as_secs_f64()
}

/// This process in words, for others that find its locks.
pub fn whoami() -> String {
    let host = process::host().map(|host| format!(" on {host}")).unwrap_or_default();
    let job = std::env::var("SLURM_JOB_ID").map(|job| format!(", Slurm job {job}")).unwrap_or_default();
    format!("process {}{host}{job}, since {}", std::process::id(), now())
}

/// The time in UTC to the second, as records have it.
pub fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// What Slurm says of a job, by its key in records.
const SLURM: [(&str, &str); 2] = [("slurm_job_id", "SLURM_JOB_ID"), ("slurm_array_task_id", "SLURM_ARRAY_TASK_ID")];

/// The machine's NVIDIA GPUs, as their driver calls them.
pub fn gpus() -> Vec<String> {
    process::gpus(Path::new("/proc/driver/nvidia/gpus"))
}

/// Those of a program's Cargo features that it was built with, of the features
/// named, which its package must have.
#[macro_export]
macro_rules! features {
    ($($name:literal),* $(,)?) => {
        &[$((cfg!(feature = $name), $name)),*]
    };
}

/// Facts about this process for a manifest's `environment`; `features` is
/// [`features!`].
pub fn environment(features: &[(bool, &str)]) -> Map<String, Value> {
    let mut map = Map::new();
    let features: Vec<&str> = features.iter().filter(|(is_on, _)| *is_on).map(|(_, name)| *name).collect();
    map.insert("features".into(), json!(features));
    let gpus = gpus();
    if !gpus.is_empty() {
        map.insert("gpus".into(), json!(gpus));
    }
    map.insert("finished_at".into(), json!(now()));
    map.insert("seconds".into(), json!((elapsed_seconds() * 10.0).round() / 10.0));
    map.insert("commit".into(), json!(env!("SPIN_COMMIT")));
    map.insert("package_version".into(), json!(env!("CARGO_PKG_VERSION")));
    map.insert("cargo_lock".into(), json!(env!("SPIN_LOCK")));
    map.insert("compiler".into(), json!(env!("SPIN_COMPILER")));
    map.insert("processor".into(), json!(processor()));
    map.insert("target".into(), json!(format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)));
    map.insert("threads".into(), json!(std::thread::available_parallelism().map_or(1, usize::from)));
    if let Some(launched) = launched() {
        map.insert("processes".into(), json!(launched.world));
    }
    if let Some(host) = process::host() {
        map.insert("host".into(), json!(host));
    }
    if let Some(mib) = peak_memory_mib() {
        map.insert("peak_memory_mib".into(), json!(mib));
    }
    for (key, variable) in SLURM {
        if let Ok(value) = std::env::var(variable) {
            map.insert(key.into(), json!(value));
        }
    }
    map
}

/// `1.2 s` and `340 MiB`, for a stage's last line.
pub fn cost() -> String {
    let memory = peak_memory_mib().map_or_else(String::new, |mib| format!(", peak memory {mib} MiB"));
    format!("{:.1} s{memory}", elapsed_seconds())
}
