//! Every operation's backward pass against finite differences of its forward
//! pass. Forward passes are compared with the composed ones, and with
//! transformers, by the tests of whole models.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use super::activation;
use super::attention::Attention;
use super::head::Head;
use super::linear::{Place, Rows};
use super::math::Write;
use super::norm::Norm;
use crate::batch::{Batch, Layout, RowPlan};
use crate::config::{Activation, LayerConfig, ModelConfig};
use crate::decoder::{Adapter, Linear};
use crate::gradients::Gradients;
use crate::params::Numbers;
use crate::params::Param;
use crate::rope::RopeTable;

/// Numbers of about unit size that are the same everywhere.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    crate::init::standard_normal(seed, "test", count)
}

fn weigh(values: &[f32], weights: &[f32]) -> f64 {
    values.iter().zip(weights).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Checks `grad`, the gradient of `f` at `x`, along random directions.
fn check(what: &str, x: &[f32], grad: &[f32], f: impl Fn(&[f32]) -> f64) {
    assert_eq!(x.len(), grad.len());
    let norm = weigh(grad, grad).sqrt();
    assert!(norm > 0.0, "{what}: no gradient");
    for seed in 0..4 {
        let direction = numbers(1_000 + seed, x.len());
        let size = weigh(&direction, &direction).sqrt();
        let step = 2e-2 / size.max(1.0);
        let moved = |by: f64| {
            let x: Vec<f32> =
                x.iter().zip(&direction).map(|(x, d)| (f64::from(*x) + by * f64::from(*d)) as f32).collect();
            f(&x)
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        let expected = weigh(grad, &direction);
        // Along a random direction the slope is about the gradient's norm.
        assert!((slope - expected).abs() < 5e-3 * norm.max(expected.abs()), "{what}: {slope} for {expected} ({norm})");
    }
}

#[test]
fn norms() {
    let (x, weight) = (numbers(1, 70 * 12), numbers(2, 12));
    let out = numbers(3, x.len());
    for offset in [0.0, 1.0] {
        let norm = |weight: &[f32]| Norm::new(weight, offset, 1e-5);
        let (mut x_grad, mut weight_grad) = (vec![0.0; x.len()], vec![0.0; 12]);
        norm(&weight).backward(&x, &out, &mut x_grad, Some(&mut weight_grad));
        check("x", &x, &x_grad, |x| weigh(&norm(&weight).forward(x), &out));
        check("weight", &weight, &weight_grad, |weight| weigh(&norm(weight).forward(&x), &out));
    }
    let normed = Norm::new(&[1.0; 12], 0.0, 0.0).forward(&x);
    assert!((weigh(&normed[..12], &normed[..12]) - 12.0).abs() < 1e-4);
}

#[test]
fn norms_of_heads() {
    // Rows of three heads of four, of which two are normalised.
    let (x, weight) = (numbers(1, 70 * 12), numbers(2, 4));
    let out = numbers(3, x.len());
    let heads = [0, 8];
    let forward = |x: &[f32], weight: &[f32]| {
        let mut x = x.to_vec();
        Norm::new(weight, 0.0, 1e-5).forward_heads(&mut x, 12, &heads);
        weigh(&x, &out)
    };
    let (mut grad, mut weight_grad) = (out.clone(), vec![0.0; 4]);
    Norm::new(&weight, 0.0, 1e-5).backward_heads(&x, &mut grad, 12, &heads, Some(&mut weight_grad));
    check("x", &x, &grad, |x| forward(x, &weight));
    check("weight", &weight, &weight_grad, |weight| forward(&x, weight));
    assert_eq!(grad[4..8], out[4..8]);
}

#[test]
fn activations() {
    let x = numbers(1, 70 * 10);
    let out = numbers(2, 70 * 5);
    for kind in [Activation::Silu, Activation::GeluTanh] {
        let mut grad = x.clone();
        activation::backward(kind, &mut grad, 5, &out);
        check("gate and up", &x, &grad, |x| weigh(&activation::forward(kind, x, 5), &out));
    }
    let values = activation::forward(Activation::Silu, &[2.0, 3.0], 1);
    assert!((f64::from(values[0]) - 3.0 * 2.0 / (1.0 + (-2.0_f64).exp())).abs() < 1e-6);
    // torch.nn.functional.gelu(torch.tensor(2.), approximate="tanh")
    let values = activation::forward(Activation::GeluTanh, &[2.0, 3.0], 1);
    assert!((values[0] - 3.0 * 1.954_597_7).abs() < 1e-5);
}

fn config(head_dim: usize, softcap: Option<f64>) -> ModelConfig {
    let json = serde_json::json!({
        "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": softcap, "head_dim": head_dim,
        "query_pre_attn_scalar": head_dim, "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
    });
    ModelConfig::from_json(&json.to_string(), "test").unwrap()
}

/// Two sequences with a prompt in common, and one alone.
fn plan(prompt: usize, layout: Layout) -> RowPlan {
    let ids = vec![1; prompt + 40];
    let pair = [&ids[..19], &ids[..6]];
    RowPlan::new(&Batch::grouped([(&ids[..prompt], pair.to_vec()), (&ids[..3], vec![&ids[..9]])]).unwrap(), layout)
}

#[test]
fn attention() {
    // Widths with and without code of their own; short spans and long ones.
    for (dim, prompt) in [(8, 5), (6, 5), (16, 21), (8, 180), (6, 180)] {
        for (window, softcap, rotates) in [(None, None, true), (Some(7), None, true), (Some(170), Some(2.0), false)] {
            let config = config(dim, softcap);
            let layer = LayerConfig { window, rope: rotates };
            let shared = plan(prompt, Layout::SharedPrompts);
            let rope = RopeTable::new(&config.rope, shared.longest());
            let attention = Attention::new(&config, layer, &rope);
            let qkv = numbers(1, shared.ids.len() * attention.qkv_width());
            let out = numbers(2, shared.ids.len() * attention.out_width());
            let (values, log_sums) = attention.forward(&shared, &qkv);
            let grad = attention.backward(&shared, &qkv, &values, &log_sums, &out);
            let what = format!("head {dim}, prompt {prompt}, window {window:?}, cap {softcap:?}, rope {rotates}");
            check(&what, &qkv, &grad, |qkv| weigh(&attention.forward(&shared, qkv).0, &out));
        }
    }
}

/// The first row of a sequence sees itself only, and a window of one likewise.
#[test]
fn attention_to_one_key_is_its_value() {
    let config = config(8, None);
    let plan = plan(5, Layout::Packed);
    let rope = RopeTable::new(&config.rope, plan.longest());
    for window in [Some(1), None] {
        let attention = Attention::new(&config, LayerConfig { window, rope: true }, &rope);
        let width = attention.qkv_width();
        let qkv = numbers(1, plan.ids.len() * width);
        let (values, _) = attention.forward(&plan, &qkv);
        let rows = if window.is_some() { plan.ids.len() } else { 1 };
        for row in 0..rows {
            for head in 0..4 {
                let value = row * width + (4 + 2 + head / 2) * 8;
                let out = row * attention.out_width() + head * 8;
                assert_eq!(values[out..out + 8], qkv[value..value + 8]);
            }
        }
    }
}

fn param(name: &str, seed: u64, shape: &[usize]) -> Param {
    let values = numbers(seed, shape.iter().product());
    let var = Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap();
    Param { name: name.to_owned(), var }
}

#[test]
fn linear_with_bias_and_adapter() {
    let adapter =
        Adapter { down: param("down", 2, &[2, 5]), up: param("up", 3, &[4, 2]), rank: 2, scale: 1.5, dropout: 0.3 };
    let linear = Linear {
        weight: param("weight", 1, &[4, 5]),
        bias: Some(param("bias", 4, &[4])),
        adapter: Some(adapter),
        outputs: 4,
        inputs: 5,
    };
    // The last columns of wider rows.
    let place = Place { width: 7, columns: 3..7 };
    let (x, out) = (numbers(5, 70 * 5), numbers(6, 70 * 7));
    for dropout in [None, Some(11)] {
        let forward = |x: &[f32]| {
            let mut y = vec![0.0; 70 * 7];
            linear.forward(Rows { values: x, width: 5 }, &mut y, &place, Write::Over, dropout).unwrap();
            assert!(y.chunks(7).all(|row| row[..3] == [0.0; 3]));
            weigh(&y, &out)
        };
        let adapter = linear.adapter.as_ref().unwrap();
        let params = [&linear.weight, linear.bias.as_ref().unwrap(), &adapter.down, &adapter.up];
        let vars: BTreeMap<_, _> = params.iter().map(|param| (param.name.clone(), param.var.clone())).collect();
        let mut grads = Gradients::zeros(&vars).unwrap();
        let mut x_grad = vec![0.0; x.len()];
        let target = Some((x_grad.as_mut_slice(), Write::Over));
        linear.backward(Rows { values: &x, width: 5 }, &out, &place, target, dropout, &mut grads).unwrap();
        check("x", &x, &x_grad, forward);
        for (name, grad) in grads.to_tensors().unwrap() {
            let (var, shape) = (&vars[&name], vars[&name].shape().clone());
            let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
            let grad: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
            check(&name, &values, &grad, |values| {
                var.set(&Tensor::from_slice(values, shape.clone(), &Device::Cpu).unwrap()).unwrap();
                forward(&x)
            });
            var.set(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap();
        }
    }
}

#[test]
fn head() {
    let plan = RowPlan { targets: (0..34).map(|row| row % 9).collect(), ..plan(5, Layout::SharedPrompts) };
    let (hidden, weight) = (numbers(1, 34 * 6), numbers(2, 9 * 6));
    assert_eq!(plan.responses, [19, 6, 9]);
    for (smoothing, softcap) in [(0.0, None), (0.2, None), (0.0, Some(1.5)), (0.2, Some(1.5))] {
        let head = |weight: &[f32], hidden: &[f32]| {
            let head = Head::of(Numbers::F32(weight), 9, 6, softcap, smoothing);
            // The sum of squares of the log-probabilities.
            let mut slopes = |_: usize, logps: &[f64]| logps.iter().map(|logp| 2.0 * logp).collect();
            let mut weight_grad = vec![0.0; weight.len()];
            let (sums, hidden_grad) = head.backward(hidden, &plan, &mut slopes, Some(&mut weight_grad));
            (sums.iter().map(|sum| sum * sum).sum::<f64>(), hidden_grad, weight_grad)
        };
        let (_, hidden_grad, weight_grad) = head(&weight, &hidden);
        check("hidden", &hidden, &hidden_grad, |hidden| head(&weight, hidden).0);
        check("weight", &weight, &weight_grad, |weight| head(weight, &hidden).0);
    }
}
