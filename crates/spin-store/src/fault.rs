//! Where a step on the disk can go wrong: every create, sync and rename of a change,
//! and every write of its records, passes here. In this crate's tests a step can be made to fail, to stop half
//! way or to be the process's last; elsewhere nothing is compiled in.

use std::fs::File;
use std::io::{Result, Write as _};
use std::path::Path;

#[cfg(test)]
pub(crate) use armed::{Mode, arm, trace};

/// A step that is about to be done to `path`.
///
/// # Errors
/// Only in tests.
#[cfg_attr(not(test), expect(clippy::unnecessary_wraps, reason = "it fails in tests"))]
pub(crate) fn point(step: &'static str, path: &Path) -> Result<()> {
    #[cfg(test)]
    armed::pass(step, path)?;
    #[cfg(not(test))]
    let _ = (step, path);
    Ok(())
}

/// Writes all bytes, which is a step too.
pub(crate) fn write(file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
    #[cfg(test)]
    if armed::is_half() {
        file.write_all(&bytes[..bytes.len() / 2])?;
        file.sync_all()?;
        std::process::abort();
    }
    point("write", path)?;
    file.write_all(bytes)
}

#[cfg(test)]
mod armed {
    use std::io::{Error, Result};
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;

    /// What happens at the step that was chosen.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Mode {
        /// The process ends before it.
        Kill,
        /// A write ends half way, and the process with it.
        Half,
        /// It fails as on a full disk.
        Full,
    }

    struct State {
        left: usize,
        mode: Option<Mode>,
        trace: Vec<(&'static str, PathBuf)>,
    }

    static STATE: Mutex<State> = Mutex::new(State { left: 0, mode: None, trace: Vec::new() });

    /// Lets the `nth` step from now, from 0, go wrong. For a process that does one
    /// thing.
    pub fn arm(nth: usize, mode: Mode) {
        let mut state = STATE.lock().unwrap();
        (state.left, state.mode) = (nth, Some(mode));
        state.trace.clear();
    }

    /// The steps since it was armed.
    pub fn trace() -> Vec<(&'static str, PathBuf)> {
        STATE.lock().unwrap().trace.clone()
    }

    /// Whether the next step is the one, and a write of it ends half way.
    pub fn is_half() -> bool {
        let state = STATE.lock().unwrap();
        state.mode == Some(Mode::Half) && state.left == 0
    }

    pub fn pass(step: &'static str, path: &Path) -> Result<()> {
        let mut state = STATE.lock().unwrap();
        let Some(mode) = state.mode else { return Ok(()) };
        state.trace.push((step, path.to_path_buf()));
        if state.left > 0 {
            state.left -= 1;
            return Ok(());
        }
        match mode {
            Mode::Full => {
                // It stays full.
                Err(Error::from_raw_os_error(28))
            }
            Mode::Kill | Mode::Half => std::process::abort(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
