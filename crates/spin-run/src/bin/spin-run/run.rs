//! `spin-run run`: the steps that are missing, each by its program.

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use spin_cli::{Exit, log_as_this, pass_on, say, stop_child, stop_flag, stop_with_parent, stopping};
use spin_run::graph::{Graph, ModelId};
use spin_run::plan::{Agenda, Options, Plan, Step, shell_line};
use spin_run::run::RunFile;
use spin_store::Store;

use super::{What, forecast, open};

/// The step after which sizes are known.
const IMPORT: &str = "import";

/// Between looks at the programs that run.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Does what is missing.
pub fn run(what: &What, jobs: usize, keep_going: bool) -> anyhow::Result<Exit> {
    let (run, store) = open(&what.run)?;
    let graph = Graph::new(&run, &store);
    let plan = Plan::new(&graph, &what.options())?;
    // Sources are left to the import, which reads them anyway.
    let (done, all) = (plan.steps.iter().filter(|step| is_done(&graph, step)).count(), plan.steps.len());
    if done > 0 {
        say(&format!("{}: {done} of {all} steps are done", run.run));
    }
    let mut runner = Runner {
        what,
        run: &run,
        plan: &plan,
        jobs,
        threads: threads_of_each(jobs),
        schedule: Agenda::new(&plan, keep_going),
        queue: VecDeque::new(),
        running: Vec::new(),
        failed: BTreeSet::new(),
        exit: None,
    };
    let stop = stop_flag()?;
    runner.run(&stop)
}

/// Whether a step has nothing to do. One that looks outside of the store always
/// has, and what cannot be read is said by the program that needs it.
fn is_done(graph: &Graph<'_>, step: &Step) -> bool {
    !step.looks_outside && step.makes.iter().all(|node| graph.artifact(&node.product).is_ok())
}

/// Threads for each of several programs, unless somebody has decided.
fn threads_of_each(jobs: usize) -> Option<String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (jobs > 1 && std::env::var_os(THREADS).is_none()).then(|| (cores / jobs).max(1).to_string())
}

/// The variable by which programs learn how many threads they compute with.
const THREADS: &str = "RAYON_NUM_THREADS";

/// A program that runs: one of the shares of a step.
struct Running {
    step: usize,
    child: Child,
    reader: Option<std::thread::JoinHandle<()>>,
    since: Instant,
}

struct Runner<'a> {
    what: &'a What,
    run: &'a RunFile,
    plan: &'a Plan,
    jobs: usize,
    threads: Option<String>,
    schedule: Agenda,
    /// Programs of steps that have begun, with the numbers of those.
    queue: VecDeque<(usize, Vec<String>)>,
    running: Vec<Running>,
    /// Steps with a share that was not done.
    failed: BTreeSet<usize>,
    /// How the first of them ended.
    exit: Option<Exit>,
}

