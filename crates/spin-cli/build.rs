//! Records what the programs are built from, for the manifests: the commit, the
//! versions of all packages, the compiler.

use std::process::Command;

use sha2::{Digest as _, Sha256};

/// From here to the workspace's.
const LOCK: &str = "../../Cargo.lock";
/// What the programs are built from: whether it is as committed is asked anew with every change.
const SOURCES: &str = "../../crates";
/// Every commit and checkout adds a line. By its way from here, where it is there: a build that is reused in another
/// clone must look at that one's.
const HEAD: &str = "../../.git/logs/HEAD";

fn said(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn main() {
    let git = |args: &[&str]| said("git", args);
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".into());
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some();
    println!("cargo::rustc-env=SPIN_COMMIT={commit}{}", if dirty { "+modified" } else { "" });
    if let Some(dir) = git(&["rev-parse", "--absolute-git-dir"]) {
        let head = if std::path::Path::new(HEAD).exists() { HEAD.into() } else { format!("{dir}/logs/HEAD") };
        println!("cargo::rerun-if-changed={head}");
        println!("cargo::rerun-if-changed={SOURCES}");
    }
    let lock = std::fs::read(LOCK).map(|lock| Sha256::digest(lock).iter().map(|b| format!("{b:02x}")).collect());
    println!("cargo::rustc-env=SPIN_LOCK={}", lock.unwrap_or_else(|_| String::from("unknown")));
    println!("cargo::rerun-if-changed={LOCK}");
    let compiler = std::env::var("RUSTC").ok().and_then(|rustc| said(&rustc, &["--version"]));
    println!("cargo::rustc-env=SPIN_COMPILER={}", compiler.unwrap_or_else(|| "unknown".into()));
}
