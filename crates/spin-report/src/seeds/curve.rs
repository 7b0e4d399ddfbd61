//! The best that temperatures alone make of a model.

use std::collections::BTreeMap;

use spin_run::run::NLL;

use crate::names::{expected_match_at, nll_at, temperature_of};

/// What is said of a model on one seed: estimates by task and metric, as
/// `task/metric`.
pub(super) type Values = BTreeMap<String, f64>;

/// A model's expected exact match against its negative log-likelihood, over
/// temperatures: from the temperature with the best likelihood downwards, both
/// grow.
#[derive(Debug, PartialEq)]
pub(super) struct Curve {
    /// (NLL per token, expected match), from the smallest NLL.
    points: Vec<(f64, f64)>,
}

/// The pair (NLL per token, expected match) at a temperature.
pub(super) fn point(values: &Values, temperature: f64) -> Option<(f64, f64)> {
    let value = |metric: &str| values.get(&format!("{NLL}/{metric}")).copied();
    Some((value(&nll_at(temperature))?, value(&expected_match_at(temperature))?))
}

impl Curve {
    /// Of a model that was scored at two temperatures or more.
    pub fn of(values: &Values) -> Option<Curve> {
        let mut temperatures: Vec<f64> = values.keys().filter_map(|key| temperature_of(key)).collect();
        temperatures.sort_by(|a, b| b.total_cmp(a));
        temperatures.dedup();
        let all: Vec<(f64, f64)> = temperatures.into_iter().filter_map(|t| point(values, t)).collect();
        let best = (0..all.len()).min_by(|a, b| all[*a].0.total_cmp(&all[*b].0))?;
        let points = all[best..].to_vec();
        (all.len() > 1).then_some(Curve { points })
    }

    /// Through models instead of temperatures, in whatever order: from each NLL on,
    /// the best expected match so far.
    pub fn through(mut points: Vec<(f64, f64)>) -> Option<Curve> {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut best = f64::NEG_INFINITY;
        points.retain(|(_, expected)| {
            let better = *expected > best;
            best = best.max(*expected);
            better
        });
        (points.len() > 1).then_some(Curve { points })
    }

    /// The expected match at the temperature with this NLL, by linear
    /// interpolation: at a better NLL than any temperature has, that of the
    /// best; `None` beyond the lowest temperature.
    pub fn at(&self, nll: f64) -> Option<f64> {
        let (best, of_best) = self.points[0];
        if nll <= best {
            return Some(of_best);
        }
        let after = self.points.iter().position(|(x, _)| *x >= nll)?;
        let ((x0, y0), (x1, y1)) = (self.points[after - 1], self.points[after]);
        Some(y0 + (y1 - y0) * (nll - x0) / (x1 - x0))
    }

    /// By how much it is above another one, the mean over the NLLs that both have;
    /// `None` where there are none.
    pub fn above(&self, other: &Curve) -> Option<f64> {
        let (first, last) = (|curve: &Curve| curve.points[0].0, |curve: &Curve| curve.points[curve.points.len() - 1].0);
        let (low, high) = (first(self).max(first(other)), last(self).min(last(other)));
        let mut all: Vec<f64> = self.points.iter().chain(&other.points).map(|(nll, _)| *nll).collect();
        all.retain(|nll| (low..=high).contains(nll));
        all.sort_by(f64::total_cmp);
        let apart: Vec<(f64, f64)> =
            all.into_iter().map(|nll| Some((nll, self.at(nll)? - other.at(nll)?))).collect::<Option<_>>()?;
        // Straight between the points of either.
        let area: f64 = apart.windows(2).map(|two| (two[1].0 - two[0].0) * (two[0].1 + two[1].1) / 2.0).sum();
        (high > low).then_some(area / (high - low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(points: &[(f64, f64, f64)]) -> Values {
        let of = |&(t, nll, expected): &(f64, f64, f64)| {
            [(format!("nll/{}", nll_at(t)), nll), (format!("nll/{}", expected_match_at(t)), expected)]
        };
        points.iter().flat_map(of).collect()
    }

    #[test]
    fn it_begins_at_the_best_likelihood() {
        let curve = Curve::of(&values(&[(1.0, 0.30, 0.40), (0.9, 0.28, 0.44), (0.8, 0.32, 0.50)])).unwrap();
        assert_eq!(curve.at(0.1), Some(0.44));
        assert!((curve.at(0.30).unwrap() - 0.47).abs() < 1e-12);
        assert_eq!(curve.at(0.33), None);
        assert_eq!(Curve::of(&values(&[(1.0, 0.3, 0.4)])), None);
    }

    #[test]
    fn curves_are_compared_where_both_are() {
        let curve = |points: &[(f64, f64)]| Curve { points: points.to_vec() };
        let one = curve(&[(0.2, 0.4), (0.4, 0.6)]);
        let other = curve(&[(0.3, 0.5), (0.35, 0.6), (0.5, 0.7)]);
        // Over .3 to .4: from 0 to .05 at .35, then to .0333.
        let expected = (0.05 * 0.025 + 0.05 * (0.05 + 1.0 / 30.0) / 2.0) / 0.1;
        assert!((other.above(&one).unwrap() - expected).abs() < 1e-12);
        assert!((one.above(&other).unwrap() + expected).abs() < 1e-12);
        assert_eq!(one.above(&one), Some(0.0));
        assert_eq!(one.above(&curve(&[(0.4, 0.5), (0.5, 0.6)])), None);
    }

    #[test]
    fn models_that_others_beat_are_not_on_the_curve() {
        let curve = Curve::through(vec![(0.3, 0.5), (0.2, 0.4), (0.25, 0.3)]).unwrap();
        assert_eq!(curve.at(0.25), Some(0.45));
        assert_eq!(Curve::through(vec![(0.2, 0.4), (0.25, 0.3)]), None);
    }
}
