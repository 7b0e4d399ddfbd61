//! A run on a batch scheduler: what of its plan is to be submitted, as which
//! scripts, and what became of it.
//!
//! - [`site`] is what a cluster wants to be asked and how, [`script`] a step as a
//!   script of Slurm, [`others`] the plan for make and PBS;
//! - [`need`] says which steps, and which elements of their arrays, are not done;
//! - [`record`] is the list of what was submitted, [`queue`] what Slurm says of it,
//!   [`state`] both and the store together.
//!
//! Nothing here starts a program: texts go in and out, `spin-run` calls Slurm.

pub mod need;
pub mod others;
pub mod queue;
pub mod record;
pub mod script;
pub mod site;
pub mod state;

use std::path::PathBuf;

use spin_store::StoreError;

/// What can go wrong between a plan and a scheduler.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A profile of a site that cannot be used.
    #[error("site profile {}: {problem}", path.display())]
    Site {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The list of submitted jobs is damaged.
    #[error(
        "{}, line {line}: {problem}; no job can be found by it: cancel what still runs (squeue --me), move the file away, and submit again",
        path.display()
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A job of a step is in the queue with another command than it would be
    /// given now.
    #[error(
        "job {job} of {step} is in the queue and was submitted as `{was}`, which is now `{now}`; `spin-run cancel` it first"
    )]
    Other {
        /// The job.
        job: String,
        /// The step.
        step: String,
        /// Its command then.
        was: String,
        /// Its command now.
        now: String,
    },
    /// A step that several tasks would each do.
    #[error("{step} asks for {tasks} tasks with {launcher:?} before the program, and {problem}")]
    Tasks {
        /// The step.
        step: String,
        /// How many.
        tasks: u32,
        /// What starts them.
        launcher: String,
        /// Why not, and what to do.
        problem: String,
    },
    /// The store, or a file beside it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ClusterError {
    /// Whether the input is to blame.
    pub fn is_bad_input(&self) -> bool {
        match self {
            ClusterError::Site { .. }
            | ClusterError::Record { .. }
            | ClusterError::Other { .. }
            | ClusterError::Tasks { .. } => true,
            ClusterError::Store(error) => error.is_bad_input(),
        }
    }
}

/// The result of this module's fallible functions.
pub type Result<T> = std::result::Result<T, ClusterError>;
