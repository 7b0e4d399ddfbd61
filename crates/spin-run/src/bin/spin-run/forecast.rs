//! What is to come, in words.

use std::process::{Command, Stdio};

use spin_cli::{duration, size};
use spin_run::plan::Step;

/// This CPU's peak of matrix products in GFLOP/s, as `spin-fit` measures it in a
/// tenth of a second: this program multiplies no matrices. `None` when that
/// fails.
pub fn peak() -> Option<f64> {
    let mut command = Command::new(spin_cli::program("spin-fit"));
    let output = command.arg("peak").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok().filter(|peak| *peak > 0.0)
}

/// Time, memory and disk of steps; `None` when the time of none is known.
pub fn sum(steps: &[&Step], peak_gflops: Option<f64>) -> Option<String> {
    let known = |step: &&Step| step.resources.seconds();
    let seconds: f64 = steps.iter().filter_map(known).sum();
    if seconds == 0.0 {
        return None;
    }
    let evaluations = steps.iter().any(|step| step.name.starts_with("eval-") && step.resources.seconds().is_none());
    let reckoned = steps.iter().any(|step| step.resources.measured.is_none() && step.resources.seconds().is_some());
    let mut text = format!("about {}", duration(seconds));
    if evaluations {
        text += " and the evaluations";
    }
    if let Some(memory) = steps.iter().filter_map(|step| step.resources.memory_at_least).max() {
        text += &format!(", at least {} of memory", size(memory));
    }
    let disk: u64 = steps.iter().filter_map(|step| step.resources.disk).sum();
    if disk > 0 {
        text += &format!(", {} of disk for models", size(disk));
    }
    if let (true, Some(peak)) = (reckoned, peak_gflops) {
        text += &format!(" (reckoned by this machine's {peak:.0} GFLOP/s; give or take a factor of two)");
    }
    Some(text)
}
