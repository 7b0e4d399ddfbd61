//! The first thing to run where there is a GPU: `just gpu-check`.
//!
//! Compares what a GPU computes with the CPU (logits, log-probabilities, gradients,
//! updates, answers), repeats itself, kills a training and takes it up again, and
//! measures speeds beside two ceilings of the device. Needs no network and no more
//! than a quarter of an hour. On the CPU, which it checks first, the same program
//! runs with `--device cpu`, which checks the check.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a check prints what it found")]

mod loops;
mod numbers;
mod speed;

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use clap::Parser;
use serde_json::{Value, json};
use spin_cli::Place;
use spin_tests::measure::machine;

/// Check what a GPU computes, and how fast
#[derive(Parser)]
struct Args {
    /// cuda, cuda:N, or cpu: the same with the operations that a GPU would run, on the CPU
    #[arg(long, value_name = "cpu|cuda[:N]", default_value = "cuda", value_parser = Place::parse)]
    device: Place,
    /// What the demo ships: demonstrations and a tokenizer
    #[arg(long, default_value = "data/raw/demo")]
    data: PathBuf,
    /// A file for the results
    #[arg(long)]
    out: Option<PathBuf>,
    /// A Python with torch, transformers and trl, to be measured beside
    #[arg(long)]
    python: Option<PathBuf>,
    /// The peers' scripts
    #[arg(long, default_value = "tests/bench")]
    peers: PathBuf,
    /// Without the measurements of speed
    #[arg(long)]
    short: bool,
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Line {
    /// What was looked at.
    pub what: String,
    /// What came out.
    pub found: f64,
    /// The most (or, of what is to be large, the least) that is right; `None` of what
    /// is only told.
    pub limit: Option<Limit>,
}

/// What a result has to be.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Line {
    /// A result that is right up to `limit`.
    pub fn at_most(what: impl Into<String>, found: f64, limit: f64) -> Line {
        Line { what: what.into(), found, limit: Some(Limit::AtMost(limit)) }
    }

    /// A result that is right from `limit` on.
    pub fn at_least(what: impl Into<String>, found: f64, limit: f64) -> Line {
        Line { what: what.into(), found, limit: Some(Limit::AtLeast(limit)) }
    }

    /// A result that is only told.
    pub fn told(what: impl Into<String>, found: f64) -> Line {
        Line { what: what.into(), found, limit: None }
    }

    /// Not of what is not a number.
    fn is_right(&self) -> bool {
        match self.limit {
            None => true,
            Some(Limit::AtMost(limit)) => self.found <= limit,
            Some(Limit::AtLeast(limit)) => self.found >= limit,
        }
    }

    fn to_text(&self) -> String {
        let verdict = match self.limit {
            None => String::new(),
            Some(Limit::AtMost(limit)) => format!("at most {limit:.1e}"),
            Some(Limit::AtLeast(limit)) => format!("at least {limit:.3}"),
        };
        let found = if self.found != 0.0 && self.found.abs() < 0.01 {
            format!("{:.1e}", self.found)
        } else {
            format!("{:.3}", self.found)
        };
        let right = if self.limit.is_none() {
            " "
        } else if self.is_right() {
            "+"
        } else {
            "-"
        };
        format!("{right} {:68} {found:>12}  {verdict}", self.what)
    }

    fn to_json(&self) -> Value {
        json!({"what": self.what, "found": self.found, "right": self.limit.map(|_| self.is_right())})
    }
}

/// The lines so far, each printed as it comes.
#[derive(Default)]
struct Table(Vec<Line>);

impl Table {
    fn add(&mut self, title: &str, lines: Vec<Line>) {
        println!("\n{title}");
        for line in lines {
            println!("{}", line.to_text());
            self.0.push(line);
        }
    }

    /// The same of what may fail as a whole, which is a line, too: the rest is looked
    /// at all the same.
    fn attempt(&mut self, title: &str, lines: anyhow::Result<Vec<Line>>) {
        self.add(
            title,
            lines.unwrap_or_else(|error| {
                eprintln!("{title}: {error:#}");
                vec![Line::at_most(format!("{title}: could not be finished"), f64::NAN, 0.0)]
            }),
        );
    }
}

/// No GPU, or a program that was built without CUDA: no fault of anything.
const NO_GPU: u8 = 3;

fn main() -> ExitCode {
    match check(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn check(args: &Args) -> anyhow::Result<ExitCode> {
    let mut table = Table::default();
    table.add("The operations of a GPU on the CPU, against those of the CPU", numbers::check(&Device::Cpu)?);
    if table.0.iter().any(|line| !line.is_right()) {
        println!("\nThe CPU's part is not right: nothing else was looked at.");
        return Ok(ExitCode::FAILURE);
    }
    let device = match spin_model::open_device(args.device.gpu()) {
        Ok(device) => device,
        Err(error) => {
            println!("\nThe CPU's part is right; nothing was run on a GPU: {error}.");
            return Ok(ExitCode::from(NO_GPU));
        }
    };
    if !device.is_cpu() {
        table.attempt(&format!("{}, against the CPU", args.device), numbers::check(&device));
    }
    table.attempt(&format!("{}, updates", args.device), numbers::updates(&device));
    let place = tempfile::tempdir()?;
    let programs = std::env::current_exe()?.parent().map(PathBuf::from).unwrap_or_default();
    let project = loops::Project::new(place.path(), &args.data, &programs, &args.device.to_string())?;
    table.attempt(&format!("{}, answers", args.device), project.answers());
    table.attempt(&format!("{}, scores", args.device), project.scores());
    table.attempt(&format!("{}, kill and resume", args.device), project.killed());
    if !args.short {
        let peers = args.python.as_ref().map(|python| (python.as_path(), args.peers.as_path()));
        let lines = speed::measure(&device, args.device, place.path(), &args.data, peers);
        table.attempt(&format!("{}, speeds", args.device), lines);
    }
    let wrong = table.0.iter().filter(|line| !line.is_right()).count();
    let lines: Vec<Value> = table.0.iter().map(Line::to_json).collect();
    let document = json!({
        "machine": machine(), "device": args.device.to_string(), "gpus": spin_cli::gpus(), "lines": lines, "wrong": wrong,
    });
    if let Some(out) = &args.out {
        std::fs::write(out, format!("{document:#}\n"))?;
    }
    println!("\n{} lines, {wrong} of them not right", table.0.len());
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
