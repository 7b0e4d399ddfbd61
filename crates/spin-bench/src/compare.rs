//! Two models on the same documents: how far apart they are, and whether
//! chance alone would bring that about.
//!
//! Documents are paired, which takes their difficulty out. Metrics of right
//! and wrong are tested by McNemar's exact test (1947): of the documents on
//! which the two models differ, each wins half by chance. Others are tested by
//! the paired bootstrap. Where several comparisons are made at once, the
//! verdict follows Holm's correction (1979).

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde_json::{Value, json};
use spin_run::schema::{EvaluationRow, Row, ScoreRow};
use spin_store::kind::Kind;
use spin_store::{Artifact, Store};

use crate::error::{BenchError, Result};
use crate::grid;
use crate::harness::random::PyRandom;
use crate::stats::{self, Estimate, Part};

/// Resamples of the bootstrap.
const RESAMPLES: usize = 10_000;

/// How a difference was tested.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Test {
    /// McNemar's, with the documents that only the second and only the first
    /// model has right.
    McNemar {
        /// Right in the second alone.
        gained: usize,
        /// Right in the first alone.
        lost: usize,
    },
    /// The paired bootstrap.
    Bootstrap,
}

/// The difference of two models on one metric.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Task, or group of tasks.
    pub task: String,
    /// Metric.
    pub metric: String,
    /// The second model's label.
    pub label: String,
    /// The first model.
    pub first: Estimate,
    /// The second.
    pub second: Estimate,
    /// Second less first, with the standard error of the pairs.
    pub difference: Estimate,
    /// How it was tested.
    pub test: Test,
    /// Probability of a difference at least as large by chance.
    pub p_value: f64,
    /// The same, corrected for the number of comparisons made together.
    pub p_adjusted: f64,
    /// Documents that only one of the two has; they are left out.
    pub unpaired: usize,
}

/// Values by document.
type Values = BTreeMap<String, Part>;

/// What is known of one model.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Its label.
    pub label: String,
    metrics: Vec<((String, String), Values)>,
    rules: BTreeMap<String, Value>,
}

impl Scored {
    /// Everything that the store has of a model: `reference` is an artifact
    /// (`scores/demo/iter-1@v2`, `evaluations/demo/iter-1/mmlu`) or a model's
    /// name (`demo/iter-1`), which stands for the newest of all its scores.
    /// With `single`, groups are also taken apart.
    ///
    /// # Errors
    /// When there is nothing of that name, or it is damaged.
    pub fn read(store: &Store, reference: &str, single: bool) -> Result<Self> {
        let mut found = Vec::new();
        match reference.parse() {
            Ok(reference) => found.push(store.get(&reference)?),
            Err(_) => {
                let mut newest: BTreeMap<(Kind, String), (Kind, String, u32)> = BTreeMap::new();
                for entry in store.list()? {
                    let own = match entry.0 {
                        Kind::Scores => entry.1 == reference,
                        Kind::Evaluations => entry.1.rsplit_once('/').is_some_and(|(model, _)| model == reference),
                        _ => false,
                    };
                    if own {
                        newest.insert((entry.0, entry.1.clone()), entry);
                    }
                }
                for entry in newest.values() {
                    found.push(store.load_listed(entry)?);
                }
            }
        }
        if found.is_empty() {
            return Err(BenchError::Compare(format!(
                "the store has no scores of {reference:?}; name a model (demo/iter-1) or an artifact \
                 (evaluations/demo/iter-1/mmlu); `spin-store ls` shows them"
            )));
        }
        // A name may have been given to other weights since.
        let weights = |artifact: &Artifact| {
            let parent = artifact.manifest.parents.iter().find(|parent| parent.role == "model");
            parent.map(|parent| parent.content.clone())
        };
        if let Some(other) = found.iter().find(|artifact| weights(artifact) != weights(&found[0])) {
            return Err(BenchError::Compare(format!(
                "{} and {} are of different weights; evaluate {reference} again, or name single artifacts",
                found[0].reference(),
                other.reference()
            )));
        }
        let mut all = Self { label: reference.into(), metrics: Vec::new(), rules: BTreeMap::new() };
        for artifact in &found {
            all.add(artifact, single)?;
        }
        Ok(all)
    }

