//! A step as a batch script of Slurm.
//!
//! What differs between submissions of one script (which elements of an array,
//! after which jobs) is given to `sbatch`, so that the script can be read before
//! and after as it was run.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::need::{Element, elements};
use super::queue;
use super::site::{Ask, Site};
use crate::plan::{Step, shell_line};

/// Where a run's scripts, logs and outcomes lie, and where programs are called.
#[derive(Clone, Debug)]
pub struct Places {
    /// Directory of the run's jobs; an absolute path.
    pub jobs: PathBuf,
    /// The directory that the run file's path counts from.
    pub start: PathBuf,
    /// Directory of the programs; `None` for the `PATH`.
    pub programs: Option<PathBuf>,
}

impl Places {
    /// The script of a step.
    pub fn script(&self, step: &str) -> PathBuf {
        self.jobs.join(format!("{step}.sh"))
    }

    /// Directory of the logs, which must be there before a job begins.
    pub fn logs(&self) -> PathBuf {
        self.jobs.join("logs")
    }

    /// Directory of how jobs ended; likewise.
    pub fn outcomes(&self) -> PathBuf {
        self.jobs.join("ended")
    }

    /// The log of a job, or of an element of an array.
    pub fn log(&self, step: &str, job: &str, element: Option<u32>) -> PathBuf {
        self.logs().join(format!("{step}.{}.log", queue::id(job, element)))
    }

    /// Where a job leaves how it ended: its number and the exit code.
    pub fn ended(&self, step: &str, element: Option<u32>) -> PathBuf {
        let element = element.map_or_else(String::new, |element| format!(".{element}"));
        self.outcomes().join(format!("{step}{element}"))
    }

    /// What tells a job of this run's step from all others, as its comment.
    pub fn comment(&self, step: &str) -> String {
        format!("spin:{step}:{}", self.jobs.display())
    }
}

/// The script of a step of a run.
pub fn script(run: &str, step: &Step, site: &Site, places: &Places) -> String {
    let elements = elements(step);
    let ask = site.ask(step, elements.len());
    let is_array = !elements.is_empty();
    let mut text = "#!/bin/bash\n".to_owned();
    for option in options(run, step, &ask, site, places, is_array) {
        writeln!(text, "#SBATCH {option}").expect("a string takes everything");
    }
    let mut line = |line: String| {
        text += &line;
        text.push('\n');
    };
    let quoted = |word: &Path| shell_line(&[word.display().to_string()]);
    let element = if is_array { "_$SLURM_ARRAY_TASK_ID" } else { "" };
    let ended = places.ended(&step.name, None);
    let own = if is_array { ".$SLURM_ARRAY_TASK_ID" } else { "" };
    line(format!("job=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}{element}"));
    line(format!("ended={}{own}", quoted(&ended)));
    line(String::new());
    line("# The warning before the time limit asks the program to keep its work; so does the end".into());
    line("# of the job, after which nothing is queued again.".into());
    line("program= signalled= warned= ending=".into());
    line(
        "trap 'warned=1 signalled=1; [ -z \"$program\" ] || kill -USR2 \"$program\" 2> /dev/null' USR2 USR1".to_owned(),
    );
    line("trap 'ending=1 signalled=1; [ -z \"$program\" ] || kill -TERM \"$program\" 2> /dev/null' TERM INT".into());
    line(
        "finish() { printf '%s %s\\n' \"$job\" \"$1\" > \"$ended.$$\" && mv \"$ended.$$\" \"$ended\"; exit \"$1\"; }"
            .into(),
    );
    line("echo \"$job begins on ${SLURMD_NODENAME:-?}, start $((${SLURM_RESTART_COUNT:-0} + 1))\" >&2".into());
    line(String::new());
    line(format!("cd {} || finish 1", quoted(&places.start)));
    for module in &site.modules {
        line(format!("module load {} || finish 1", shell_line(std::slice::from_ref(module))));
    }
    for (name, value) in &site.environment {
        line(format!("export {name}={}", shell_line(std::slice::from_ref(value))));
    }
    if !site.scratch.is_empty() {
        line(format!("export TMPDIR=\"{}\" && mkdir -p \"$TMPDIR\" || finish 1", site.scratch));
    }
    if let Some(cpus) = ask.cpus {
        line(format!("export RAYON_NUM_THREADS={cpus}"));
    }
    for own in &site.setup {
        line(own.clone());
    }
    if is_array {
        line("case $SLURM_ARRAY_TASK_ID in".into());
        cases(&elements).for_each(&mut line);
        line("*) echo \"error: the array has no element $SLURM_ARRAY_TASK_ID\" >&2; finish 2 ;;".into());
        line("esac".into());
    }
    line(format!(
        "if [ -z \"$warned$ending\" ]; then\n    {}{} &",
        command(step, &ask, site, places),
        if is_array { " \"$@\"" } else { "" }
    ));
    line("    program=$!\n    wait \"$program\"; code=$?".into());
    line("    # A signal ends the waiting, not the program.".into());
    line(
        "    while [ -n \"$signalled\" ] && [ \"$code\" -gt 128 ]; do signalled=; wait \"$program\"; code=$?; done"
            .into(),
    );
    line("else\n    code=75\nfi".into());
    line(String::new());
    line("# 75: stopped, or another job is at it, with the work kept.".into());
    line(format!(
        "if [ \"$code\" = 75 ] && [ -z \"$ending\" ] && [ \"${{SLURM_RESTART_COUNT:-0}}\" -lt {} ]; then",
        site.requeues
    ));
    line("    echo \"$job goes back into the queue\" >&2".into());
    line("    scontrol requeue \"$job\" && sleep 60".into());
    line("fi\nfinish \"$code\"".into());
    text
}

