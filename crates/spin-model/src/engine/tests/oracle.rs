//! The same orchestration with the CPU's operations and with plain ones, whose
//! buffers it cannot look into: every architecture, with and without adapters,
//! dropout and recomputation, in every type of weights.

use candle_core::{DType, Device, Tensor};

use super::super::{GrowingDecoder, Part, accumulate_gradients, logits, row_logps};
use crate::batch::{Batch, Layout, RowPlan};
use crate::config::{ModelConfig, golden_configs};
use crate::cpu::Cpu;
use crate::gradients::{GradientSums, Gradients};
use crate::lora::LoraConfig;
use crate::model::CausalLm;
use crate::ops::GrowingOperations;
use crate::ops::plain::{Plain, PlainSums};

/// Every architecture of the golden files, with biases that count, and one more
/// with all the optional parts that they have one by one.
pub(super) fn models() -> Vec<(String, CausalLm)> {
    let model = |(name, mut json): (String, serde_json::Value)| {
        json["max_position_embeddings"] = 200.into();
        json["initializer_range"] = 0.3.into();
        let config = ModelConfig::from_json(&json.to_string(), &name).unwrap();
        let model = CausalLm::init(&config, 5, &Device::Cpu).unwrap();
        for (name, var) in model.params().iter().filter(|(name, _)| name.ends_with("bias")) {
            fill(var, name.len());
        }
        (name, model)
    };
    golden_configs().into_iter().map(model).collect()
}

pub(super) fn fill(var: &candle_core::Var, first: usize) {
    let values: Vec<f32> = (0..var.elem_count()).map(|i| (((i + first) * 7 % 11) as f32 - 5.0) * 0.02).collect();
    var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap().to_dtype(var.dtype()).unwrap()).unwrap();
}

/// Sequences that share prompts, one of which has more response rows than plain
/// operations take at once.
pub(super) fn batch(vocab: usize) -> Batch {
    let ids: Vec<u32> = (0..150_u32).map(|i| (i * i * 17 + 5 * i) % vocab as u32).collect();
    let groups = [
        (&ids[..7], vec![&ids[10..29], &ids[30..36]]),
        (&ids[40..43], vec![&ids[43..52]]),
        (&ids[60..61], vec![&ids[61..135], &ids[136..138]]),
    ];
    Batch::grouped(groups).unwrap().with_dropout_seed(3)
}

/// What is computed of a batch: log-probabilities and gradients by name.
pub(super) struct Computed {
    logps: Vec<f64>,
    row_logps: Vec<f32>,
    grads: Vec<(String, Vec<f32>)>,
}

fn slopes(group: usize, logps: &[f64]) -> Vec<f64> {
    logps
        .iter()
        .enumerate()
        .map(|(index, logp)| (0.5 - index as f64) * (1.0 + 0.01 * logp) + 0.1 * group as f64)
        .collect()
}

/// By operations that add to [`Gradients`].
pub(super) fn computed<O: GradientSums>(
    ops: &O,
    model: &CausalLm,
    plan: &RowPlan,
    smoothing: f64,
    every: usize,
) -> Computed {
    computed_together(ops, model, &[plan], smoothing, every)
}

/// The same of several passes, whose gradients are added up.
pub(super) fn computed_together<O: GradientSums>(
    ops: &O,
    model: &CausalLm,
    plans: &[&RowPlan],
    smoothing: f64,
    every: usize,
) -> Computed {
    let mut grads = Gradients::zeros(model.trainable()).unwrap();
    let decoder = model.decoder();
    let mut sums = ops.sums(&mut grads).unwrap();
    let (mut logps, mut of_rows) = (Vec::new(), Vec::new());
    for plan in plans {
        logps.extend(accumulate_gradients(ops, decoder, plan, smoothing, every, &mut slopes, &mut sums).unwrap());
        of_rows.extend(row_logps(ops, decoder, plan).unwrap());
    }
    ops.finish(sums).unwrap();
    grads.check_complete().unwrap();
    let flat = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    let grads = grads.to_tensors().unwrap().into_iter().map(|(name, tensor)| (name, flat(tensor)));
    Computed { logps, row_logps: of_rows, grads: grads.collect() }
}

fn plainly(model: &CausalLm, plan: &RowPlan, smoothing: f64, every: usize) -> Computed {
    let mut sums = PlainSums::zeros(model.trainable().iter().map(|(name, var)| (name, var.elem_count())));
    let decoder = model.decoder();
    let logps = accumulate_gradients(&Plain, decoder, plan, smoothing, every, &mut slopes, &mut sums).unwrap();
    let grads = model.trainable().keys().map(|name| (name.clone(), sums.read(name).to_vec()));
    Computed { logps, row_logps: row_logps(&Plain, decoder, plan).unwrap(), grads: grads.collect() }
}

/// The largest difference by the largest number.
pub(super) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    // NaN is no small number.
    a.iter()
        .zip(b)
        .fold(0.0, |most, (a, b)| if (a - b).abs() / largest <= most { most } else { (a - b).abs() / largest })
}

fn compare(what: &str, bound: f32, model: &CausalLm, smoothing: f64, every: usize, layout: Layout) {
    let plan = RowPlan::new(&batch(model.config().vocab_size), layout);
    let (cpu, plain) = (computed(&Cpu, model, &plan, smoothing, every), plainly(model, &plan, smoothing, every));
    assert_alike(what, bound, &cpu, &plain);
}