    fn add(&mut self, artifact: &Artifact, single: bool) -> Result<()> {
        let manifest = &artifact.manifest;
        match manifest.kind {
            Kind::Scores => {
                for row in ScoreRow::read_all(artifact)? {
                    let part = Part { sum: row.value, weight: row.weight };
                    self.values(&row.task, &row.metric).insert(row.row_id, part);
                }
            }
            Kind::Evaluations => {
                let rows = EvaluationRow::read_all(artifact)?;
                let unit = manifest.name.rsplit('/').next().unwrap_or_default().to_owned();
                let grouped = rows.first().is_some_and(|row| row.task != unit);
                for row in &rows {
                    let id = format!("{}/{}", row.task, row.doc_id);
                    for (metric, value) in row.metrics.iter().zip(&row.values) {
                        let part = Part { sum: *value, weight: 1.0 };
                        self.values(&unit, metric).insert(id.clone(), part);
                        if grouped && single {
                            self.values(&row.task, metric).insert(id.clone(), part);
                        }
                    }
                }
                let rules = json!({
                    "settings": manifest.params["eval"],
                    "tasks": manifest.params["tasks"],
                    "data": manifest.facts["data"],
                });
                self.rules.insert(unit, rules);
            }
            other => {
                return Err(BenchError::Compare(format!(
                    "{} is of the kind {other}; scores and evaluations can be compared",
                    artifact.reference()
                )));
            }
        }
        Ok(())
    }

    fn values(&mut self, task: &str, metric: &str) -> &mut Values {
        let same = |(key, _): &((String, String), Values)| key.0 == task && key.1 == metric;
        let at = self.metrics.iter().position(same).unwrap_or_else(|| {
            self.metrics.push(((task.into(), metric.into()), Values::new()));
            self.metrics.len() - 1
        });
        &mut self.metrics[at].1
    }
}

/// Compares models with the first one, on all metrics that both have.
///
/// # Errors
/// When two were scored by different rules, or have no documents in common.
pub fn compare(models: &[Scored]) -> Result<Vec<Comparison>> {
    let Some((first, others)) = models.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Err(BenchError::Compare("name at least two models".into()));
    };
    let mut out = Vec::new();
    for (key, values) in &first.metrics {
        for other in others {
            let Some((_, theirs)) = other.metrics.iter().find(|(own, _)| own == key) else { continue };
            if let (Some(a), Some(b)) = (first.rules.get(&key.0), other.rules.get(&key.0))
                && a != b
            {
                return Err(BenchError::Compare(format!(
                    "{} and {} were evaluated on {} by different rules: {}; evaluate one of them again",
                    first.label,
                    other.label,
                    key.0,
                    differences(a, b)
                )));
            }
            out.push(pair(key, values, theirs, &first.label, &other.label)?);
        }
    }
    if out.is_empty() {
        return Err(BenchError::Compare(format!("{} has no metric in common with the others", first.label)));
    }
    holm(&mut out);
    Ok(out)
}

/// Settings that a message names.
const NAMED: usize = 5;

/// Which settings differ, e.g. `settings.limit is 100 and 0`.
fn differences(a: &Value, b: &Value) -> String {
    let mut found = Vec::new();
    collect(a, b, "", &mut found);
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    found.join(", ") + &more
}

fn collect(a: &Value, b: &Value, place: &str, found: &mut Vec<String>) {
    let below = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    match (a, b) {
        _ if a == b => {}
        (Value::Object(x), Value::Object(y)) => {
            let added = y.keys().filter(|key| !x.contains_key(*key));
            for key in x.keys().chain(added) {
                collect(&a[key], &b[key], &below(key), found);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                // Tasks have names, which say more than numbers.
                let name = x["name"].as_str().filter(|name| y["name"].as_str() == Some(name));
                collect(x, y, &below(name.unwrap_or(&i.to_string())), found);
            }
        }
        (Value::Array(x), Value::Array(y)) => found.push(format!("{place} has {} and {} entries", x.len(), y.len())),
        _ => found.push(format!("{place} is {} and {}", short(a), short(b))),
    }
}

