//! `[eval]`: scores on leaderboard tasks, by the rules of
//! lm-evaluation-harness.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::Dtype;

/// The six tasks of the first Open LLM Leaderboard, whose headlines are
/// averaged.
pub const LEADERBOARD: &str = "open-llm-leaderboard-v1";
/// All that the SPIN paper reports.
pub const SPIN_PAPER: &str = "spin-paper";
/// The 57 subjects of MMLU.
pub const MMLU: &str = "mmlu";
/// The 27 tasks of BBH with chains of thought.
pub const BBH: &str = "bbh";
/// The judged conversations of MT-Bench.
pub const MT_BENCH: &str = "mt_bench";

/// The names of all groups of `eval.tasks`.
pub const GROUPS: [&str; 5] = [LEADERBOARD, SPIN_PAPER, MMLU, BBH, MT_BENCH];

/// The tasks and groups that a name of `eval.tasks` stands for and that are
/// scored and stored together; another name is its own.
pub fn units_of(name: &str) -> Vec<&str> {
    match name {
        LEADERBOARD => vec!["arc_challenge", "hellaswag", "truthfulqa_mc2", "winogrande", "gsm8k", MMLU],
        SPIN_PAPER => vec![
            "arc_challenge",
            "truthfulqa_mc2",
            "winogrande",
            "gsm8k",
            "hellaswag",
            MMLU,
            "bbh_cot_fewshot_causal_judgement",
            "bbh_cot_fewshot_formal_fallacies",
            "bbh_cot_fewshot_sports_understanding",
            "openbookqa",
            MT_BENCH,
        ],
        other => vec![other],
    }
}

/// Which revision of lm-evaluation-harness a score follows. The same model has
/// different scores under each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// b281b0921b, of the Open LLM Leaderboard's first version.
    LeaderboardV1,
    /// 46c796644, which the SPIN paper's authors used, with its bugs.
    SpinPaper,
    /// v0.4.9 and later.
    #[default]
    Current,
}

impl Profile {
    /// Its name in run files.
    pub fn name(self) -> &'static str {
        match self {
            Profile::LeaderboardV1 => "leaderboard-v1",
            Profile::SpinPaper => "spin-paper",
            Profile::Current => "current",
        }
    }
}

/// The type in which log-probabilities are computed and summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SoftmaxDtype {
    /// f32, whatever the weights' type.
    #[default]
    Float32,
    /// Rounded as the harness does for a bf16 model: coarse values, hence ties.
    Bfloat16,
    /// Rounded as the harness does for an f16 model.
    Float16,
}

/// `[eval]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvalConfig {
    /// Tasks and groups; none to leave the stage out of the run.
    pub tasks: Vec<String>,
    /// Whose rules.
    pub profile: Profile,
    /// The directory of the data sets.
    pub data: PathBuf,
    /// Directories with task files of your own.
    pub include: Vec<PathBuf>,
    /// The first documents of each task only; 0 for all.
    pub limit: usize,
    /// In place of the first, `limit` documents drawn at random: those that
    /// Python's `random.Random(limit_seed).sample(range(documents), limit)`
    /// takes, in the task's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_seed: Option<u32>,
    /// Examples in the prompt, in place of each task's own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// Whether prompts go through the model's chat template.
    pub apply_chat_template: bool,
    /// With the chat template: examples as turns of their own, as the harness
    /// does unless told otherwise.
    pub fewshot_as_multiturn: bool,
    /// Shown first.
    pub system_instruction: String,
    /// Longest generated answer, in place of each task's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_gen_toks: Option<usize>,
    /// Precision of log-probabilities.
    pub softmax_dtype: SoftmaxDtype,
    /// Element type of the weights.
    pub dtype: Dtype,
    /// Tokens per forward pass: more need more memory.
    pub max_batch_tokens: usize,
    /// Documents per published part: what a killed run loses at most.
    pub docs_per_part: usize,
    /// Who judges MT-Bench's answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeConfig>,
}

impl Default for EvalConfig {
    fn default() -> Self {
        EvalConfig {
            tasks: Vec::new(),
            profile: Profile::default(),
            data: PathBuf::from("../data/benchmarks"),
            include: Vec::new(),
            limit: 0,
            limit_seed: None,
            num_fewshot: None,
            apply_chat_template: false,
            fewshot_as_multiturn: true,
            system_instruction: String::new(),
            max_gen_toks: None,
            softmax_dtype: SoftmaxDtype::default(),
            dtype: Dtype::F32,
            max_batch_tokens: 4096,
            docs_per_part: 256,
            judge: None,
        }
    }
}

/// `[eval.judge]`: an OpenAI-compatible endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeConfig {
    /// The judge's model name, e.g. `gpt-4`.
    pub model: String,
    /// Where `/chat/completions` is. What is secret in it is never written
    /// into a record.
    #[serde(default = "default_url", serialize_with = "public_url")]
    pub base_url: String,
    /// The environment variable that holds the key; none is needed locally.
    #[serde(default = "default_key")]
    pub api_key_env: String,
    /// Seconds to wait for an answer.
    #[serde(default = "default_timeout")]
    pub timeout: u64,
    /// Requests at once.
    #[serde(default = "default_workers")]
    pub workers: usize,
    /// Publish a score even when some judgments could not be had; they are
    /// counted and left out of the mean.
    #[serde(default)]
    pub accept_errors: bool,
}

fn public_url<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&spin_net::url::public(url))
}

fn default_url() -> String {
    "https://api.openai.com/v1".into()
}

fn default_key() -> String {
    "OPENAI_API_KEY".into()
}

fn default_timeout() -> u64 {
    120
}

fn default_workers() -> usize {
    4
}

impl EvalConfig {
    /// Whether a task may have conversations, whose second prompt contains the
    /// answer to the first.
    pub fn has_conversations(&self) -> bool {
        self.tasks.iter().any(|task| [MT_BENCH, SPIN_PAPER].contains(&task.as_str()))
    }

    /// Values that no run could work with.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.max_batch_tokens == 0 || self.docs_per_part == 0 {
            return Err("max_batch_tokens and docs_per_part must be at least 1".into());
        }
        if self.limit_seed.is_some() && self.limit == 0 {
            return Err("limit_seed says which documents are drawn, limit how many; give limit, too".into());
        }
        if self.max_gen_toks == Some(0) {
            return Err("max_gen_toks must be at least 1".into());
        }
        if let Some(judge) = &self.judge
            && !(1..=86_400).contains(&judge.timeout)
        {
            return Err("judge.timeout is in seconds, from 1 to 86400".into());
        }
        if let Some(judge) = &self.judge
            && spin_net::url::has_user(&judge.base_url)
        {
            return Err(format!(
                "judge.base_url has a user or password in it, which is never sent; leave it out and put the key into ${}",
                judge.api_key_env
            ));
        }
        if self.profile != Profile::Current && self.apply_chat_template {
            return Err(format!("the profile {} is older than chat templates; take current", self.profile.name()));
        }
        Ok(())
    }
}
