//! A question, and what FastChat has by its category.

/// Longest answer of a model, in tokens.
pub const MAX_NEW_TOKENS: usize = 1024;

/// Longest verdict of a judge, in tokens.
pub const JUDGE_MAX_TOKENS: u32 = 2048;

/// Stands in place of a judgment that could not be had, as in FastChat.
pub const ERROR_OUTPUT: &str = "$ERROR$";

/// Whether questions of a category are judged with a reference answer.
pub fn needs_reference(category: &str) -> bool {
    matches!(category, "math" | "reasoning" | "coding")
}

/// Temperature at which a model answers questions of a category; 0 means
/// greedy. A category that FastChat does not know gets its fallback, 0.7.
///
/// ```
/// use spin_bench::mt_bench::temperature;
///
/// assert_eq!((temperature("writing"), temperature("math"), temperature("stem")), (0.7, 0.0, 0.1));
/// ```
pub fn temperature(category: &str) -> f64 {
    match category {
        "extraction" | "math" | "coding" | "reasoning" => 0.0,
        "stem" | "humanities" => 0.1,
        _ => 0.7,
    }
}

/// A question of two turns. The second is asked after the model's own answer
/// to the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its number, 81 to 160 in the published set.
    pub question_id: u32,
    /// One of eight, e.g. `writing`.
    pub category: String,
    /// What the user says.
    pub turns: [String; 2],
    /// GPT-4's answers, which the judge sees where the category
    /// [needs them](needs_reference).
    pub reference: Option<[String; 2]>,
}

impl Question {
    /// Temperature at which a model answers it; 0 means greedy.
    pub fn temperature(&self) -> f64 {
        temperature(&self.category)
    }
}
