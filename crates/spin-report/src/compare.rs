//! Models on the same documents: how far each is from the first, and whether
//! chance alone would bring that about, by the rule of [`crate::verdict`].

mod rules;
mod scored;

use serde_json::{Value, json};

use crate::error::{ReportError, Result};
use crate::grid;
use crate::stats::{self, Estimate, Weighted};
use crate::verdict::{Judged, PairedRow, RESAMPLES, Test, Tested, judge};

pub use scored::Scored;

use scored::Values;

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
    /// Second less first, its test, and what is said of it among all
    /// comparisons made together.
    pub judged: Judged,
    /// Documents that only one of the two has; they are left out.
    pub unpaired: usize,
}

/// Compares models with the first one, on all metrics that both have.
///
/// # Errors
/// When two were scored by different rules, or have no documents in common.
pub fn compare(models: &[Scored]) -> Result<Vec<Comparison>> {
    let Some((first, others)) = models.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Err(ReportError::Compare("name at least two models".into()));
    };
    let (mut pairs, mut tested) = (Vec::new(), Vec::new());
    for (key, values) in &first.metrics {
        for other in others {
            let Some((_, theirs)) = other.metrics.iter().find(|(own, _)| own == key) else { continue };
            if let (Some(a), Some(b)) = (first.rules.get(&key.0), other.rules.get(&key.0))
                && a != b
            {
                return Err(ReportError::Compare(format!(
                    "{} and {} were evaluated on {} by different rules: {}; evaluate one of them again",
                    first.label,
                    other.label,
                    key.0,
                    rules::differences(a, b)
                )));
            }
            let pair = Pair::of(key, values, theirs, &first.label, &other.label)?;
            tested.push(pair.tested);
            pairs.push(pair);
        }
    }
    if pairs.is_empty() {
        return Err(ReportError::Compare(format!("{} has no metric in common with the others", first.label)));
    }
    Ok(pairs.into_iter().zip(judge(&tested)).map(|(pair, judged)| pair.judged(judged)).collect())
}

/// Two models on one metric, not yet judged.
struct Pair {
    key: (String, String),
    label: String,
    first: Estimate,
    second: Estimate,
    tested: Tested,
    unpaired: usize,
}

impl Pair {
    fn of(key: &(String, String), first: &Values, second: &Values, a: &str, b: &str) -> Result<Pair> {
        let rows: Vec<PairedRow> = first.iter().filter_map(|(id, x)| Some((*x, *second.get(id)?))).collect();
        let none = || ReportError::Compare(format!("{a} and {b} have no documents of {} in common", key.0));
        let of = |pick: fn(&PairedRow) -> Weighted| stats::ratio(&rows.iter().map(pick).collect::<Vec<_>>());
        Ok(Pair {
            key: key.clone(),
            label: b.into(),
            first: of(|row| row.0).ok_or_else(none)?,
            second: of(|row| row.1).ok_or_else(none)?,
            tested: Tested::of(&key.1, &rows).ok_or_else(none)?,
            unpaired: first.len() + second.len() - 2 * rows.len(),
        })
    }

    fn judged(self, judged: Judged) -> Comparison {
        let Pair { key: (task, metric), label, first, second, tested: _, unpaired } = self;
        Comparison { task, metric, label, first, second, judged, unpaired }
    }
}

impl Comparison {
    /// For programs.
    pub fn to_json(&self, first: &str) -> Value {
        let estimate = |e: &Estimate| json!({"value": e.value, "stderr": e.stderr});
        let Judged { tested, p_adjusted, verdict } = &self.judged;
        let test = match tested.test {
            Test::McNemar { gained, lost } => json!({"name": "mcnemar-exact", "gained": gained, "lost": lost}),
            Test::Bootstrap => json!({"name": "paired-bootstrap", "resamples": RESAMPLES}),
        };
        json!({
            "task": self.task,
            "metric": self.metric,
            "models": [first, self.label],
            "documents": tested.difference.rows,
            "unpaired_documents": self.unpaired,
            "first": estimate(&self.first),
            "second": estimate(&self.second),
            "difference": estimate(&tested.difference),
            "test": test,
            "p_value": tested.p_value,
            "p_adjusted": p_adjusted,
            "verdict": verdict.to_string(),
        })
    }
}

/// The comparisons as a table for people.
pub fn table(first: &str, comparisons: &[Comparison]) -> String {
    let head = ["task", "metric", "model", "documents", first, "value", "difference", "only it right", "p", "verdict"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for c in comparisons {
        let Judged { tested, verdict, .. } = &c.judged;
        let reach = tested.difference.reach95().map_or_else(String::new, |reach| format!(" ±{reach:.4}"));
        let discordant = match tested.test {
            Test::McNemar { gained, lost } => format!("{gained} : {lost}"),
            Test::Bootstrap => String::new(),
        };
        lines.push(vec![
            c.task.clone(),
            c.metric.clone(),
            c.label.clone(),
            tested.difference.rows.to_string(),
            format!("{:.4}", c.first.value),
            format!("{:.4}", c.second.value),
            format!("{:+.4}{reach}", tested.difference.value),
            discordant,
            if tested.p_value < 1e-4 { "<1e-4".into() } else { format!("{:.4}", tested.p_value) },
            verdict.to_string(),
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::verdict::Verdict;

    fn values(sums: &[f64]) -> Values {
        sums.iter().enumerate().map(|(i, sum)| (format!("{i:03}"), Weighted { sum: *sum, weight: 1.0 })).collect()
    }

    fn scored(label: &str, metric: &str, sums: &[f64]) -> Scored {
        let metrics = vec![(("t".to_owned(), metric.to_owned()), values(sums))];
        Scored { label: label.into(), metrics, rules: BTreeMap::new() }
    }

    #[test]
    fn verdicts_are_those_of_all_comparisons_together() {
        let first = [0.0; 10];
        let models: Vec<Scored> =
            [0, 5, 6, 7].iter().map(|n| scored("x", "acc", &[vec![1.0; *n], first[*n..].to_vec()].concat())).collect();
        let verdicts = |models: &[Scored]| -> Vec<Verdict> {
            compare(models).unwrap().iter().map(|comparison| comparison.judged.verdict).collect()
        };
        assert_eq!(verdicts(&models), [Verdict::WithinNoise, Verdict::WithinNoise, Verdict::Better]);
        assert_eq!(verdicts(&[models[0].clone(), models[2].clone()]), [Verdict::Better]);
        let text = table("x", &compare(&models).unwrap());
        assert!(text.contains("0.7000  +0.7000 ±0.2994  7 : 0          0.0156  better"), "{text}");
        assert!(text.ends_with("by Holm's correction for 3 comparisons.\n"), "{text}");
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
}
