//! Which step of a plan is next.

use super::Plan;

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting,
    Running,
    Done,
    Failed,
}

/// Steps in order, several at once where none reads what another makes.
#[derive(Clone, Debug)]
pub struct Agenda {
    after: Vec<Vec<usize>>,
    places: Vec<Place>,
    keep_going: bool,
}

impl Agenda {
    /// A plan of which nothing has begun. After a failure no further step
    /// begins, or with `keep_going` none that needs what failed.
    pub fn new(plan: &Plan, keep_going: bool) -> Agenda {
        let after = plan.steps.iter().map(|step| step.after.clone()).collect();
        Agenda { after, places: vec![Place::Waiting; plan.steps.len()], keep_going }
    }

    /// The first step that can begin now; it counts as begun.
    pub fn begin(&mut self) -> Option<usize> {
        if !self.keep_going && self.places.contains(&Place::Failed) {
            return None;
        }
        let is_ready = |&step: &usize| {
            self.places[step] == Place::Waiting && self.after[step].iter().all(|&of| self.places[of] == Place::Done)
        };
        let next = (0..self.places.len()).find(is_ready)?;
        self.places[next] = Place::Running;
        Some(next)
    }

    /// A step has ended.
    pub fn end(&mut self, step: usize, is_done: bool) {
        self.places[step] = if is_done { Place::Done } else { Place::Failed };
    }

    /// Number of steps that are under way.
    pub fn running(&self) -> usize {
        self.places.iter().filter(|place| **place == Place::Running).count()
    }

    /// Number of steps that never began.
    pub fn waiting(&self) -> usize {
        self.places.iter().filter(|place| **place == Place::Waiting).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 before 1 and 2, both before 3; 4 stands alone.
    fn schedule(keep_going: bool) -> Agenda {
        let after = vec![vec![], vec![0], vec![0], vec![1, 2], vec![]];
        Agenda { places: vec![Place::Waiting; after.len()], after, keep_going }
    }

    #[test]
    fn steps_begin_once_what_they_read_is_done() {
        let mut steps = schedule(false);
        assert_eq!([steps.begin(), steps.begin(), steps.begin()], [Some(0), Some(4), None]);
        steps.end(0, true);
        assert_eq!([steps.begin(), steps.begin(), steps.begin()], [Some(1), Some(2), None]);
        steps.end(2, true);
        assert_eq!((steps.begin(), steps.running(), steps.waiting()), (None, 2, 1));
        steps.end(1, true);
        assert_eq!(steps.begin(), Some(3));
    }

    #[test]
    fn after_a_failure_nothing_begins_or_only_what_does_not_need_it() {
        for (keep_going, next) in [(false, [None, None]), (true, [Some(2), Some(4)])] {
            let mut steps = schedule(keep_going);
            assert_eq!(steps.begin(), Some(0));
            steps.end(0, true);
            assert_eq!(steps.begin(), Some(1));
            steps.end(1, false);
            assert_eq!([steps.begin(), steps.begin()], next);
            for step in next.into_iter().flatten() {
                steps.end(step, true);
            }
            assert_eq!((steps.begin(), steps.running()), (None, 0));
        }
    }
}
