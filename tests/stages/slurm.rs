//! A run on a real Slurm: to its end, killed, warned, queued again, submitted twice,
//! on a node that is drained.

use std::process::Command;

use crate::cluster::{Cluster, wait_for};
use crate::project::{Project, both, programs};

/// Long enough to be met while it trains.
const SLOW: &str = "--set fit.schedule_epochs=60 --set fit.stop_epoch=60";

/// Everything but times, which metrics hold.
fn contents(project: &Project) -> Vec<(String, String)> {
    project.contents().into_iter().filter(|(name, _)| !name.starts_with("metrics/")).collect()
}

/// What one process makes of the same run.
fn undisturbed(flags: &str) -> Vec<(String, String)> {
    let project = Project::new();
    project.run(&format!("spin-run run run.toml {flags}"));
    contents(&project)
}

/// The same plan, without Slurm.
#[test]
#[ignore = "needs make"]
fn a_makefile_of_the_plan_makes_the_same() {
    let project = Project::new();
    let plan = project.output("spin-run plan run.toml --shards 3 --format make");
    std::fs::write(project.path("run.mk"), &plan.stdout).unwrap();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::join_paths([programs().to_path_buf()].into_iter().chain(std::env::split_paths(&paths)));
    let mut make = Command::new("make");
    make.args(["-j3", "-f", "run.mk"]).current_dir(project.path("")).env("PATH", paths.unwrap());
    let output = make.output().unwrap();
    assert!(output.status.success(), "{}", both(&output));
    assert!(both(&output).contains("--shard 3/3"), "{}", both(&output));
    assert_eq!(contents(&project), undisturbed(""));
}

/// Whether the training of a step has got somewhere.
fn trains(cluster: &Cluster, step: &str) -> bool {
    let is_running = cluster.queued(step).iter().any(|(_, state)| state == "RUNNING");
    is_running && !cluster.project.work_files("checkpoint.safetensors").is_empty()
}

#[test]
#[ignore = "needs Slurm"]
fn a_ladder_ends_with_what_one_process_makes() {
    let cluster = Cluster::new();
    let dry = cluster.run("spin-run submit run.toml --dry-run");
    assert!(!cluster.project.path("store/.slurm").exists(), "a look writes nothing");
    let said = cluster.run("spin-run submit run.toml");
    assert!(said.contains("sample-0") && said.contains("_[1-3], after import"), "{said}");
    // A second one on top adds nothing.
    let again = cluster.run("spin-run submit run.toml");
    assert!(again.contains("nothing to submit") && again.contains("in the queue"), "{again}");
    cluster.wait_for_all();
    assert_eq!(contents(&cluster.project), undisturbed(""), "{}", cluster.logs());
    let scripts = cluster.project.path("store/.slurm/tiny");
    for step in ["import", "sample-0", "fit-1", "bench-iter-2", "table"] {
        let script = std::fs::read_to_string(scripts.join(format!("{step}.sh"))).unwrap();
        assert!(dry.contains(&script), "{step} was announced otherwise: {dry}");
    }
    let done = cluster.run("spin-run submit run.toml");
    assert!(done.contains("nothing to submit") && !done.contains("in the queue"), "{done}");
    let status = cluster.run("spin-run status run.toml");
    assert!(status.contains("0 stale, 0 missing") && !status.contains("job "), "{status}");
    // The table stands in the log of its job, as in one process.
    let logs = cluster.logs();
    let table = cluster.run("spin-bench table");
    assert!(table.lines().all(|line| logs.contains(line.trim_end())), "{table}\n{logs}");
    cluster.project.run("spin-store verify --store store --level rows");
}

#[test]
#[ignore = "needs Slurm"]
fn warned_and_queued_again_a_training_goes_on_where_it_was() {
    let cluster = Cluster::new();
    cluster.run(&format!("spin-run submit run.toml {SLOW}"));
    wait_for("training", || trains(&cluster, "fit-0"));
    let (job, _) = cluster.queued("fit-0").remove(0);
    // As ahead of a time limit: to the batch shell alone.
    cluster.must("scancel", &["--signal=USR2", "--batch", &job]);
    wait_for("job in the queue again", || cluster.queued("fit-0").iter().any(|(_, state)| state == "PENDING"));
    let status = cluster.run(&format!("spin-run status run.toml {SLOW}"));
    assert!(status.contains("fit-0") && status.contains("waiting"), "{status}");
    wait_for("training", || trains(&cluster, "fit-1"));
    let log =
        std::fs::read_to_string(cluster.project.path(&format!("store/.slurm/tiny/logs/fit-0.{job}.log"))).unwrap();
    assert!(log.contains("checkpointed; run it again") && log.contains("goes back into the queue"), "{log}");
    assert!(log.contains("start 1") && log.contains("start 2"), "{log}");
    // Queued again by somebody else, which kills it at once.
    let (job, _) = cluster.queued("fit-1").remove(0);
    cluster.must("scontrol", &["requeue", &job]);
    cluster.wait_for_all();
    assert_eq!(contents(&cluster.project), undisturbed(SLOW), "{}", cluster.logs());
}

