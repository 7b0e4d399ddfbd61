//! The paper's own results, to hold a chart's shape against. Other models and
//! other data: only how gains follow each other compares.

/// Columns of [`ROWS`].
pub const TASKS: [&str; 7] = ["ARC", "TruthfulQA", "Winogrande", "GSM8K", "HellaSwag", "MMLU", "average"];

/// Where the numbers stand.
pub const SOURCE: &str = "Chen et al., “Self-Play Fine-Tuning Converts Weak Language Models to Strong Language \
                          Models”, ICML 2024 (arXiv 2401.01335), Tables 3 to 5: zephyr-7b-sft-full on the first Open \
                          LLM Leaderboard, in percent";

/// The model before self-play and after each of its rounds, with the supervised
/// and the DPO baseline.
pub const ROWS: [(&str, [f64; 7]); 7] = [
    ("SFT (θ0)", [60.41, 43.73, 74.19, 26.76, 82.85, 60.92, 58.14]),
    ("SPIN, round 1", [63.40, 49.18, 72.69, 35.10, 84.38, 60.03, 60.80]),
    ("SPIN, round 2", [65.19, 55.17, 72.30, 35.78, 84.96, 59.34, 62.12]),
    ("SPIN, round 3", [65.96, 54.91, 73.56, 38.06, 85.41, 59.93, 62.97]),
    ("SPIN, round 4", [65.87, 54.90, 73.72, 38.97, 85.54, 59.99, 63.16]),
    ("DPO, 62k preferences", [63.65, 55.19, 72.61, 33.43, 84.44, 58.52, 61.31]),
    ("SFT, one more epoch", [57.76, 44.39, 75.77, 25.85, 81.69, 57.89, 57.23]),
];

/// How many of [`ROWS`] are the model and its rounds.
pub const ROUNDS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_those_of_their_rows() {
        for (name, values) in ROWS {
            let mean = values[..6].iter().sum::<f64>() / 6.0;
            assert!((mean - values[6]).abs() < 0.012, "{name}: {mean}");
        }
    }
}
