//! The run file: the complete configuration of a run, read by every stage.
//!
//! `[sample]`, `[pair]` and `[fit]` hold for every iteration; the tables of
//! `[[iteration]]` override single keys of them, which is how the paper's
//! ladder of learning rate and beta is written. Relative paths are relative
//! to the run file. Unknown keys are errors that name the nearest valid key.

mod bench;
mod data;
mod dtype;
mod eval;
mod fit;
mod inherit;
mod parse;
mod sample;
mod template;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use spin_net::Name;
use spin_store::error::{Result, StoreError};

pub use bench::{
    BenchConfig, CER, EXACT_MATCH, ExactMatch, GSM8K, MARGIN, NLL, Normaliser, OF_ANSWERS, OF_FIRST_ANSWERS,
    PREFERENCE, WER, default_tasks, final_answer, tasks_for,
};
pub use data::{BadRows, DataConfig, SourceConfig, SourceFormat, Turns};
pub use dtype::{Dtype, FitDtype};
pub use eval::{
    BBH, EvalConfig, GROUPS, JudgeConfig, LEADERBOARD, MMLU, MT_BENCH, Profile, SPIN_PAPER, SoftmaxDtype, units_of,
};
pub use fit::{FitConfig, Keep, LoraSettings, Loss, NonFinite, ObjectiveKind, OptimizerKind, SchedulerKind};
pub(crate) use parse::with_hint;
pub use sample::{EngineKind, SampleConfig};
pub use template::{Overlong, PromptFate, TemplateConfig};

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    /// Name of the run: the first part of the name of each artifact it makes.
    pub run: String,
    /// Seed of everything random in the run.
    pub seed: u64,
    /// The store's directory.
    #[serde(default = "default_store")]
    pub store: PathBuf,
    /// The model that θ0 is made from.
    pub model: ModelSource,
    /// Demonstrations to train on and to score on; a run that only evaluates
    /// needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataConfig>,
    /// From messages to token ids.
    #[serde(default)]
    pub template: TemplateConfig,
    /// Supervised training of θ0; without it θ0 is the model as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sft: Option<FitConfig>,
    /// Generation of the opponent's answers.
    #[serde(default)]
    pub sample: SampleConfig,
    /// Pairing.
    #[serde(default)]
    pub pair: PairConfig,
    /// Training of the main player.
    #[serde(default)]
    pub fit: FitConfig,
    /// Scoring on the run's own held-out rows.
    #[serde(default)]
    pub bench: BenchConfig,
    /// Scoring on leaderboard tasks.
    #[serde(default)]
    pub eval: EvalConfig,
    /// One table per round of self-play, with what differs from the above.
    #[serde(default)]
    pub iteration: Vec<IterationConfig>,
    /// Models trained for comparison.
    #[serde(default)]
    pub baseline: Vec<BaselineConfig>,
    /// Where it was read from; not a key.
    #[serde(skip)]
    pub path: PathBuf,
}

/// `[model]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSource {
    /// A Hugging Face directory, or a model's name on the hub:
    /// `hf:OWNER/NAME`, with `@COMMIT` or `@BRANCH` after it. The commit is
    /// recorded at the first import, and kept to.
    pub path: PathBuf,
    /// Whether its weights are used, or drawn at random from the run's seed.
    #[serde(default)]
    pub init: Init,
}

/// Where the first weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// The weights in the directory.
    #[default]
    Pretrained,
    /// Drawn from the seed, of the shape in its `config.json`.
    Random,
}

/// `[pair]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PairConfig {
    /// How many iterations' samples are mixed: 2 in the paper (this one's and
    /// the previous one's).
    pub window: u32,
    /// Leaves out a prompt where fewer of a round's answers than this are the human one,
    /// token by token: 0 keeps all. Where the human answer is out of the opponent's reach,
    /// the game costs likelihood elsewhere; it must be below `sample.samples_per_prompt`.
    #[serde(skip_serializing_if = "data::is_default")]
    pub min_identical: u32,
}

