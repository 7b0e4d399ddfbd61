//! The profile of a site: everything that differs between clusters, in one file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use spin_store::StoreError;

use super::{ClusterError, Result};
use crate::plan::Step;
use crate::run::with_hint;

/// A site's profile. Every key may be left out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// Where models compute: `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Elements of the arrays that generate answers, at most one for each part.
    pub shards: u32,
    /// Elements of an array at once, at most; 0 for no limit.
    pub array_limit: u32,
    /// Directory of the programs, if they are not beside `spin-run`.
    pub programs: Option<PathBuf>,
    /// Words before every command, such as `["apptainer", "exec", "--nv", "spin.sif"]`; the
    /// programs are then called by their names.
    pub container: Vec<String>,
    /// Names for `module load`.
    pub modules: Vec<String>,
    /// Variables of the environment.
    pub environment: BTreeMap<String, String>,
    /// Lines of shell before the command.
    pub setup: Vec<String>,
    /// Directory for temporary files, as the shell of a job expands it.
    pub scratch: String,
    /// Seconds before the time limit at which work is kept and the job queued again.
    pub warning_seconds: u32,
    /// How often one job is queued again, at most.
    pub requeues: u32,
    /// The longest time that may be asked for, as Slurm writes it.
    pub max_time: String,
    /// The CPU's peak of matrix products on the nodes in GFLOP/s, as `spin-fit peak`
    /// prints it there: times are reckoned from it.
    pub peak_gflops: Option<f64>,
    /// What every job asks for.
    pub defaults: Ask,
    /// What jobs of a stage ask for besides, or instead: `import`, `sample`, `pair`, `fit`,
    /// `score`, `eval` and `table`.
    pub stages: BTreeMap<StageName, Ask>,
}

impl Default for Site {
    fn default() -> Self {
        Site {
            device: "cpu".into(),
            shards: 1,
            array_limit: 0,
            programs: None,
            container: Vec::new(),
            modules: Vec::new(),
            environment: BTreeMap::new(),
            setup: Vec::new(),
            scratch: String::new(),
            warning_seconds: 120,
            requeues: 100,
            max_time: String::new(),
            peak_gflops: None,
            defaults: Ask::default(),
            stages: BTreeMap::new(),
        }
    }
}

/// What a job asks Slurm for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ask {
    /// `--partition`
    pub partition: Option<String>,
    /// `--account`
    pub account: Option<String>,
    /// `--qos`
    pub qos: Option<String>,
    /// `--constraint`
    pub constraint: Option<String>,
    /// `--gres`, such as `gpu:1`
    pub gres: Option<String>,
    /// `--nodes`
    pub nodes: Option<u32>,
    /// `--ntasks`
    pub tasks: Option<u32>,
    /// `--cpus-per-task`, and threads of the program.
    pub cpus: Option<u32>,
    /// `--mem`; without it as the plan reckons, and of an empty text nothing is asked.
    pub memory: Option<String>,
    /// `--time`; without it as the plan reckons, and of an empty text nothing is asked.
    pub time: Option<String>,
    /// Words before the program, such as `["srun"]` for one with several tasks.
    pub launcher: Option<Vec<String>>,
    /// Further options of sbatch.
    pub sbatch: Vec<String>,
}

impl Ask {
    /// This with `other` over it.
    fn under(&self, other: &Ask) -> Ask {
        macro_rules! over {
            ($($key:ident),*) => { Ask {
                $($key: other.$key.clone().or_else(|| self.$key.clone()),)*
                sbatch: [self.sbatch.clone(), other.sbatch.clone()].concat(),
            } };
        }
        over!(partition, account, qos, constraint, gres, nodes, tasks, cpus, memory, time, launcher)
    }
}

/// What a step is, to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageName {
    /// Model and data into the store.
    Import,
    /// Generation of answers of every kind.
    Sample,
    /// Tables of pairs.
    Pair,
    /// Training.
    Fit,
    /// Scores on the run's own held-out rows.
    Score,
    /// Leaderboard tasks, and their prompts.
    Eval,
    /// The table at the end.
    Table,
}

