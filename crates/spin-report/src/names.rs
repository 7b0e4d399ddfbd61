//! Names that stored scores carry: of metrics, and of the tasks that are summed
//! up as a group. They are plain data, so that a table needs no task.
//!
//! The names of the tasks on held-out rows and of groups are
//! [`spin_run::run`]'s, because run files have them.

use spin_run::graph::Decoding;
use spin_run::run::MMLU;

/// The filter that takes the number behind the first `####`, by its name in
/// lm-evaluation-harness.
pub const STRICT: &str = "strict-match";
/// The filter that takes the last number of a text.
pub const FLEXIBLE: &str = "flexible-extract";
/// No filter: the answer is compared as a whole.
pub const WHOLE: &str = "none";

/// The metric of [`spin_run::run::NLL`], in nats.
pub const NLL_PER_TOKEN: &str = "nll_per_token";
/// The metric of [`spin_run::run::PREFERENCE`].
pub const PREFERS_REAL: &str = "prefers_real";
/// The metric of [`spin_run::run::MARGIN`], in nats.
pub const LOGP_MARGIN: &str = "logp_margin";

/// The name of [`NLL_PER_TOKEN`] of a model whose logits are divided by a
/// temperature, e.g. `nll_per_token,temperature=0.9`; at 1 it is that one.
pub fn nll_at(temperature: f64) -> String {
    if temperature == 1.0 {
        return NLL_PER_TOKEN.to_owned();
    }
    format!("{NLL_PER_TOKEN},temperature={temperature}")
}

/// What the names of [`expected_match_at`] begin with.
pub const EXPECTED_MATCH: &str = "expected_match";

/// The name of the probability that a sample at this temperature is the human
/// answer, token by token: what exact match of sampled answers estimates,
/// without the noise of sampling.
pub fn expected_match_at(temperature: f64) -> String {
    format!("{EXPECTED_MATCH},temperature={temperature}")
}

/// The temperature of a metric of [`nll_at`] or [`expected_match_at`].
pub fn temperature_of(metric: &str) -> Option<f64> {
    metric.split_once(",temperature=")?.1.parse().ok()
}

/// The name of the metric of a filter and a decoding, e.g.
/// `exact_match,strict-match,sampled`.
pub fn exact_match_metric(filter: &str, decoding: Decoding) -> String {
    format!("exact_match,{filter},{}", decoding.name())
}

/// The name of the metric of an error rate (`wer`, `cer`) and a decoding, e.g.
/// `wer,none,greedy`.
pub fn error_rate_metric(task: &str, decoding: Decoding) -> String {
    format!("{task},{WHOLE},{}", decoding.name())
}

/// Whether a model is better where this metric is lower: where it is a
/// negative log-likelihood or an error rate.
pub fn lower_is_better(metric: &str) -> bool {
    ["nll", "wer", "cer"].iter().any(|start| metric.starts_with(start))
}

/// The six tasks and groups whose headlines the first Open LLM Leaderboard
/// averages.
pub const LEADERBOARD_UNITS: [&str; 6] = ["arc_challenge", "hellaswag", MMLU, "truthfulqa_mc2", "winogrande", "gsm8k"];

/// MMLU's 57 subjects by category, as lm-evaluation-harness groups them.
pub const MMLU_SUBJECTS: [(&str, &[&str]); 4] = [
    (
        "stem",
        &[
            "abstract_algebra",
            "anatomy",
            "astronomy",
            "college_biology",
            "college_chemistry",
            "college_computer_science",
            "college_mathematics",
            "college_physics",
            "computer_security",
            "conceptual_physics",
            "electrical_engineering",
            "elementary_mathematics",
            "high_school_biology",
            "high_school_chemistry",
            "high_school_computer_science",
            "high_school_mathematics",
            "high_school_physics",
            "high_school_statistics",
            "machine_learning",
        ],
    ),
    (
        "other",
        &[
            "business_ethics",
            "clinical_knowledge",
            "college_medicine",
            "global_facts",
            "human_aging",
            "management",
            "marketing",
            "medical_genetics",
            "miscellaneous",
            "nutrition",
            "professional_accounting",
            "professional_medicine",
            "virology",
        ],
    ),
    (
        "social_sciences",
        &[
            "econometrics",
            "high_school_geography",
            "high_school_government_and_politics",
            "high_school_macroeconomics",
            "high_school_microeconomics",
            "high_school_psychology",
            "human_sexuality",
            "professional_psychology",
            "public_relations",
            "security_studies",
            "sociology",
            "us_foreign_policy",
        ],
    ),
    (
        "humanities",
        &[
            "formal_logic",
            "high_school_european_history",
            "high_school_us_history",
            "high_school_world_history",
            "international_law",
            "jurisprudence",
            "logical_fallacies",
            "moral_disputes",
            "moral_scenarios",
            "philosophy",
            "prehistory",
            "professional_law",
            "world_religions",
        ],
    ),
];
