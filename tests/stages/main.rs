//! Tests across stages: the real programs, on a real store, as a user or a
//! scheduler would start them.
//!
//! - `audit`: what `spin-store verify` must see
//! - `loop_runs`: the whole loop, reuse, lineage, audit
//! - `shards`: 1 and 7 shards, and ten kills, give equal rows
//! - `sampling`: what the run file asks of answers
//! - `killed`: kill -9 at random moments changes nothing
//! - `checkpoints`: what is kept of an interrupted training is checked; equal trainings are equal bytes
//! - `preferences`: a baseline on a preference set equals TRL's `DPOTrainer`
//! - `preflight`: what can be refused before anything is computed; templates that cost too much
//! - `bad_input`: what a user can get wrong, and what the programs say
//! - `adapters`: LoRA and bf16 through the stages
//! - `engines`: mistral.rs and our own engine against golden greedy text and each other
//! - `models`: directories and adapters from elsewhere that say too much
//! - `leaderboard`: tasks of lm-evaluation-harness, custom ones, a judge
//! - `tasks_wild`: tasks that follow from the data, task files in the wild, judges and secrets
//! - `run_files`: the run files that ship can be read
//! - `logs`: messages as objects, for schedulers
//! - `runs`: plans, what is done and why not, runs that stop, share and go on
//! - `headless`: the report in a real browser, by `webdriver`
//! - `house`: which crate may know which, files of a readable length, no circles
//! - `hub`: models and data by their names on the hub
//! - `imports`: what is a model, sources that move, many imports at once, looks
//! - `journal`: what is deleted, forged or put there, the run file in every manifest, stages done again
//! - `journeys`: bundles and what others read
//! - `mpi`: processes that train together, by the real mpirun; `mpi_slurm`: by a real srun
//! - `mutations`: inputs that nobody wrote
//! - `old_store`: a store of an earlier release is read and extended
//! - `slurm`: runs on a real Slurm, by `cluster`
//! - `snapshots`: what the programs print: help, plans, listings, the table, errors
//! - `streams`: full and closed streams, readers that leave, signals, odd names
//! - `work_in_progress`: damaged and foreign parts are made again

#![expect(clippy::print_stderr, reason = "tests report what they measured")]

mod adapters;
mod audit;
mod bad_input;
mod checkpoints;
mod cluster;
mod engines;
mod family;
mod headless;
mod house;
mod hub;
mod imports;
mod journal;
mod journeys;
mod killed;
mod leaderboard;
mod logs;
mod loop_runs;
mod models;
mod mpi;
mod mpi_slurm;
mod mutations;
mod old_store;
mod preferences;
mod preflight;
mod project;
mod run_files;
mod runs;
mod sampling;
mod shards;
mod slurm;
mod snapshots;
mod streams;
mod tasks_wild;
mod temperatures;
mod webdriver;
mod work_in_progress;
