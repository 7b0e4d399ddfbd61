use half::bf16;
use spin_cuda::{Norm, NormGrads, NormScratch, Normed, Strided, StridedMut, rms_norm, rms_norm_backward, weight_parts};

use crate::library::host;
use crate::memory::{Memory, Tested, as_f64, assert_close, numbers};
use crate::reference;

const EPS: f64 = 1e-5;
/// Rows, heads, width and what else a row has: warps to rows, blocks to rows, no multiple of either.
const SHAPES: [(usize, usize, usize, usize); 8] = [
    (1, 1, 1, 0),
    (7, 1, 33, 0),
    (9, 1, 129, 0),
    (3, 1, 256, 0),
    (3, 1, 1_032, 0),
    (2, 1, 2_051, 0),
    (5, 3, 16, 32),
    (3, 2, 7, 5),
];

/// The heads of rows `stride` apart, side by side.
fn heads<T: Copy>(values: &[T], rows: usize, own: usize, stride: usize) -> Vec<T> {
    (0..rows).flat_map(|row| values[row * stride..row * stride + own].to_vec()).collect()
}

fn forward<X: Tested, Y: Tested, W: Tested>() {
    let Some(host) = host() else { return };
    for (rows, count, width, more) in SHAPES {
        for (offset, add) in [(0.0, false), (1.0, true)] {
            let (own, stride) = (count * width, count * width + more);
            let (x, weight) = (numbers::<X>(1, rows * stride), numbers::<W>(2, width));
            let before = numbers::<Y>(3, rows * own);
            let mut y = if add { Memory::of(&before) } else { Memory::poisoned(rows * own) };
            let of = Normed { rows, heads: count, width };
            let (x_memory, weight_memory) = (Memory::of(&x), Memory::of(&weight));
            let norm = Norm { weight: weight_memory.view(), offset: offset as f32, eps: EPS as f32 };
            let to = &mut StridedMut { numbers: y.view_mut(), stride: own };
            rms_norm(host, of, Strided { numbers: x_memory.view(), stride }, &norm, to, add).unwrap();
            let x = as_f64(&heads(&x, rows, own, stride));
            let mut wanted = reference::rms_norm(&x, &as_f64(&weight), offset, EPS);
            if add {
                wanted.iter_mut().zip(&before).for_each(|(sum, before)| *sum += before.get());
            }
            assert_close(&y.read(), &wanted, 4.0);
        }
    }
}

#[test]
fn rows_and_heads_are_normalised() {
    forward::<f32, f32, f32>();
    forward::<f32, bf16, bf16>();
    forward::<bf16, f32, bf16>();
    forward::<bf16, bf16, bf16>();
}

