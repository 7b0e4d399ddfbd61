//! What is found of an interrupted training: all of it is checked before any
//! of it is used.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use spin_store::{StoreError, digest};

use super::Files;
use crate::checkpoint::{self, Checkpoint, Settings};
use crate::error::{FitError, Result};
use crate::metrics::LogLine;

/// A checkpoint with the log up to it; `None` where training has to start.
///
/// `keeps_best` says whether the best weights so far are on disk beside it,
/// `part` what of a tensor is kept in memory.
///
/// # Errors
/// [`FitError::Checkpoint`] when any of the files is damaged or does not
/// belong to the checkpoint, [`FitError::OtherSettings`] when it is of another
/// training.
pub(super) fn read(
    files: &Files,
    settings: &Settings,
    keeps_best: bool,
    part: &dyn Fn(&str, Tensor) -> Result<Tensor>,
) -> Result<Option<(Checkpoint, Vec<LogLine>)>> {
    if !files.checkpoint.exists() {
        return Ok(None);
    }
    let checkpoint = checkpoint::load_parts(&files.checkpoint, settings, part)?;
    let log = read_log(&files.log, checkpoint.progress.update, &checkpoint.log)?;
    if keeps_best && checkpoint.progress.best_loss.is_some() {
        let (best, now) = (checkpoint.progress.best_update, checkpoint.progress.update);
        if !files.best.exists() {
            return Err(bad(&files.best, "is gone, the weights with the lowest held-out loss".into()));
        }
        let found = checkpoint::load(&files.best, settings)?.progress.update;
        // A later one than the checkpoint's: training will come to it again.
        if found != best && found <= now {
            return Err(bad(&files.best, format!("has the weights of update {found}, not of {best}")));
        }
    }
    Ok(Some((checkpoint, log)))
}

fn bad(path: &Path, problem: String) -> FitError {
    FitError::Checkpoint { path: path.display().to_string(), problem }
}

/// The lines of the first `update` updates, which must have the digest that
/// the checkpoint names. The log may run ahead of the checkpoint.
fn read_log(path: &Path, update: usize, expected: &str) -> Result<Vec<LogLine>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(bad(path, "is gone".into())),
        Err(e) => return Err(StoreError::io("read", path)(e).into()),
    };
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').take(update).collect();
    if digest::of_bytes(&lines.concat()) != expected {
        return Err(bad(path, format!("is not the log of the {update} updates of the checkpoint")));
    }
    let lines = lines.into_iter().map(serde_json::from_slice::<LogLine>).collect::<Result<Vec<_>, _>>();
    lines.map_err(|e| bad(path, format!("is not a log ({e})")))
}

/// Renames what cannot be used, so that it neither is used nor lost; the names
/// it has now.
///
/// # Errors
/// When it cannot be renamed.
pub(super) fn set_aside(files: &Files) -> Result<Vec<PathBuf>> {
    let mut aside = Vec::new();
    for path in [&files.checkpoint, &files.best, &files.log] {
        let to = path.with_extension("damaged");
        match std::fs::rename(path, &to) {
            Ok(()) => aside.push(to),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::io("rename", path)(e).into()),
        }
    }
    Ok(aside)
}
