//! Processes that `srun` starts to train together, on a real Slurm.

use std::process::Output;

use crate::cluster::Cluster;
use crate::project::{Project, both, programs};

fn prepare(project: &Project) {
    for table in ["[sft]", "[fit]"] {
        project.edit("run.toml", &format!("\n{table}\n"), &format!("\n{table}\nshards = 2\n"));
    }
    project.run("spin-store import run.toml");
}

/// `spin-fit` as the tasks of a step.
fn srun(cluster: &Cluster, flags: &[&str], line: &str) -> Output {
    let (program, dir) = (programs().join("spin-fit"), cluster.project.path("."));
    let (program, dir) = (program.display().to_string(), format!("--chdir={}", dir.display()));
    let words = [&["--ntasks=2", "--kill-on-bad-exit=1", &dir], flags, &[&program, "run.toml"]].concat();
    cluster.slurm("srun", &[words, line.split_whitespace().collect()].concat())
}

#[test]
#[ignore = "needs Slurm and MPI"]
fn tasks_of_a_step_train_together_or_not_at_all() {
    let alone = Project::new();
    prepare(&alone);
    alone.run("spin-fit --sft");
    let cluster = Cluster::new();
    prepare(&cluster.project);
    // Tasks that cannot meet: the library of MPI refuses, or the program does.
    let output = srun(&cluster, &["--mpi=none"], "--sft");
    assert!(!output.status.success(), "{}", both(&output));
    assert!(!cluster.project.path("store/model/tiny/iter-0").exists(), "{}", both(&output));
    // On one node: Slurm's plugin of PMIx does not start a step on two that are one
    // machine, as these are.
    let output = srun(&cluster, &["--mpi=pmix", "--nodes=1"], "--sft");
    let said = both(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("made model/tiny/iter-0").count(), 1, "{said}");
    let model = |project: &Project| {
        let all = project.contents().into_iter();
        all.filter(|(name, _)| name.starts_with("model/tiny/iter-0")).collect::<Vec<_>>()
    };
    assert!(model(&cluster.project) == model(&alone));
}
