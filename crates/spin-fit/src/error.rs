//! The error type of the crate.

use spin_store::StoreError;
use spin_text::TextError;

use crate::optim::OptimError;

/// Shorthand for results of this crate.
pub type Result<T, E = FitError> = std::result::Result<T, E>;

/// How a process ends that cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Something failed.
    Failed,
    /// The input is to blame.
    BadInput,
    /// Another process is at it: run it again.
    Again,
}

/// What can go wrong while training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// From the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// From the tokenizer or the template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// From the model.
    #[error(transparent)]
    Model(#[from] spin_model::Error),
    /// From the optimiser.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// From candle.
    #[error("a tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// A row cannot be trained on.
    #[error("row {row_id:?} of {table}: {problem}; {remedy}")]
    Row {
        /// The demonstration's id.
        row_id: String,
        /// The table.
        table: String,
        /// What is wrong.
        problem: String,
        /// What the user can do.
        remedy: String,
    },
    /// There is nothing to train on.
    #[error("{table} has no row to train on ({why}); {remedy}")]
    NoRows {
        /// The table.
        table: String,
        /// Where they went.
        why: String,
        /// What the user can do.
        remedy: String,
    },
    /// Reference log-probabilities that are not those of the opponent.
    #[error(
        "{reference} holds log-probabilities of other {what}: it was made with {found}, this training needs {expected}; \
         leave it out and run spin-fit again, which computes them"
    )]
    OtherReference {
        /// The reference artifact.
        reference: String,
        /// `weights`, `pairs` or `type of weights`.
        what: &'static str,
        /// What it was made with.
        found: String,
        /// What it should have been made with.
        expected: String,
    },
    /// A part of the unfinished reference changed while it was used.
    #[error("{}: {why}; run spin-fit again, which computes it again", path.display())]
    Part {
        /// The part.
        path: std::path::PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An adapter to start from has other settings than the run file.
    #[error("{path} is an adapter of other settings, {found}; write these into [fit.lora]")]
    OtherAdapter {
        /// The adapter's directory.
        path: String,
        /// Its settings.
        found: String,
    },
    /// A directory to write is there already.
    #[error("{path} exists already; name a directory that does not")]
    Exists {
        /// The directory.
        path: String,
    },
    /// Another process of those that train together cannot go on.
    #[error("process {rank} of those that train together: {message}")]
    Peer {
        /// Which of them, from 0.
        rank: usize,
        /// How it ends.
        verdict: Verdict,
        /// What it says.
        message: String,
    },
    /// Shares that cannot be dealt out evenly.
    #[error(
        "fit.shards = {shards} cannot be dealt to {world} processes; start {fitting} of them, or set fit.shards to a \
         multiple of {world}: it is one of the settings that decide what is made"
    )]
    Shares {
        /// Shares of an update.
        shards: usize,
        /// Processes.
        world: usize,
        /// Numbers of processes that would do.
        fitting: String,
    },
    /// Processes that were to train together cannot reach each other.
    #[error("MPI: {problem}")]
    Transport {
        /// Why not.
        problem: String,
    },
    /// What another process made is not seen here.
    #[error("{what} was made by another process and is not in the store of this one; is {store} the same directory?")]
    NotSeen {
        /// What it is.
        what: String,
        /// Where the store is.
        store: String,
    },
    /// The device to train on is not there.
    #[error("{device} cannot be used: {problem}")]
    Device {
        /// As it was given.
        device: String,
        /// Why not.
        problem: String,
    },
    /// The loss or the gradient is NaN or infinite.
    #[error(
        "the {what} is {value} at update {update} (rows {rows}){repeated}; training stopped, {kept}. {remedy}; \
         fit.on_nonfinite = \"skip\" leaves such updates out"
    )]
    NotFinite {
        /// `loss` or `norm of the gradient`.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The update that failed, from 1.
        update: usize,
        /// Ids of the rows in it.
        rows: String,
        /// `, the tenth in a row`, when updates are skipped.
        repeated: String,
        /// What is kept of the work so far.
        kept: String,
        /// What the user can do.
        remedy: &'static str,
    },
    /// The model to start from has weights that are NaN or infinite.
    #[error(
        "the {what} is {value} at the first update because {tensor} of the model that training starts from is not \
         finite; give a model that was saved whole, or make it again"
    )]
    StartNotFinite {
        /// `loss` or `norm of the gradient`.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The first such tensor.
        tensor: String,
    },
    /// A weight became NaN or infinite by an update whose gradient was finite.
    #[error(
        "the weights are not finite after update {update}: {tensor}; training stopped, {kept}. Lower \
         fit.learning_rate, or set fit.max_grad_norm"
    )]
    WeightNotFinite {
        /// The first such tensor.
        tensor: String,
        /// The last update.
        update: usize,
        /// What is kept of the work so far.
        kept: String,
    },
    /// The checkpoint cannot be read.
    #[error("{path}: {problem}; delete it to train from the start")]
    Checkpoint {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The checkpoint is of another training.
    #[error(
        "{path} is a checkpoint of other settings: {differences}; go back to those settings, or delete it to train from \
         the start"
    )]
    OtherSettings {
        /// The file.
        path: String,
        /// Which keys differ, with both values.
        differences: String,
    },
}

impl FitError {
    /// Whether the input is to blame, rather than the machine: exit code 3
    /// instead of 1.
    pub fn is_bad_input(&self) -> bool {
        match self {
            FitError::Store(error) => error.is_bad_input(),
            FitError::Model(error) => error.is_bad_input(),
            FitError::Text(error) => error.is_bad_input(),
            FitError::Peer { verdict, .. } => *verdict == Verdict::BadInput,
            FitError::Row { .. }
            | FitError::NoRows { .. }
            | FitError::OtherReference { .. }
            | FitError::OtherAdapter { .. }
            | FitError::Exists { .. }
            | FitError::Shares { .. }
            | FitError::Transport { .. }
            | FitError::NotSeen { .. }
            | FitError::Device { .. }
            | FitError::StartNotFinite { .. }
            | FitError::Checkpoint { .. }
            | FitError::OtherSettings { .. } => true,
            _ => false,
        }
    }
}
