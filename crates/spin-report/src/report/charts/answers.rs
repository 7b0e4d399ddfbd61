//! What answers look like, by iteration.

use super::by_iteration::{self, Point, Words};
use super::figure::Figure;
use crate::report::answers::Measured;
use crate::report::axis::short;
use crate::report::data::{Report, Run};
use crate::stats::Estimate;

/// Which answers are drawn: sampled ones are what self-play moves.
const OF: &str = "held-out, sampled";

/// Length, repetition and distinct n-grams of sampled answers.
pub fn figures(report: &Report) -> Vec<Figure> {
    let plain = |value: f64| Some(Estimate { rows: 0, value, stderr: None });
    let length = |m: &Measured| m.length;
    let distinct = |m: &Measured| plain(m.distinct[1]?);
    let human = |m: &Measured| plain(m.human?);
    let all = [
        draw(report, "answers-length", "Length of sampled answers", "tokens", length),
        draw(report, "answers-distinct-2", "Distinct 2-grams of sampled answers", "share of all 2-grams", distinct),
        draw(report, "answers-human", "Sampled answers equal to the human one", "share of answers", human),
    ];
    all.into_iter().flatten().collect()
}

fn draw(
    report: &Report,
    name: &str,
    title: &str,
    axis: &str,
    of: impl Fn(&Measured) -> Option<Estimate>,
) -> Option<Figure> {
    let description = format!("{title} by iteration and for baselines: {axis}.");
    let words = Words { name, title, axis, description: &description };
    let points = |run: &Run| -> Vec<Point> {
        let own = run.answers.iter().filter(|answers| answers.of == OF);
        own.filter_map(|answers| {
            let estimate = of(&answers.measured)?;
            Some(Point {
                // Only rounds are called so.
                iteration: run.models.iter().find(|model| model.label == answers.label)?.iteration,
                label: answers.label.clone(),
                value: estimate.value,
                reach: estimate.reach95(),
                words: short(estimate.value),
            })
        })
        .collect()
    };
    let chart = by_iteration::chart(report, &words, points)?;
    Some(Figure::of(&chart, "Of the sampled answers to the held-out prompts."))
}
