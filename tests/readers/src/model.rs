//! What comes with a model.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use spin_model::{CausalLm, ModelConfig};
use spin_text::{Codec, Message};

use crate::{Target, read_as, shipped, templates};

pub fn safetensors(dir: &Path) -> anyhow::Result<Target> {
    let model = shipped("data/raw/demo/model");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(model.join("config.json"))?)?;
    for (key, value) in [("hidden_size", 8), ("intermediate_size", 8), ("num_hidden_layers", 1), ("vocab_size", 8)] {
        config[key] = value.into();
    }
    fs::write(dir.join("config.json"), config.to_string())?;
    CausalLm::init(&ModelConfig::load(dir)?, 1, &Device::Cpu)?.save(dir)?;
    let (path, dir) = (dir.join("model.safetensors"), dir.to_path_buf());
    let seeds = vec![fs::read(&path)?];
    Ok(Target::new(seeds, move |bytes| {
        fs::write(&path, bytes)?;
        read_as(CausalLm::load(&dir, &Device::Cpu, DType::F32))
    }))
}

/// A chat template, or a `tokenizer_config.json` with one.
pub fn template(dir: &Path) -> anyhow::Result<Target> {
    let model = shipped("data/raw/demo/model");
    for file in ["config.json", "generation_config.json"] {
        fs::copy(model.join(file), dir.join(file))?;
    }
    // Bytes and control tokens alone, as reading the tokenizer is most of the work.
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&fs::read(model.join("tokenizer.json"))?)?;
    tokenizer["model"]["merges"] = serde_json::Value::Array(Vec::new());
    if let Some(vocabulary) = tokenizer["model"]["vocab"].as_object_mut() {
        vocabulary.retain(|token, _| token.chars().count() == 1 || token.starts_with("<|"));
    }
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string())?;
    let good = fs::read(model.join("tokenizer_config.json"))?;
    let mut seeds = vec![good.clone()];
    for entry in fs::read_dir(shipped("tests/golden/text/templates"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "jinja") {
            seeds.push(fs::read(path)?);
        }
    }
    seeds.extend(templates()?.into_iter().map(String::into_bytes));
    let (settings, source, dir) =
        (dir.join("tokenizer_config.json"), dir.join("chat_template.jinja"), dir.to_path_buf());
    Ok(Target::new(seeds, move |bytes| {
        let is_settings = matches!(bytes, [b'{', next, ..] if !b"{%#".contains(next));
        if is_settings {
            fs::write(&settings, bytes)?;
            let _ = fs::remove_file(&source);
        } else {
            fs::write(&settings, &good)?;
            fs::write(&source, bytes)?;
        }
        let codec = Codec::from_dir(&dir)?;
        read_as(codec.exchange_ids(&[Message::user("one and one")], "two"))
    }))
}
