//! Processes that `srun` starts to train together, on a real Slurm.

use std::process::Output;

use crate::cluster::{Cluster, wait_for};
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

/// Warned ahead of its time limit, a training of several tasks goes back into the
/// queue as one of one task does.
#[test]
#[ignore = "needs Slurm and MPI"]
fn submitted_trainings_of_several_tasks_stop_and_go_on_together() {
    let slow = "--set sft.schedule_epochs=40 --set sft.stop_epoch=40";
    let alone = Project::new();
    prepare(&alone);
    alone.run(&format!("spin-run run run.toml {slow}"));
    let cluster = Cluster::new();
    prepare(&cluster.project);
    let site = std::fs::read_to_string(cluster.project.path("site.toml")).unwrap();
    let fit = "[stages.fit]\ntasks = 2\nnodes = 1\nlauncher = [\"srun\", \"--mpi=pmix\", \"--kill-on-bad-exit=1\"]\n";
    cluster.project.write("site.toml", &(site + fit));
    cluster.run(&format!("spin-run submit run.toml {slow}"));
    wait_for("training", || !cluster.project.work_files("checkpoint.safetensors").is_empty());
    let (job, _) = cluster.queued("sft").remove(0);
    cluster.must("scancel", &["--signal=USR2", "--batch", &job]);
    cluster.wait_for_all();
    let logs = cluster.logs();
    assert!(
        logs.contains("checkpointed; run it again") && logs.contains(&format!("{job} goes back into the queue")),
        "{logs}"
    );
    let contents = |project: &Project| {
        let all = project.contents().into_iter();
        all.filter(|(name, _)| !name.starts_with("metrics/")).collect::<Vec<_>>()
    };
    assert!(contents(&cluster.project) == contents(&alone), "{logs}");
    let manifest = std::fs::read_to_string(cluster.project.path("store/model/tiny/iter-2/v1/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["environment"]["processes"], 2);
}
