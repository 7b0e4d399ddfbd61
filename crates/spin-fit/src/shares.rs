//! An update in shares: its rows are cut, each share's gradient is computed by
//! itself, and the sum is taken in the order of the shares, whichever process
//! has which.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use candle_core::Var;
use spin_model::{Gradients, never_reached};

use crate::collective::folding::Among;
use crate::collective::{Collective, bytes_of, talk, words_of};
use crate::error::{FitError, Result};
use crate::objective::PairMetrics;
use crate::optim::in_memory;

/// Cuts `rows` rows into `shards` shares in order, as even as can be, the
/// larger ones first; the last ones are empty where there are fewer rows.
pub(crate) fn cut(rows: usize, shards: usize) -> impl Iterator<Item = Range<usize>> {
    let (each, more) = (rows / shards, rows % shards);
    (0..shards).map(move |share| {
        let start = share * each + share.min(more);
        start..start + each + usize::from(share < more)
    })
}

/// What is counted while gradients are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    /// About the pairs.
    pub metrics: PairMetrics,
    /// Loss of a supervised training.
    pub loss: f64,
    /// Whether any loss had a slope.
    pub sloped: bool,
}

impl Counts {
    fn add(&mut self, more: &Counts) {
        self.metrics.add_all(&more.metrics);
        self.loss += more.loss;
        self.sloped |= more.sloped;
    }
}

/// What a process says of its share.
#[derive(Debug, Default, PartialEq)]
struct Report {
    /// `None` for a process that was asked to stop.
    counts: Option<Counts>,
    /// The trained tensors that no gradient reached, by number; of the first
    /// update alone.
    missing: Vec<usize>,
}

impl Report {
    fn to_bytes(&self) -> Vec<u8> {
        let Some(Counts { metrics, loss, sloped }) = self.counts else { return Vec::new() };
        let mut words = vec![u64::from(sloped), loss.to_bits()];
        words.extend(metrics.to_words());
        words.extend(self.missing.iter().map(|number| *number as u64));
        bytes_of(&words)
    }

    fn of_bytes(bytes: &[u8]) -> Report {
        let mut words = words_of(bytes);
        let Some(sloped) = words.next() else { return Report::default() };
        let mut next = || words.next().unwrap_or_default();
        let (loss, metrics) = (f64::from_bits(next()), [(); 7].map(|()| next()));
        let counts = Counts { metrics: PairMetrics::of_words(metrics), loss, sloped: sloped != 0 };
        Report { counts: Some(counts), missing: words.map(|word| word as usize).collect() }
    }
}

/// How updates are computed by this process, alone or with others.
#[derive(Debug)]
pub(crate) struct Shares {
    shards: usize,
    world: Rc<dyn Collective>,
    /// Absent for a process alone.
    among: Option<Among>,
    /// The sum so far, for a process alone that computes all shares.
    sum: Option<Gradients>,
    /// Of the update under way.
    counts: Counts,
    /// The tensors that no gradient of this update has reached.
    missing: Option<BTreeSet<usize>>,
}

impl Shares {
    /// `shards` shares per update for the processes of `world`.
    ///
    /// # Errors
    /// When they cannot be dealt out evenly, or several processes would train
    /// what is not in memory.
    pub fn new(shards: usize, world: Rc<dyn Collective>, params: &BTreeMap<String, Var>) -> Result<Shares> {
        check(shards, world.world())?;
        if !world.is_alone()
            && let Some(var) = params.values().find(|var| !in_memory(var))
        {
            return Err(FitError::Device {
                device: format!("{:?}", var.device().location()),
                problem:
                    "several processes train together where the weights are in memory, which those of heads wider \
                          than 256 are not on a GPU; start one"
                        .into(),
            });
        }
        let rounds = shards / world.world();
        let among = (!world.is_alone()).then(|| Among::new(world.clone(), params, rounds));
        let sum = if world.is_alone() && shards > 1 { Some(Gradients::zeros(params)?) } else { None };
        Ok(Shares { shards, world, among, sum, counts: Counts::default(), missing: None })
    }

    /// Whether an update is one sum over all of its rows.
    pub fn is_one(&self) -> bool {
        self.shards == 1
    }

    /// The processes.
    pub fn world(&self) -> &dyn Collective {
        &*self.world
    }

    /// What several processes need; `None` for one alone.
    pub fn among(&mut self) -> Option<&mut Among> {
        self.among.as_mut()
    }

    /// The same to look at.
    pub fn parts(&self) -> Option<&crate::collective::parts::Parts> {
        self.among.as_ref().map(Among::parts)
    }