impl StageName {
    /// Of a step, by its program.
    pub fn of(step: &Step) -> StageName {
        match [step.command[0].as_str(), step.command.get(1).map_or("", String::as_str)] {
            ["spin-store", _] => StageName::Import,
            ["spin-sample", _] => StageName::Sample,
            ["spin-pair", _] => StageName::Pair,
            ["spin-fit", _] => StageName::Fit,
            [_, "eval"] => StageName::Eval,
            [_, "table"] => StageName::Table,
            _ => StageName::Score,
        }
    }
}

impl Site {
    /// Reads a profile.
    ///
    /// # Errors
    /// When it cannot be read, has an unknown key, or a value that Slurm would
    /// not take.
    pub fn load(path: &Path) -> Result<Site> {
        let text = std::fs::read_to_string(path).map_err(StoreError::io("read", path))?;
        let bad = |problem: String| ClusterError::Site { path: path.into(), problem };
        let site: Site = toml::from_str(&text).map_err(|error| bad(with_hint(error.to_string().trim_end())))?;
        site.check().map_err(bad)?;
        Ok(site)
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.shards == 0 {
            return Err("shards = 0; an array has at least one element".into());
        }
        for (key, value) in &self.environment {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if key.is_empty() || !key.chars().all(is_name) || key.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(format!("environment.{key}: no variable can be called so"));
            }
            if value.contains('\n') {
                return Err(format!("environment.{key}: a value of one line"));
            }
        }
        let asks = std::iter::once(("defaults".to_owned(), &self.defaults));
        let asks = asks.chain(self.stages.iter().map(|(name, ask)| (format!("stages.{name:?}").to_lowercase(), ask)));
        for (place, ask) in asks {
            let texts = [&ask.partition, &ask.account, &ask.qos, &ask.constraint, &ask.gres, &ask.memory, &ask.time];
            let words = texts.into_iter().flatten().chain(&ask.sbatch);
            if let Some(word) = words.clone().find(|word| word.contains(['\n', '"', '\\'])) {
                return Err(format!("{place}: {word:?} does not fit on a line of #SBATCH"));
            }
            if let Some(word) = ask.sbatch.iter().find(|word| !word.starts_with('-')) {
                return Err(format!("{place}.sbatch: {word:?} is no option; write \"--name=value\""));
            }
            if let Some(time) = ask.time.as_deref().filter(|time| !time.is_empty() && seconds(time).is_none()) {
                return Err(format!("{place}.time = {time:?}; {TIME}"));
            }
            for (key, value) in [("nodes", ask.nodes), ("tasks", ask.tasks), ("cpus", ask.cpus)] {
                if value == Some(0) {
                    return Err(format!("{place}.{key} = 0; at least 1"));
                }
            }
        }
        if !self.max_time.is_empty() && seconds(&self.max_time).is_none() {
            return Err(format!("max_time = {:?}; {TIME}", self.max_time));
        }
        Ok(())
    }

    /// What a job of a step asks for: the defaults, its stage's words over them,
    /// and memory and time as the plan reckons where nobody says.
    ///
    /// Of `elements` jobs that share the work each is reckoned to take its part
    /// of the time.
    pub fn ask(&self, step: &Step, elements: usize) -> Ask {
        let own = self.stages.get(&StageName::of(step));
        let mut ask = own.map_or_else(|| self.defaults.clone(), |own| self.defaults.under(own));
        ask.memory.get_or_insert_with(|| format!("{}M", memory_mib(step)));
        let reckoned = reckoned_time(step, elements);
        let longest = seconds(&self.max_time);
        let time = match (reckoned, longest) {
            (Some(reckoned), Some(longest)) => time_of(reckoned.min(longest)),
            (Some(reckoned), None) => time_of(reckoned),
            (None, _) => self.max_time.clone(),
        };
        ask.time.get_or_insert(time);
        ask.memory = ask.memory.filter(|memory| !memory.is_empty());
        ask.time = ask.time.filter(|time| !time.is_empty());
        ask
    }
}

