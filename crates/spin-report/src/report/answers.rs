//! What answers look like: how long, how they ended, how many are alike.

use std::collections::{BTreeMap, HashSet};

use spin_run::schema::Sample;

use crate::stats::{self, Estimate};

/// Measures of a table of answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Answers.
    pub count: usize,
    /// Tokens of an answer, with the one that ends it.
    pub length: Option<Estimate>,
    /// The length that half of the answers do not exceed.
    pub median: usize,
    /// The length that 95 of 100 answers do not exceed.
    pub p95: usize,
    /// How many ended for which reason.
    pub finish: BTreeMap<String, usize>,
    /// Share of answers that equal an earlier one to whatever prompt.
    pub repeated: f64,
    /// Share of answers that are the human one, where those are known.
    pub human: Option<f64>,
    /// Distinct n-grams of tokens by all there are, for n of 1, 2 and 3 (Li et
    /// al., "A Diversity-Promoting Objective Function for Neural Conversation
    /// Models", 2016).
    pub distinct: [Option<f64>; 3],
}

/// Measures answers; `human` are the human ones by row.
pub fn measure(samples: &[Sample], human: &BTreeMap<&str, &str>) -> Measured {
    let count = samples.len();
    let mut lengths: Vec<usize> = samples.iter().map(|sample| sample.response_ids.len()).collect();
    let length = stats::mean(&lengths.iter().map(|n| *n as f64).collect::<Vec<_>>());
    lengths.sort_unstable();
    let quantile = |q: f64| lengths.get(((q * count as f64).ceil() as usize).max(1) - 1).copied().unwrap_or(0);
    let mut finish = BTreeMap::new();
    for sample in samples {
        *finish.entry(sample.finish_reason.clone()).or_insert(0) += 1;
    }
    let share = |n: usize| if count == 0 { 0.0 } else { n as f64 / count as f64 };
    let distinct_texts: HashSet<&str> = samples.iter().map(|sample| sample.response.as_str()).collect();
    let known = samples.iter().filter_map(|sample| Some((sample, human.get(sample.row_id.as_str())?)));
    let (known, equal) = known.fold((0, 0), |(known, equal), (sample, human)| {
        (known + 1, equal + usize::from(sample.response.trim() == human.trim()))
    });
    Measured {
        count,
        length,
        median: quantile(0.5),
        p95: quantile(0.95),
        finish,
        repeated: share(count - distinct_texts.len()),
        human: (known > 0).then(|| equal as f64 / known as f64),
        distinct: [1, 2, 3].map(|n| distinct_n(samples, n)),
    }
}

fn distinct_n(samples: &[Sample], n: usize) -> Option<f64> {
    let (mut all, mut seen) = (0usize, HashSet::new());
    for gram in samples.iter().flat_map(|sample| sample.response_ids.windows(n)) {
        all += 1;
        seen.insert(gram);
    }
    (all > 0).then(|| seen.len() as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(row: &str, ids: &[u32], text: &str, finish: &str) -> Sample {
        Sample {
            row_id: row.into(),
            sample_index: 0,
            prompt_ids: vec![1],
            response_ids: ids.to_vec(),
            response: text.into(),
            finish_reason: finish.into(),
            logps: 0.0,
            token_logps: Vec::new(),
            token_sampling_logps: Vec::new(),
        }
    }

    #[test]
    fn distinct_n_grams_and_repeated_answers() {
        let samples = [
            sample("a", &[1, 2, 1, 2], "xyxy", "stop"),
            sample("b", &[1, 2], "xy", "length"),
            sample("c", &[1, 2], "xy", "stop"),
        ];
        let human = BTreeMap::from([("a", "xyxy\n"), ("b", "no")]);
        let found = measure(&samples, &human);
        // 1-grams: 1 and 2 of 8; 2-grams: 12, 21 of 3 + 1 + 1; 3-grams: 121, 212 of 2.
        assert_eq!(found.distinct, [Some(0.25), Some(0.4), Some(1.0)]);
        assert_eq!(found.finish, BTreeMap::from([("length".to_owned(), 1), ("stop".to_owned(), 2)]));
        assert_eq!((found.median, found.p95, found.human), (2, 4, Some(0.5)));
        assert!((found.repeated - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(found.length.unwrap().value, 8.0 / 3.0);
    }

    #[test]
    fn no_answers_are_measured_too() {
        let found = measure(&[], &BTreeMap::new());
        assert_eq!((found.count, found.median, found.distinct, found.human), (0, 0, [None; 3], None));
    }
}
