//! A GPU's operations, whose kernels the CPU runs (`spin-cuda-host`), beside the
//! CPU's own: every architecture, with and without adapters, dropout and
//! recomputation. Memory begins as NaN and has guards. Where there is no C++ compiler
//! the tests say so and do nothing.

use candle_core::{DType, Device, Tensor};
use spin_cuda_host::{HostMachine, machine};

use super::super::{GrowingDecoder, Part, logits, row_logps};
use super::oracle::{assert_alike, batch, bound, computed, computed_together, difference, fill, grown, models};
use crate::batch::{Batch, Layout, RowPlan};
use crate::config::{ModelConfig, golden_configs};
use crate::cpu::Cpu;
use crate::cuda::Cuda;
use crate::error::Error;
use crate::lora::LoraConfig;
use crate::model::CausalLm;
use crate::ops::{Heads, Operations, TreeOperations, View};
use crate::params::{Param, written};

fn cuda() -> Option<Cuda<HostMachine>> {
    machine().map(Cuda::new)
}

/// A prompt with three answers, of which one has no rows of its own and one has them
/// behind the shared prompt, and an answer alone that is longer than a tile.
fn small(vocab: usize) -> Batch {
    let ids: Vec<u32> = (0..60_u32).map(|i| (i * i * 11 + 3 * i) % vocab as u32).collect();
    let groups = [(&ids[..5], vec![&ids[10..19], &ids[30..31], &ids[50..54]]), (&ids[40..42], vec![&ids[20..41]])];
    Batch::grouped(groups).unwrap().with_dropout_seed(3)
}

fn compare(cuda: Cuda<HostMachine>, what: &str, model: &CausalLm, plan: &RowPlan, smoothing: f64, every: usize) {
    let expected = computed(&Cpu, model, plan, smoothing, every);
    let found = computed(&cuda, model, plan, smoothing, every);
    assert_alike(what, bound(model.dtype()), &expected, &found);
}

#[test]
fn all_weights_are_trained_alike() {
    let Some(cuda) = cuda() else { return };
    for (index, (name, model)) in models().into_iter().enumerate() {
        let vocab = model.config().vocab_size;
        let plans = [Layout::SharedPrompts, Layout::Packed].map(|layout| RowPlan::new(&small(vocab), layout));
        for (dtype, smoothing, every, plan) in
            [(DType::F32, 0.0, 0, &plans[0]), (DType::F32, 0.1, 2, &plans[1]), (DType::BF16, 0.1, 1, &plans[0])]
        {
            // One of the last two for each.
            if (every > 0) && (every - 1 == index % 2) {
                continue;
            }
            let model = model.to_dtype(dtype).unwrap();
            compare(cuda, &format!("{name} {dtype:?}, every {every}"), &model, plan, smoothing, every);
        }
    }
}

/// As in an update of several forward passes: sums stay on the machine between them.
#[test]
fn passes_of_an_update_are_added_up_alike() {
    let Some(cuda) = cuda() else { return };
    for (name, model) in models().into_iter().take(2) {
        let vocab = model.config().vocab_size;
        let plans = [Layout::SharedPrompts, Layout::Packed].map(|layout| RowPlan::new(&small(vocab), layout));
        let plans = [&plans[0], &plans[1], &plans[0]];
        for dtype in [DType::F32, DType::BF16] {
            let model = model.to_dtype(dtype).unwrap();
            let [expected, found] =
                [computed_together(&Cpu, &model, &plans, 0.0, 1), computed_together(&cuda, &model, &plans, 0.0, 1)];
            assert_alike(&format!("{name} {dtype:?}"), bound(dtype), &expected, &found);
        }
    }
}

