//! Gradients of a model's trainable tensors: added up, measured, scaled.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use rayon::prelude::*;

use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::ops::{Operations, Sums};

/// Numbers that one parallel task works on, and the unit that a tensor is dealt
/// out in among processes. A constant, so that sums are split alike, and round
/// alike, whatever the number of either.
pub const CHUNK: usize = 1 << 14;

/// The sum of squares of each chunk of a tensor's numbers, in order. A part that
/// begins at a chunk gives what it adds to those of the whole.
pub fn squares(values: &[f32]) -> Vec<f64> {
    // Collected before summing: the order of additions must not depend on the
    // threads.
    let square = |chunk: &[f32]| chunk.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    values.par_chunks(CHUNK).map(square).collect()
}

/// What the gradients are multiplied with so that their norm is at most
/// `max_norm`, as `torch.nn.utils.clip_grad_norm_`; `None` where they are left
/// alone.
pub fn clip_factor(norm: f64, max_norm: f64) -> Option<f64> {
    let factor = max_norm / (norm + 1e-6);
    (norm.is_finite() && factor < 1.0).then_some(factor)
}

/// A sum of gradients for each trainable tensor, by name.
///
/// Sums are f32 whatever the type of the weights, live as long as the training
/// and are added to in place: accumulating micro-batches costs no memory.
#[derive(Debug, Clone)]
pub struct Gradients {
    sums: BTreeMap<String, Sum>,
}

#[derive(Debug, Clone)]
struct Sum {
    values: GradientValues,
    shape: Vec<usize>,
    /// Whether anything was added since the last clearing.
    received: bool,
}

/// Where the sum of one tensor's gradients is kept.
#[derive(Debug, Clone)]
pub enum GradientValues {
    /// In memory, row-major, for weights on the CPU.
    Host(Vec<f32>),
    /// With the weights, for other devices.
    Device(Tensor),
}

impl Gradients {
    /// Zeros for each of `params`.
    ///
    /// # Errors
    ///
    /// If a device cannot hold them.
    pub fn zeros(params: &BTreeMap<String, Var>) -> Result<Self> {
        let mut sums = BTreeMap::new();
        for (name, var) in params {
            let values = match var.device() {
                Device::Cpu => GradientValues::Host(vec![0.0; var.elem_count()]),
                device => GradientValues::Device(Tensor::zeros(var.shape(), DType::F32, device)?),
            };
            sums.insert(name.clone(), Sum { values, shape: var.dims().to_vec(), received: false });
        }
        Ok(Self { sums })
    }

    /// Back to zeros, for the next update.
    ///
    /// # Errors
    ///
    /// If the tensor operation fails; likewise for the other methods.
    pub fn clear(&mut self) -> Result<()> {
        for sum in self.sums.values_mut() {
            sum.received = false;
            match &mut sum.values {
                GradientValues::Host(values) => values.par_chunks_mut(CHUNK).for_each(|chunk| chunk.fill(0.0)),
                GradientValues::Device(tensor) => *tensor = tensor.zeros_like()?,
            }
        }
        Ok(())
    }

    /// The sum of a tensor's gradients; `None` for a name that is not trained.
    pub fn get(&self, name: &str) -> Option<&GradientValues> {
        self.sums.get(name).map(|sum| &sum.values)
    }

