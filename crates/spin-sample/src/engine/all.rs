//! An engine's answers to work that is all in memory.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Engine, Job, Jobs};
use crate::answer::{Generated, Wanted};
use crate::error::Result;

struct All<'a> {
    state: Mutex<State>,
    note: &'a (dyn Fn(&str) + Sync),
}

struct State {
    jobs: VecDeque<Job>,
    tried: BTreeSet<usize>,
    outcomes: Vec<Option<Result<Generated>>>,
}

impl All<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Jobs for All<'_> {
    fn next(&self) -> Option<Job> {
        self.state().jobs.pop_front()
    }

    fn done(&self, job: Job, outcome: Result<Generated>) {
        let mut state = self.state();
        if outcome.is_err() && state.tried.insert(job.number) {
            state.jobs.push_front(job);
        } else {
            state.outcomes[job.number] = Some(outcome);
        }
    }

    fn put_back(&self, job: Job) {
        self.state().jobs.push_front(job);
    }

    fn stopped(&self) -> bool {
        false
    }

    fn note(&self, text: &str) {
        (self.note)(text);
    }
}

/// Answers all of `wanted`, in their order; what fails is tried once more.
pub fn answer_all(engine: &dyn Engine, wanted: Vec<Wanted>, note: &(dyn Fn(&str) + Sync)) -> Vec<Result<Generated>> {
    let outcomes = wanted.iter().map(|_| None).collect();
    let jobs = wanted.into_iter().enumerate().map(|(number, wanted)| Job { number, wanted }).collect();
    let all = All { state: Mutex::new(State { jobs, tried: BTreeSet::new(), outcomes }), note };
    // An engine may leave while a job is on its way back.
    while !all.state().jobs.is_empty() {
        engine.run(&all);
    }
    let State { outcomes, .. } = all.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.into_iter().map(|outcome| outcome.expect("engines finish what they take")).collect()
}
