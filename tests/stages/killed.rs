//! kill -9 at random moments: the finished artifacts are those of an
//! undisturbed run, byte for byte.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::project::{Project, both, programs};

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
    let expected = made_again(&reference);

    let (mut kills, mut rounds, mut random) = (0, 0, SEED);
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
                let wait = durations[&command].mul_f64((next(random) % 1000) as f64 / 1000.0);
                kills += u32::from(kill_after(&project, &command, wait));
                // Whatever is left, no reader accepts half an artifact.
                project.run("spin-store verify --store store");
            }
        }
        project.run(&command);
    }
    assert_eq!(made_again(&project), expected);
    kills
}

/// All published files but those of metrics, which hold times.
fn made_again(project: &Project) -> Vec<(String, String)> {
    project.contents().into_iter().filter(|(name, _)| !name.starts_with("metrics/")).collect()
}

const SEED: u64 = 0x2545_F491_4F6C_DD1D;

/// Xorshift (Marsaglia 2003).
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
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

fn start(project: &Project, line: &str) -> Child {
    project.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

/// Starts a command and kills it; whether it was still running.
fn kill_after(project: &Project, line: &str, wait: Duration) -> bool {
    // The store must be there for the audit, whenever the kill comes.
    project.with_graph(|_| ());
    let mut child = start(project, line);
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

/// Waits until `seen` of a running program.
fn wait_until(child: &mut Child, mut seen: impl FnMut() -> bool) {
    let start = Instant::now();
    while !seen() {
        assert!(start.elapsed() < Duration::from_secs(120), "nothing happened in two minutes");
        assert!(child.try_wait().expect("a child").is_none(), "it ended first");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_training_killed_at_ten_steps_ends_with_the_same_weights() {
    let fit = "spin-fit --iteration 0 --set fit.schedule_epochs=14 --set fit.stop_epoch=14 --set fit.eval_every=5 \
               --set fit.eval_rows=8 --set fit.checkpoint_every=3 --set fit.max_tokens_per_batch=1200";
    let [reference, project] = [(); 2].map(|()| {
        let project = Project::new();
        project.run_plan("spin-fit --iteration");
        project
    });
    let said = reference.run(fit);
    assert!(said.contains("98 updates"), "{said}");

    let mut random = SEED;
    for _ in 0..10 {
        // The events of TensorBoard grow with every update: about 500 bytes.
        let written = || project.work_files("tfevents").first().map_or(0, |path| path.metadata().unwrap().len());
        let more = 300 + next(&mut random) % 2500;
        let before = written();
        let mut child = start(&project, fit);
        wait_until(&mut child, || written() > before + more);
        child.kill().expect("killable");
        assert_eq!(child.wait().expect("reaped").code(), None);
        project.run("spin-store verify --store store");
    }
    let said = project.run(fit);
    assert!(said.contains("98 updates"), "{said}");
    assert_eq!(made_again(&project), made_again(&reference));
    // Metrics differ in times alone, and hold every update once.
    let metrics = |project: &Project| project.metrics("iter-1");
    assert!(metrics(&project).iter().all(|row| row.flop_utilisation > Some(0.0) && row.resident_mib > Some(1.0)));
    for (killed, undisturbed) in metrics(&project).iter().zip(metrics(&reference)) {
        assert_eq!(
            (killed.update, killed.loss, killed.eval_loss),
            (undisturbed.update, undisturbed.loss, undisturbed.eval_loss)
        );
    }
    assert_eq!(metrics(&project).len(), 98);
}

/// Settings of a training too long to end by itself.
const LONG: &str = "--set sft.schedule_epochs=3000 --set sft.stop_epoch=3000 --set sft.patience=0";

/// Starts a long training of θ0, sends a signal once there is a new
/// checkpoint, and expects a polite end.
fn stop_politely(project: &Project, more: &str, signal: &str) {
    let checkpoints = || -> Vec<_> {
        let files = project.work_files("checkpoint.safetensors");
        files.iter().filter_map(|path| Some((path.clone(), path.metadata().ok()?.modified().ok()?))).collect()
    };
    let before = checkpoints();
    let mut child = start(project, &format!("spin-fit --sft {LONG} {more}"));
    wait_until(&mut child, || checkpoints().iter().any(|found| !before.contains(found)));
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(75), "{signal}");
}

#[test]
fn a_polite_stop_checkpoints_and_asks_to_be_run_again() {
    let project = Project::new();
    project.run_plan("spin-fit");
    for signal in ["-TERM", "-USR2", "-INT"] {
        stop_politely(&project, "", signal);
    }
    assert_eq!(project.work_files("checkpoint.safetensors").len(), 1, "one work directory for all");
}

#[test]
fn a_checkpoint_of_other_settings_is_refused() {
    let project = Project::new();
    project.run_plan("spin-fit");
    stop_politely(&project, "", "-TERM");
    let first = project.work_files("checkpoint.safetensors");
    let other = "--set sft.learning_rate=2e-3 --set seed=8";
    stop_politely(&project, other, "-TERM");
    let both = project.work_files("checkpoint.safetensors");
    let second = both.iter().find(|path| !first.contains(path)).expect("a work directory of its own");
    std::fs::copy(&first[0], second).unwrap();
    project.fails(
        &format!("spin-fit --sft {LONG} {other}"),
        3,
        &[
            "is a checkpoint of other settings",
            "fit.learning_rate is 0.002 here and 0.005 there",
            "seed is 8 here and 7 there",
            "delete it",
        ],
    );
}

#[test]
fn a_disk_that_fills_during_a_checkpoint_leaves_the_one_before() {
    let [project, undisturbed] = [(); 2].map(|()| {
        let project = Project::new();
        project.run_plan("spin-fit");
        project
    });
    let short = "spin-fit --sft --set sft.schedule_epochs=40 --set sft.stop_epoch=40 --set sft.checkpoint_every=10";
    let mut child = start(&project, short);
    wait_until(&mut child, || !project.work_files("checkpoint.safetensors").is_empty());
    child.kill().expect("killable");
    child.wait().expect("reaped");
    let path = project.work_files("checkpoint.safetensors").remove(0);
    let before = std::fs::read(&path).unwrap();
    // The best weights take a third of a checkpoint, so they still fit.
    let limit = before.len() / 1024 * 3 / 4;
    let line = short.replace("spin-fit", "run.toml");
    let script = format!("trap '' XFSZ; ulimit -f {limit}; exec {}/spin-fit {line}", programs().display());
    let output = Command::new("bash").args(["-c", &script]).current_dir(project.path("")).output().unwrap();
    let said = both(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("failed to write") && said.contains("checkpoint.safetensors"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), before, "the checkpoint before is untouched");
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains(".tmp"))
            .count(),
        0
    );

    project.run(short);
    undisturbed.run(short);
    assert_eq!(made_again(&project), made_again(&undisturbed));
}