impl Ask {
    /// Whether what a job of a step asks for can do it: of the programs two share
    /// their work with others that were started with them.
    ///
    /// # Errors
    /// [`ClusterError::Tasks`] where each of several tasks would do all of it.
    pub fn check(&self, step: &Step, elements: usize) -> Result<()> {
        let (tasks, launcher) = (self.tasks.unwrap_or(1), self.launcher.as_deref().unwrap_or_default());
        if tasks < 2 || launcher.is_empty() {
            return Ok(());
        }
        let problem = match StageName::of(step) {
            StageName::Fit => return Ok(()),
            StageName::Sample if elements == 0 => return Ok(()),
            StageName::Sample => {
                format!("each would make the same of its {elements} shards; with --shards 1 they share all parts")
            }
            _ => format!("{} is one process; set tasks for fit and sample alone", step.command[0]),
        };
        Err(ClusterError::Tasks { step: step.name.clone(), tasks, launcher: launcher.join(" "), problem })
    }
}

const TIME: &str = "Slurm writes times as minutes, HH:MM:SS or D-HH:MM:SS";

/// Memory of a process of which the plan knows nothing, in MiB.
const UNKNOWN: u64 = 4096;

/// MiB to ask for: a quarter above what was measured, or half above what weights,
/// gradients and state take, for activations, and a GiB for the process.
fn memory_mib(step: &Step) -> u64 {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let resources = &step.resources;
    let measured = resources.measured.as_ref().and_then(|measured| measured.memory);
    let least = resources.memory_at_least;
    let mib = match (measured, least) {
        (Some(measured), _) => mib(measured) * 5 / 4 + 256,
        (None, Some(least)) => mib(least) * 3 / 2 + 1024,
        (None, None) => UNKNOWN,
    };
    mib.next_multiple_of(256)
}

/// Seconds to ask for: three times what is expected, for nodes are not alike and
/// answers longer than thought, and ten minutes.
fn reckoned_time(step: &Step, elements: usize) -> Option<u64> {
    let resources = &step.resources;
    let measured = resources.measured.as_ref().map(|measured| measured.seconds);
    let expected = measured.or_else(|| Some(resources.expected_seconds? / elements.max(1) as f64))?;
    Some((expected * 3.0 + 600.0).ceil() as u64)
}

/// Seconds of a time as Slurm writes it; `None` for what is none.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (days.parse::<u64>().ok()?, rest),
        None => (0, text),
    };
    let parts: Vec<u64> = rest.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let of_day = match (text.contains('-'), parts.as_slice()) {
        (true, [h]) => h * 3600,
        (true, [h, m]) => h * 3600 + m * 60,
        (false, [m]) => m * 60,
        (false, [m, s]) => m * 60 + s,
        (_, [h, m, s]) => h * 3600 + m * 60 + s,
        _ => return None,
    };
    Some(days * 86_400 + of_day)
}

