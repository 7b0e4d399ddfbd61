//! Whether a model is better than another on the same rows, or chance alone
//! would bring that about: the one rule, by which every table judges.
//!
//! Rows are paired, which takes their difficulty out. Metrics of right and
//! wrong are tested by McNemar's exact test (Q. McNemar, "Note on the sampling
//! error of the difference between correlated proportions or percentages",
//! Psychometrika 12, 1947): of the rows on which the two models differ, each
//! wins half by chance. Others are tested by the paired bootstrap. Differences
//! that one table shows are judged together, by S. Holm's correction ("A simple
//! sequentially rejective multiple test procedure", Scandinavian Journal of
//! Statistics 6, 1979), so that of tables where nothing differs at most one in
//! twenty says that something does.

use std::fmt;

use rayon::prelude::*;

use crate::names;
use crate::random::PyRandom;
use crate::stats::{self, Estimate, Weighted};

/// Resamples of the bootstrap.
pub const RESAMPLES: usize = 10_000;

/// Probability up to which chance is believed: at or above it, after the
/// correction, a difference is within noise.
pub(crate) const LEVEL: f64 = 0.05;

/// A row's values of two models, the first one's first.
pub type PairedRow = (Weighted, Weighted);

/// How a difference was tested.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Test {
    /// McNemar's, with the rows that only the second and only the first model
    /// has right.
    McNemar {
        /// Right in the second alone.
        gained: usize,
        /// Right in the first alone.
        lost: usize,
    },
    /// The paired bootstrap.
    Bootstrap,
}

/// What is said of a second model beside a first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is better, and chance alone would hardly bring that about.
    Better,
    /// It is worse, and chance alone would hardly bring that about.
    Worse,
    /// Chance alone could bring the difference about.
    WithinNoise,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::WithinNoise => "within noise",
        })
    }
}

/// The second model's score less the first one's, with the standard error of
/// the pairs; `None` without rows, or where all weights are zero.
pub fn difference(rows: &[PairedRow]) -> Option<Estimate> {
    let swapped: Vec<PairedRow> = rows.iter().map(|(first, second)| (*second, *first)).collect();
    stats::paired_ratio_difference(&swapped)
}

/// A tested difference, before it is judged together with others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tested {
    /// The second model's score less the first one's; see [`difference`].
    pub difference: Estimate,
    /// How it was tested.
    pub test: Test,
    /// Probability of a difference at least as large by chance, two-sided.
    pub p_value: f64,
    lower_is_better: bool,
}

impl Tested {
    /// Tests a metric on rows that both models have; `None` without any, or
    /// where all weights are zero.
    pub fn of(metric: &str, rows: &[PairedRow]) -> Option<Tested> {
        let difference = difference(rows)?;
        let is_binary = |value: &Weighted| value.weight == 1.0 && (value.sum == 0.0 || value.sum == 1.0);
        let (test, p_value) = if rows.iter().all(|(x, y)| is_binary(x) && is_binary(y)) {
            let gained = rows.iter().filter(|(x, y)| y.sum > x.sum).count();
            let lost = rows.iter().filter(|(x, y)| y.sum < x.sum).count();
            (Test::McNemar { gained, lost }, mcnemar(gained, lost))
        } else {
            (Test::Bootstrap, bootstrap(rows))
        };
        Some(Tested { difference, test, p_value, lower_is_better: names::lower_is_better(metric) })
    }
}

/// A difference with what is said of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// The difference and its test.
    pub tested: Tested,
    /// Its probability, corrected for the number of differences judged
    /// together.
    pub p_adjusted: f64,
    /// What is said of the second model.
    pub verdict: Verdict,
}

/// Judges the differences of one table, in their order: below [`LEVEL`] after
/// the correction a difference is one. A single row says nothing about noise,
/// so no difference on it is more than that.
pub fn judge(all: &[Tested]) -> Vec<Judged> {
    let judged = |(tested, p_adjusted): (&Tested, f64)| {
        let verdict = if p_adjusted >= LEVEL || tested.difference.stderr.is_none() {
            Verdict::WithinNoise
        } else if (tested.difference.value < 0.0) == tested.lower_is_better {
            Verdict::Better
        } else {
            Verdict::Worse
        };
        Judged { tested: *tested, p_adjusted, verdict }
    };
    let p_values: Vec<f64> = all.iter().map(|tested| tested.p_value).collect();
    all.iter().zip(holm(&p_values)).map(judged).collect()
}

