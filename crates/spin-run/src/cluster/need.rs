//! Which steps of a plan are not done, and which elements of their arrays.

use spin_store::table;

use crate::graph::{Graph, Product};
use crate::plan::{Plan, State, Step, Survey, parts};

/// A job of a step: the whole of it, or one element of its array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// From 1; what the element is called.
    pub number: u32,
    /// What its command is given beside the step's.
    pub flags: Vec<String>,
}

/// The elements of a step's array; none of a step that is one job.
///
/// Shares of an answer table, and the tasks of an evaluation each by itself.
pub fn elements(step: &Step) -> Vec<Element> {
    let number = |flags: Vec<Vec<String>>| -> Vec<Element> {
        (1..).zip(flags).map(|(number, flags)| Element { number, flags }).collect()
    };
    if step.shards > 1 {
        return number((1..=step.shards).map(|k| vec!["--shard".into(), format!("{k}/{}", step.shards)]).collect());
    }
    let units: Vec<&String> = units(step).collect();
    if units.len() > 1 {
        return number(units.into_iter().map(|unit| vec!["--tasks".into(), unit.clone()]).collect());
    }
    Vec::new()
}

fn units(step: &Step) -> impl Iterator<Item = &String> {
    step.makes.iter().filter_map(|node| match &node.product {
        Product::Evaluation(_, unit) => Some(unit),
        _ => None,
    })
}

/// For each step, whether there is something to do.
///
/// One that makes nothing that is known is for those after it; the last, which
/// print, are for those before.
pub fn steps(plan: &Plan, survey: &Survey<'_>) -> Vec<bool> {
    let is_open = |step: &Step| {
        let states = step.makes.iter().map(|node| survey.state(&node.product));
        states.into_iter().any(|state| !matches!(state, State::Done { .. }))
    };
    let mut needed: Vec<bool> = plan.steps.iter().map(is_open).collect();
    // After its steps, before those of the plan that come later.
    for index in (0..plan.steps.len()).rev().filter(|&index| plan.steps[index].makes.is_empty()) {
        let later: Vec<usize> =
            (index + 1..plan.steps.len()).filter(|&later| plan.steps[later].after.contains(&index)).collect();
        if !later.is_empty() {
            needed[index] = later.into_iter().any(|later| needed[later]);
        }
    }
    for index in 0..plan.steps.len() {
        let is_last = !plan.steps.iter().any(|step| step.after.contains(&index));
        if plan.steps[index].makes.is_empty() && is_last {
            needed[index] = plan.steps[index].after.iter().any(|&before| needed[before]);
        }
    }
    needed
}

/// The elements of a step that are not done, as far as the store tells: shares
/// with a part that is not there, tasks without their scores.
pub fn open_elements(graph: &Graph<'_>, survey: &Survey<'_>, step: &Step) -> Vec<Element> {
    let all = elements(step);
    if step.shards > 1 {
        let shards = step.shards as usize;
        let there: Vec<Option<Vec<bool>>> =
            step.makes.iter().map(|node| parts_there(graph, survey, &node.product)).collect();
        let is_open = |element: &Element| {
            let own =
                |there: &Vec<bool>| there.iter().skip(element.number as usize - 1).step_by(shards).all(|part| *part);
            !there.iter().all(|there| there.as_ref().is_some_and(own))
        };
        let open: Vec<Element> = all.iter().filter(|element| is_open(element)).cloned().collect();
        // Everything is there but the artifact: the first publishes it.
        return if open.is_empty() { all.into_iter().take(1).collect() } else { open };
    }
    let states = step.makes.iter().filter(|node| matches!(node.product, Product::Evaluation(..)));
    let is_open: Vec<bool> = states.map(|node| !matches!(survey.state(&node.product), State::Done { .. })).collect();
    all.into_iter().zip(is_open).filter(|(_, is_open)| *is_open).map(|(element, _)| element).collect()
}

/// Which parts of a table are there; `None` while it is not known what they would
/// be made from. Part P is of share P mod N, as `spin-sample` deals them.
fn parts_there(graph: &Graph<'_>, survey: &Survey<'_>, product: &Product) -> Option<Vec<bool>> {
    let parts = usize::try_from(parts(graph, product)?).ok()?;
    if matches!(survey.state(product), State::Done { .. }) {
        return Some(vec![true; parts]);
    }
    let work = graph.store.work_place(&graph.recipe(product).ok()?.identity());
    Some((0..parts).map(|part| work.join(table::part_name(part)).is_file()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Resources;

    #[test]
    fn shares_are_elements_and_one_job_has_none() {
        let step = |shards| Step {
            name: "sample-0".into(),
            command: vec!["spin-sample".into()],
            makes: Vec::new(),
            after: Vec::new(),
            looks_outside: false,
            shards,
            resources: Resources::default(),
        };
        assert_eq!(elements(&step(1)), []);
        let flags: Vec<_> = elements(&step(3)).into_iter().map(|e| (e.number, e.flags.join(" "))).collect();
        assert_eq!(flags, [(1, "--shard 1/3".into()), (2, "--shard 2/3".into()), (3, "--shard 3/3".into())]);
    }
}
