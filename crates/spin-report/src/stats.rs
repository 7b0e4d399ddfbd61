//! Means with their uncertainty, for scores that come one per row.
//!
//! Rows are the unit that was drawn: a standard error says how much a score would move if other rows
//! of the same kind had been in the test set. It does not cover sampling noise of the generation or of
//! training; that takes more than one run.

/// A score over rows with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// How many rows it is made of.
    pub rows: usize,
    /// The score.
    pub value: f64,
    /// Its standard error, where there are two rows or more.
    pub stderr: Option<f64>,
}

impl Estimate {
    /// How far the interval reaches to both sides that covers the true score in about 95 of 100 cases:
    /// 1.96 standard errors (the normal approximation; poor for fewer than some 30 rows, or shares near
    /// 0 and 1). It is for people; whether two models differ is for [`crate::verdict`] to say.
    pub fn reach95(&self) -> Option<f64> {
        Some(1.96 * self.stderr?)
    }
}

/// The mean of one value per row, or `None` without rows. The standard error is the sample standard
/// deviation (divided by n - 1) over the square root of n, in the harness's order of operations.
///
/// ```
/// use spin_report::stats::mean;
///
/// let score = mean(&[1.0, 0.0, 1.0, 1.0]).unwrap();
/// assert_eq!((score.rows, score.value), (4, 0.75));
/// assert_eq!(score.stderr, Some(0.25));
/// ```
pub fn mean(values: &[f64]) -> Option<Estimate> {
    let rows = values.len();
    if rows == 0 {
        return None;
    }
    let n = rows as f64;
    let value = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|x| (x - value) * (x - value)).sum();
    let stderr = (rows > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt());
    Some(Estimate { rows, value, stderr })
}

/// The share of rows that are right.
pub fn proportion(hits: &[bool]) -> Option<Estimate> {
    let values: Vec<f64> = hits.iter().map(|hit| f64::from(u8::from(*hit))).collect();
    mean(&values)
}

/// A row's numerator and denominator in a ratio of sums, such as the negative log-likelihood of an
/// answer and the number of its tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighted {
    /// What is counted.
    pub sum: f64,
    /// Per how much; never negative.
    pub weight: f64,
}

/// The ratio of two sums over rows, such as the negative log-likelihood per token.
///
/// The tokens of an answer depend on each other, so rows are treated as clusters. By the delta method
/// the ratio `R = sum(x) / sum(w)` varies like the mean of `(x - R w) / mean(w)`. `None` without rows
/// or where all weights are zero.
pub fn ratio(parts: &[Weighted]) -> Option<Estimate> {
    let (value, influence) = influence(parts.iter().copied())?;
    Some(Estimate { rows: parts.len(), value, stderr: spread(&influence) })
}

/// The mean difference `first - second` of two models on the same rows. Pairing takes the difficulty
/// of the rows out of the standard error, which comparing two separate estimates would leave in.
pub fn paired_difference(rows: &[(f64, f64)]) -> Option<Estimate> {
    let differences: Vec<f64> = rows.iter().map(|(first, second)| first - second).collect();
    mean(&differences)
}

/// The difference `first - second` of two [`ratio`]s on the same rows, with the standard error of the
/// pairs. The weights of the two may differ, as when two tokenizers split the same answers.
pub fn paired_ratio_difference(rows: &[(Weighted, Weighted)]) -> Option<Estimate> {
    let (first, of_first) = influence(rows.iter().map(|row| row.0))?;
    let (second, of_second) = influence(rows.iter().map(|row| row.1))?;
    let influence: Vec<f64> = of_first.iter().zip(&of_second).map(|(a, b)| a - b).collect();
    Some(Estimate { rows: rows.len(), value: first - second, stderr: spread(&influence) })
}

/// A ratio of sums and how far each row pulls it, to first order.
fn influence(parts: impl Iterator<Item = Weighted> + Clone) -> Option<(f64, Vec<f64>)> {
    let (mut sum, mut weight, mut rows) = (0.0, 0.0, 0usize);
    for part in parts.clone() {
        sum += part.sum;
        weight += part.weight;
        rows += 1;
    }
    if weight <= 0.0 {
        return None;
    }
    let (value, mean_weight) = (sum / weight, weight / rows as f64);
    let influence = parts.map(|part| (part.sum - value * part.weight) / mean_weight);
    Some((value, influence.collect()))
}

