//! Which rows are generated together, fixed ahead of time.
//!
//! mistral.rs 0.8.1 runs only sequences of equal length in one step, so rows
//! are sorted by prompt length and cut into parts, and each part into batches
//! of one length. Neither depends on shards or restarts.

/// A sample to make: which demonstration, and which of its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Index of the demonstration.
    pub row: usize,
    /// Counts the samples of one row.
    pub sample_index: u32,
}

/// The parts of a table, each a list of batches of jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `parts[p][b]` is the b-th batch of part p.
    pub parts: Vec<Vec<Vec<Job>>>,
}

impl Plan {
    /// Plans `samples_per_prompt` samples of each row, given the rows' prompt
    /// lengths in tokens (`None` for a row that is left out).
    pub fn new(
        prompt_lengths: &[Option<usize>],
        samples_per_prompt: u32,
        rows_per_part: usize,
        batch_size: usize,
    ) -> Plan {
        let mut order: Vec<(usize, usize)> =
            prompt_lengths.iter().enumerate().filter_map(|(row, len)| len.map(|len| (len, row))).collect();
        order.sort_unstable();
        let jobs: Vec<(usize, Job)> = order
            .into_iter()
            .flat_map(|(len, row)| (0..samples_per_prompt).map(move |sample_index| (len, Job { row, sample_index })))
            .collect();
        let batches = |part: &[(usize, Job)]| {
            part.chunk_by(|a, b| a.0 == b.0)
                .flat_map(|same_length| same_length.chunks(batch_size))
                .map(|batch| batch.iter().map(|(_, job)| *job).collect())
                .collect()
        };
        Plan { parts: jobs.chunks(rows_per_part).map(batches).collect() }
    }

    /// Number of samples in a part.
    pub fn jobs_in(&self, part: usize) -> usize {
        self.parts[part].iter().map(Vec::len).sum()
    }

    /// Number of samples.
    pub fn jobs(&self) -> usize {
        (0..self.parts.len()).map(|p| self.jobs_in(p)).sum()
    }
}

/// One of `count` workers that share the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1 to `count`.
    pub number: usize,
    /// How many there are.
    pub count: usize,
}

impl Shard {
    /// Everything in one.
    pub const WHOLE: Shard = Shard { number: 1, count: 1 };

    /// Whether a part is this shard's.
    pub fn has(self, part: usize) -> bool {
        part % self.count == self.number - 1
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let parse = || {
            let (number, count) = text.split_once('/')?;
            Some(Shard { number: number.parse().ok()?, count: count.parse().ok()? })
        };
        match parse() {
            Some(shard) if (1..=shard.count).contains(&shard.number) => Ok(shard),
            _ => Err("write K/N with K from 1 to N, e.g. 3/16".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_stands_once_and_batches_have_one_length() {
        let lengths: Vec<Option<usize>> = (0..100).map(|i| (i % 9 != 4).then_some(5 + i * 7 % 11)).collect();
        let plan = Plan::new(&lengths, 3, 40, 8);
        let mut seen = Vec::new();
        for (p, part) in plan.parts.iter().enumerate() {
            assert!(plan.jobs_in(p) <= 40);
            for batch in part {
                assert!(!batch.is_empty() && batch.len() <= 8);
                assert!(batch.iter().all(|j| lengths[j.row] == lengths[batch[0].row]));
                seen.extend(batch.iter().map(|j| (j.row, j.sample_index)));
            }
        }
        assert_eq!(seen.len(), plan.jobs());
        seen.sort_unstable();
        let expected: Vec<_> =
            (0..100).filter(|i| i % 9 != 4).flat_map(|row| (0..3).map(move |s| (row, s))).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn shards_partition_the_parts() {
        for part in 0..50 {
            let owners = (1..=7).filter(|&number| Shard { number, count: 7 }.has(part)).count();
            assert_eq!(owners, 1);
        }
        assert_eq!("3/16".parse(), Ok(Shard { number: 3, count: 16 }));
        for bad in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }
}
