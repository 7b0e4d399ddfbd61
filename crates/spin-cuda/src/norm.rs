//! `norm.cu`: root-mean-square normalisation of rows, or of heads in rows.

use crate::call::{Call, Runner, of_type, of_types};
use crate::elementwise::{PART, add_parts};
use crate::error::{Error, Result};
use crate::memory::{Number, View, ViewMut};

/// Rows up to this wide are a warp's, wider ones a block's.
const WARP_WIDTH: usize = 1_024;
/// Threads of a block.
const THREADS: u32 = 256;
const COLUMN_THREADS: u32 = 128;

/// What is normalised together: `width` numbers, `heads` times side by side at the beginning of every row.
#[derive(Debug, Clone, Copy)]
pub struct Normed {
    /// Rows of the matrix.
    pub rows: usize,
    /// Of each row; 1 where all of it is normalised together.
    pub heads: usize,
    /// Numbers normalised together.
    pub width: usize,
}

impl Normed {
    /// Blocks and threads.
    fn launch(&self, kernel: &'static str) -> Result<Call> {
        let count = self.count();
        if self.width <= WARP_WIDTH {
            let rows = THREADS / 32;
            Call::new(kernel, [count.div_ceil(rows as usize), 1, 1], [32, rows, 1])
        } else {
            Call::new(kernel, [count, 1, 1], [THREADS, 1, 1])
        }
    }

    /// How many are normalised.
    pub fn count(&self) -> usize {
        self.rows * self.heads
    }

    /// Numbers that a matrix with rows so far apart has at least.
    fn reach(&self, stride: usize) -> usize {
        if self.rows == 0 { 0 } else { (self.rows - 1) * stride + self.heads * self.width }
    }

    fn check(&self, kernel: &'static str, strides: &[usize]) -> Result<()> {
        if self.width == 0 || self.heads == 0 || strides.iter().any(|stride| *stride < self.heads * self.width) {
            return Err(Error::shape(kernel, format!("{self:?} does not fit rows {strides:?} apart")));
        }
        Ok(())
    }
}

/// A norm's weight `[width]`, what the architecture adds to it, and eps.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a, W> {
    /// The weight.
    pub weight: View<'a, W>,
    /// Added to it.
    pub offset: f32,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// A matrix whose rows begin `stride` numbers apart.
#[derive(Debug, Clone, Copy)]
pub struct Strided<'a, T> {
    /// From the first number that counts on.
    pub numbers: View<'a, T>,
    /// From row to row.
    pub stride: usize,
}

/// The same, to be written.
#[derive(Debug)]
pub struct StridedMut<'a, T> {
    /// From the first number that counts on.
    pub numbers: ViewMut<'a, T>,
    /// From row to row.
    pub stride: usize,
}

/// `y` = the normalised `x`, or `y` += that. The weight is bf16 where x or y is.
///
/// # Errors
///
/// If shapes do not fit or the device refuses; likewise for the others.
pub fn rms_norm<X: Number, Y: Number, W: Number>(
    on: &(impl Runner + ?Sized),
    of: Normed,
    x: Strided<'_, X>,
    norm: &Norm<'_, W>,
    y: &mut StridedMut<'_, Y>,
    add: bool,
) -> Result<()> {
    let kernel = of_types!("rms_norm_forward", X, Y);
    check_weight::<X, Y, W>(kernel)?;
    of.check(kernel, &[x.stride, y.stride])?;
    x.numbers.check(kernel, "x", of.reach(x.stride))?;
    y.numbers.check(kernel, "y", of.reach(y.stride))?;
    norm.weight.check(kernel, "weight", of.width)?;
    let call = of.launch(kernel)?.read(x.numbers).read(norm.weight).write(&y.numbers);
    let call = call.count(of.count())?.count(of.width)?.count(of.heads)?.u64(x.stride as u64).u64(y.stride as u64);
    call.f32(norm.offset).f32(norm.eps).u32(u32::from(add)).on(on)
}

fn check_weight<X: Number, Y: Number, W: Number>(kernel: &'static str) -> Result<()> {
    use crate::memory::Kind::{Bf16, F32};
    let wanted = if X::KIND == Bf16 || Y::KIND == Bf16 { Bf16 } else { F32 };
    if W::KIND != wanted {
        return Err(Error::shape(kernel, format!("the weight is {:?} where {wanted:?} belongs", W::KIND)));
    }
    Ok(())
}

