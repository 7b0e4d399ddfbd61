use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use half::bf16;
use spin_cuda::{AdamW, RmsProp, Weights, adamw, rmsprop};
use spin_fit::optim::{self, Optimizer, Rule};
use spin_model::Gradients;

use crate::library::host;
use crate::memory::{Memory, numbers};

const STEPS: u32 = 4;
const LR: f64 = 3e-3;

/// The trainer's optimiser on the CPU: weights after each step, and the masters of bf16 ones.
fn by_trainer(rule: Rule, start: &[f32], dtype: DType, factor: f32) -> Vec<Vec<f32>> {
    let tensor = Tensor::new(start, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    let params = BTreeMap::from([("w".to_owned(), Var::from_tensor(&tensor).unwrap())]);
    let mut optimizer = Optimizer::new(rule, &params, |_, _| true).unwrap();
    let mut grads = Gradients::zeros(&params).unwrap();
    (1..=STEPS)
        .map(|step| {
            grads.clear().unwrap();
            let grad = numbers::<f32>(u64::from(step) + 10, start.len());
            grads.add("w", &Tensor::new(grad.as_slice(), &Device::Cpu).unwrap()).unwrap();
            if factor != 1.0 {
                grads.scale(f64::from(factor)).unwrap();
            }
            optimizer.step(&grads, LR).unwrap();
            let name = if dtype == DType::F32 { None } else { Some("w.master") };
            let state = optimizer.state_dict().unwrap();
            let weights = name.map_or_else(|| params["w"].as_detached_tensor(), |name| state[name].clone());
            weights.to_vec1::<f32>().unwrap()
        })
        .collect()
}

fn compared(rule: Rule, is_bf16: bool, factor: f32) {
    let Some(host) = host() else { return };
    for len in [1, 7, 33, 129, 5_003] {
        let mut start = numbers::<f32>(1, len);
        if is_bf16 {
            start.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32());
        }
        let dtype = if is_bf16 { DType::BF16 } else { DType::F32 };
        let wanted = by_trainer(rule, &start, dtype, factor);
        let (mut masters, mut squares) = (Memory::of(&start), Memory::of(&vec![0.0_f32; len]));
        let (mut means, mut rounded) = (Memory::of(&vec![0.0_f32; len]), Memory::<bf16>::poisoned(len));
        let factor_memory = Memory::of(&[factor]);
        for step in 1..=STEPS {
            let grads = Memory::of(&numbers::<f32>(u64::from(step) + 10, len));
            let mut weights = Weights {
                masters: masters.view_mut(),
                grads: grads.view(),
                squares: squares.view_mut(),
                rounded: is_bf16.then(|| rounded.view_mut()),
                factor: (factor != 1.0).then(|| factor_memory.view()),
            };
            match rule {
                Rule::AdamW(optim::AdamW { betas, eps, weight_decay }) => {
                    let rule = AdamW { betas, eps, weight_decay };
                    adamw(host, &rule, step, LR, &mut weights, &mut means.view_mut()).unwrap();
                }
                Rule::RmsProp(optim::RmsProp { alpha, eps, weight_decay }) => {
                    rmsprop(host, &RmsProp { alpha, eps, weight_decay }, LR, &mut weights).unwrap();
                }
            }
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            let (found, wanted) = (masters.read(), &wanted[step as usize - 1]);
            assert_eq!(bits(&found), bits(wanted), "step {step} of {len}");
            if is_bf16 {
                let wanted: Vec<bf16> = wanted.iter().map(|value| bf16::from_f32(*value)).collect();
                assert_eq!(rounded.read(), wanted);
            }
            means.read();
            squares.read();
        }
    }
}

/// To the bit: each operation is rounded by itself, in the trainer's order.
#[test]
fn adamw_steps_are_the_trainers() {
    let rule = Rule::AdamW(optim::AdamW { weight_decay: 0.1, ..optim::AdamW::default() });
    compared(rule, false, 1.0);
    compared(rule, true, 0.37);
}

#[test]
fn rmsprop_steps_are_the_trainers() {
    let rule = Rule::RmsProp(optim::RmsProp { weight_decay: 0.01, ..optim::RmsProp::default() });
    compared(rule, false, 0.37);
    compared(rule, true, 1.0);
}