    /// The sums as f32 tensors, copied.
    ///
    /// # Errors
    ///
    /// As [`Gradients::clear`].
    pub fn to_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let tensor = |sum: &Sum| match &sum.values {
            GradientValues::Host(values) => Tensor::from_slice(values, sum.shape.as_slice(), &Device::Cpu),
            GradientValues::Device(tensor) => Ok(tensor.clone()),
        };
        self.sums.iter().map(|(name, sum)| Ok((name.clone(), tensor(sum)?))).collect()
    }

    /// Adds a gradient of any type that came from elsewhere.
    ///
    /// # Errors
    ///
    /// If the model does not train such a tensor, and as [`Gradients::clear`].
    pub fn add(&mut self, name: &str, grad: &Tensor) -> Result<()> {
        let sum = self.sum_mut(name)?;
        sum.received = true;
        let grad = grad.to_dtype(DType::F32)?;
        if grad.dims() != sum.shape {
            return Err(Error::Gradient {
                tensor: name.to_owned(),
                message: format!("has shape {:?} where the tensor has {:?}", grad.dims(), sum.shape),
            });
        }
        match &mut sum.values {
            GradientValues::Host(values) => {
                add_to(values, &grad.flatten_all()?.to_vec1::<f32>()?);
            }
            GradientValues::Device(tensor) => *tensor = (&*tensor + grad)?,
        }
        Ok(())
    }

    /// Adds numbers, row-major, to a tensor's gradient in memory.
    #[cfg(any(test, feature = "cuda-kernels"))]
    pub(crate) fn add_numbers(&mut self, name: &str, numbers: &[f32]) -> Result<()> {
        let sum = self.sum_mut(name)?;
        let GradientValues::Host(sums) = &mut sum.values else {
            return Err(Error::Gradient { tensor: name.to_owned(), message: "is not in memory".to_owned() });
        };
        add_to(sums, numbers);
        sum.received = true;
        Ok(())
    }

    /// Adds other gradients of the same tensors, number by number.
    ///
    /// # Errors
    ///
    /// If they are of other tensors, and as [`Gradients::clear`].
    pub fn add_all(&mut self, other: &Gradients) -> Result<()> {
        for (name, more) in &other.sums {
            let sum = self.sum_mut(name)?;
            sum.received |= more.received;
            match (&mut sum.values, &more.values) {
                (GradientValues::Host(sums), GradientValues::Host(grads)) if sums.len() == grads.len() => {
                    add_to(sums, grads);
                }
                (GradientValues::Device(sum), GradientValues::Device(grad)) => *sum = (&*sum + grad)?,
                _ => return Err(Error::Gradient { tensor: name.clone(), message: "is another tensor's".to_owned() }),
            }
        }
        Ok(())
    }

    /// The sum of a tensor's gradients where it is in memory, to be changed in
    /// place; whether any was received stays as it is.
    pub fn values_mut(&mut self, name: &str) -> Option<&mut [f32]> {
        match &mut self.sums.get_mut(name)?.values {
            GradientValues::Host(values) => Some(values),
            GradientValues::Device(_) => None,
        }
    }

    /// The trained tensors that received no gradient since the last clearing.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.sums.iter().filter(|(_, sum)| !sum.received).map(|(name, _)| name.as_str())
    }

    /// The trained tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sums.keys().map(String::as_str)
    }

    /// The trained tensors, and of how many numbers each is.
    #[cfg(any(test, feature = "cuda-kernels"))]
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (&String, usize)> {
        self.sums.iter().map(|(name, sum)| (name, sum.shape.iter().product()))
    }

    /// Whether a tensor is trained at all.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.sums.contains_key(name)
    }

    fn sum_mut(&mut self, name: &str) -> Result<&mut Sum> {
        self.sums
            .get_mut(name)
            .ok_or_else(|| Error::Gradient { tensor: name.to_owned(), message: "is not trained".to_owned() })
    }

    /// Checks that every trainable tensor received a gradient since the last
    /// clearing.
    ///
    /// # Errors
    ///
    /// If one did not, which is a defect of the forward pass: candle drops
    /// gradients silently.
    pub fn check_complete(&self) -> Result<()> {
        self.missing().next().map_or(Ok(()), |name| Err(never_reached(name)))
    }

    /// Multiplies all gradients.
    ///
    /// # Errors
    ///
    /// As [`Gradients::clear`].
    pub fn scale(&mut self, factor: f64) -> Result<()> {
        for sum in self.sums.values_mut() {
            match &mut sum.values {
                GradientValues::Host(values) => values
                    .par_chunks_mut(CHUNK)
                    .for_each(|chunk| chunk.iter_mut().for_each(|value| *value *= factor as f32)),
                GradientValues::Device(tensor) => *tensor = (&*tensor * factor)?,
            }
        }
        Ok(())
    }

    /// The Euclidean norm of all gradients together.
    ///
    /// # Errors
    ///
    /// As [`Gradients::clear`].
    pub fn global_norm(&self) -> Result<f64> {
        let mut total = 0.0;
        for sum in self.sums.values() {
            total += match &sum.values {
                GradientValues::Host(values) => squares(values).iter().sum::<f64>(),
                GradientValues::Device(tensor) => f64::from(tensor.sqr()?.sum_all()?.to_scalar::<f32>()?),
            };
        }
        Ok(total.sqrt())
    }

    /// As `torch.nn.utils.clip_grad_norm_`: scales the gradients so that their
    /// global norm is at most `max_norm`, and returns the norm before.
    ///
    /// If that is not finite the gradients are left alone; the caller decides
    /// whether to skip the step or to stop.
    ///
    /// # Errors
    ///
    /// As [`Gradients::clear`].
    pub fn clip_global_norm(&mut self, max_norm: f64) -> Result<f64> {
        let norm = self.global_norm()?;
        if let Some(factor) = clip_factor(norm, max_norm) {
            self.scale(factor)?;
        }
        Ok(norm)
    }
}

