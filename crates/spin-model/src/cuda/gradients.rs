//! Sums of gradients on a machine, for the backward passes of an update.

use std::collections::{BTreeMap, BTreeSet};

use spin_cuda::{Machine, Memory};

use super::set::{Buffer, Cuda};
use crate::error::Result;
use crate::gradients::{GradientSums, Gradients};
use crate::ops::Sums;

/// What backward passes add to gradients that are elsewhere.
pub(crate) struct DeviceSums<'a, M: Machine> {
    grads: &'a mut Gradients,
    sums: BTreeMap<String, Buffer<M>>,
    received: BTreeSet<String>,
}

impl<M: Machine> Sums<Buffer<M>> for DeviceSums<'_, M> {
    fn wants(&self, name: &str) -> bool {
        self.grads.wants(name)
    }

    fn sum(&mut self, name: &str) -> Option<&mut Buffer<M>> {
        let sum = self.sums.get_mut(name)?;
        self.received.insert(name.to_owned());
        Some(sum)
    }
}

impl<M: Machine> GradientSums for Cuda<M> {
    type Sums<'a> = DeviceSums<'a, M>;

    fn sums<'a>(&self, grads: &'a mut Gradients) -> Result<DeviceSums<'a, M>> {
        let zeros = |(name, len): (&String, usize)| Ok((name.clone(), Memory::zeros(self.machine(), len)?));
        let sums = grads.sizes().map(zeros).collect::<Result<_>>()?;
        Ok(DeviceSums { grads, sums, received: BTreeSet::new() })
    }

    fn finish(&self, sums: DeviceSums<'_, M>) -> Result<()> {
        let DeviceSums { grads, sums, received } = sums;
        for (name, sum) in sums.into_iter().filter(|(name, _)| received.contains(name)) {
            // Each goes from the machine before the next comes.
            grads.add_numbers(&name, &sum.download(self.machine(), 0..sum.len())?)?;
        }
        Ok(())
    }
}
