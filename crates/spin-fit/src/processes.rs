//! How this program meets the others that were started with it.

use std::cell::Cell;
#[cfg(feature = "mpi")]
use std::cell::RefCell;
use std::rc::Rc;

use spin_cli::Exit;
#[cfg(feature = "mpi")]
use spin_fit::collective::mpi::Mpi;
use spin_fit::collective::{Collective, Solo};
use spin_fit::error::FitError;

/// Joined once, and left as the last thing of all.
#[derive(Default)]
pub struct Processes {
    #[cfg(feature = "mpi")]
    joined: RefCell<Option<Rc<Mpi>>>,
    concluded: Cell<bool>,
}

impl Processes {
    /// The processes that this one trains with: those that it was started
    /// with, or itself.
    ///
    /// # Errors
    /// When there are others and no way to them.
    pub fn join(&self) -> Result<Rc<dyn Collective>, FitError> {
        let Some(launched) = spin_cli::launched() else { return Ok(Rc::new(Solo)) };
        #[cfg(feature = "mpi")]
        {
            let joined = Rc::new(Mpi::join(launched.world)?);
            self.joined.replace(Some(joined.clone()));
            Ok(joined)
        }
        #[cfg(not(feature = "mpi"))]
        Err(FitError::Transport {
            problem: format!(
                "this program was built without it, and each of the {} processes would train alone ({} says that \
                 there are so many); build with `--features spin-fit/mpi`, or start one process",
                launched.world, launched.variable
            ),
        })
    }

    /// All processes have concluded: none waits for another.
    pub fn concluded(&self) {
        self.concluded.set(true);
    }

    /// Parts from the others; where they were not told how this one ends, they
    /// end with it.
    pub fn part(&self, exit: Exit) {
        #[cfg(feature = "mpi")]
        if let Some(joined) = self.joined.take() {
            match self.concluded.get() {
                true => joined.leave(),
                false => joined.abort(exit.code().into()),
            }
        }
        #[cfg(not(feature = "mpi"))]
        let _ = exit;
    }
}
