//! Whether a starter of parallel programs started this process, and how many
//! beside it.

/// Processes that were started together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// How many.
    pub world: usize,
    /// The variable that says so.
    pub variable: &'static str,
}

/// Where starters say how many there are: Open MPI's `mpirun`; MPICH's and
/// Intel's, and `srun --mpi=pmi2`; MVAPICH's; `srun`, whatever plugin it uses.
/// `SLURM_NTASKS` is not among them: a batch script has it, too, which is one
/// process.
const SAID_BY: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"];

/// The processes that this one was started with; `None` for one alone.
pub fn launched() -> Option<Launched> {
    said(|variable| std::env::var(variable).ok())
}

fn said(value: impl Fn(&str) -> Option<String>) -> Option<Launched> {
    let number = |variable: &'static str| Some(Launched { world: value(variable)?.trim().parse().ok()?, variable });
    // The first that says anything is right: a program that `mpirun` started within a
    // step of `srun` is one of `mpirun`'s.
    SAID_BY.into_iter().find_map(number).filter(|launched| launched.world > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_starter_counts() {
        let of = |said_so: &[(&str, &str)]| {
            let found = |name: &str| said_so.iter().find(|(variable, _)| *variable == name);
            said(|name| found(name).map(|(_, value)| (*value).to_owned())).map(|launched| launched.world)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "4")]), Some(4));
        assert_eq!(of(&[("OMPI_COMM_WORLD_SIZE", "1"), ("SLURM_STEP_NUM_TASKS", "8")]), None);
        assert_eq!(of(&[("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_NTASKS", "8")]), Some(8));
        assert_eq!(of(&[("SLURM_NTASKS", "8")]), None);
        assert_eq!(of(&[("PMI_SIZE", "many")]), None);
    }
}