impl Default for PairConfig {
    fn default() -> Self {
        PairConfig { window: 2, min_identical: 0 }
    }
}

/// `[[iteration]]`: overrides of single keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IterationConfig {
    /// Keys of `[sample]`.
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub sample: toml::Table,
    /// Keys of `[pair]`.
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub pair: toml::Table,
    /// Keys of `[fit]`.
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub fit: toml::Table,
}

/// `[[baseline]]`: a model trained for comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BaselineConfig {
    /// Its name in tables and in the store.
    pub name: String,
    /// The iteration whose entering model it starts from.
    #[serde(default)]
    pub from: usize,
    /// Train for exactly as many updates as these iterations of self-play
    /// made together; 0 to go by epochs.
    #[serde(default)]
    pub match_iterations: usize,
    /// A preference set to train on, as pairs, instead of the run's
    /// demonstrations: somebody's chosen and rejected answers. Needs
    /// `fit.objective`, `dpo` or `spin`; the reference is that of the model
    /// it starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferences: Option<SourceConfig>,
    /// Keys that differ from `[fit]`; `objective` is `sft` unless given, and
    /// `loss`, `label_smoothing`, `nll_weight` and `stop_margin` are not taken
    /// over from there.
    #[serde(default)]
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub fit: toml::Table,
}

fn default_store() -> PathBuf {
    PathBuf::from("../data")
}

/// Why a model's directory gives its results no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has none, as `/`.
    #[error("give the results a name with --name")]
    None,
    /// It has one that artifacts cannot have.
    #[error("{0:?} is not a name; give one of letters, digits, `-`, `_` and `.` with --name")]
    Bad(String),
}

impl NameError {
    /// Whether the input is to blame, rather than the machine: always.
    pub fn is_bad_input(&self) -> bool {
        true
    }
}

impl RunFile {
    /// Reads a run file and applies `--set key=value` overrides in order.
    ///
    /// # Errors
    /// Unknown keys, wrong types, bad overrides, impossible values.
    pub fn load(path: &Path, overrides: &[String]) -> Result<RunFile> {
        parse::load(path, overrides)
    }

    /// The run that a `--model DIR` without a run file stands for: it only
    /// evaluates that model. `dir` and `store` are absolute; its name is `name`,
    /// or else the directory's. Programs that are given the same flags mean the
    /// same artifacts by it.
    ///
    /// # Errors
    /// When the name is none that artifacts can have.
    pub fn of_directory(
        dir: PathBuf,
        name: Option<&str>,
        store: PathBuf,
        eval: EvalConfig,
    ) -> std::result::Result<RunFile, NameError> {
        let own = match Name::of_path(&dir) {
            Ok(Some(name)) => name.repo().rsplit('/').next().map(str::to_owned),
            _ => dir.file_name().map(|name| name.to_string_lossy().into_owned()),
        };
        let name = name.map(str::to_owned).or(own).ok_or(NameError::None)?;
        if !spin_store::store::is_name(&name) || name.contains('/') {
            return Err(NameError::Bad(name));
        }
        Ok(RunFile::for_model(&name, ModelSource { path: dir, init: Init::Pretrained }, store, eval))
    }

    /// A run that only evaluates a model, without a file.
    pub fn for_model(name: &str, model: ModelSource, store: PathBuf, eval: EvalConfig) -> RunFile {
        RunFile {
            run: name.into(),
            seed: 0,
            store,
            model,
            data: None,
            template: TemplateConfig::default(),
            sft: None,
            sample: SampleConfig::default(),
            pair: PairConfig::default(),
            fit: FitConfig::default(),
            bench: BenchConfig::default(),
            eval,
            iteration: Vec::new(),
            baseline: Vec::new(),
            path: PathBuf::new(),
        }
    }

