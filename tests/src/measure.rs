//! What the benchmarks share: their flags, the machine, memory, medians.

use std::path::PathBuf;

use anyhow::Context;
use candle_core::DType;
use serde_json::{Value, json};
use spin_run::run::Dtype;

/// Flags of a comparison with a peer.
#[derive(clap::Args)]
pub struct Sides {
    /// A Python with what the peer's script needs
    #[arg(long, default_value = "python3")]
    pub python: PathBuf,
    /// The peer's script, in `tests/bench`
    #[arg(long)]
    pub peer: PathBuf,
    /// Directory of the report
    #[arg(long)]
    pub out: PathBuf,
    /// Threads of each side
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
}

/// The middle of some values; NaN of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

/// As candle calls it.
pub fn element(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    }
}

/// VmRSS (resident now) or VmHWM (the most so far) of this process, in bytes.
///
/// # Errors
/// Where the system does not tell.
pub fn memory(field: &str) -> anyhow::Result<u64> {
    let value = spin_cli::field("/proc/self/status", field).context("no such field")?;
    Ok(value.trim_end_matches(" kB").parse::<u64>().context("no number")? * 1024)
}

/// The machine, without its name.
pub fn machine() -> Value {
    let cpu = |name: &str| spin_cli::field("/proc/cpuinfo", name);
    let memory = spin_cli::field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kib = memory.trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0);
    json!({
        "processor": cpu("model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "avx512": cpu("flags").unwrap_or_default().split(' ').any(|flag| flag == "avx512f"),
        "memory_gib": (kib / f64::from(1 << 20)).round(),
        "gpu": "not measured on a GPU",
    })
}
