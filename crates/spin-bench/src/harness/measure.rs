//! From log-probabilities or a generated text to a document's metrics.

use super::text::length;
use super::{Answer, Doc, Generation, Metric, Profile, Task};

/// What came of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// What the model was taken to answer.
    pub prediction: String,
    /// What it should have been.
    pub gold: String,
    /// Values in the order of [`Task::metric_names`].
    pub values: Vec<f64>,
}

/// The index of the largest value, the first of equal ones. NaN must not
/// occur.
fn argmax(values: impl Iterator<Item = f64>) -> usize {
    let (mut best, mut top) = (0, f64::NEG_INFINITY);
    for (i, value) in values.enumerate() {
        if value > top {
            (best, top) = (i, value);
        }
    }
    best
}

fn truth(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// Measures a document by the log-probabilities of its continuations.
///
/// # Panics
/// When the document's answer is to be generated.
pub fn choices(task: &Task, profile: Profile, doc: &Doc, logps: &[f64]) -> Measured {
    let best = argmax(logps.iter().copied());
    let normed = |len: fn(&str) -> usize, choices: &[String]| {
        argmax(logps.iter().zip(choices).map(|(logp, choice)| logp / len(choice) as f64))
    };
    let right = |predicted: usize| match &doc.answer {
        Answer::Choices { gold, .. } | Answer::Blank { gold, .. } => predicted == *gold,
        Answer::Labels { labels, .. } => labels[predicted],
        Answer::Text(_) => panic!("a generated answer has no choices"),
    };
    // A blank's ending is the same for all: normed by the beginnings, which
    // the harness counts as choices.
    let texts: &[String] = match &doc.answer {
        Answer::Choices { choices, .. } | Answer::Labels { choices, .. } => choices,
        Answer::Blank { contexts, .. } => contexts,
        Answer::Text(_) => &[],
    };
    let value = |metric: &Metric| match (metric, &doc.answer) {
        (Metric::Acc, _) => truth(right(best)),
        (Metric::AccNorm, _) => truth(right(normed(length, texts))),
        (Metric::AccBytes, _) => truth(right(normed(str::len, texts))),
        (Metric::Mc2, Answer::Labels { labels, .. }) => share_of_truth(profile, logps, labels),
        (Metric::Mc2 | Metric::ExactMatch, _) => f64::NAN,
    };
    let prediction = match task.metrics.first() {
        Some(Metric::AccNorm) => normed(length, texts),
        Some(Metric::AccBytes) => normed(str::len, texts),
        _ => best,
    };
    let gold = match &doc.answer {
        Answer::Labels { labels, .. } => {
            let right: Vec<String> =
                labels.iter().enumerate().filter(|(_, label)| **label).map(|(i, _)| i.to_string()).collect();
            right.join(",")
        }
        Answer::Choices { gold, .. } | Answer::Blank { gold, .. } => gold.to_string(),
        Answer::Text(_) => String::new(),
    };
    Measured { prediction: prediction.to_string(), gold, values: task.metrics.iter().map(value).collect() }
}

/// `mc2`: the probability of true choices by that of all. Until v0.4.9 all
/// choices up to the first false one counted as true and no others, which is
/// wrong for the two questions whose labels are not sorted.
fn share_of_truth(profile: Profile, logps: &[f64], labels: &[bool]) -> f64 {
    let sorted = labels.iter().position(|label| !label).unwrap_or(labels.len());
    let is_true = |i: usize| if profile == Profile::Current { labels[i] } else { i < sorted };
    let (mut right, mut wrong) = (0.0, 0.0);
    for (i, logp) in logps.iter().enumerate() {
        *(if is_true(i) { &mut right } else { &mut wrong }) += logp.exp();
    }
    (0..logps.len()).filter(|i| is_true(*i)).map(|i| logps[i].exp() / (right + wrong)).sum()
}

/// Measures a generated text, already cut at its stop texts.
pub fn generated(generation: &Generation, doc: &Doc, text: &str) -> Measured {
    let Answer::Text(target) = &doc.answer else { panic!("the answer is a choice") };
    let gold = generation.normalise.apply(target);
    let found: Vec<String> = generation.filters.iter().map(|(_, extract)| extract.find(text)).collect();
    let values = found.iter().map(|found| truth(generation.normalise.apply(found) == gold)).collect();
    Measured { prediction: found.into_iter().next().unwrap_or_default(), gold, values }
}

#[cfg(test)]
mod tests {
    use super::super::tasks::{truthfulqa, winogrande};
    use super::*;

    #[test]
    fn the_first_maximum_wins_and_lengths_count_characters() {
        assert_eq!(argmax([-2.0, -1.0, -1.0].into_iter()), 1);
        let doc = Doc {
            question: String::new(),
            answer: Answer::Choices { choices: vec!["éé".into(), "abc".into()], gold: 0 },
        };
        let metrics = vec![Metric::AccNorm, Metric::Acc, Metric::AccBytes];
        let task = Task { metrics, ..truthfulqa::mc1() };
        // -3/2 < -4/3 in characters; -3/4 > -4/3 in bytes.
        let measured = choices(&task, Profile::Current, &doc, &[-3.0, -4.0]);
        assert_eq!((measured.values, measured.prediction.as_str()), (vec![0.0, 1.0, 1.0], "1"));
    }

    #[test]
    fn unsorted_labels_differ_between_profiles() {
        let logps = [0.1_f64, 0.2, 0.3, 0.4].map(f64::ln);
        let labels = [true, false, true, false];
        assert!((share_of_truth(Profile::Current, &logps, &labels) - 0.4).abs() < 1e-15);
        assert!((share_of_truth(Profile::LeaderboardV1, &logps, &labels) - 0.1).abs() < 1e-15);
    }

    #[test]
    fn a_blank_is_right_or_wrong() {
        let contexts = vec!["a".to_owned(), "b".to_owned()];
        let doc = Doc { question: String::new(), answer: Answer::Blank { contexts, ending: "c".into(), gold: 1 } };
        let task = winogrande::winogrande(Profile::Current);
        assert_eq!(choices(&task, Profile::Current, &doc, &[-1.0, -0.5]).values, [1.0]);
    }
}
