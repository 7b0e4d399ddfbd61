//! Programs that a program starts.

use std::path::PathBuf;
use std::process::{Child, Command};

/// Asks a child to stop and to keep its work, as [`stop_flag`](crate::stop_flag)
/// hears it.
pub fn stop_child(child: &Child) {
    #[cfg(unix)]
    // SAFETY: it sends a signal; the child was not waited for, so that its
    // number is still its own.
    unsafe {
        libc::kill(child.id() as libc::pid_t, libc::SIGTERM);
    }
    #[cfg(not(unix))]
    let _ = child;
}

/// Has the child stop, with its work kept, when this process ends in any way.
/// Call it from the thread that lives as long as the process.
pub fn stop_with_parent(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt as _;
        let parent = std::process::id();
        // SAFETY: between fork and exec it only makes system calls.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                // It may have ended before.
                match libc::getppid() as u32 == parent {
                    true => Ok(()),
                    false => Err(std::io::Error::from(std::io::ErrorKind::Interrupted)),
                }
            });
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// A program of this release: the one beside this one, or else whichever the
/// PATH has.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    own.filter(|own| own.exists()).unwrap_or_else(|| name.into())
}