/// The command, with what goes before it.
fn command(step: &Step, ask: &Ask, site: &Site, places: &Places) -> String {
    let mut words = ask.launcher.clone().unwrap_or_default();
    words.extend(called(step, site, places));
    shell_line(&words)
}

/// The program where the site has it, in its container if there is one, with its
/// arguments.
pub(super) fn called(step: &Step, site: &Site, places: &Places) -> Vec<String> {
    let (program, arguments) = step.command.split_first().expect("a command has a program");
    let program = match &places.programs {
        Some(dir) if site.container.is_empty() => dir.join(program).display().to_string(),
        _ => program.clone(),
    };
    [site.container.as_slice(), &[program], arguments].concat()
}

/// The lines of a `case` that give each element its flags, as the arguments of the
/// shell.
pub(super) fn cases(elements: &[Element]) -> impl Iterator<Item = String> {
    elements.iter().map(|element| format!("{}) set -- {} ;;", element.number, shell_line(&element.flags)))
}

fn options(run: &str, step: &Step, ask: &Ask, site: &Site, places: &Places, is_array: bool) -> Vec<String> {
    let log = places.logs().join(&step.name).display().to_string().replace('%', "%%");
    let log = if is_array { format!("{log}.%A_%a.log") } else { format!("{log}.%j.log") };
    let mut options = vec![
        format!("--job-name={run}.{}", step.name),
        format!("--comment=\"{}\"", places.comment(&step.name)),
        format!("--output=\"{log}\""),
        "--open-mode=append".into(),
        "--requeue".into(),
        format!("--signal=B:USR2@{}", site.warning_seconds),
    ];
    let named = [
        ("partition", &ask.partition),
        ("account", &ask.account),
        ("qos", &ask.qos),
        ("constraint", &ask.constraint),
        ("gres", &ask.gres),
        ("mem", &ask.memory),
        ("time", &ask.time),
    ];
    options.extend(named.into_iter().filter_map(|(name, value)| Some(format!("--{name}=\"{}\"", value.as_ref()?))));
    for (name, value) in [("nodes", ask.nodes), ("ntasks", ask.tasks), ("cpus-per-task", ask.cpus)] {
        options.extend(value.map(|value| format!("--{name}={value}")));
    }
    options.extend(ask.sbatch.iter().map(|option| match option.split_once('=') {
        Some((name, value)) => format!("{name}=\"{value}\""),
        None => option.clone(),
    }));
    options
}

/// What `sbatch` is given besides the script: the elements of an array, and the
/// jobs that must have succeeded before.
pub fn sbatch_flags(numbers: &[u32], site: &Site, after: &[String]) -> Vec<String> {
    let mut flags = vec!["--parsable".to_owned()];
    if !numbers.is_empty() {
        let limit = if site.array_limit > 0 { format!("%{}", site.array_limit) } else { String::new() };
        flags.push(format!("--array={}{limit}", ranges(numbers)));
    }
    if !after.is_empty() {
        // A job whose condition can no longer be met goes, instead of waiting for ever.
        flags.push(format!("--dependency=afterok:{}", after.join(":")));
        flags.push("--kill-on-invalid-dep=yes".into());
    }
    flags
}

/// Rising numbers as Slurm writes them: `1-3,7`.
pub fn ranges(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_written_as_ranges() {
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10]), "1-3,7,9-10");
        assert_eq!((ranges(&[4]), ranges(&[])), ("4".into(), String::new()));
    }
}
