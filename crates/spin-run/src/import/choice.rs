//! Which rows of a source are taken.

use std::collections::HashMap;
use std::ops::ControlFlow;

use spin_noise::SplitMix64;

use crate::records::{self, Budget, SourceFile};
use crate::run::SourceConfig;
use spin_store::error::Result;

/// Which rows of a source are taken, by number from 0, and in which order.
pub(super) enum Choice {
    /// Those from the first up to the second, as they come.
    Range(usize, usize),
    /// Each with its place in the order; those before the second.
    Ranked(HashMap<usize, usize>, usize),
}

impl Choice {
    /// What a source asks for. Its rows are counted, which is to read them once
    /// more, where their order is a random one.
    pub(super) fn of(source: &SourceConfig, files: &[SourceFile], columns: &[&str]) -> Result<Choice> {
        let range = |rows: usize| {
            let start = source.skip.min(rows);
            let limit = if source.limit == 0 { rows } else { source.limit };
            start..start.saturating_add(limit).min(rows)
        };
        let Some(seed) = source.shuffle else {
            let range = range(usize::MAX);
            return Ok(Choice::Range(range.start, range.end));
        };
        let order = SplitMix64::new(seed).permutation(count(files, source, columns)?);
        let ranks: HashMap<usize, usize> =
            order[range(order.len())].iter().enumerate().map(|(rank, row)| (*row, rank)).collect();
        let end = ranks.keys().max().map_or(0, |last| last + 1);
        Ok(Choice::Ranked(ranks, end))
    }

    /// The place of a row in the order; `None` for one that is left out.
    pub(super) fn rank(&self, row: usize) -> Option<usize> {
        match self {
            Choice::Range(start, end) => (*start..*end).contains(&row).then_some(row),
            Choice::Ranked(ranks, _) => ranks.get(&row).copied(),
        }
    }

    /// The number of rows after which nothing is taken.
    pub(super) fn end(&self) -> usize {
        match self {
            Choice::Range(_, end) | Choice::Ranked(_, end) => *end,
        }
    }
}

/// The rows of a source, bad ones counted.
fn count(files: &[SourceFile], source: &SourceConfig, columns: &[&str]) -> Result<usize> {
    let mut budget = Budget::new(files, source.max_row_bytes, source.max_bytes);
    let mut rows = 0;
    for file in files {
        records::read(&file.path, columns, &mut budget, &mut |_, _| {
            rows += 1;
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(source: &SourceConfig, rows: usize) -> Vec<usize> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, "{}\n".repeat(rows)).unwrap();
        let choice = Choice::of(source, &records::files(&path).unwrap(), &[]).unwrap();
        let mut taken: Vec<(usize, usize)> =
            (0..rows.min(choice.end())).filter_map(|row| Some((choice.rank(row)?, row))).collect();
        taken.sort_unstable();
        taken.into_iter().map(|(_, row)| row).collect()
    }

    fn source(skip: usize, limit: usize, shuffle: Option<u64>) -> SourceConfig {
        SourceConfig { skip, limit, shuffle, ..SourceConfig::default() }
    }

    #[test]
    fn parts_of_one_order_share_nothing_and_make_the_whole() {
        assert_eq!(taken(&source(0, 0, None), 5), [0, 1, 2, 3, 4]);
        assert_eq!(taken(&source(1, 2, None), 5), [1, 2]);
        assert!(taken(&source(9, 2, None), 5).is_empty());
        let all = taken(&source(0, 0, Some(7)), 50);
        let parts = [(0, 20), (20, 5), (25, 0)].map(|(skip, limit)| taken(&source(skip, limit, Some(7)), 50));
        assert_eq!(parts.concat(), all);
        assert_eq!(all, SplitMix64::new(7).permutation(50));
        assert_ne!(all, taken(&source(0, 0, Some(8)), 50));
        assert_eq!(taken(&source(40, 100, Some(7)), 50), all[40..]);
    }
}