/// A time for Slurm, in whole ten minutes where it is long enough.
fn time_of(seconds: u64) -> String {
    let minutes = seconds.div_ceil(60);
    let minutes = if minutes > 10 { minutes.next_multiple_of(10) } else { minutes };
    format!("{}-{:02}:{:02}:00", minutes / 1440, minutes / 60 % 24, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Cost, Resources};

    fn step(command: &[&str], resources: Resources) -> Step {
        Step {
            name: "s".into(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            makes: Vec::new(),
            after: Vec::new(),
            looks_outside: false,
            shards: 1,
            resources,
        }
    }

    #[test]
    fn times_are_slurms() {
        let given = ["90", "90:30", "1:30:00", "2-0", "2-12:30", "1-00:00:01"];
        assert_eq!(given.map(seconds), [5400, 5430, 5400, 172_800, 217_800, 86_401].map(Some));
        assert_eq!(["", "a", "1:2:3:4", "-1", "1-"].map(seconds), [None; 5]);
        assert_eq!([30, 601, 90_000].map(time_of), ["0-00:01:00", "0-00:20:00", "1-01:00:00"]);
        assert!([30, 601, 90_000].into_iter().all(|s| seconds(&time_of(s)).is_some_and(|asked| asked >= s)));
    }

    #[test]
    fn stages_ask_over_defaults_and_the_plan_fills_the_rest() {
        let site: Site = toml::from_str(
            "max_time = \"2-0\"\n[defaults]\npartition = \"cpu\"\ncpus = 4\nsbatch = [\"--exclusive\"]\n\
             [stages.fit]\npartition = \"gpu\"\ngres = \"gpu:1\"\nsbatch = [\"--nice\"]\n[stages.table]\nmemory = \"\"\ntime = \"\"",
        )
        .expect("a profile");
        let resources =
            Resources { memory_at_least: Some(8 << 30), expected_seconds: Some(3600.0), ..Resources::default() };
        let fit = site.ask(&step(&["spin-fit", "run.toml"], resources.clone()), 1);
        assert_eq!((fit.partition.as_deref(), fit.cpus, fit.gres.as_deref()), (Some("gpu"), Some(4), Some("gpu:1")));
        assert_eq!(fit.sbatch, ["--exclusive", "--nice"]);
        assert_eq!((fit.memory.as_deref(), fit.time.as_deref()), (Some("13312M"), Some("0-03:10:00")));
        // Elements share the time; what was measured is one's own.
        let sample = site.ask(&step(&["spin-sample", "run.toml"], resources.clone()), 6);
        assert_eq!(sample.time.as_deref(), Some("0-00:40:00"));
        let cost = Cost { seconds: 60.0, memory: Some(1 << 30), of: String::new() };
        let measured = Resources { measured: Some(cost), ..resources };
        let sample = site.ask(&step(&["spin-sample", "run.toml"], measured), 6);
        assert_eq!((sample.memory.as_deref(), sample.time.as_deref()), (Some("1536M"), Some("0-00:20:00")));
        let days = Resources { expected_seconds: Some(1e6), ..Resources::default() };
        assert_eq!(site.ask(&step(&["spin-pair"], days), 1).time.as_deref(), Some("2-00:00:00"));
        // Nothing is known: the longest; and of what is empty nothing is asked.
        let table = ["spin-bench", "table", "run.toml"];
        let asked = site.ask(&step(&table, Resources::default()), 1);
        assert_eq!((asked.memory, asked.time), (None, None));
        assert_eq!(site.ask(&step(&["spin-store"], Resources::default()), 1).time.as_deref(), Some("2-0"));
    }

    #[test]
    fn several_tasks_are_for_what_shares_its_work() {
        let check = |command: &[&str], elements: usize, launcher: &[&str]| {
            let launcher = Some(launcher.iter().map(|word| (*word).to_owned()).collect());
            let ask = Ask { tasks: Some(8), launcher, ..Ask::default() };
            ask.check(&step(command, Resources::default()), elements).map_err(|error| error.to_string())
        };
        for fine in [check(&["spin-fit"], 0, &["srun"]), check(&["spin-sample"], 0, &["srun"])] {
            assert_eq!(fine, Ok(()));
        }
        // Cores asked for as tasks, which nothing starts.
        assert_eq!(check(&["spin-pair"], 0, &[]), Ok(()));
        let said = check(&["spin-sample"], 16, &["srun", "-l"]).unwrap_err();
        assert!(said.contains("s asks for 8 tasks with \"srun -l\"") && said.contains("--shards 1"), "{said}");
        assert!(check(&["spin-bench", "eval"], 0, &["srun"]).unwrap_err().contains("spin-bench is one process"));
    }

    #[test]
    fn bad_profiles_are_refused_by_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("site.toml");
        for (text, says) in [
            ("partion = \"a\"", "unknown field `partion`"),
            ("[defaults]\nparttion = \"a\"", "did you mean `partition`?"),
            ("[stages.fitt]", "did you mean `fit`?"),
            ("shards = 0", "at least one element"),
            ("[defaults]\ntime = \"soon\"", "defaults.time = \"soon\""),
            ("max_time = \"1:2:3:4\"", "max_time"),
            ("[stages.fit]\ngres = \"gpu:1\\nrm\"", "does not fit on a line"),
            ("[defaults]\nsbatch = [\"exclusive\"]", "is no option"),
            ("[defaults]\ncpus = 0", "defaults.cpus = 0"),
            ("environment = { \"A B\" = \"1\" }", "no variable can be called so"),
        ] {
            std::fs::write(&path, text).expect("writable");
            let error = Site::load(&path).expect_err(text);
            assert!(error.is_bad_input() && error.to_string().contains(says), "{text}: {error}");
        }
        assert!(Site::load(&dir.path().join("none.toml")).is_err());
    }
}
