//! The orchestration: gradients of projections and of the head by finite
//! differences, and whole passes with several sets of operations.

mod cuda;
mod oracle;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use super::head::Head;
use crate::batch::{Batch, Layout, RowPlan};
use crate::config::ModelConfig;
use crate::cpu::Cpu;
use crate::decoder::{Adapter, Decoder, Linear};
use crate::gradients::Gradients;
use crate::model::CausalLm;
use crate::ops::{Sums, View, ViewMut, Write};
use crate::params::Param;
use crate::testing::{check, numbers, weigh};

fn param(name: &str, seed: u64, shape: &[usize]) -> Param {
    let values = numbers(seed, shape.iter().product());
    let var = Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap();
    Param::new(name.to_owned(), var)
}

fn set(var: &Var, values: &[f32]) {
    var.set(&Tensor::from_slice(values, var.shape().clone(), &Device::Cpu).unwrap()).unwrap();
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
    let (x, out) = (numbers(5, 70 * 5), numbers(6, 70 * 7));
    for dropout in [None, Some(11)] {
        let forward = |x: &[f32]| {
            let (x, mut y) = (x.to_vec(), vec![0.0; 70 * 7]);
            // The last columns of wider rows.
            let target = ViewMut::new(&mut y, 70, 7).columns(3..7);
            linear.forward(&Cpu, View::new(&x, 70, 5), target, Write::Over, dropout).unwrap();
            assert!(y.chunks(7).all(|row| row[..3] == [0.0; 3]));
            weigh(&y, &out)
        };
        let adapter = linear.adapter.as_ref().unwrap();
        let params = [&linear.weight, linear.bias.as_ref().unwrap(), &adapter.down, &adapter.up];
        let vars: BTreeMap<_, _> = params.iter().map(|param| (param.name.clone(), param.var.clone())).collect();
        let mut grads = Gradients::zeros(&vars).unwrap();
        let mut x_grad = vec![0.0; x.len()];
        let (grad, target) = (View::new(&out, 70, 7).columns(3..7), ViewMut::new(&mut x_grad, 70, 5));
        linear.backward(&Cpu, View::new(&x, 70, 5), grad, target, Write::Over, dropout, &mut grads).unwrap();
        check("x", &x, &x_grad, forward);
        for (name, grad) in grads.to_tensors().unwrap() {
            let var = &vars[&name];
            let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
            let grad: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
            check(&name, &values, &grad, |values| {
                set(var, values);
                forward(&x)
            });
            set(var, &values);
        }
    }
}

/// Two sequences with a prompt in common, and one alone, over nine tokens.
fn plan() -> RowPlan {
    let ids = [1; 19];
    let pair = [&ids[..19], &ids[..6]];
    let batch = Batch::grouped([(&ids[..5], pair.to_vec()), (&ids[..3], vec![&ids[..9]])]).unwrap();
    RowPlan { targets: (0..34).map(|row| row % 9).collect(), ..RowPlan::new(&batch, Layout::SharedPrompts) }
}

#[test]
fn head() {
    let plan = plan();
    let hidden = numbers(1, 34 * 6);
    assert_eq!(plan.responses, [19, 6, 9]);
    for (smoothing, softcap) in [(0.0, None), (0.2, None), (0.0, Some(1.5)), (0.2, Some(1.5))] {
        let json = serde_json::json!({
            "architectures": ["Gemma2ForCausalLM"], "final_logit_softcapping": softcap, "head_dim": 6,
            "query_pre_attn_scalar": 6, "vocab_size": 9, "hidden_size": 6, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "initializer_range": 1.0,
        });
        let config = ModelConfig::from_json(&json.to_string(), "test").unwrap();
        let model = CausalLm::init(&config, 2, &Device::Cpu).unwrap();
        let decoder: &Decoder = model.decoder();
        let run = |hidden: &[f32]| {
            // The sum of squares of the log-probabilities.
            let mut slopes = |_: usize, logps: &[f64]| logps.iter().map(|logp| 2.0 * logp).collect();
            let mut grads = Gradients::zeros(model.params()).unwrap();
            let head = Head::new(&Cpu, decoder, smoothing, true).unwrap();
            let sum = grads.sum(&decoder.output.name);
            let (sums, hidden_grad) = head.backward(&hidden.to_vec(), &plan, &mut slopes, sum).unwrap();
            let weight_grad = grads.sum(&decoder.output.name).unwrap().clone();
            (sums.iter().map(|sum| sum * sum).sum::<f64>(), hidden_grad, weight_grad)
        };
        let (_, hidden_grad, weight_grad) = run(&hidden);
        check("hidden", &hidden, &hidden_grad, |hidden| run(hidden).0);
        let weight: Vec<f32> = decoder.output.var.flatten_all().unwrap().to_vec1().unwrap();
        check("weight", &weight, &weight_grad, |weight| {
            set(&decoder.output.var, weight);
            run(&hidden).0
        });
    }
}