#[test]
#[ignore = "needs Slurm"]
fn a_killed_element_ends_what_needs_it_and_alone_is_submitted_again() {
    let cluster = Cluster::new();
    let many = "--set sample.samples_per_prompt=40";
    cluster.run(&format!("spin-run submit run.toml {many}"));
    let element = |k: u32| {
        let mark = format!("--iteration 0 --set sample.samples_per_prompt=40 --shard {k}/3");
        move || {
            let output = Command::new("pgrep").args(["-f", &format!("spin-sample run.toml {mark}")]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            (!text.is_empty()).then_some(text)
        }
    };
    let second = element(2);
    // Processes of other tests have other directories.
    let own = || {
        let dir = cluster.project.path("").canonicalize().unwrap();
        let pids = second()?;
        let is_own = |pid: &&str| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir);
        pids.lines().find(is_own).map(str::to_owned)
    };
    wait_for("second share", || own().is_some() && !cluster.project.work_files("part-").is_empty());
    assert!(Command::new("kill").args(["-9", &own().unwrap()]).status().unwrap().success());
    cluster.wait_for_all();
    let status = cluster.run(&format!("spin-run status run.toml {many}"));
    assert!(status.contains("sample-0 [2]") && status.contains("failed: exit code 137"), "{status}");
    assert!(status.contains("cancelled: sample-0 did not succeed"), "{status}");
    assert!(status.contains("`spin-run submit run.toml` makes the rest"), "{status}");
    let jobs = cluster.jobs(many);
    let of =
        |step: &str| jobs.iter().filter(|job| job["step"] == step).map(|job| job["state"].clone()).collect::<Vec<_>>();
    assert_eq!(of("sample-0"), ["ended", "failed", "ended"]);
    assert_eq!((of("pair-0"), of("fit-1")), (vec!["cancelled".into()], vec!["cancelled".into()]));
    let said = cluster.run(&format!("spin-run submit run.toml {many}"));
    assert!(said.lines().any(|line| line.starts_with("sample-0") && line.ends_with("_[2]")), "{said}");
    assert!(!said.lines().any(|line| line.starts_with("sft ") || line.starts_with("import ")), "{said}");
    cluster.wait_for_all();
    assert_eq!(contents(&cluster.project), undisturbed(many), "{}", cluster.logs());
}

#[test]
#[ignore = "needs Slurm"]
fn what_fails_says_why_and_a_cancelled_run_goes_on() {
    let cluster = Cluster::new();
    // A store by a roundabout way is the same before it is made and after.
    cluster.project.edit("run.toml", "store = \"store\"", "store = \"model/../store\"");
    cluster.project.edit("run.toml", "beta = 0.5", "beta = 0.5\nlora = { r = 4, target_modules = [\"nope\"] }");
    cluster.run("spin-run submit run.toml");
    cluster.wait_for_all();
    let status = cluster.run("spin-run status run.toml");
    assert!(status.contains("failed: exit code 3: ") && status.contains("nope"), "{status}");
    assert!(status.contains("cancelled: fit-0 did not succeed"), "{status}");
    cluster.project.edit("run.toml", "\nlora = { r = 4, target_modules = [\"nope\"] }", "");
    cluster.run(&format!("spin-run submit run.toml {SLOW}"));
    wait_for("training", || trains(&cluster, "fit-0"));
    // With other settings it would be another run.
    let output = cluster.output("spin-run submit run.toml --set fit.beta=2");
    let text = both(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("is in the queue and was submitted as") && text.contains("cancel"), "{text}");
    let said = cluster.run("spin-run cancel run.toml");
    assert!(said.contains("cancelled "), "{said}");
    cluster.wait_for_all();
    let status = cluster.run(&format!("spin-run status run.toml {SLOW}"));
    assert!(status.contains("fit-0") && status.contains("submit run.toml` makes the rest"), "{status}");
    assert!(cluster.run("spin-run cancel run.toml").contains("no job of it is in the queue"));
    cluster.run(&format!("spin-run submit run.toml {SLOW}"));
    cluster.wait_for_all();
    assert_eq!(contents(&cluster.project), undisturbed(SLOW), "{}", cluster.logs());
}

