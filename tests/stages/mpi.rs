//! Processes that train together, started by the real `mpirun`: whatever their
//! number and whatever befalls them, the bytes are those of one.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::project::{Project, both, programs};

/// A project whose trainings are of so many shares, up to its first training.
fn project(shards: usize) -> Project {
    let project = Project::new();
    for table in ["[sft]", "[fit]"] {
        project.edit("run.toml", &format!("\n{table}\n"), &format!("\n{table}\nshards = {shards}\n"));
    }
    project.run_plan("spin-fit");
    project
}

/// `spin-fit` on as many processes, as [`Project::command`] takes it.
fn together(project: &Project, processes: usize, line: &str) -> Command {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let mut command = Command::new("mpirun");
    command.args(["-n", &processes.to_string()]).arg(programs().join(program)).arg("run.toml").args(words);
    // Tests may run as root, and on fewer cores than processes.
    command.envs([
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_hwloc_base_binding_policy", "none"),
        ("RAYON_NUM_THREADS", "1"),
    ]);
    command.current_dir(project.path(".")).stdin(Stdio::null());
    command
}

fn run(project: &Project, processes: usize, line: &str) -> String {
    let output = together(project, processes, line).output().expect("mpirun starts");
    let text = both(&output);
    assert!(output.status.success(), "{line} on {processes} ended with {}: {text}", output.status);
    text
}

/// All published files but those of metrics, which hold times.
fn contents(project: &Project) -> Vec<(String, String)> {
    project.contents().into_iter().filter(|(name, _)| !name.starts_with("metrics/")).collect()
}

/// Imports, θ0, its answers and pairs, θ1: trainings on so many processes.
fn one_round(processes: usize) -> Project {
    let project = project(6);
    let fit = |line: &str| match processes {
        1 => project.run(line),
        _ => run(&project, processes, line),
    };
    let said = fit("spin-fit --sft");
    assert_eq!(said.matches("made model/tiny/iter-0").count(), 1, "one of them speaks: {said}");
    project.run("spin-sample --iteration 0");
    project.run("spin-pair --iteration 0");
    let said = fit("spin-fit --iteration 0");
    assert_eq!(said.matches("made model/tiny/iter-1").count(), 1, "{said}");
    let said = fit("spin-fit --iteration 0");
    assert_eq!(said.matches("is already there").count(), 1, "{said}");
    assert!(project.work_files("").is_empty(), "nothing is left behind: {:?}", project.work_files(""));
    project
}

#[test]
#[ignore = "needs MPI"]
fn one_two_and_three_processes_make_the_same_bytes() {
    let alone = one_round(1);
    for processes in [2, 3] {
        let together = one_round(processes);
        assert!(contents(&together) == contents(&alone), "{processes} processes differ from one");
        let losses = |project: &Project| {
            project.metrics("iter-1").iter().map(|row| (row.loss, row.grad_norm, row.tokens)).collect::<Vec<_>>()
        };
        assert_eq!(losses(&together), losses(&alone));
        together.run("spin-store verify --store store");
        // Outside both digests.
        let said = together.run("spin-store show model/tiny/iter-1 --store store");
        assert!(said.contains(&format!("\"processes\": {processes}")), "{said}");
    }
}

/// Settings of a training that lasts.
const LONG: &str = "spin-fit --sft --set sft.schedule_epochs=40 --set sft.stop_epoch=40 --set sft.patience=0";

/// The processes that a starter has started, by their rank.
fn ranks(starter: u32) -> Vec<(usize, u32)> {
    let field = |pid: u32, name: &str| -> Option<String> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start_matches(':').trim().to_owned()))
    };
    let pids = std::fs::read_dir("/proc")
        .expect("Linux")
        .filter_map(|entry| entry.ok()?.file_name().to_string_lossy().parse::<u32>().ok());
    let started = pids.filter(|pid| {
        field(*pid, "PPid") == Some(starter.to_string()) && field(*pid, "Name").as_deref() == Some("spin-fit")
    });
    let rank = |pid: u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let text = String::from_utf8_lossy(&environment).into_owned();
        let rank = text.split('\0').find_map(|entry| entry.strip_prefix("OMPI_COMM_WORLD_RANK="))?;
        Some((rank.parse().ok()?, pid))
    };
    started.filter_map(rank).collect()
}

/// Of one that lasts longer.
const LONGER: &str = "spin-fit --sft --set sft.schedule_epochs=200 --set sft.stop_epoch=200 --set sft.patience=0";