    /// Which share of an update of `rows` rows is this process's in each round,
    /// with its number.
    pub fn own(&self, rows: usize) -> Vec<(usize, Range<usize>)> {
        let (world, rank) = (self.world.world(), self.world.rank());
        cut(rows, self.shards).enumerate().skip(rank).step_by(world).collect()
    }

    /// Adds one round's shares: this process's, whose gradient stands alone in
    /// `gradients`, and those of the others. After the last round the sum
    /// stands there, of several processes its part. Nothing, where any of them
    /// was asked to stop (`own` is `None`).
    ///
    /// # Errors
    /// When another process fails; after the last round of the first update,
    /// when a trained tensor got no gradient.
    pub fn add(
        &mut self,
        own: Option<Counts>,
        gradients: &mut Gradients,
        round: usize,
        is_first_update: bool,
    ) -> Result<Option<Counts>> {
        if round == 0 {
            (self.counts, self.missing) = (Counts::default(), None);
        }
        let missing: BTreeSet<&str> = if is_first_update { gradients.missing().collect() } else { BTreeSet::new() };
        let numbers = gradients.names().enumerate().filter(|(_, name)| missing.contains(name));
        let report = Report { counts: own, missing: numbers.map(|(number, _)| number).collect() };
        let reports: Vec<Report> =
            talk(self.world(), Ok(&report.to_bytes()))?.iter().map(|bytes| Report::of_bytes(bytes)).collect();
        if reports.iter().any(|report| report.counts.is_none()) {
            return Ok(None);
        }
        for Report { counts, missing } in reports {
            self.counts.add(&counts.expect("looked for above"));
            let missing: BTreeSet<usize> = missing.into_iter().collect();
            self.missing = Some(match self.missing.take() {
                Some(before) => &before & &missing,
                None => missing,
            });
        }
        let rounds = self.shards / self.world.world();
        match (&mut self.among, &mut self.sum) {
            (Some(among), _) => among.fold(gradients, round, rounds)?,
            (None, Some(sum)) => {
                match round {
                    // What stood there is cleared before the next share.
                    0 => std::mem::swap(gradients, sum),
                    _ => sum.add_all(gradients)?,
                }
                if round + 1 == rounds {
                    std::mem::swap(gradients, sum);
                }
            }
            (None, None) => unreachable!("one share is not added to others"),
        }
        // Once is enough: which tensors get gradients does not change.
        if round + 1 == rounds
            && is_first_update
            && self.counts.sloped
            && let Some(number) = self.missing.iter().flatten().next()
        {
            return Err(never_reached(gradients.names().nth(*number).unwrap_or_default()).into());
        }
        Ok(Some(self.counts))
    }
}

/// Whether `shards` shares can be dealt to `world` processes.
///
/// # Errors
/// When they cannot.
pub(crate) fn check(shards: usize, world: usize) -> Result<()> {
    if shards.is_multiple_of(world) {
        return Ok(());
    }
    let fitting: Vec<String> = (1..=shards).filter(|n| shards.is_multiple_of(*n)).map(|n| n.to_string()).collect();
    let fitting = match fitting.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} or {last}", before.join(", ")),
        _ => "1".into(),
    };
    Err(FitError::Shares { shards, world, fitting })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_in_order() {
        let cut = |rows, shards| cut(rows, shards).collect::<Vec<_>>();
        assert_eq!(cut(10, 4), [0..3, 3..6, 6..8, 8..10]);
        assert_eq!(cut(2, 3), [0..1, 1..2, 2..2]);
        assert_eq!(cut(7, 2), [0..4, 4..7]);
    }

    #[test]
    fn a_report_comes_back_to_the_bit() {
        let counts = Counts { loss: f64::NAN, sloped: true, ..Counts::default() };
        let report = Report { counts: Some(counts), missing: vec![3, 5] };
        let back = Report::of_bytes(&report.to_bytes());
        assert_eq!(back.counts.unwrap().loss.to_bits(), f64::NAN.to_bits());
        assert_eq!((back.counts.unwrap().sloped, back.missing), (true, vec![3, 5]));
        assert_eq!(Report::of_bytes(&Report::default().to_bytes()), Report::default());
    }

    #[test]
    fn what_cannot_be_dealt_is_refused_with_what_can() {
        check(6, 3).unwrap();
        let said = check(6, 4).unwrap_err();
        assert!(said.is_bad_input());
        assert!(
            said.to_string().contains("start 1, 2, 3 or 6 of them, or set fit.shards to a multiple of 4"),
            "{said}"
        );
        assert!(check(1, 2).unwrap_err().to_string().contains("start 1 of them"));
    }
}
