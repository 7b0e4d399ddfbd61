//! Which samples stand in which part, fixed ahead of time: neither shards nor
//! restarts move a row.

/// A sample to make: which demonstration, and which of its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Index of the demonstration.
    pub row: usize,
    /// Counts the samples of one row.
    pub sample_index: u32,
}

/// The samples of each part: those of the rows in `rows`, in order,
/// `samples_per_prompt` of each.
pub fn parts(rows: impl Iterator<Item = usize>, samples_per_prompt: u32, rows_per_part: usize) -> Vec<Vec<Job>> {
    let jobs: Vec<Job> =
        rows.flat_map(|row| (0..samples_per_prompt).map(move |sample_index| Job { row, sample_index })).collect();
    jobs.chunks(rows_per_part).map(<[Job]>::to_vec).collect()
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

    /// That of process `rank`, from 0, of `world`.
    pub fn of_rank(rank: usize, world: usize) -> Shard {
        Shard { number: rank + 1, count: world }
    }

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
    fn every_job_stands_once_and_in_order() {
        let rows = (0..100).filter(|i| i % 9 != 4);
        let plan = parts(rows.clone(), 3, 40);
        assert!(plan.iter().all(|part| !part.is_empty() && part.len() <= 40));
        let seen: Vec<_> = plan.iter().flatten().map(|j| (j.row, j.sample_index)).collect();
        let expected: Vec<_> = rows.flat_map(|row| (0..3).map(move |s| (row, s))).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn shards_partition_the_parts() {
        for part in 0..50 {
            let owners = (1..=7).filter(|&number| Shard { number, count: 7 }.has(part)).count();
            assert_eq!(owners, 1);
        }
        assert_eq!(Shard::of_rank(2, 16), Shard { number: 3, count: 16 });
        assert_eq!("3/16".parse(), Ok(Shard { number: 3, count: 16 }));
        for bad in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }
}