/// Adds number by number.
fn add_to(sums: &mut [f32], grads: &[f32]) {
    let pairs = sums.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK));
    pairs.for_each(|(sums, grads)| sums.iter_mut().zip(grads).for_each(|(sum, grad)| *sum += grad));
}

/// Operations whose backward passes add to [`Gradients`], wherever their own sums
/// are meanwhile.
pub(crate) trait GradientSums: Operations {
    /// Their sums during some backward passes.
    type Sums<'a>: Sums<Self::Buffer>;

    /// For backward passes that add to `grads`.
    fn sums<'a>(&self, grads: &'a mut Gradients) -> Result<Self::Sums<'a>>;

    /// The passes have succeeded: what they added is in the gradients afterwards.
    fn finish(&self, sums: Self::Sums<'_>) -> Result<()>;
}

/// In place.
impl GradientSums for Cpu {
    type Sums<'a> = &'a mut Gradients;

    fn sums<'a>(&self, grads: &'a mut Gradients) -> Result<&'a mut Gradients> {
        Ok(grads)
    }

    fn finish(&self, _: &mut Gradients) -> Result<()> {
        Ok(())
    }
}

/// Of the operations of the CPU.
impl Sums<Vec<f32>> for Gradients {
    fn wants(&self, name: &str) -> bool {
        self.wants(name)
    }

    fn sum(&mut self, name: &str) -> Option<&mut Vec<f32>> {
        let sum = self.sums.get_mut(name)?;
        match &mut sum.values {
            GradientValues::Host(values) => {
                sum.received = true;
                Some(values)
            }
            GradientValues::Device(_) => None,
        }
    }
}

/// A trained tensor that no gradient reached.
pub fn never_reached(name: &str) -> Error {
    Error::Gradient { tensor: name.to_owned(), message: "no gradient reached it".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> BTreeMap<String, Var> {
        let var = |values: &[f32]| Var::new(values, &Device::Cpu).unwrap();
        BTreeMap::from([("a".to_owned(), var(&[0.0, 0.0])), ("b".to_owned(), var(&[0.0]))])
    }

    #[test]
    fn sums_are_added_clipped_and_cleared() {
        let mut grads = Gradients::zeros(&params()).unwrap();
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        grads.add("a", &tensor(&[1.0, 2.0])).unwrap();
        assert!(grads.check_complete().unwrap_err().to_string().contains("`b`"));
        grads.add("b", &tensor(&[4.0])).unwrap();
        grads.add("a", &tensor(&[2.0, -2.0])).unwrap();
        grads.check_complete().unwrap();
        assert_eq!(grads.clip_global_norm(1.0).unwrap(), 5.0);
        assert!((grads.global_norm().unwrap() - 1.0).abs() < 1e-6);
        grads.clear().unwrap();
        assert_eq!(grads.global_norm().unwrap(), 0.0);
        assert!(grads.check_complete().is_err());
        assert!(grads.add("c", &tensor(&[1.0])).unwrap_err().to_string().contains("not trained"));
        assert!(grads.add("b", &tensor(&[1.0, 2.0])).unwrap_err().to_string().contains("shape"));
    }
}
