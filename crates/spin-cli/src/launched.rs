//! Whether a starter of parallel programs started this process, which of its
//! processes this is, and how many are beside it.

/// Processes that were started together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// How many.
    pub world: usize,
    /// Which of them this is, from 0; `None` where the starter does not say.
    pub rank: Option<usize>,
    /// Which of those on its machine, from 0; likewise.
    pub local_rank: Option<usize>,
    /// The variable that says how many.
    pub variable: &'static str,
}

/// Where starters say how many there are, and which of them and of those on
/// its machine a process is: Open MPI's `mpirun`; MPICH's and Intel's, and
/// `srun --mpi=pmi2`; MVAPICH's; `srun`, whatever plugin it uses.
/// `SLURM_NTASKS` is not among them: a batch script has it, too, which is one
/// process.
const SAID_BY: [[&str; 3]; 4] = [
    ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"],
    ["PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"],
    ["MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"],
    ["SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"],
];

/// The processes that this one was started with; `None` for one alone.
pub fn launched() -> Option<Launched> {
    said(|variable| std::env::var(variable).ok())
}

fn said(value: impl Fn(&str) -> Option<String>) -> Option<Launched> {
    let number = |variable: &str| value(variable)?.trim().parse().ok();
    // The first that says anything is right: a program that `mpirun` started within a
    // step of `srun` is one of `mpirun`'s.
    let of = |[variable, rank, local_rank]: [&'static str; 3]| {
        Some(Launched { world: number(variable)?, rank: number(rank), local_rank: number(local_rank), variable })
    };
    SAID_BY.into_iter().find_map(of).filter(|launched| launched.world > 1)
}

/// Which of the machine's GPUs, as this process numbers those that it sees, is
/// one of several processes' own: they take turns, where each sees all of them;
/// the first where it sees one.
///
/// `visible` is `CUDA_VISIBLE_DEVICES`.
pub(crate) fn own_gpu(local_rank: usize, visible: Option<&str>) -> usize {
    let seen = visible.map(|list| list.split(',').filter(|name| !name.trim().is_empty()).count());
    // Not said: as many as there are, which the driver knows.
    local_rank % seen.unwrap_or(usize::MAX).max(1)
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

    #[test]
    fn a_process_knows_its_place() {
        let all = [("PMI_SIZE", "4"), ("PMI_RANK", "3"), ("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_PROCID", "5")];
        let found = |name: &str| all.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).into());
        let expected = Launched { world: 4, rank: Some(3), local_rank: None, variable: "PMI_SIZE" };
        assert_eq!(said(found), Some(expected));
    }

    #[test]
    fn processes_of_a_machine_take_turns_at_its_gpus() {
        let own = |visible: Option<&str>| [0, 1, 2, 5].map(|rank| own_gpu(rank, visible));
        assert_eq!(own(None), [0, 1, 2, 5]);
        assert_eq!(own(Some("0,1,2,3")), [0, 1, 2, 1]);
        assert_eq!(own(Some("GPU-5f,GPU-7a,")), [0, 1, 0, 1]);
        // `--gpus-per-task=1` shows each its own.
        assert_eq!(own(Some("3")), [0, 0, 0, 0]);
        assert_eq!(own(Some("")), [0, 0, 0, 0]);
    }
}
