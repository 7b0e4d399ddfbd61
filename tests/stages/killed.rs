//! kill -9 at random moments: the finished artifacts are those of an
//! undisturbed run, byte for byte.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::project::Project;

/// Attempts per stage and round; those that come after its end do not count.
const ATTEMPTS: u32 = 4;
/// Kills that must hit a running program, over as many rounds as it takes.
const KILLS: u32 = 20;

#[test]
fn killed_stages_finish_with_the_same_bytes() {
    let reference = Project::new();
    let mut durations = HashMap::new();
    for command in commands(&reference) {
        let start = Instant::now();
        reference.run(&command);
        durations.insert(command, start.elapsed());
    }
    let expected = reference.contents();

    let (mut kills, mut rounds, mut random) = (0, 0, 0x2545_F491_4F6C_DD1Du64);
    while kills < KILLS {
        rounds += 1;
        assert!(rounds <= 6, "only {kills} kills hit a running program in 6 rounds");
        kills += disturbed_run(&durations, &expected, &mut random);
    }
    eprintln!("{kills} kills hit a running program in {rounds} rounds");
}

/// One run from a fresh store with kills on the way; how many hit.
fn disturbed_run(durations: &HashMap<String, Duration>, expected: &[(String, String)], random: &mut u64) -> u32 {
    // One of each kind of work; the rest runs undisturbed.
    let disturbed = [
        "spin-store import run.toml",
        "spin-fit --sft",
        "spin-sample --iteration 0",
        "spin-pair --iteration 0",
        "spin-fit --iteration 0",
        "spin-fit --baseline sft-more",
        "spin-bench --iteration 0",
    ];
    let (project, mut kills) = (Project::new(), 0);
    for command in commands(&project) {
        if disturbed.contains(&command.as_str()) {
            for _ in 0..ATTEMPTS {
                *random ^= *random << 13;
                *random ^= *random >> 7;
                *random ^= *random << 17;
                let wait = durations[&command].mul_f64((*random % 1000) as f64 / 1000.0);
                kills += u32::from(kill_after(&project, &command, wait));
                // Whatever is left, no reader accepts half an artifact.
                project.run("spin-store verify --store store");
            }
        }
        project.run(&command);
    }
    assert_eq!(project.contents(), expected);
    kills
}

/// The commands of the run but its table, as [`Project::run`] takes them.
fn commands(project: &Project) -> Vec<String> {
    let plan = project.run("spin-store plan run.toml");
    let in_place = |line: &str| match line.starts_with("spin-store") {
        true => line.to_owned(),
        false => line.replace(" run.toml", ""),
    };
    plan.lines().filter(|l| !l.contains("table")).map(in_place).collect()
}

/// Starts a command and kills it; whether it was still running.
fn kill_after(project: &Project, line: &str, wait: Duration) -> bool {
    // The store must be there for the audit, whenever the kill comes.
    project.with_graph(|_| ());
    let mut child = project
        .command(line)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program starts");
    let start = Instant::now();
    while start.elapsed() < wait {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("killable");
    child.wait().expect("reaped").code().is_none()
}

#[test]
fn a_polite_stop_checkpoints_and_asks_to_be_run_again() {
    let project = Project::new();
    project.run_plan("spin-fit");
    project.edit("run.toml", "schedule_epochs = 3\nstop_epoch = 3", "schedule_epochs = 3000\nstop_epoch = 3000");
    let mut child = project.command("spin-fit --sft").stderr(std::process::Stdio::null()).spawn().unwrap();
    let checkpoint = || {
        std::fs::read_dir(project.path("store/.work"))
            .is_ok_and(|mut works| works.any(|w| w.unwrap().path().join("checkpoint.safetensors").exists()))
    };
    let start = Instant::now();
    while !checkpoint() {
        assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint in a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(75));
}