/// Starts a training on so many processes, and does something to it once there is a
/// new checkpoint; how it ended, with what it said, and how long that took.
fn disturbed(
    project: &Project,
    processes: usize,
    line: &str,
    disturb: impl FnOnce(u32),
) -> (Option<i32>, String, Duration) {
    let checkpoints = || -> Vec<(PathBuf, _)> {
        let files = project.work_files("checkpoint.safetensors");
        files.iter().filter_map(|path| Some((path.clone(), path.metadata().ok()?.modified().ok()?))).collect()
    };
    let before = checkpoints();
    let mut command = together(project, processes, line);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mpirun starts");
    let start = Instant::now();
    while checkpoints().iter().all(|found| before.contains(found)) {
        assert!(start.elapsed() < Duration::from_secs(120), "no checkpoint in two minutes");
        assert!(child.try_wait().expect("a child").is_none(), "it ended first");
        std::thread::sleep(Duration::from_millis(2));
    }
    let start = Instant::now();
    disturb(child.id());
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), both(&output), start.elapsed())
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().expect("kill").success());
}

#[test]
#[ignore = "needs MPI"]
fn a_killed_process_ends_the_others_and_the_training_goes_on() {
    let undisturbed = project(2);
    undisturbed.run(LONG);
    let project = project(2);
    for rank in [1, 0] {
        let (code, said, took) = disturbed(&project, 2, LONG, |starter| {
            let ranks = ranks(starter);
            let (_, pid) = ranks.iter().find(|(found, _)| *found == rank).unwrap_or_else(|| panic!("{ranks:?}"));
            kill("-KILL", *pid);
        });
        assert!(code != Some(0) && took < Duration::from_secs(60), "{code:?} after {took:?}: {said}");
        assert!(said.contains(&format!("process rank {rank}")), "{said}");
        project.run("spin-store verify --store store");
    }
    run(&project, 2, LONG);
    assert!(contents(&project) == contents(&undisturbed));
}

/// Ten kills, each some updates after a checkpoint was written, of any of three
/// processes: which, and when, is drawn.
#[test]
#[ignore = "needs MPI"]
fn kills_at_ten_random_moments_change_nothing() {
    let undisturbed = project(3);
    undisturbed.run(LONGER);
    let project = project(3);
    for kill_number in 0..10 {
        let drawn = spin_noise::mix(kill_number);
        let (rank, pause) = (drawn as usize % 3, Duration::from_millis(drawn >> 32 & 0xff));
        let (code, said, _) = disturbed(&project, 3, LONGER, |starter| {
            std::thread::sleep(pause);
            let ranks = ranks(starter);
            let (_, pid) = ranks.iter().find(|(found, _)| *found == rank).unwrap_or_else(|| panic!("{ranks:?}"));
            kill("-KILL", *pid);
        });
        assert!(code != Some(0), "{said}");
        assert!(said.contains(&format!("process rank {rank}")), "{said}");
    }
    run(&project, 3, LONGER);
    assert!(contents(&project) == contents(&undisturbed));
}

#[test]
#[ignore = "needs MPI"]
fn answers_are_generated_by_rank() {
    let alone = one_round(1);
    let project = project(6);
    project.run("spin-fit --sft");
    let said = run(&project, 3, "spin-sample --iteration 0");
    assert_eq!(said.matches("made samples/tiny/iter-0").count(), 1, "the last one publishes: {said}");
    let samples = |project: &Project| {
        project.contents().into_iter().filter(|(name, _)| name.starts_with("samples/")).collect::<Vec<_>>()
    };
    assert!(samples(&project) == samples(&alone));
    assert!(project.work_files("").is_empty(), "nothing is left behind: {:?}", project.work_files(""));
}

#[test]
#[ignore = "needs MPI"]
fn a_stop_of_one_process_is_one_of_all_and_any_number_goes_on() {
    let undisturbed = project(2);
    undisturbed.run(LONG);
    let project = project(2);
    // Open MPI's mpirun passes this one on to all; and one process alone may hear it.
    let (code, said, _) = disturbed(&project, 2, LONG, |starter| kill("-USR1", starter));
    assert_eq!(code, Some(75), "{said}");
    assert_eq!(said.matches("run it again").count(), 1, "{said}");
    let (code, said, _) = disturbed(&project, 2, LONG, |starter| {
        let (_, pid) = *ranks(starter).iter().find(|(rank, _)| *rank == 1).expect("two were started");
        kill("-TERM", pid);
    });
    assert_eq!(code, Some(75), "{said}");
    // With a checkpoint of two, one goes on.
    project.run(LONG);
    assert!(contents(&project) == contents(&undisturbed));
}

#[test]
#[ignore = "needs MPI"]
fn what_cannot_be_trained_together_is_refused_once() {
    let project = project(3);
    let refused = |line: &str, parts: &[&str]| {
        let output = together(&project, 2, line).output().expect("mpirun starts");
        let text = both(&output);
        assert_eq!(output.status.code(), Some(3), "{line}: {text}");
        assert_eq!(text.matches("error: ").count(), 1, "{line}: {text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{line}: {text}");
    };
    refused("spin-fit --sft", &["fit.shards = 3 cannot be dealt to 2 processes", "start 1 or 3 of them"]);
    refused("spin-fit --sft --set sft.shards=1", &["start 1 of them"]);
    refused("spin-fit --sft --set sft.shards=99", &["at most batch_size = 16"]);
    refused("spin-fit --iteration 0 --set fit.shards=2 --set sft.shards=2", &["iter-0"]);
}