/// McNemar's exact test: twice the smaller tail of a binomial distribution
/// with probability 1/2, at most 1.
///
/// ```
/// use spin_report::verdict::mcnemar;
///
/// // scipy.stats.binomtest(3, 13).pvalue
/// assert!((mcnemar(10, 3) - 0.09228515625).abs() < 1e-12);
/// assert_eq!(mcnemar(4, 4), 1.0);
/// ```
pub fn mcnemar(gained: usize, lost: usize) -> f64 {
    let (n, smaller) = (gained + lost, gained.min(lost));
    // ln C(n, k) - n ln 2, from term to term.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    for k in 1..=smaller {
        log_term += ((n - k + 1) as f64).ln() - (k as f64).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Paired bootstrap: how often the difference of resampled rows, centred where
/// chance would have it, is as large as the one observed. Every resample has a
/// generator of its own, so that threads change nothing.
fn bootstrap(rows: &[PairedRow]) -> f64 {
    let difference = |picked: &mut dyn Iterator<Item = usize>| {
        let (mut x, mut y) = (Weighted { sum: 0.0, weight: 0.0 }, Weighted { sum: 0.0, weight: 0.0 });
        for i in picked {
            let (a, b) = rows[i];
            x = Weighted { sum: x.sum + a.sum, weight: x.weight + a.weight };
            y = Weighted { sum: y.sum + b.sum, weight: y.weight + b.weight };
        }
        y.sum / y.weight - x.sum / x.weight
    };
    let observed = difference(&mut (0..rows.len()));
    let extreme = (0..RESAMPLES as u32)
        .into_par_iter()
        .filter(|seed| {
            let mut rng = PyRandom::new(*seed);
            let resampled = difference(&mut (0..rows.len()).map(|_| rng.below(rows.len())));
            (resampled - observed).abs() >= observed.abs()
        })
        .count();
    (extreme + 1) as f64 / (RESAMPLES + 1) as f64
}

/// Holm's step-down correction of probabilities, in their order.
pub(crate) fn holm(p_values: &[f64]) -> Vec<f64> {
    let count = p_values.len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let (mut adjusted, mut floor) = (vec![1.0; count], 0.0_f64);
    for (rank, i) in order.into_iter().enumerate() {
        floor = floor.max((p_values[i] * (count - rank) as f64).min(1.0));
        adjusted[i] = floor;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(first: &[f64], second: &[f64]) -> Vec<PairedRow> {
        let value = |sum: f64| Weighted { sum, weight: 1.0 };
        first.iter().zip(second).map(|(x, y)| (value(*x), value(*y))).collect()
    }

    fn alone(metric: &str, first: &[f64], second: &[f64]) -> Judged {
        judge(&[Tested::of(metric, &rows(first, second)).unwrap()])[0]
    }

    // scipy.stats.binomtest(k, n).pvalue
    #[test]
    fn mcnemar_is_exact() {
        for (gained, lost, expected) in
            [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (20, 5, 0.004077315330505371), (0, 40, 1.8189894035458565e-12)]
        {
            let p = mcnemar(gained, lost);
            assert!((p - expected).abs() <= 1e-12 * expected.max(1e-3), "{gained} {lost}: {p}");
        }
        // Far beyond what C(n, k) itself could hold.
        assert!((mcnemar(3600, 3500) - 0.2398).abs() < 1e-3);
    }

    #[test]
    fn noise_is_not_celebrated() {
        let first: Vec<f64> = (0..200).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
        let mut second = first.clone();
        second[1] = 1.0;
        let found = alone("acc", &first, &second);
        assert_eq!(found.tested.test, Test::McNemar { gained: 1, lost: 0 });
        assert_eq!((found.tested.p_value, found.verdict), (1.0, Verdict::WithinNoise));
        second[1..60].fill(1.0);
        let found = alone("acc", &first, &second);
        assert_eq!(found.verdict, Verdict::Better);
        assert!((found.tested.difference.value - 0.15).abs() < 1e-12);
        assert_eq!(alone("acc", &second, &first).verdict, Verdict::Worse);
    }

    #[test]
    fn other_values_are_resampled_and_likelihoods_turn_the_direction() {
        let first: Vec<f64> = (0..60).map(|i| f64::from(i % 7)).collect();
        let lower: Vec<f64> = first.iter().map(|x| x - 0.5).collect();
        let noisy: Vec<f64> = first.iter().enumerate().map(|(i, x)| x + if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
        let found = alone(names::NLL_PER_TOKEN, &first, &lower);
        assert_eq!((found.tested.test, found.verdict), (Test::Bootstrap, Verdict::Better));
        assert_eq!(alone(names::PREFERS_REAL, &first, &lower).verdict, Verdict::Worse);
        let noise = alone(names::NLL_PER_TOKEN, &first, &noisy);
        assert!(noise.tested.p_value > 0.5, "{}", noise.tested.p_value);
        assert_eq!(found, alone(names::NLL_PER_TOKEN, &first, &lower));
    }

    // Python 3.11: the indices of resample `seed` are [r._randbelow(12) for _ in range(12)] of
    // r = random.Random(seed); 321 of 10,000 are as extreme.
    #[test]
    fn resamples_are_drawn_as_by_python() {
        let first: Vec<f64> = (0..12).map(|i| f64::from(i % 5)).collect();
        let second: Vec<f64> = (0..12).map(|i| f64::from(i % 5) + [0.5, -0.25, 0.75, 0.0][i as usize % 4]).collect();
        assert_eq!(bootstrap(&rows(&first, &second)), 322.0 / 10_001.0);
    }

    #[test]
    fn holm_orders_the_corrected() {
        let first = [0.0; 10];
        let tested = [5, 6, 7].map(|n| {
            let second = [vec![1.0; n], first[n..].to_vec()].concat();
            Tested::of("acc", &rows(&first, &second)).unwrap()
        });
        let found = judge(&tested);
        let (p, adjusted): (Vec<f64>, Vec<f64>) = found.iter().map(|j| (j.tested.p_value, j.p_adjusted)).unzip();
        let rounded = |values: Vec<f64>| values.iter().map(|p| (p * 1e6).round() / 1e6).collect::<Vec<_>>();
        assert_eq!(rounded(p), [0.0625, 0.03125, 0.015625]);
        assert_eq!(rounded(adjusted), [0.0625, 0.0625, 0.046875]);
        let verdicts = [Verdict::WithinNoise, Verdict::WithinNoise, Verdict::Better];
        assert_eq!(found.iter().map(|j| j.verdict).collect::<Vec<_>>(), verdicts);
        // Alone, the second is one as well.
        assert_eq!(judge(&tested[1..2])[0].verdict, Verdict::Better);
    }

    #[test]
    fn one_row_is_within_noise() {
        let found = alone(names::NLL_PER_TOKEN, &[2.0], &[1.0]);
        assert_eq!((found.tested.difference.value, found.verdict), (-1.0, Verdict::WithinNoise));
        assert_eq!(Tested::of("acc", &[]), None);
    }
}
