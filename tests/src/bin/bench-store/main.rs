//! The store at scale: `just bench store`, and spin-pair against pandas and datasets:
//! `just bench pair`.
//!
//! Rows are made by a rule, a text of a few dozen characters each; samples are what
//! spin-sample would have published for them. Programs are measured as processes of
//! their own, from start to exit, with their largest resident memory. The peers' side
//! is `tests/bench/pair_peers.py`; they are given the demonstrations in tokens, which
//! spin-pair has to make.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints what it measured")]

mod data;
mod given;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

/// That of spin-pair.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// import, spin-pair and verify on tables of several sizes; writes store.md and store.json
    Store {
        /// Where tables are made and removed again
        #[arg(long)]
        data: PathBuf,
        /// Directory of the report
        #[arg(long)]
        out: PathBuf,
        /// Rows of each table
        #[arg(long, value_delimiter = ',', default_value = "100000,1000000,10000000")]
        rows: Vec<usize>,
    },
    /// spin-pair and its peers on one table, in turns; writes pair.md and pair.json
    Pair {
        /// Where tables are made and removed again
        #[arg(long)]
        data: PathBuf,
        /// Directory of the report
        #[arg(long)]
        out: PathBuf,
        /// A Python with pandas, datasets and transformers
        #[arg(long)]
        python: PathBuf,
        /// `tests/bench/pair_peers.py`
        #[arg(long)]
        peer: PathBuf,
        /// Samples, one of each row
        #[arg(long, default_value_t = 160_000)]
        rows: usize,
        /// Rows of a part of samples
        #[arg(long, default_value_t = 1024)]
        rows_per_part: usize,
        /// Turns
        #[arg(long, default_value_t = 3)]
        turns: usize,
    },
    /// What spin-pair does besides making tokens: pairs of a run file's first round
    #[command(hide = true)]
    Given {
        /// The run file
        run: PathBuf,
        /// Demonstrations in tokens
        tokens: PathBuf,
    },
}

/// What a process took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// From start to exit.
    pub seconds: f64,
    /// Of the processors, over all threads.
    pub processor_seconds: f64,
    /// The largest resident memory.
    pub peak_mib: f64,
}

/// Hundredths of a second that a process has had of the processors: Linux's `USER_HZ` is 100.
fn processor_ticks(stat: &str) -> Option<u32> {
    let text = std::fs::read_to_string(stat).ok()?;
    // Behind the name, which may hold anything, the fields from the third on.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?)
}

/// Runs a process to its end, looking at its memory and its processor time meanwhile.
fn measure(command: &mut Command) -> anyhow::Result<(Cost, String)> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let [status, stat] = ["status", "stat"].map(|file| format!("/proc/{}/{file}", child.id()));
    let reader = child
        .stdout
        .take()
        .map(|mut out| std::thread::spawn(move || std::io::read_to_string(&mut out).unwrap_or_default()));
    let errors = child
        .stderr
        .take()
        .map(|mut out| std::thread::spawn(move || std::io::read_to_string(&mut out).unwrap_or_default()));
    let (mut peak_mib, mut ticks): (f64, u32) = (0.0, 0);
    let exit = loop {
        if let Some(kib) =
            spin_cli::field(&status, "VmHWM").and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok())
        {
            peak_mib = peak_mib.max(kib / 1024.0);
        }
        ticks = ticks.max(processor_ticks(&stat).unwrap_or(0));
        if let Some(exit) = child.try_wait()? {
            break exit;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let processor_seconds = f64::from(ticks) / 100.0;
    let cost = Cost { seconds: start.elapsed().as_secs_f64(), processor_seconds, peak_mib };
    let text = |thread: Option<std::thread::JoinHandle<String>>| thread.and_then(|t| t.join().ok()).unwrap_or_default();
    let (out, said) = (text(reader), text(errors));
    ensure!(exit.success(), "{command:?} ended with {exit}: {said}");
    Ok((cost, out))
}

fn program(name: &str) -> Command {
    Command::new(spin_cli::program(name))
}

/// Seconds that reading all files below a directory, or a file, takes.
fn reading(path: &Path) -> anyhow::Result<(f64, u64)> {
    let start = Instant::now();
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(path) {
        let entry = entry?;
        if entry.file_type().is_file() {
            bytes += std::io::copy(&mut std::fs::File::open(entry.path())?, &mut std::io::sink())?;
        }
    }
    Ok((start.elapsed().as_secs_f64(), bytes))
}

fn step(name: &str, rows: usize, cost: Cost, (read_seconds, bytes): (f64, u64)) -> Value {
    json!({
        "step": name, "rows": rows, "seconds": cost.seconds, "peak_mib": cost.peak_mib, "bytes": bytes,
        "reading_seconds": read_seconds,
    })
}