#[test]
#[ignore = "needs Slurm"]
fn nodes_that_are_drained_and_come_back_change_nothing() {
    let cluster = Cluster::new();
    cluster.run(&format!("spin-run submit run.toml {SLOW}"));
    wait_for("training", || trains(&cluster, "fit-0"));
    let (job, _) = cluster.queued("fit-0").remove(0);
    let node = cluster.must("squeue", &["--noheader", &format!("--jobs={job}"), "--format=%N"]).trim().to_owned();
    cluster.must("scontrol", &["update", &format!("nodename={node}"), "state=drain", "reason=test"]);
    // The job that must leave is queued again, and goes on elsewhere.
    cluster.must("scontrol", &["requeue", &job]);
    wait_for("training elsewhere", || {
        let at = cluster.must("squeue", &["--noheader", "--states=running", "--format=%N"]);
        !at.trim().is_empty() && at.lines().all(|line| line.trim() != node)
    });
    cluster.must("scontrol", &["update", &format!("nodename={node}"), "state=resume"]);
    cluster.wait_for_all();
    assert_eq!(contents(&cluster.project), undisturbed(SLOW), "{}", cluster.logs());
}

#[test]
#[ignore = "needs Slurm"]
fn a_ladder_with_every_stage_interrupted_makes_the_same() {
    let cluster = Cluster::new();
    // So that the shortest is met.
    let site = std::fs::read_to_string(cluster.project.path("site.toml")).unwrap();
    cluster.project.write("site.toml", &format!("setup = [\"sleep 0.4\"]\n{site}"));
    cluster.run(&format!("spin-run submit run.toml {SLOW}"));
    let steps = ["import", "sft", "sample-0", "pair-0", "fit-0", "bench-sample-iter-2", "bench-iter-2", "table"];
    for step in steps {
        wait_for(step, || cluster.queued(step).iter().any(|(_, state)| state == "RUNNING"));
        if step == "fit-0" {
            wait_for("training", || trains(&cluster, step));
        }
        let running = cluster.queued(step).into_iter().filter(|(_, state)| state == "RUNNING");
        for (job, _) in running {
            match step {
                // Killed at once, as a node that is taken away.
                "pair-0" | "bench-iter-2" => cluster.must("scontrol", &["requeue", &job]),
                // Once its first line is there, the script can hear.
                _ => {
                    let log = cluster.project.path(&format!("store/.slurm/tiny/logs/{step}.{job}.log"));
                    wait_for("first line", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("begins")));
                    cluster.must("scancel", &["--signal=USR2", "--batch", &job])
                }
            };
        }
    }
    cluster.wait_for_all();
    assert_eq!(contents(&cluster.project), undisturbed(SLOW), "{}", cluster.logs());
    let logs = cluster.logs();
    let began_again = |step: &str| {
        let mut own = logs.split("== ").filter(|text| text.contains(&format!("/logs/{step}.")));
        own.any(|text| text.contains("start 2"))
    };
    assert_eq!(steps.map(began_again), [true; 8], "{logs}");
}

/// The tasks of a step of `srun`, on both nodes, share the parts of a table.
#[test]
#[ignore = "needs Slurm"]
fn tasks_of_a_step_generate_by_rank() {
    let cluster = Cluster::new();
    let site = std::fs::read_to_string(cluster.project.path("site.toml")).unwrap();
    let sample = "[stages.sample]\ntasks = 3\nnodes = 2\nlauncher = [\"srun\", \"--mpi=none\"]\n";
    cluster.project.write("site.toml", &(site + sample));
    let refused = cluster.output("spin-run submit run.toml --shards 4");
    let said = both(&refused);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("each would make the same of its 4 shards; with --shards 1 they share all parts"), "{said}");
    cluster.run("spin-run submit run.toml --shards 1");
    cluster.wait_for_all();
    assert_eq!(contents(&cluster.project), undisturbed(""), "{}", cluster.logs());
    assert!(cluster.logs().contains("the last shard publishes"), "{}", cluster.logs());
}
