//! The backward passes of operations against finite differences of its forward
//! pass. Forward passes are compared with the composed ones, and with
//! transformers, by the tests of whole models.

use super::activation;
use super::attention::Attention;
use super::norm::Norm;
use crate::batch::{Batch, Layout, RowPlan};
use crate::config::{Activation, LayerConfig, ModelConfig};
use crate::ops::{Attended, Heads};
use crate::rope::RopeTable;
use crate::testing::{check, numbers, weigh};

fn normed(norm: Norm, x: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    norm.forward(x, &mut out);
    out
}

#[test]
fn norms() {
    let (x, weight) = (numbers(1, 70 * 12), numbers(2, 12));
    let out = numbers(3, x.len());
    for offset in [0.0, 1.0] {
        let norm = |weight: &[f32]| Norm::new(weight, offset, 1e-5);
        let (mut x_grad, mut weight_grad) = (vec![0.0; x.len()], vec![0.0; 12]);
        norm(&weight).backward(&x, &out, &mut x_grad, Some(&mut weight_grad));
        check("x", &x, &x_grad, |x| weigh(&normed(norm(&weight), x), &out));
        check("weight", &weight, &weight_grad, |weight| weigh(&normed(norm(weight), &x), &out));
    }
    let normed = normed(Norm::new(&[1.0; 12], 0.0, 0.0), &x);
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

fn activated(kind: Activation, gate_up: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; gate_up.len() / 2];
    activation::forward(kind, gate_up, width, &mut out);
    out
}

#[test]
fn activations() {
    let x = numbers(1, 70 * 10);
    let out = numbers(2, 70 * 5);
    for kind in [Activation::Silu, Activation::GeluTanh] {
        let mut grad = x.clone();
        activation::backward(kind, &mut grad, 5, &out);
        check("gate and up", &x, &grad, |x| weigh(&activated(kind, x, 5), &out));
    }
    let values = activated(Activation::Silu, &[2.0, 3.0], 1);
    assert!((f64::from(values[0]) - 3.0 * 2.0 / (1.0 + (-2.0_f64).exp())).abs() < 1e-6);
    // torch.nn.functional.gelu(torch.tensor(2.), approximate="tanh")
    let values = activated(Activation::GeluTanh, &[2.0, 3.0], 1);
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

fn attended(attention: &Attention<'_>, plan: &RowPlan, qkv: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let rows = plan.ids.len();
    let (mut out, mut log_sums) = (vec![0.0; rows * attention.out_width()], vec![0.0; rows * attention.heads]);
    attention.forward(&plan.groups, qkv, &mut out, &mut log_sums);
    (out, log_sums)
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
            let attention = Attention::new(&Heads::new(&config, layer), &rope);
            let qkv = numbers(1, shared.ids.len() * attention.qkv_width());
            let out = numbers(2, shared.ids.len() * attention.out_width());
            let (values, log_sums) = attended(&attention, &shared, &qkv);
            let mut grad = vec![0.0; qkv.len()];
            let known = Attended { qkv: &qkv, out: &values, log_sums: &log_sums };
            attention.backward(&shared.groups, known, &out, &mut grad);
            let what = format!("head {dim}, prompt {prompt}, window {window:?}, cap {softcap:?}, rope {rotates}");
            check(&what, &qkv, &grad, |qkv| weigh(&attended(&attention, &shared, qkv).0, &out));
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
        let attention = Attention::new(&Heads::new(&config, LayerConfig { window, rope: true }), &rope);
        let width = attention.qkv_width();
        let qkv = numbers(1, plan.ids.len() * width);
        let (values, _) = attended(&attention, &plan, &qkv);
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
