//! A real Slurm in a temporary directory: munged, slurmctld and two slurmd for two
//! emulated nodes, as whoever runs the tests. It ends with the test.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::project::{Project, both};

/// A cluster, and a project that is run on it.
pub struct Cluster {
    pub project: Project,
    dir: tempfile::TempDir,
    daemons: Vec<Child>,
}

/// What every job asks for: this machine is two nodes.
const SITE: &str = "shards = 3\n[defaults]\ncpus = 1\nmemory = \"\"\ntime = \"1:00:00\"\npartition = \"cpu\"\n";

impl Cluster {
    /// Starts it, with a fresh project.
    pub fn new() -> Cluster {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let place = dir.path().display().to_string();
        let (user, host) = (said("id", &["-un"]), said("hostname", &["-s"]));
        // Taken together, so that they differ.
        let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [controller, one, two] = ports.each_ref().map(|port| port.local_addr().expect("an address").port());
        drop(ports);
        let conf = format!(
            "ClusterName=spin\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser={user}\nSlurmdUser={user}\n\
             AuthType=auth/munge\nAuthInfo=socket={place}/munge.socket,cred_expire=5\nCredType=cred/munge\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\nJobCompType=jobcomp/none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_CPU\n\
             SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1\n\
             ReturnToService=2\nJobRequeue=1\nKillWait=3\nMpiDefault=none\nSlurmdParameters=config_overrides\n\
             SlurmctldPidFile={place}/slurmctld.pid\nSlurmdPidFile={place}/slurmd.%n.pid\n\
             SlurmdSpoolDir={place}/spool.%n\nStateSaveLocation={place}/state\n\
             SlurmctldLogFile={place}/slurmctld.log\nSlurmdLogFile={place}/slurmd.%n.log\n\
             SlurmctldPort={controller}\n\
             NodeName=n1 NodeHostName={host} NodeAddr=127.0.0.1 Port={one} CPUs=2 RealMemory=4000 State=UNKNOWN\n\
             NodeName=n2 NodeHostName={host} NodeAddr=127.0.0.1 Port={two} CPUs=2 RealMemory=4000 State=UNKNOWN\n\
             PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP\n"
        );
        std::fs::write(dir.path().join("slurm.conf"), conf).expect("writable");
        std::fs::create_dir(dir.path().join("state")).expect("fresh");
        let key = dir.path().join("munge.key");
        std::fs::write(&key, [7; 128]).expect("writable");
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o400)).expect("its own file");
        let mut cluster = Cluster { project: Project::new(), dir, daemons: Vec::new() };
        cluster.project.write("site.toml", SITE);
        let file = |name: &str| format!("{place}/{name}");
        cluster.daemon(
            "munged",
            &[
                "--foreground",
                "--force",
                &format!("--key-file={}", file("munge.key")),
                &format!("--socket={}", file("munge.socket")),
                &format!("--pid-file={}", file("munged.pid")),
                &format!("--seed-file={}", file("munged.seed")),
            ],
        );
        wait_for("munged", || Path::new(&file("munge.socket")).exists());
        cluster.daemon("slurmctld", &["-D", "-c", "-i"]);
        cluster.daemon("slurmd", &["-D", "-N", "n1"]);
        cluster.daemon("slurmd", &["-D", "-N", "n2"]);
        wait_for("both nodes", || {
            let nodes = cluster.slurm("sinfo", &["--noheader", "--states=idle", "--format=%D"]);
            String::from_utf8_lossy(&nodes.stdout).trim() == "2"
        });
        cluster
    }

    fn daemon(&mut self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments).env("SLURM_CONF", self.conf()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // Should the test be killed, nothing is left behind.
        spin_cli::stop_with_parent(&mut command);
        self.daemons.push(command.spawn().unwrap_or_else(|error| panic!("{program}: {error}")));
    }

    fn conf(&self) -> std::path::PathBuf {
        self.dir.path().join("slurm.conf")
    }

    /// Runs one of Slurm's commands.
    pub fn slurm(&self, program: &str, arguments: &[&str]) -> Output {
        Command::new(program).args(arguments).env("SLURM_CONF", self.conf()).output().expect("Slurm is installed")
    }

    /// Runs one that must succeed.
    pub fn must(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.slurm(program, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {}", both(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A program of the project that speaks to this cluster.
    pub fn output(&self, line: &str) -> Output {
        let mut command = self.project.command(line);
        command.env("SLURM_CONF", self.conf()).env("SPIN_SITE", self.project.path("site.toml"));
        command.output().expect("the program starts")
    }

    /// One that must succeed; standard output and error together.
    pub fn run(&self, line: &str) -> String {
        let output = self.output(line);
        assert!(output.status.success(), "{line} ended with {}: {}", output.status, both(&output));
        both(&output)
    }

    /// `spin-run status` for programs: the jobs.
    pub fn jobs(&self, flags: &str) -> Vec<Value> {
        let output = self.output(&format!("spin-run status run.toml --format json {flags}"));
        assert!(output.status.success(), "{}", both(&output));
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        value["jobs"].as_array().cloned().unwrap_or_default()
    }

    /// Slurm's number of the job of a step that is in the queue, as its commands
    /// take it, with its state.
    pub fn queued(&self, step: &str) -> Vec<(String, String)> {
        let format = ["--noheader", "--array", "--format=%i|%T|%j"];
        let text = self.must("squeue", &format);
        let line = |line: &str| {
            let mut fields = line.split('|').map(str::to_owned);
            Some((fields.next()?, fields.next()?, fields.next()?))
        };
        let jobs = text.lines().filter_map(line);
        jobs.filter(|(_, _, name)| name.rsplit('.').next() == Some(step)).map(|(id, state, _)| (id, state)).collect()
    }

    /// Waits until nothing is in the queue.
    pub fn wait_for_all(&self) {
        let since = Instant::now();
        loop {
            let text = self.must("squeue", &["--noheader"]);
            if text.trim().is_empty() {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(180), "jobs do not end: {text}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What all jobs said, for a message.
    pub fn logs(&self) -> String {
        let dir = self.project.path("store/.slurm/tiny/logs");
        let Ok(entries) = std::fs::read_dir(dir) else { return String::new() };
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        let text = |file: &std::path::PathBuf| std::fs::read_to_string(file).unwrap_or_default();
        files.iter().map(|file| format!("== {}\n{}", file.display(), text(file))).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let user = said("id", &["-un"]);
        let _ = self.slurm("scancel", &["--user", &user]);
        let since = Instant::now();
        let is_empty = || self.slurm("squeue", &["--noheader"]).stdout.is_empty();
        while !is_empty() && since.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(100));
        }
        for daemon in self.daemons.iter_mut().rev() {
            spin_cli::stop_child(daemon);
            let _ = daemon.wait();
        }
    }
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("it is everywhere");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Waits for something, a minute at most.
pub fn wait_for(what: &str, seen: impl Fn() -> bool) {
    let since = Instant::now();
    while !seen() {
        assert!(since.elapsed() < Duration::from_secs(60), "no {what} in a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}