/// With more response rows than there are logits at once.
#[test]
fn long_answers_are_trained_alike() {
    let Some(cuda) = cuda() else { return };
    for (name, model) in models().into_iter().filter(|(name, _)| ["gemma2", "llama"].contains(&name.as_str())) {
        let plan = RowPlan::new(&batch(model.config().vocab_size), Layout::SharedPrompts);
        compare(cuda, &name, &model, &plan, 0.0, 1);
        let half = model.to_dtype(DType::F16).unwrap();
        let (expected, found) = (row_logps(&Cpu, half.decoder(), &plan), row_logps(&cuda, half.decoder(), &plan));
        let off = difference(&expected.unwrap(), &found.unwrap());
        assert!(off < bound(DType::F16), "{name} in f16: {off}");
    }
}

#[test]
fn adapters_are_trained_alike() {
    let Some(cuda) = cuda() else { return };
    for (index, (name, model)) in models().into_iter().enumerate() {
        let dropout = if index % 2 == 0 { 0.3 } else { 0.0 };
        let dtype = if index % 3 == 0 { DType::BF16 } else { DType::F32 };
        let config = LoraConfig {
            r: 3,
            lora_dropout: dropout,
            target_modules: vec!["all-linear".into()],
            ..LoraConfig::default()
        };
        let model = model.to_dtype(dtype).unwrap().with_new_adapter(&config, 9).unwrap();
        let ups = model.trainable().iter().filter(|(name, _)| name.contains("lora_B"));
        ups.for_each(|(name, var)| fill(var, name.len()));
        let plan = RowPlan::new(&small(model.config().vocab_size), Layout::SharedPrompts);
        compare(cuda, &format!("{name} {dtype:?}, dropout {dropout}"), &model, &plan, 0.0, index % 2);
    }
}

#[test]
fn logits_are_alike() {
    let Some(cuda) = cuda() else { return };
    for (name, model) in models() {
        let ids: Vec<u32> = (0..37_u32).map(|i| i * i * 7 % model.config().vocab_size as u32).collect();
        let plan = RowPlan::every_row(&ids);
        let (expected, found) = (logits(&Cpu, model.decoder(), &plan), logits(&cuda, model.decoder(), &plan));
        let off = difference(&expected.unwrap(), &found.unwrap());
        assert!(off < bound(DType::F32), "{name}: {off}");
    }
}

#[test]
fn sequences_grow_alike() {
    let Some(cuda) = cuda() else { return };
    for (index, (name, model)) in models().into_iter().enumerate() {
        let dtype = if index % 3 == 1 { DType::BF16 } else { DType::F32 };
        let model = model.to_dtype(dtype).unwrap();
        let off = difference(&grown(Cpu, &model), &grown(cuda, &model));
        assert!(off < bound(dtype), "{name} {dtype:?}: {off}");
    }
}

/// The logits after some steps of sequences with these prompts.
fn steps(cuda: Cuda<HostMachine>, model: &CausalLm, prompts: &[&[u32]]) -> Vec<Vec<f32>> {
    let decoder = GrowingDecoder::new(cuda, model.clone().into_decoder()).unwrap();
    let mut caches: Vec<_> = prompts.iter().map(|_| decoder.cache(40).unwrap()).collect();
    let (mut all, mut logits) = (vec![Vec::new(); prompts.len()], Vec::new());
    let mut new: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
    let mut positions = vec![0; prompts.len()];
    for step in 0..3 {
        let mut first = 0;
        let parts = caches.iter_mut().zip(new.iter().zip(&mut positions)).map(|(cache, (tokens, position))| {
            let part = Part { cache, rows: first..first + tokens.len(), position: *position };
            first += tokens.len();
            *position += tokens.len();
            part
        });
        let mut parts: Vec<Part<'_>> = parts.collect();
        decoder.step(&new.concat(), &mut parts, &mut logits).unwrap();
        let vocab = model.config().vocab_size;
        all.iter_mut().zip(logits.chunks(vocab)).for_each(|(all, logits)| all.extend_from_slice(logits));
        new = vec![vec![step + 1]; prompts.len()];
    }
    all
}