pub(super) fn assert_alike(what: &str, bound: f32, one: &Computed, other: &Computed) {
    let off = difference(&one.row_logps, &other.row_logps);
    assert!(off < bound, "{what}: log-probabilities differ by {off}");
    let wide = |sums: &[f64]| sums.iter().map(|sum| *sum as f32).collect::<Vec<_>>();
    let off = difference(&wide(&one.logps), &wide(&other.logps));
    assert!(off < bound, "{what}: sums differ by {off}");
    assert_eq!(one.grads.len(), other.grads.len());
    for ((name, one), (_, other)) in one.grads.iter().zip(&other.grads) {
        assert!(one.iter().any(|grad| *grad != 0.0), "{what}: {name} is all zero");
        let off = difference(one, other);
        assert!(off < bound, "{what}: {name} differs by {off}");
    }
}

/// Products round both factors to bf16, so that numbers which differ in their
/// last bits may be a bf16 apart.
pub(super) fn bound(dtype: DType) -> f32 {
    if dtype == DType::BF16 { 3e-2 } else { 2e-5 }
}

#[test]
fn all_weights_are_trained_alike() {
    for (name, model) in models() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let model = model.to_dtype(dtype).unwrap();
            for (smoothing, every, layout) in
                [(0.0, 0, Layout::SharedPrompts), (0.1, 1, Layout::Packed), (0.0, 2, Layout::SharedPrompts)]
            {
                let what = format!("{name} {dtype:?}, smoothing {smoothing}, every {every}, {layout:?}");
                compare(&what, bound(dtype), &model, smoothing, every, layout);
            }
        }
    }
}

#[test]
fn adapters_are_trained_alike() {
    for (name, model) in models() {
        for (dtype, dropout, every) in [(DType::F32, 0.0, 0), (DType::F32, 0.3, 1), (DType::BF16, 0.3, 0)] {
            let config = LoraConfig {
                r: 3,
                lora_dropout: dropout,
                target_modules: vec!["all-linear".into()],
                ..LoraConfig::default()
            };
            let model = model.to_dtype(dtype).unwrap().with_new_adapter(&config, 9).unwrap();
            model
                .trainable()
                .iter()
                .filter(|(name, _)| name.contains("lora_B"))
                .for_each(|(name, var)| fill(var, name.len()));
            let what = format!("{name} {dtype:?} with an adapter, dropout {dropout}, every {every}");
            compare(&what, bound(dtype), &model, 0.0, every, Layout::SharedPrompts);
        }
    }
}

#[test]
fn logits_are_alike() {
    for (name, model) in models() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let model = model.to_dtype(dtype).unwrap();
            let ids: Vec<u32> = (0..90_u32).map(|i| i * i * 7 % model.config().vocab_size as u32).collect();
            let plan = RowPlan::every_row(&ids);
            let (cpu, plain) = (logits(&Cpu, model.decoder(), &plan), logits(&Plain, model.decoder(), &plan));
            let off = difference(&cpu.unwrap(), &plain.unwrap());
            assert!(off < bound(dtype), "{name} {dtype:?}: {off}");
        }
    }
}

/// The logits of several steps of sequences: prompts of different lengths, of which
/// one is forked and one leaves, then tokens one by one.
pub(super) fn grown<O: GrowingOperations>(ops: O, model: &CausalLm) -> Vec<f32> {
    let vocab = model.config().vocab_size as u32;
    let decoder = GrowingDecoder::new(ops, model.clone().into_decoder()).unwrap();
    let ids = |first: u32, count: u32| (first..first + count).map(|i| (i * i * 7 + i) % vocab).collect::<Vec<u32>>();
    let mut caches = Vec::from([40, 30, 120].map(|room| (decoder.cache(room).unwrap(), 0)));
    let mut new: Vec<Vec<u32>> = vec![ids(1, 1), ids(9, 12), ids(40, 70)];
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for step in 0..6 {
        let mut first = 0;
        let parts = caches.iter_mut().zip(&new).map(|((cache, len), tokens)| {
            let (rows, position) = (first..first + tokens.len(), *len);
            first = rows.end;
            *len += tokens.len();
            Part { cache, rows, position }
        });
        let mut parts: Vec<Part<'_>> = parts.collect();
        decoder.step(&new.concat(), &mut parts, &mut logits).unwrap();
        assert_eq!(logits.len(), parts.len() * vocab as usize);
        all.extend_from_slice(&logits);
        new = (0..caches.len() as u32).map(|index| ids(step * 5 + index, 1)).collect();
        if step == 2 {
            let (cache, len) = &caches[1];
            let fork = (decoder.fork(cache, *len, 33).unwrap(), *len);
            caches.push(fork);
            new.push(ids(100, 9));
        }
        if step == 3 {
            caches.remove(0);
            new.remove(0);
        }
    }
    all
}

#[test]
fn sequences_grow_alike() {
    for (name, model) in models() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let model = model.to_dtype(dtype).unwrap();
            let off = difference(&grown(Cpu, &model), &grown(Plain, &model));
            assert!(off < bound(dtype), "{name} {dtype:?}: {off}");
        }
    }
}
