//! Every fused operation against its composition (values and gradients) and
//! against finite differences.

use candle_core::{Device, Tensor, Var};

use super::*;

/// Numbers in about (-1, 1) that are the same everywhere.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    crate::init::standard_normal(seed, "test", count).into_iter().map(|x| x * 0.5).collect()
}

fn var(seed: u64, shape: &[usize]) -> Var {
    let values = numbers(seed, shape.iter().product());
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (flat(a), flat(b));
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// A scalar that weighs every output differently.
fn scalar(output: &Tensor) -> Tensor {
    let weights = Tensor::from_vec(numbers(99, output.elem_count()), output.shape(), &Device::Cpu);
    (output * weights.unwrap()).unwrap().sum_all().unwrap()
}

/// Checks `op(Kernels::Fused)` for some inputs; returns the largest
/// differences of values and of gradients from the composed operation.
fn check(name: &str, inputs: &[&Var], op: impl Fn(Kernels) -> Result<Tensor>) -> (f32, f32) {
    let fused = op(Kernels::Fused).unwrap();
    let composed = op(Kernels::Composed).unwrap();
    let forward = max_difference(&fused, &composed);
    assert!(forward < 2e-5, "{name}: values differ by {forward}");

    let fused_grads = scalar(&fused).backward().unwrap();
    let composed_grads = scalar(&composed).backward().unwrap();
    let mut backward = 0.0_f32;
    for (index, input) in inputs.iter().enumerate() {
        let fused = fused_grads.get(input).unwrap();
        let composed = composed_grads.get(input).unwrap();
        let difference = max_difference(fused, composed);
        assert!(difference < 5e-5, "{name}: gradient {index} differs by {difference}");
        backward = backward.max(difference);
        finite_differences(name, input, fused, || {
            let output = op(Kernels::Fused).unwrap();
            // Summed in f64: the step is small beside f32's resolution.
            let weights = numbers(99, output.elem_count());
            let values = flat(&output);
            let terms = values.iter().zip(&weights);
            terms.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        });
    }
    // Shown by `cargo test -- --nocapture`.
    eprintln!("{name}: values within {forward:.1e}, gradients within {backward:.1e}");
    (forward, backward)
}

/// Compares some entries of a gradient with central differences of fourth
/// order, whose step may be large enough for f32.
fn finite_differences(name: &str, input: &Var, grad: &Tensor, value: impl Fn() -> f64) {
    const STEP: f32 = 4e-2;
    let original = flat(input);
    let grad = flat(grad);
    for entry in (0..original.len()).step_by((original.len() / 7).max(1)) {
        let shifted = |step: f32| {
            let mut values = original.clone();
            values[entry] += step;
            input.set(&Tensor::from_vec(values, input.shape(), &Device::Cpu).unwrap()).unwrap();
            value()
        };
        let difference = |step: f32| shifted(step) - shifted(-step);
        let estimate = (8.0 * difference(STEP) - difference(2.0 * STEP)) / f64::from(12.0 * STEP);
        let error = (estimate - f64::from(grad[entry])).abs();
        assert!(
            error < 1e-3 * estimate.abs().max(1.0),
            "{name}: entry {entry} has gradient {} but differences give {estimate}",
            grad[entry]
        );
    }
    input.set(&Tensor::from_vec(original, input.shape(), &Device::Cpu).unwrap()).unwrap();
}

#[test]
fn rms_norm_and_its_gradients() {
    // More rows than one task takes, and a width that no vector divides.
    let (x, weight) = (var(1, &[150, 19]), var(2, &[19]));
    check("rms_norm", &[&x, &weight], |kernels| kernels.rms_norm(&x, &weight, 1e-5));
}

#[test]
fn linear_and_its_gradients() {
    let (x, weight, residual) = (var(1, &[70, 11]), var(2, &[23, 11]), var(3, &[70, 23]));
    check("linear", &[&x, &weight], |kernels| kernels.linear(&x, &weight));
    check("linear_add", &[&x, &weight, &residual], |kernels| kernels.linear_add(&x, &weight, &residual));
}

#[test]
fn swiglu_and_its_gradients() {
    let gate_up = var(1, &[70, 2 * 13]);
    check("swiglu", &[&gate_up], |kernels| kernels.swiglu(&gate_up));
}

#[test]
fn linear_logps_and_their_gradients() {
    // Enough rows for two blocks.
    let (vocab, rows) = (4_001, 100);
    let (hidden, weight) = (var(1, &[rows, 6]), var(2, &[vocab, 6]));
    let targets: Vec<u32> = (0..rows as u32).map(|row| row * 37 % vocab as u32).collect();
    let targets = Tensor::new(targets.as_slice(), &Device::Cpu).unwrap();
    check("linear_logps", &[&hidden, &weight], |kernels| kernels.linear_logps(&hidden, &weight, &targets));
}

#[test]
fn attention_and_its_gradients() {
    // A length beyond one group of lanes; grouped, single and equal heads.
    for (heads, kv_heads, head_dim) in [(4, 2, 6), (3, 1, 8), (2, 2, 16)] {
        let shape = AttentionShape { heads, kv_heads, head_dim };
        let lengths = Arc::new(vec![37, 37]);
        let rope = Arc::new(RopeTable::new(head_dim, 37, 100.0));
        let qkv = var(1, &[74, shape.qkv_width()]);
        check("attention", &[&qkv], |kernels| kernels.attention(&qkv, shape, &rope, &lengths));
    }
}

#[test]
fn block_and_its_gradients() {
    for recompute in [false, true] {
        let attention = AttentionShape { heads: 3, kv_heads: 1, head_dim: 16 };
        let shape = BlockShape { attention, hidden: 20, intermediate: 13, eps: 1e-5, recompute };
        let lengths = Arc::new(vec![11, 11]);
        let rope = Arc::new(RopeTable::new(16, 11, 100.0));
        let x = var(1, &[22, 20]);
        let vars = [
            var(2, &[20]),
            var(3, &[48, 20]),
            var(4, &[16, 20]),
            var(5, &[16, 20]),
            var(6, &[20, 48]),
            var(7, &[20]),
            var(8, &[13, 20]),
            var(9, &[13, 20]),
            var(10, &[20, 13]),
        ];
        let [attention_norm, query, key, value, attention_output, feed_forward_norm, gate, up, down] =
            vars.each_ref().map(|var| var.as_tensor().clone());
        let weights =
            BlockWeights { attention_norm, query, key, value, attention_output, feed_forward_norm, gate, up, down };
        let inputs: Vec<&Var> = std::iter::once(&x).chain(&vars).collect();
        check("block", &inputs, |kernels| kernels.block(&x, &weights, shape, &rope, &lengths));
    }
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 4 };
    let rope = Arc::new(RopeTable::new(4, 9, 100.0));
    let qkv = var(1, &[12, shape.qkv_width()]);
    let together = Kernels::Fused.attention(&qkv, shape, &rope, &Arc::new(vec![3, 9])).unwrap();
    for (start, length) in [(0, 3), (3, 9)] {
        let alone = qkv.narrow(0, start, length).unwrap();
        let alone = Kernels::Fused.attention(&alone, shape, &rope, &Arc::new(vec![length])).unwrap();
        assert_eq!(flat(&together.narrow(0, start, length).unwrap()), flat(&alone));
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let (x, weight) = (var(1, &[4, 6]), var(2, &[5, 7]));
    assert!(Kernels::Fused.linear(&x, &weight).is_err());
    assert!(Kernels::Fused.rms_norm(&x, &weight, 1e-5).is_err());
    let targets = Tensor::new(&[0_u32, 1, 2, 9], &Device::Cpu).unwrap();
    let weight = var(3, &[9, 6]);
    let error = Kernels::Fused.linear_logps(&x, &weight, &targets).unwrap_err();
    assert!(error.to_string().contains("target 9"), "{error}");
}