/// Memory of [`rms_norm_backward`]: one number for each that is normalised, and the parts of the weight's gradient.
#[derive(Debug)]
pub struct NormScratch<'a> {
    /// `[rows * heads]`.
    pub inverses: ViewMut<'a, f32>,
    /// [`weight_parts`] numbers.
    pub parts: ViewMut<'a, f32>,
}

/// Numbers of [`NormScratch::parts`].
pub fn weight_parts(of: Normed) -> usize {
    of.count().div_ceil(PART) * of.width
}

/// The gradient of the output, and where that of what was normalised goes.
#[derive(Debug)]
pub enum NormGrads<'a, X, Y> {
    /// To other memory.
    To {
        /// Of the output.
        grad: Strided<'a, Y>,
        /// Of what was normalised.
        x_grad: StridedMut<'a, X>,
        /// Whether it is added to what is there, or goes over it.
        add: bool,
    },
    /// Over the gradient of the output, in place.
    Over(StridedMut<'a, Y>),
}

/// The gradients of `x` and, added, of the weight (f32, `[width]`), given that of the output.
///
/// # Errors
///
/// As [`rms_norm`].
pub fn rms_norm_backward<X: Number, Y: Number, W: Number>(
    on: &(impl Runner + ?Sized),
    of: Normed,
    x: Strided<'_, X>,
    norm: &Norm<'_, W>,
    grads: &mut NormGrads<'_, X, Y>,
    weight_grad: Option<&mut ViewMut<'_, f32>>,
    scratch: &mut NormScratch<'_>,
) -> Result<()> {
    let kernel = of_types!("rms_norm_backward", X, Y);
    check_weight::<X, Y, W>(kernel)?;
    let (grad, to, stride, add) = match grads {
        NormGrads::To { grad, x_grad, add } => {
            of.check(kernel, &[x_grad.stride])?;
            x_grad.numbers.check(kernel, "x_grad", of.reach(x_grad.stride))?;
            (*grad, (x_grad.numbers.address(), x_grad.numbers.len()), x_grad.stride, *add)
        }
        NormGrads::Over(grad) if X::KIND == Y::KIND => {
            let to = (grad.numbers.address(), grad.numbers.len());
            (Strided { numbers: grad.numbers.as_view(), stride: grad.stride }, to, grad.stride, false)
        }
        NormGrads::Over(_) => {
            return Err(Error::shape(kernel, "in place, x and the gradient must be of one type"));
        }
    };
    of.check(kernel, &[x.stride, grad.stride])?;
    x.numbers.check(kernel, "x", of.reach(x.stride))?;
    grad.numbers.check(kernel, "grad", of.reach(grad.stride))?;
    norm.weight.check(kernel, "weight", of.width)?;
    scratch.inverses.check(kernel, "inverses", of.count())?;
    let call = of.launch(of_type!("rms_norm_inverses", X))?.read(x.numbers).write(&scratch.inverses);
    let call = call.count(of.count())?.count(of.width)?.count(of.heads)?;
    call.u64(x.stride as u64).f32(norm.eps).on(on)?;
    if let Some(weight_grad) = weight_grad {
        let kernel = of_types!("rms_norm_weight_parts", X, Y);
        weight_grad.check(kernel, "the weight's gradient", of.width)?;
        scratch.parts.check(kernel, "parts", weight_parts(of))?;
        let parts = of.count().div_ceil(PART);
        let grid = [of.width.div_ceil(COLUMN_THREADS as usize), parts, 1];
        let call = Call::new(kernel, grid, [COLUMN_THREADS, 1, 1])?.read(x.numbers).read(grad.numbers);
        let call = call.write(&scratch.inverses).write(&scratch.parts);
        let call = call.count(of.count())?.count(of.width)?.count(of.heads)?.u64(x.stride as u64);
        call.u64(grad.stride as u64).count(PART)?.on(on)?;
        add_parts(on, scratch.parts.as_view(), parts, &mut weight_grad.reborrow().slice(0..of.width))?;
    }
    let call = of.launch(kernel)?.read(x.numbers).read(norm.weight).read(grad.numbers);
    let call = call
        .write(&scratch.inverses)
        .at(to.0, to.1 * size_of::<X>())
        .count(of.count())?
        .count(of.width)?
        .count(of.heads)?;
    let call = call.u64(x.stride as u64).u64(grad.stride as u64).u64(stride as u64);
    call.f32(norm.offset).u32(u32::from(add)).on(on)
}