/// A value for a message.
fn short(value: &Value) -> String {
    let text = match value {
        Value::Null => "not set".to_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn pair(key: &(String, String), first: &Values, second: &Values, a: &str, b: &str) -> Result<Comparison> {
    let rows: Vec<(Part, Part)> = first.iter().filter_map(|(id, x)| Some((*x, *second.get(id)?))).collect();
    let none = || BenchError::Compare(format!("{a} and {b} have no documents of {} in common", key.0));
    let of = |pick: fn(&(Part, Part)) -> Part| stats::ratio(&rows.iter().map(pick).collect::<Vec<_>>());
    let swapped: Vec<(Part, Part)> = rows.iter().map(|(x, y)| (*y, *x)).collect();
    let difference = stats::paired_ratio_difference(&swapped).ok_or_else(none)?;
    let is_binary = |part: &Part| part.weight == 1.0 && (part.sum == 0.0 || part.sum == 1.0);
    let (test, p_value) = if rows.iter().all(|(x, y)| is_binary(x) && is_binary(y)) {
        let gained = rows.iter().filter(|(x, y)| y.sum > x.sum).count();
        let lost = rows.iter().filter(|(x, y)| y.sum < x.sum).count();
        (Test::McNemar { gained, lost }, mcnemar(gained, lost))
    } else {
        (Test::Bootstrap, bootstrap(&rows))
    };
    Ok(Comparison {
        task: key.0.clone(),
        metric: key.1.clone(),
        label: b.into(),
        first: of(|row| row.0).ok_or_else(none)?,
        second: of(|row| row.1).ok_or_else(none)?,
        difference,
        test,
        p_value,
        p_adjusted: p_value,
        unpaired: first.len() + second.len() - 2 * rows.len(),
    })
}

/// McNemar's exact test: twice the smaller tail of a binomial distribution
/// with probability 1/2, at most 1.
///
/// ```
/// use spin_bench::compare::mcnemar;
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

/// Paired bootstrap: how often the difference of resampled documents,
/// centred where chance would have it, is as large as the one observed.
fn bootstrap(rows: &[(Part, Part)]) -> f64 {
    let difference = |picked: &mut dyn Iterator<Item = usize>| {
        let (mut x, mut y) = (Part { sum: 0.0, weight: 0.0 }, Part { sum: 0.0, weight: 0.0 });
        for i in picked {
            let (a, b) = rows[i];
            x = Part { sum: x.sum + a.sum, weight: x.weight + a.weight };
            y = Part { sum: y.sum + b.sum, weight: y.weight + b.weight };
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

/// Holm's step-down correction.
fn holm(comparisons: &mut [Comparison]) {
    let count = comparisons.len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|a, b| comparisons[*a].p_value.total_cmp(&comparisons[*b].p_value));
    let mut floor = 0.0_f64;
    for (rank, i) in order.into_iter().enumerate() {
        floor = floor.max((comparisons[i].p_value * (count - rank) as f64).min(1.0));
        comparisons[i].p_adjusted = floor;
    }
}

impl Comparison {
    /// `better`, `worse` or `within noise`, at 5% after the correction.
    pub fn verdict(&self) -> &'static str {
        if self.p_adjusted >= 0.05 {
            return "within noise";
        }
        // Of the metrics there are, only a negative log-likelihood is better
        // when it is lower.
        let lower_is_better = self.metric.starts_with("nll");
        if (self.difference.value < 0.0) == lower_is_better { "better" } else { "worse" }
    }

    /// For programs.
    pub fn to_json(&self, first: &str) -> Value {
        let estimate = |e: &Estimate| json!({"value": e.value, "stderr": e.stderr});
        let test = match self.test {
            Test::McNemar { gained, lost } => json!({"name": "mcnemar-exact", "gained": gained, "lost": lost}),
            Test::Bootstrap => json!({"name": "paired-bootstrap", "resamples": RESAMPLES}),
        };
        json!({
            "task": self.task,
            "metric": self.metric,
            "models": [first, self.label],
            "documents": self.difference.rows,
            "unpaired_documents": self.unpaired,
            "first": estimate(&self.first),
            "second": estimate(&self.second),
            "difference": estimate(&self.difference),
            "test": test,
            "p_value": self.p_value,
            "p_adjusted": self.p_adjusted,
            "verdict": self.verdict(),
        })
    }
}

/// The comparisons as a table for people.
pub fn table(first: &str, comparisons: &[Comparison]) -> String {
    let head = ["task", "metric", "model", "documents", first, "value", "difference", "only it right", "p", "verdict"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for c in comparisons {
        let reach = c.difference.stderr.map_or_else(String::new, |stderr| format!(" ±{:.4}", 1.96 * stderr));
        let discordant = match c.test {
            Test::McNemar { gained, lost } => format!("{gained} : {lost}"),
            Test::Bootstrap => String::new(),
        };
        lines.push(vec![
            c.task.clone(),
            c.metric.clone(),
            c.label.clone(),
            c.difference.rows.to_string(),
            format!("{:.4}", c.first.value),
            format!("{:.4}", c.second.value),
            format!("{:+.4}{reach}", c.difference.value),
            discordant,
            if c.p_value < 1e-4 { "<1e-4".into() } else { format!("{:.4}", c.p_value) },
            c.verdict().into(),
        ]);
    }
    let mut out = grid::aligned(&lines, "  ", false);
    out.push_str(&format!(
        "\n± is a 95% confidence interval of the paired difference; p by McNemar's exact test, or by the paired\n\
         bootstrap for values other than 0 and 1; verdicts at 5% by Holm's correction for {} comparisons.\n",
        comparisons.len()
    ));
    let unpaired: usize = comparisons.iter().map(|c| c.unpaired).sum();
    if unpaired > 0 {
        out.push_str(&format!("{unpaired} values of documents that only one model has were left out.\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(sums: &[f64]) -> Values {
        sums.iter().enumerate().map(|(i, sum)| (format!("{i:03}"), Part { sum: *sum, weight: 1.0 })).collect()
    }

    fn scored(label: &str, metric: &str, sums: &[f64]) -> Scored {
        let metrics = vec![(("t".to_owned(), metric.to_owned()), values(sums))];
        Scored { label: label.into(), metrics, rules: BTreeMap::new() }
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
        let found = compare(&[scored("a", "acc", &first), scored("b", "acc", &second)]).unwrap();
        assert_eq!(found[0].test, Test::McNemar { gained: 1, lost: 0 });
        assert_eq!((found[0].p_value, found[0].verdict()), (1.0, "within noise"));
        second[1..60].fill(1.0);
        let found = compare(&[scored("a", "acc", &first), scored("b", "acc", &second)]).unwrap();
        assert_eq!(found[0].verdict(), "better");
        assert!((found[0].difference.value - 0.15).abs() < 1e-12);
    }

    #[test]
    fn different_rules_are_named_one_by_one() {
        let with = |label: &str, rules: Value| Scored {
            rules: BTreeMap::from([("t".to_owned(), rules)]),
            ..scored(label, "acc", &[1.0, 0.0])
        };
        let a = json!({"settings": {"limit": 0, "dtype": "f32", "profile": "current"},
            "tasks": [{"name": "t", "num_fewshot": 5}], "data": {"t/test": "a".repeat(64)}});
        let mut b = a.clone();
        (b["settings"]["limit"], b["tasks"][0]["num_fewshot"]) = (json!(100), json!(0));
        b["settings"].as_object_mut().unwrap().remove("dtype");
        b["data"]["t/test"] = json!("b".repeat(64));
        let error = compare(&[with("x", a.clone()), with("y", b)]).unwrap_err().to_string();
        let expected = "x and y were evaluated on t by different rules: settings.limit is 0 and 100, \
                        settings.dtype is \"f32\" and not set, tasks.t.num_fewshot is 5 and 0, data.t/test is \"aaa";
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains("profile") && error.ends_with("...; evaluate one of them again"), "{error}");
        let many: serde_json::Map<String, Value> = (0..9).map(|i| (format!("k{i}"), json!(i))).collect();
        let error = compare(&[with("x", json!({})), with("y", Value::Object(many))]).unwrap_err().to_string();
        assert!(error.contains("k4 is not set and 4 and 4 more;"), "{error}");
        compare(&[with("x", a.clone()), with("y", a)]).unwrap();
    }

    #[test]
    fn other_values_are_resampled() {
        let first: Vec<f64> = (0..60).map(|i| f64::from(i % 7)).collect();
        let lower: Vec<f64> = first.iter().map(|x| x - 0.5).collect();
        let noisy: Vec<f64> = first.iter().enumerate().map(|(i, x)| x + if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
        let models = [scored("a", "nll", &first), scored("b", "nll", &lower), scored("c", "nll", &noisy)];
        let found = compare(&models).unwrap();
        assert_eq!((found[0].test, found[0].verdict()), (Test::Bootstrap, "better"));
        assert!(found[1].p_value > 0.5, "{}", found[1].p_value);
        assert_eq!(found[0].p_value, compare(&models).unwrap()[0].p_value);
    }

    #[test]
    fn holm_orders_the_corrected() {
        let first = [0.0; 10];
        let models: Vec<Scored> =
            [0, 5, 6, 7].iter().map(|n| scored("x", "acc", &[vec![1.0; *n], first[*n..].to_vec()].concat())).collect();
        let found = compare(&models).unwrap();
        let (p, adjusted): (Vec<f64>, Vec<f64>) = found.iter().map(|c| (c.p_value, c.p_adjusted)).unzip();
        let rounded = |values: Vec<f64>| values.iter().map(|p| (p * 1e6).round() / 1e6).collect::<Vec<_>>();
        assert_eq!(rounded(p), [0.0625, 0.03125, 0.015625]);
        assert_eq!(rounded(adjusted), [0.0625, 0.0625, 0.046875]);
    }
}