impl Runner<'_> {
    fn run(&mut self, stop: &AtomicBool) -> anyhow::Result<Exit> {
        let outcome = self.steps(stop);
        // Whatever happened, nobody is left behind.
        for running in &self.running {
            stop_child(&running.child);
        }
        while !self.running.is_empty() {
            self.reap()?;
            std::thread::sleep(LOOK_EVERY);
        }
        outcome?;
        if stopping(stop) {
            say(&format!("{}: stopped; run it again to go on", self.run.run));
            return Ok(Exit::Again);
        }
        if let Some(exit) = self.exit {
            let waiting = self.schedule.waiting();
            let steps = if waiting == 1 { "step was" } else { "steps were" };
            say(&format!("{}: {waiting} {steps} not begun; run it again to go on", self.run.run));
            return Ok(exit);
        }
        self.say_what_next();
        Ok(Exit::Done)
    }

    /// Says what is to come, as soon as model and data are there.
    fn say_what_comes(&self) -> anyhow::Result<()> {
        let store = Store::open_existing(&self.run.store_dir())?;
        let graph = Graph::new(self.run, &store);
        let options = Options { peak_gflops: forecast::peak(), ..self.what.options() };
        let plan = Plan::new(&graph, &options)?;
        let missing: Vec<&Step> =
            plan.steps.iter().filter(|step| !step.looks_outside && !is_done(&graph, step)).collect();
        if let Some(sum) = forecast::sum(&missing, options.peak_gflops) {
            say(&format!("{}: {} steps to come, {sum}", self.run.run, missing.len()));
        }
        Ok(())
    }

    /// Says where the last model is, and what can be done with it.
    fn say_what_next(&self) {
        let Ok(store) = Store::open_existing(&self.run.store_dir()) else { return };
        let graph = Graph::new(self.run, &store);
        let rounds = self.run.rounds();
        if let (1.., Ok(model)) = (rounds, graph.model(&ModelId::Iteration(rounds))) {
            let file = shell_line(&[self.run.path.display().to_string()]);
            say(&format!("θ{rounds} is {}, a Hugging Face directory", model.place().display()));
            say(&format!("next: spin-bench report {file} --out report.html"));
        }
    }

    fn steps(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        loop {
            if stopping(stop) {
                return Ok(());
            }
            while self.running.len() < self.jobs {
                if let Some((step, words)) = self.queue.pop_front() {
                    let running = self.start(step, &words)?;
                    self.running.push(running);
                } else if let Some(step) = self.schedule.begin() {
                    self.begin(step);
                } else {
                    break;
                }
            }
            if self.running.is_empty() {
                return Ok(());
            }
            self.reap()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Begins a step, unless it is done.
    fn begin(&mut self, number: usize) {
        let step = &self.plan.steps[number];
        // The run has made the store, if there was none, and may have made what the step makes.
        let store = Store::open_existing(&self.run.store_dir());
        if store.is_ok_and(|store| is_done(&Graph::new(self.run, &store), step)) {
            self.schedule.end(number, true);
            return;
        }
        self.queue.extend(step.commands().into_iter().map(|words| (number, words)));
    }

    fn start(&self, step: usize, words: &[String]) -> anyhow::Result<Running> {
        say(&format!("[{}/{}] {}", step + 1, self.plan.steps.len(), shell_line(words)));
        let program = spin_cli::program(&words[0]);
        let mut command = Command::new(&program);
        command.args(&words[1..]).stdin(Stdio::null());
        if let Some(threads) = &self.threads {
            command.env(THREADS, threads);
        }
        let shares = self.jobs > 1 || self.plan.steps[step].shards > 1;
        if shares {
            command.stderr(Stdio::piped());
        }
        log_as_this(&mut command);
        stop_with_parent(&mut command);
        let mut child = command.spawn().with_context(|| {
            format!("failed to start {}; it belongs beside spin-run or on the PATH", program.display())
        })?;
        // Lines of several at once say whose they are.
        let name = self.plan.steps[step].name.clone();
        let reader = child.stderr.take().map(|stderr| {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stderr);
                let mut line = Vec::new();
                while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    pass_on(&name, String::from_utf8_lossy(&line).trim_end());
                    line.clear();
                }
            })
        });
        Ok(Running { step, child, reader, since: Instant::now() })
    }

    /// Takes note of what has ended. A step has when all its shares have.
    fn reap(&mut self) -> anyhow::Result<()> {
        let mut index = 0;
        while index < self.running.len() {
            let Some(status) = self.running[index].child.try_wait()? else {
                index += 1;
                continue;
            };
            let Running { step, reader, since, .. } = self.running.swap_remove(index);
            if let Some(reader) = reader {
                let _ = reader.join();
            }
            let exit = Exit::of(status);
            if exit != Exit::Done {
                let (name, seconds) = (&self.plan.steps[step].name, since.elapsed().as_secs_f64());
                say(&format!("{}: {name} ended with {status} after {seconds:.1} s", self.run.run));
                self.failed.insert(step);
                self.exit.get_or_insert(exit);
            }
            let is_last = self
                .running
                .iter()
                .map(|other| other.step)
                .chain(self.queue.iter().map(|(step, _)| *step))
                .all(|other| other != step);
            if is_last {
                let is_done = !self.failed.contains(&step);
                self.schedule.end(step, is_done);
                if is_done && self.plan.steps[step].name == IMPORT {
                    self.say_what_comes()?;
                }
            }
        }
        Ok(())
    }
}
