//! Model directories and adapters from elsewhere: what one program refuses,
//! every program does, by name and with exit code 3.

use std::process::{Command, Output};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use spin_model::{CausalLm, LoraConfig, ModelConfig, SUPPORTED_ARCHITECTURES};
use spin_run::ModelShape;

use crate::project::{both, programs};

/// A base and an adapter of it in a temporary directory.
struct Models {
    dir: tempfile::TempDir,
}

impl Models {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 50, "hidden_size": 24,
            "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
            "tie_word_embeddings": true, "initializer_range": 0.2
        });
        let config = ModelConfig::from_json(&config.to_string(), "test").unwrap();
        let model = CausalLm::init(&config, 3, &Device::Cpu).unwrap();
        let adapted = model.with_new_adapter(&LoraConfig::default(), 1).unwrap();
        for name in ["base", "adapter"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        model.save(&dir.path().join("base")).unwrap();
        adapted.save_adapter(&dir.path().join("adapter"), "base", None).unwrap();
        Self { dir }
    }

    fn json(&self, file: &str, change: impl Fn(&mut Value)) {
        let path = self.dir.path().join(file);
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
    }

    fn tensor(&self, file: &str, name: &str, change: impl Fn(Option<&Tensor>) -> Tensor) {
        let path = self.dir.path().join(file);
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        let tensor = change(tensors.get(name));
        tensors.insert(name.to_owned(), tensor);
        candle_core::safetensors::save(&tensors, path).unwrap();
    }

    fn merge(&self) -> Output {
        let mut command = Command::new(programs().join("spin-fit"));
        command.args(["merge", "base", "adapter", "merged"]).current_dir(self.dir.path()).output().unwrap()
    }

    fn refuses(&self, parts: &[&str]) {
        let output = self.merge();
        let text = both(&output);
        assert_eq!(output.status.code(), Some(3), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
        assert!(!self.dir.path().join("merged").exists());
    }
}

#[test]
fn what_an_adapter_or_its_base_says_too_much_is_refused() {
    let models = Models::new();
    assert!(models.merge().status.success());
    std::fs::remove_dir_all(models.dir.path().join("merged")).unwrap();

    let config = "adapter/adapter_config.json";
    models.json(config, |value| value["use_hyperlora"] = true.into());
    models.refuses(&["adapter_config.json", "`use_hyperlora` (true) is not known"]);

    let models = Models::new();
    models.json(config, |value| value["r"] = 8.into());
    models.refuses(&["adapter_config.json", "rank 8", "has rank 16"]);

    let models = Models::new();
    models.json(config, |value| value["target_modules"] = json!(["q_proj", "lm_head"]));
    models.refuses(&["lm_head", "the output projection"]);

    let models = Models::new();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    models.tensor("adapter/adapter_model.safetensors", name, |old| (old.unwrap() * f64::NAN).unwrap());
    models.refuses(&["adapter_model.safetensors", name, "NaN"]);

    let models = Models::new();
    models.tensor("base/model.safetensors", "lm_head.weight", |_| {
        Tensor::ones((50, 24), DType::F32, &Device::Cpu).unwrap()
    });
    models.refuses(&["model.safetensors", "lm_head.weight", "tie_word_embeddings"]);

    let models = Models::new();
    models.json("base/config.json", |value| value["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0}));
    models.refuses(&["config.json", "`rope_scaling` of type `yarn` is not supported"]);
}

/// The programs that never load a model have one rule with those that do.
#[test]
fn the_longest_sequence_is_the_same_for_every_program() {
    let dir = tempfile::tempdir().unwrap();
    for architecture in SUPPORTED_ARCHITECTURES {
        for length in [None, Some(77)] {
            let config = json!({
                "architectures": [architecture], "vocab_size": 64, "hidden_size": 16, "intermediate_size": 40,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
                "max_position_embeddings": length,
            });
            std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
            let (shape, config) = (ModelShape::read(dir.path()).unwrap(), ModelConfig::load(dir.path()).unwrap());
            assert_eq!(shape.context, config.max_position_embeddings, "{architecture}");
            assert_eq!(shape.vocab_size, config.vocab_size);
        }
    }
}