fn backward<X: Tested, Y: Tested, W: Tested>() {
    let Some(host) = host() else { return };
    for (rows, count, width, more) in SHAPES.into_iter().chain([(70, 1, 8, 0)]) {
        let (offset, own, stride) = (1.0, count * width, count * width + more);
        let of = Normed { rows, heads: count, width };
        let (x, weight) = (numbers::<X>(1, rows * stride), numbers::<W>(2, width));
        let (grad, before) = (numbers::<Y>(4, rows * own), numbers::<X>(5, rows * own));
        let weight_before = numbers::<f32>(6, width);
        let (x_memory, weight_memory, mut grad_memory) = (Memory::of(&x), Memory::of(&weight), Memory::of(&grad));
        let norm = Norm { weight: weight_memory.view(), offset: offset as f32, eps: EPS as f32 };
        let mut inverses = Memory::<f32>::poisoned(of.count());
        let mut parts = Memory::<f32>::poisoned(weight_parts(of));
        let (mut x_grad, mut weight_grad) = (Memory::of(&before), Memory::of(&weight_before));
        let x_view = Strided { numbers: x_memory.view(), stride };
        rms_norm_backward(
            host,
            of,
            x_view,
            &norm,
            &mut NormGrads::To {
                grad: Strided { numbers: grad_memory.view(), stride: own },
                x_grad: StridedMut { numbers: x_grad.view_mut(), stride: own },
                add: true,
            },
            Some(&mut weight_grad.view_mut()),
            &mut NormScratch { inverses: inverses.view_mut(), parts: parts.view_mut() },
        )
        .unwrap();

        let (x, weight, grads) = (as_f64(&heads(&x, rows, own, stride)), as_f64(&weight), as_f64(&grad));
        // dx = r (w g - n mean(w g n)), dw = sum of g n: checked by differences where there are few numbers.
        let mut wanted_weight: Vec<f64> = as_f64(&weight_before);
        let mut wanted = Vec::new();
        for (x, g) in x.chunks_exact(width).zip(grads.chunks_exact(width)) {
            let r = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / width as f64 + EPS).sqrt();
            let scaled: Vec<f64> = g.iter().zip(&weight).map(|(g, w)| g * (w + offset)).collect();
            let mean = scaled.iter().zip(x).map(|(s, v)| s * v * r).sum::<f64>() / width as f64;
            wanted.extend(scaled.iter().zip(x).map(|(s, v)| r * (s - v * r * mean)));
            wanted_weight.iter_mut().zip(g.iter().zip(x)).for_each(|(sum, (g, v))| *sum += g * v * r);
        }
        if x.len() < 300 {
            let numeric = reference::numeric_gradient(&x, &grads, |x| reference::rms_norm(x, &weight, offset, EPS));
            assert_close(&numeric.iter().map(|v| *v as f32).collect::<Vec<_>>(), &wanted, 100.0);
        }
        let sums: Vec<f64> = wanted.iter().zip(&before).map(|(own, before)| own + before.get()).collect();
        // Of one number, the gradient is a small difference of large ones.
        let units = if width == 1 { 300.0 } else { 20.0 };
        assert_close(&x_grad.read(), &sums, units);
        assert_close(&weight_grad.read(), &wanted_weight, 20.0);
        assert_eq!(as_f64(&grad_memory.read()), grads);
        parts.read();

        let mut scratch = NormScratch { inverses: inverses.view_mut(), parts: parts.view_mut() };
        let mut over = NormGrads::Over(StridedMut { numbers: grad_memory.view_mut(), stride: own });
        let in_place = rms_norm_backward(host, of, x_view, &norm, &mut over, None, &mut scratch);
        assert_eq!(in_place.is_ok(), X::KIND == Y::KIND);
        if in_place.is_ok() {
            assert_close(&grad_memory.read(), &wanted, units);
        }
    }
}

#[test]
fn gradients_of_norms() {
    backward::<f32, f32, f32>();
    backward::<f32, bf16, bf16>();
    backward::<bf16, f32, bf16>();
    backward::<bf16, bf16, bf16>();
}

#[test]
fn a_weight_of_another_type_is_refused() {
    let Some(host) = host() else { return };
    let (x, weight, mut y) = (Memory::of(&[1.0_f32; 4]), Memory::of(&[1.0_f32; 4]), Memory::of(&[bf16::ONE; 4]));
    let norm = Norm { weight: weight.view(), offset: 0.0, eps: 0.0 };
    let of = Normed { rows: 1, heads: 1, width: 4 };
    let to = &mut StridedMut { numbers: y.view_mut(), stride: 4 };
    assert!(rms_norm(host, of, Strided { numbers: x.view(), stride: 4 }, &norm, to, false).is_err());
    let of = Normed { rows: 2, ..of };
    let weight = Memory::of(&[bf16::ONE; 4]);
    let norm = Norm { weight: weight.view(), offset: 0.0, eps: 0.0 };
    let error = rms_norm(host, of, Strided { numbers: x.view(), stride: 4 }, &norm, to, false).unwrap_err();
    assert_eq!(error.to_string(), "rms_norm_forward_float_bf16: x has 4 numbers where 8 belong");
}