#[test]
fn a_sequence_grows_by_itself_to_the_last_bit() {
    let Some(cuda) = cuda() else { return };
    let ids: Vec<u32> = (0..34).map(|i| i * 5 % 28).collect();
    for (name, model) in models().into_iter().filter(|(name, _)| ["gemma2", "qwen3"].contains(&name.as_str())) {
        let alone = steps(cuda, &model, &[&ids[..9]]);
        let others = steps(cuda, &model, &[&ids[3..34], &ids[..9], &ids[20..21]]);
        assert_eq!(alone[0], others[1], "{name}");
    }
}

fn param(values: &[f32]) -> Param {
    let tensor = Tensor::new(values, &Device::Cpu).unwrap();
    Param::new("a".to_owned(), candle_core::Var::from_tensor(&tensor).unwrap())
}

#[test]
fn a_weight_is_copied_once_until_it_is_written() {
    let Some(cuda) = cuda() else { return };
    let param = param(&[1.0, 2.0, 3.0, 4.0]);
    let read = |param: &Param| {
        let (weight, mut out) = (cuda.wide(param).unwrap(), cuda.zeros(4).unwrap());
        cuda.add_bias(crate::ops::ViewMut::new(&mut out, 1, 4), &weight).unwrap();
        cuda.download(View::new(&out, 1, 4)).unwrap()
    };
    assert_eq!(read(&param), [1.0, 2.0, 3.0, 4.0]);
    let copy = cuda.wide(&param).unwrap();
    assert!(std::sync::Arc::ptr_eq(&copy, &cuda.wide(&param.clone()).unwrap()), "clones share it");
    assert!(!std::sync::Arc::ptr_eq(&copy, &cuda.weight(&param).unwrap()), "of another form");
    param.var.set(&Tensor::new(&[5.0_f32, 6.0, 7.0, 8.0], &Device::Cpu).unwrap()).unwrap();
    written(&param.var);
    assert_eq!(read(&param), [5.0, 6.0, 7.0, 8.0]);
    assert!(!std::sync::Arc::ptr_eq(&copy, &cuda.wide(&param).unwrap()));
}

#[test]
fn restored_weights_are_computed_with() {
    let Some(cuda) = cuda() else { return };
    let (_, model) = models().swap_remove(1);
    let plan = RowPlan::every_row(&[1, 2, 3]);
    let before = logits(&cuda, model.decoder(), &plan).unwrap();
    let zeros = model.trainable().iter().map(|(name, var)| (name.clone(), var.zeros_like().unwrap()));
    model.set_trainable(&zeros.collect()).unwrap();
    let after = logits(&cuda, model.decoder(), &plan).unwrap();
    assert!(before.iter().any(|logit| *logit != 0.0) && after.iter().all(|logit| *logit == 0.0));
}

#[test]
fn what_there_is_no_memory_or_no_kernel_for_is_an_error() {
    let Some(cuda) = cuda() else { return };
    let message = |error: Error| {
        assert!(!error.is_bad_input());
        error.to_string()
    };
    let found = message(cuda.room(1 << 40).err().unwrap());
    assert!(found.contains("no memory for another 4398046511104 bytes") && found.contains("fewer tokens"), "{found}");
    assert!(message(cuda.zeros(usize::MAX).err().unwrap()).contains("no memory"));
    let (_, mut json) = golden_configs().swap_remove(1);
    json["head_dim"] = 260.into();
    let model = CausalLm::init(&ModelConfig::from_json(&json.to_string(), "wide").unwrap(), 5, &Device::Cpu).unwrap();
    let found = message(logits(&cuda, model.decoder(), &RowPlan::every_row(&[1, 2])).err().unwrap());
    assert!(found.contains("wider than 256") && found.contains("Composed"), "{found}");
    let heads = Heads::new(model.config(), model.config().layers[0]);
    assert!(message(cuda.tree_cache(&[heads], 1 << 40).err().unwrap()).contains("no memory"));
}
