//! How the rows of an update are cut into forward passes.

use spin_run::run::FitConfig;

use crate::data::Example;

/// The largest forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// This many rows, in the order they come in.
    Rows(usize),
    /// This many tokens: rows sorted by length, the longest first, so that
    /// what does not fit into memory fails at once; their sequences padded to
    /// the longest. A longer row goes alone.
    Tokens(usize),
}

impl Limit {
    /// As a configuration has it.
    pub fn of(config: &FitConfig) -> Limit {
        Limit::new(config.micro_batch_size, config.max_tokens_per_batch)
    }

    /// `max_tokens` where it is above 0, else `rows`.
    pub fn new(rows: usize, max_tokens: usize) -> Limit {
        if max_tokens > 0 { Limit::Tokens(max_tokens) } else { Limit::Rows(rows.max(1)) }
    }

    /// Cuts rows into forward passes: positions in `examples`. A function of
    /// its arguments alone.
    pub fn cut(&self, examples: &[&Example]) -> Vec<Vec<usize>> {
        self.cut_sizes(&examples.iter().map(|e| (e.sequences(), e.longest())).collect::<Vec<_>>())
    }

    /// As [`Limit::cut`], for rows given as numbers of sequences and lengths
    /// of the longest.
    pub fn cut_sizes(&self, sizes: &[(usize, usize)]) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        let budget = match *self {
            Limit::Rows(rows) => return order.chunks(rows).map(<[usize]>::to_vec).collect(),
            Limit::Tokens(budget) => budget,
        };
        // A stable sort: equal lengths stay in order.
        order.sort_by_key(|&row| std::cmp::Reverse(sizes[row].1));
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let (mut sequences, mut longest) = (0, 0);
        for row in order {
            let (more, length) = sizes[row];
            match batches.last_mut() {
                // Sorted: the first row of a batch is its longest.
                Some(batch) if (sequences + more) * longest <= budget => {
                    batch.push(row);
                    sequences += more;
                }
                _ => {
                    batches.push(vec![row]);
                    (sequences, longest) = (more, length);
                }
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_stay_in_order_and_tokens_sort_by_length() {
        let sizes = [(2, 5), (2, 50), (2, 6), (2, 5)];
        assert_eq!(Limit::new(3, 0).cut_sizes(&sizes), [vec![0, 1, 2], vec![3]]);
        // 50 alone is above the budget; 6, 5, 5 make 36 padded tokens.
        assert_eq!(Limit::new(3, 40).cut_sizes(&sizes), [vec![1], vec![2, 0, 3]]);
        assert_eq!(Limit::new(3, 35).cut_sizes(&sizes), [vec![1], vec![2, 0], vec![3]]);
    }

    proptest! {
        #[test]
        fn every_row_once_and_padded_tokens_below_the_budget(
            lengths in proptest::collection::vec(1..200usize, 1..60), sequences in 1..3usize, budget in 1..1000usize,
        ) {
            let sizes: Vec<_> = lengths.iter().map(|length| (sequences, *length)).collect();
            let batches = Limit::Tokens(budget).cut_sizes(&sizes);
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for (i, batch) in batches.iter().enumerate() {
                let longest = batch.iter().map(|&row| lengths[row]).max().unwrap();
                prop_assert!(batch.len() == 1 || batch.len() * sequences * longest <= budget);
                // No batch could have taken the next one's first row as well.
                if let Some(next) = batches.get(i + 1) {
                    prop_assert!((batch.len() + 1) * sequences * longest > budget, "{batch:?} {next:?}");
                }
            }
        }
    }
}