/// The standard error of values whose mean is zero by construction.
fn spread(influence: &[f64]) -> Option<f64> {
    let n = influence.len() as f64;
    let squares: f64 = influence.iter().map(|x| x * x).sum();
    (influence.len() > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{found} != {expected}");
    }

    #[track_caller]
    fn assert_estimate(found: Option<Estimate>, value: f64, stderr: f64) {
        let found = found.unwrap();
        assert_close(found.value, value);
        assert_close(found.stderr.unwrap(), stderr);
    }

    // Python: mu = sum(v)/n; sqrt(sum((x - mu)**2 for x in v)/(n - 1))/sqrt(n)
    #[test]
    fn means_and_their_errors() {
        let hits = [true, false, true, true, false, false, true, true, true, false];
        assert_estimate(proportion(&hits), 0.6, 0.16329931618554522);
        // For 0 and 1 that is sqrt(p (1 - p) / (n - 1)) = sqrt(0.24 / 9).
        assert_close(proportion(&hits).unwrap().stderr.unwrap(), (0.24_f64 / 9.0).sqrt());
        assert_estimate(mean(&[0.5, -1.25, 3.0, 2.75]), 1.25, 1.005194840151235);
        assert_close(proportion(&hits).unwrap().reach95().unwrap(), 0.32006665972366864);
    }

    #[test]
    fn few_rows_have_no_error() {
        assert_eq!(mean(&[]), None);
        assert_eq!(proportion(&[]), None);
        assert_eq!(ratio(&[]), None);
        assert_eq!(ratio(&[Weighted { sum: 1.0, weight: 0.0 }]), None);
        assert_eq!(paired_difference(&[]), None);
        assert_eq!(paired_ratio_difference(&[]), None);
        let one = mean(&[0.5]).unwrap();
        assert_eq!((one.rows, one.value, one.stderr, one.reach95()), (1, 0.5, None, None));
        assert_eq!(ratio(&[Weighted { sum: 3.0, weight: 2.0 }]).unwrap().stderr, None);
    }

    const WEIGHTS: [f64; 4] = [2.0, 5.0, 3.0, 4.0];

    fn parts(sums: [f64; 4]) -> Vec<Weighted> {
        let pair = |(sum, weight)| Weighted { sum, weight };
        sums.into_iter().zip(WEIGHTS).map(pair).collect()
    }

    // Python: R = sum(x)/sum(w); d = [a - R*b for a, b in zip(x, w)];
    //         sqrt(sum(t*t for t in d)/(n - 1)/n)/(sum(w)/n)
    #[test]
    fn ratios_are_clustered_by_row() {
        let rows = parts([4.0, 10.5, 3.25, 7.0]);
        assert_estimate(ratio(&rows), 1.7678571428571428, 0.2212486337453728);
        // Equal weights: the mean of the quotients.
        let equal: Vec<Weighted> = [2.0, 4.0, 9.0].map(|sum| Weighted { sum, weight: 2.0 }).to_vec();
        let quotients = mean(&[1.0, 2.0, 4.5]).unwrap();
        assert_estimate(ratio(&equal), quotients.value, quotients.stderr.unwrap());
    }

    #[test]
    fn differences_are_paired() {
        let first = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0];
        let second = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        let rows: Vec<(f64, f64)> = first.into_iter().zip(second).collect();
        assert_estimate(paired_difference(&rows), 1.0 / 3.0, 0.210818510677892);

        let (first, second) = (parts([4.0, 10.5, 3.25, 7.0]), parts([4.5, 9.0, 3.75, 8.0]));
        let rows: Vec<(Weighted, Weighted)> = first.into_iter().zip(second).collect();
        let found = paired_ratio_difference(&rows);
        assert_estimate(found, -0.03571428571428581, 0.16267964685126693);
        // A model does not differ from itself.
        let same: Vec<(Weighted, Weighted)> = rows.iter().map(|row| (row.0, row.0)).collect();
        assert_estimate(paired_ratio_difference(&same), 0.0, 0.0);
    }
}
