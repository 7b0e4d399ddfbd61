//! `export`: artifacts for others.

use std::path::Path;

use anyhow::bail;
use clap::ValueEnum;
use spin_cli::{Exit, say};
use spin_run::export::{self, Exported, Layout};
use spin_run::replay;
use spin_store::{Reference, Store, bundle};

/// What is written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum As {
    /// Columns of TRL's trainers: prompt, chosen, rejected (demonstrations: prompt, completion); Parquet
    Trl,
    /// Columns of UCLA-AGI/SPIN_iter*: real, generated; Parquet
    Spin,
    /// The columns of trl as JSON lines
    Jsonl,
    /// A model as a plain Hugging Face directory
    Model,
    /// One file with the artifact and all it was made from, for `spin-store import`
    Bundle,
}

pub fn run(store: &Store, reference: &str, format: As, out: &Path) -> anyhow::Result<Exit> {
    let artifact = store.get(&reference.parse::<Reference>()?)?;
    let written = match format {
        As::Trl => export::dataset(&artifact, Layout::Trl, out)?,
        As::Spin => export::dataset(&artifact, Layout::Spin, out)?,
        As::Jsonl => export::dataset(&artifact, Layout::Jsonl, out)?,
        As::Model => export::model(&artifact, out)?,
        As::Bundle if !bundle::is_bundle(out) => bail!("call a bundle NAME{}", bundle::EXTENSION),
        As::Bundle => {
            let all = replay::needed_of(store, &artifact)?;
            let bytes = bundle::write(&all, &artifact, out)?;
            say(&format!(
                "wrote {}: {} with all it is from, {} artifacts, {bytes} bytes",
                out.display(),
                artifact.reference(),
                all.len()
            ));
            return Ok(Exit::Done);
        }
    };
    let Exported { rows, bytes } = written;
    let rows = if rows > 0 { format!("{rows} rows, ") } else { String::new() };
    say(&format!("wrote {} of {}: {rows}{bytes} bytes", out.display(), artifact.reference()));
    Ok(Exit::Done)
}