    /// A path in the file, seen from the process; a name on the hub stays one.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        if Name::is_meant(path) {
            return path.to_path_buf();
        }
        let base = self.path.parent().unwrap_or(Path::new("."));
        base.join(path)
    }

    /// The store's directory.
    pub fn store_dir(&self) -> PathBuf {
        self.resolve(&self.store)
    }

    /// Number of rounds of self-play.
    pub fn rounds(&self) -> usize {
        self.iteration.len()
    }

    /// Checks that there is an iteration `t` to work on.
    ///
    /// # Errors
    /// When the file has fewer.
    pub fn check_iteration(&self, t: usize) -> Result<()> {
        if t < self.rounds() {
            return Ok(());
        }
        let rounds = self.rounds();
        let last = rounds.checked_sub(1).map_or_else(String::new, |last| format!(": the last is {last}"));
        let problem = format!(
            "has {rounds} [[iteration]] tables, so no iteration {t}{last}; add a table or give a smaller number"
        );
        Err(StoreError::run(&self.path, problem))
    }

    /// Checks that there is a model θN: it enters iteration N, or came out of
    /// the last.
    ///
    /// # Errors
    /// When the file has fewer iterations.
    pub fn check_model(&self, n: usize) -> Result<()> {
        let rounds = self.rounds();
        if n <= rounds {
            return Ok(());
        }
        let problem = format!(
            "has {rounds} [[iteration]] tables, so no model θ{n}: the last is θ{rounds}; add a table or give a smaller \
             number"
        );
        Err(StoreError::run(&self.path, problem))
    }

    /// `[sample]` with the overrides of iteration `t`.
    ///
    /// # Errors
    /// When the iteration does not exist or its overrides do not fit.
    pub fn sample_at(&self, t: usize) -> Result<SampleConfig> {
        self.check_iteration(t)?;
        parse::merged(self, &self.sample, &self.iteration[t].sample, &format!("iteration.{t}.sample"))
    }

    /// `[pair]` with the overrides of iteration `t`.
    ///
    /// # Errors
    /// As [`RunFile::sample_at`].
    pub fn pair_at(&self, t: usize) -> Result<PairConfig> {
        self.check_iteration(t)?;
        parse::merged(self, &self.pair, &self.iteration[t].pair, &format!("iteration.{t}.pair"))
    }

    /// `[fit]` with the overrides of iteration `t`.
    ///
    /// # Errors
    /// As [`RunFile::sample_at`].
    pub fn fit_at(&self, t: usize) -> Result<FitConfig> {
        self.check_iteration(t)?;
        parse::merged(self, &self.fit, &self.iteration[t].fit, &format!("iteration.{t}.fit"))
    }

    /// The training configuration of a baseline.
    ///
    /// # Errors
    /// When its overrides do not fit.
    pub fn baseline_fit(&self, baseline: &BaselineConfig) -> Result<FitConfig> {
        let base = self.fit.as_baseline();
        parse::merged(self, &base, &baseline.fit, &format!("baseline.{}.fit", baseline.name))
    }

    /// The baseline of a name.
    ///
    /// # Errors
    /// When there is none; the message lists those there are.
    pub fn baseline_named(&self, name: &str) -> Result<&BaselineConfig> {
        self.baseline.iter().find(|b| b.name == name).ok_or_else(|| {
            let names: Vec<_> = self.baseline.iter().map(|b| b.name.as_str()).collect();
            StoreError::run(&self.path, format!("has no [[baseline]] {name:?}; it has: {}", names.join(", ")))
        })
    }

    /// How bench generations are made: `[sample]` of the run with one answer
    /// per prompt, at temperature 1 or greedy and unfiltered, of `[bench]`'s
    /// length, none of which may fail.
    pub fn bench_sample(&self, greedy: bool) -> SampleConfig {
        SampleConfig {
            temperature: if greedy { 0.0 } else { 1.0 },
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_new_tokens: self.bench.max_new_tokens,
            samples_per_prompt: 1,
            max_failed: 0.0,
            ..self.sample.clone()
        }
    }
}

/// A configuration as JSON, for a manifest.
pub fn as_params<T: Serialize>(config: &T) -> Value {
    serde_json::to_value(config).expect("configurations are plain data")
}
