//! Processes that `mpirun` or `srun` started, by the Message Passing
//! Interface. A failure of MPI itself ends all of them: it is left to its own
//! handling of errors, which is to abort.

use std::cell::RefCell;
use std::fmt;

use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _};
use mpi::{Count, Threading};

use super::Collective;
use crate::error::{FitError, Result};

/// This process in MPI's world. Every call must come from the thread that
/// joined it.
///
/// Unless [`Mpi::leave`] is called all processes are ended when it goes: what
/// waits for this one would wait for ever.
pub struct Mpi {
    world: SimpleCommunicator,
    universe: RefCell<Option<Universe>>,
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.world())
    }
}

impl Mpi {
    /// Joins the `expected` processes that were started together.
    ///
    /// # Errors
    /// When MPI sees another number of them, or cannot be started.
    pub fn join(expected: usize) -> Result<Mpi> {
        let problem = |problem: String| FitError::Transport { problem };
        // Calls come from one thread; others compute.
        let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Funneled) else {
            return Err(problem("it was started before".into()));
        };
        let joined = Mpi { world: universe.world(), universe: RefCell::new(Some(universe)) };
        let wrong = if threading < Threading::Funneled {
            format!("it allows no threads beside its own ({threading:?})")
        } else if joined.world() != expected {
            format!(
                "{expected} processes were started and it joins {}: each would train alone. Start them with the \
                 mpirun of the library that this program was built with, or with srun --mpi=pmix (srun --mpi=list \
                 says what there is)",
                joined.world()
            )
        } else {
            return Ok(joined);
        };
        // All of them see the same.
        joined.leave();
        Err(problem(wrong))
    }

    /// Parts in good order, once all have concluded.
    pub fn leave(&self) {
        drop(self.universe.take());
    }

    /// Ends all processes, this one with exit code `code`.
    pub fn abort(&self, code: i32) -> ! {
        self.world.abort(code)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // Not `MPI_Finalize`, which waits for the others.
        if self.universe.take().map(std::mem::forget).is_some() {
            self.world.abort(1);
        }
    }
}

/// As MPI counts. What is moved at a time is kept far below.
fn counted(counts: &[usize]) -> (Vec<Count>, Vec<Count>) {
    let counts: Vec<Count> = counts.iter().map(|n| Count::try_from(*n).expect("windows are small")).collect();
    let places = counts.iter().scan(0, |at, count| Some(std::mem::replace(at, *at + count))).collect();
    (counts, places)
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn world(&self) -> usize {
        self.world.size() as usize
    }

    fn exchange(&self, send: &[u8], counts: &[usize], receive: &mut [u8], from: &[usize]) -> Result<()> {
        let ((counts, places), (from, into)) = (counted(counts), counted(from));
        let mut nothing = NOTHING;
        let send = Partition::new(placed(send), counts, places);
        let receive = if receive.is_empty() { &mut nothing[..0] } else { receive };
        self.world.all_to_all_varcount_into(&send, &mut PartitionMut::new(receive, from, into));
        Ok(())
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8], counts: &[usize]) -> Result<()> {
        let (counts, places) = counted(counts);
        let mut nothing = NOTHING;
        let all = if all.is_empty() { &mut nothing[..0] } else { all };
        self.world.all_gather_varcount_into(placed(own), &mut PartitionMut::new(all, counts, places));
        Ok(())
    }
}

/// Where no byte is, in memory. An empty vector of bytes is at address 1, which
/// is Open MPI's `MPI_IN_PLACE` and means something else.
static PLACE: [u8; 1] = [0];
const NOTHING: [u8; 1] = [0];

fn placed(bytes: &[u8]) -> &[u8] {
    if bytes.is_empty() { &PLACE[..0] } else { bytes }
}
