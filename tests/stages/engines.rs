//! mistral.rs against golden text and against our own forward pass.

use spin_model::{Batch, CausalLm};
use spin_sample::choose::Decoding;
use std::sync::atomic::AtomicBool;

use spin_sample::engine::{EngineConfig, Generated, Pool, Prompt};
use spin_sample::noise::Key;

use crate::project::shared;

const GREEDY: Decoding = Decoding { temperature: 0.0, top_k: 0, top_p: 1.0 };

fn generate(dir: &std::path::Path, decoding: Decoding, engines: usize, prompts: &[Prompt], n: usize) -> Vec<Generated> {
    let config = EngineConfig { decoding, eos: vec![2, 1], dtype: "f32".into() };
    let pool = Pool::load(dir, &config, engines).unwrap();
    pool.generate(prompts, &vec![n; prompts.len()], &AtomicBool::new(false), &|_| {}).unwrap().unwrap()
}

#[test]
fn stories260k_greedy_text_is_the_golden_one_also_after_we_saved_it() {
    let (Some(dir), Some(golden)) = (shared("models/stories260K"), shared("golden/stories260K_golden.json")) else {
        return;
    };
    let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let ids: Vec<u32> = serde_json::from_value(golden["greedy_ids"].clone()).unwrap();
    // BOS and "Once upon a time".
    let (prompt, expected) = ids.split_at(5);
    let prompt = Prompt { row_id: "golden".into(), ids: prompt.to_vec(), key: Key::new(0, "", "", 0) };

    // Written by us: weights and config from the trainer, tokenizer copied.
    let model = CausalLm::load(&dir, &candle_core::Device::Cpu, candle_core::DType::F32).unwrap();
    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path()).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(dir.join(file), saved.path().join(file)).unwrap();
    }
    for dir in [dir.as_path(), saved.path()] {
        let answer = generate(dir, GREEDY, 1, std::slice::from_ref(&prompt), expected.len()).remove(0);
        assert_eq!(answer.ids, expected);
        // And our log-probability of what mistral.rs chose is mistral.rs's own.
        let batch = Batch::new([(prompt.ids.as_slice(), answer.ids.as_slice())]).unwrap();
        let ours: f32 = model.response_token_logps(&batch).unwrap()[0].iter().sum();
        assert!((f64::from(ours) - answer.logps).abs() < 1e-3, "ours {ours}, theirs {}", answer.logps);
    }
}

#[test]
fn a_sample_does_not_depend_on_its_neighbours() {
    let Some(dir) = shared("models/stories260K") else { return };
    let model = CausalLm::load(&dir, &candle_core::Device::Cpu, candle_core::DType::F32).unwrap();
    let sampled = Decoding { temperature: 1.0, ..GREEDY };
    let prompts: Vec<Prompt> = (0..24)
        .map(|i| Prompt {
            row_id: i.to_string(),
            ids: [1, 403, 407, 261, 378][..2 + i % 4].to_vec(),
            key: Key::new(5, "test", &i.to_string(), 0),
        })
        .collect();
    let together = generate(&dir, sampled, 3, &prompts, 40);
    let mut reversed = prompts.clone();
    reversed.reverse();
    let mut other_way = generate(&dir, sampled, 1, &reversed, 40);
    other_way.reverse();
    // To the last bit, log-probabilities included.
    assert_eq!(together, other_way);
    for (prompt, answer) in prompts.iter().zip(&together) {
        let batch = Batch::new([(prompt.ids.as_slice(), answer.ids.as_slice())]).unwrap();
        let ours: f32 = model.response_token_logps(&batch).unwrap()[0].iter().sum();
        assert!((f64::from(ours) - answer.logps).abs() < 1e-3, "ours {ours}, theirs {}", answer.logps);
    }
    let distinct: std::collections::BTreeSet<_> = together.iter().map(|g| g.ids.clone()).collect();
    assert!(distinct.len() > 20, "rows share their noise");
}