fn store(dir: &Path, out: &Path, sizes: &[usize]) -> anyhow::Result<()> {
    let mut steps = Vec::new();
    for &rows in sizes {
        eprintln!("{rows} rows");
        let place = dir.join(rows.to_string());
        let table = data::Table::prepare(&place, rows, 16_384)?;
        let run = place.join("run.toml");
        let (cost, _) = measure(program("spin-store").arg("import").arg(&run))?;
        steps.push(step("import", rows, cost, reading(&table.jsonl())?));
        table.samples()?;
        let samples = place.join("store/samples");
        let (cost, _) = measure(program("spin-pair").arg(&run).args(["--iteration", "0"]))?;
        steps.push(step("spin-pair", rows, cost, reading(&samples)?));
        let (cost, _) =
            measure(program("spin-store").args(["verify", "--level", "rows", "--store"]).arg(place.join("store")))?;
        steps.push(step("verify --level rows", 3 * rows, cost, reading(&place.join("store"))?));
        for made in steps.iter().skip(steps.len() - 3) {
            eprintln!("{made}");
        }
        std::fs::remove_dir_all(&place).context("cannot clear the table away")?;
    }
    report::store(&steps, out)
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// All that spin-pair does.
    All,
    /// All but the demonstrations' tokens, which are given.
    Join,
}

impl Work {
    /// Its name in the report's JSON.
    pub fn name(self) -> &'static str {
        match self {
            Work::All => "all",
            Work::Join => "join",
        }
    }
}

fn pair(
    dir: &Path,
    out: &Path,
    python: &Path,
    peer: &Path,
    (rows, rows_per_part): (usize, usize),
    turns: usize,
) -> anyhow::Result<()> {
    let place = dir.join("pair");
    let table = data::Table::prepare(&place, rows, rows_per_part)?;
    let run = place.join("run.toml");
    measure(program("spin-store").arg("import").arg(&run))?;
    let (parts, kept) = table.samples()?;
    table.tokens(&place.join("tokens.parquet"))?;
    let demonstrations = place.join("store/demonstrations/big/train/v1");
    let (pairs, tokens) = (place.join("store/pairs"), place.join("tokens.parquet"));
    let own = |work: Work, turn: usize| -> anyhow::Result<Value> {
        let _ = std::fs::remove_dir_all(&pairs);
        let mut command = match work {
            Work::All => program("spin-pair"),
            Work::Join => Command::new(std::env::current_exe()?),
        };
        match work {
            Work::All => command.arg(&run).args(["--iteration", "0"]),
            Work::Join => command.arg("given").arg(&run).arg(&tokens),
        };
        let (cost, _) = measure(&mut command)?;
        let manifest = pairs.join("big/iter-0/v1/manifest.json");
        let manifest: Value = serde_json::from_slice(&std::fs::read(manifest)?)?;
        ensure!(manifest["facts"]["fates"]["kept"] == kept, "spin-pair kept other rows than the rule says");
        Ok(json!({
            "who": "spin-pair", "work": work.name(), "turn": turn, "seconds": cost.seconds,
            "processor_seconds": cost.processor_seconds, "peak_mib": cost.peak_mib, "content": manifest["content"],
        }))
    };
    let theirs = |who: &str, work: Work, turn: usize| -> anyhow::Result<Value> {
        let out = place.join(format!("{who}.parquet"));
        let mut command = Command::new(python);
        command.arg(peer).arg(who).arg(place.join("store/samples/big/iter-0/v1"));
        match work {
            Work::All => command.arg("-").arg(&out).arg("100").arg(&demonstrations).arg(place.join("model")),
            Work::Join => command.arg(&tokens).arg(&out).arg("100"),
        };
        // What datasets keeps from run to run would answer for it.
        command.env("HF_HOME", place.join(format!("hf-{}-{turn}", work.name())));
        let (cost, text) = measure(&mut command)?;
        let told: Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
        ensure!(told["kept"] == kept, "{who} kept other rows than the rule says: {told}");
        if turn == 0 {
            // Token for token.
            measure(Command::new(python).arg(peer).arg("compare").arg(pairs.join("big/iter-0/v1")).arg(&out))?;
        }
        Ok(json!({
            "who": who, "work": work.name(), "turn": turn, "seconds": cost.seconds, "inside": told["seconds"],
            "processor_seconds": cost.processor_seconds, "peak_mib": cost.peak_mib, "version": told["version"],
        }))
    };
    let mut measured = Vec::new();
    for turn in 0..turns {
        for work in [Work::All, Work::Join] {
            let all = [own(work, turn)?, theirs("pandas", work, turn)?, theirs("datasets", work, turn)?];
            all.iter().for_each(|line| eprintln!("{line}"));
            measured.extend(all);
        }
    }
    let mut contents = measured.iter().filter_map(|one| one.get("content"));
    let first = contents.next();
    ensure!(contents.all(|content| Some(content) == first), "tokens that are given give other pairs");
    std::fs::remove_dir_all(&place).context("cannot clear the table away")?;
    report::pair(&measured, rows, parts, out)
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        What::Store { data, out, rows } => store(&data, &out, &rows),
        What::Pair { data, out, python, peer, rows, rows_per_part, turns } => {
            pair(&data, &out, &python, &peer, (rows, rows_per_part), turns)
        }
        What::Given { run, tokens } => {
            println!("{}", given::pairs(&run, &tokens)?);
            Ok(())
        }
    }
}
