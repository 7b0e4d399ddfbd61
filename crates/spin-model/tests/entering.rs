//! What is refused where weights enter, and what is read all the same: values
//! that are no numbers, tensors that are not used, names with prefixes, files
//! made to do harm.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use common::{flat, golden_dir, small_config};
use serde_json::{Value, json};
use spin_model::{CausalLm, LoraConfig};

type Tensors = HashMap<String, Tensor>;

/// A directory with a small model whose tensors and configuration are changed.
fn changed(tied: bool, change: impl Fn(&mut Tensors, &mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    CausalLm::init(&small_config(tied), 3, &Device::Cpu).unwrap().save(dir.path()).unwrap();
    let (weights, config) = (dir.path().join("model.safetensors"), dir.path().join("config.json"));
    let mut tensors = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
    let mut json: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    change(&mut tensors, &mut json);
    candle_core::safetensors::save(&tensors, &weights).unwrap();
    std::fs::write(&config, json.to_string()).unwrap();
    dir
}

fn load(dir: &Path) -> Result<CausalLm, String> {
    let loaded = CausalLm::load(dir, &Device::Cpu, DType::F32);
    // What is asked before the weights are read says the same of names and shapes.
    if loaded.is_ok() {
        CausalLm::check_dir(dir).unwrap();
    }
    loaded.map_err(|error| {
        assert!(error.is_bad_input(), "{error}");
        error.to_string()
    })
}

fn refused(dir: &Path, parts: &[&str]) {
    let text = load(dir).unwrap_err();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn logits(model: &CausalLm) -> Vec<f32> {
    flat(&model.logits(&[3, 1, 4, 1, 5, 9, 2, 6]).unwrap())
}

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// The kind of case 20.
#[test]
fn a_head_beside_a_tied_embedding_is_the_embedding_or_refused() {
    let plain = load(changed(true, |_, _| {}).path()).unwrap();
    let equal = changed(true, |tensors, _| {
        tensors.insert(HEAD.into(), tensors[EMBEDDING].clone());
    });
    assert_eq!(logits(&load(equal.path()).unwrap()), logits(&plain));
    let other = |tensors: &mut Tensors| {
        let mut values = flat(&tensors[EMBEDDING]);
        // One bit of one number.
        values[1199] = f32::from_bits(values[1199].to_bits() ^ 1);
        tensors.insert(HEAD.into(), Tensor::from_vec(values, (50, 24), &Device::Cpu).unwrap());
    };
    let both = changed(true, |tensors, _| other(tensors));
    refused(both.path(), &[HEAD, "model.safetensors", "tie_word_embeddings", "set it to false"]);
    assert!(CausalLm::check_dir(both.path()).is_err());
    // The remedy.
    let untied = changed(true, |tensors, config| {
        other(tensors);
        config["tie_word_embeddings"] = false.into();
    });
    let model = load(untied.path()).unwrap();
    assert!(model.params().contains_key(HEAD));
    let shape = changed(true, |tensors, _| {
        tensors.insert(HEAD.into(), Tensor::zeros((51, 24), DType::F32, &Device::Cpu).unwrap());
    });
    refused(shape.path(), &[HEAD]);
    // Some programs write the head instead of the embedding.
    let head_only = changed(true, |tensors, _| {
        let embedding = tensors.remove(EMBEDDING).unwrap();
        tensors.insert(HEAD.into(), embedding);
    });
    assert_eq!(logits(&load(head_only.path()).unwrap()), logits(&plain));
}

#[test]
fn stored_rotary_frequencies_are_those_of_the_configuration_or_refused() {
    let name = "model.layers.1.self_attn.rotary_emb.inv_freq";
    let frequencies = small_config(true).rope.frequencies();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let with = |factor: f32| {
            changed(true, |tensors, _| {
                let values: Vec<f32> = frequencies.iter().map(|x| x * factor).collect();
                let tensor = Tensor::from_vec(values, frequencies.len(), &Device::Cpu).unwrap();
                tensors.insert(name.into(), tensor.to_dtype(dtype).unwrap());
            })
        };
        load(with(1.0).path()).unwrap();
        refused(with(1.05).path(), &[name, "rope_theta"]);
    }
}

#[test]
fn prefixes_of_wrappers_are_taken_off_where_the_rest_fits() {
    let plain = logits(&load(changed(false, |_, _| {}).path()).unwrap());
    let renamed = |rename: &dyn Fn(&str) -> String| {
        changed(false, |tensors, _| *tensors = tensors.drain().map(|(name, tensor)| (rename(&name), tensor)).collect())
    };
    let forms: [&dyn Fn(&str) -> String; 5] = [
        &|name| format!("_orig_mod.{name}"),
        &|name| format!("module.{name}"),
        &|name| format!("module._orig_mod.{name}"),
        &|name| format!("model.{name}"),
        &|name| name.strip_prefix("model.").unwrap_or(name).to_owned(),
    ];
    for form in forms {
        let dir = renamed(form);
        let model = load(dir.path()).unwrap();
        assert_eq!(logits(&model), plain);
        // Written with the names that everybody reads.
        let again = tempfile::tempdir().unwrap();
        model.save(again.path()).unwrap();
        let written = candle_core::safetensors::load(again.path().join("model.safetensors"), &Device::Cpu).unwrap();
        assert!(written.contains_key(EMBEDDING));
    }
    let dir = renamed(&|name| format!("_orig_mod.{}", name.replace("up_proj", "upper_proj")));
    refused(dir.path(), &["_orig_mod.", "torch.compile", "save the unwrapped model"]);
}

#[test]
fn what_is_not_a_model_of_plain_floats_is_named() {
    let insert = |name: &'static str, tensor: Tensor| {
        changed(true, move |tensors, _| {
            tensors.insert(name.to_owned(), tensor.clone());
        })
    };
    let ints = Tensor::zeros((4, 4), DType::U32, &Device::Cpu).unwrap();
    refused(insert("model.layers.0.mlp.up_proj.qweight", ints.clone()).path(), &["up_proj.qweight", "quantised"]);
    let lora = Tensor::zeros((4, 4), DType::F32, &Device::Cpu).unwrap();
    refused(insert("model.layers.0.mlp.up_proj.lora_A.weight", lora).path(), &["lora_A", "spin-fit merge"]);
    let name = "model.layers.2.mlp.up_proj.weight";
    refused(insert(name, Tensor::zeros((44, 24), DType::U32, &Device::Cpu).unwrap()).path(), &[name, "type U32"]);
    let dir = changed(true, |tensors, _| {
        for tensor in tensors.values_mut() {
            *tensor = tensor.to_dtype(DType::F64).unwrap();
        }
    });
    assert_eq!(logits(&load(dir.path()).unwrap()), logits(&load(changed(true, |_, _| {}).path()).unwrap()));
    let pickled = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("config.json"), pickled.path().join("config.json")).unwrap();
    std::fs::write(pickled.path().join("pytorch_model.bin"), b"x").unwrap();
    refused(pickled.path(), &["pytorch_model.bin", "save_pretrained"]);
}

#[test]
fn values_that_are_no_numbers_are_refused_by_tensor_and_place() {
    let name = "model.layers.1.self_attn.o_proj.weight";
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let dir = changed(true, |tensors, _| {
                let mut values = flat(&tensors[name]);
                values[500] = value;
                let tensor = Tensor::from_vec(values, (24, 24), &Device::Cpu).unwrap();
                tensors.insert(name.into(), tensor.to_dtype(dtype).unwrap());
            });
            let parts = [name, "NaN or an infinity", "number 500", "model.safetensors"];
            refused(dir.path(), &parts);
            for dtype in [DType::BF16, DType::F16] {
                let error = CausalLm::load(dir.path(), &Device::Cpu, dtype).unwrap_err().to_string();
                assert!(parts.iter().all(|part| error.contains(part)), "{error}");
            }
        }
    }
    let large = changed(true, |tensors, _| {
        tensors.insert(name.into(), Tensor::full(7e4_f32, (24, 24), &Device::Cpu).unwrap());
    });
    load(large.path()).unwrap();
    let error = CausalLm::load(large.path(), &Device::Cpu, DType::F16).unwrap_err().to_string();
    assert!(error.contains("range of f16"), "{error}");
    // And by the weights of a checkpoint.
    let model = load(changed(true, |_, _| {}).path()).unwrap();
    let mut tensors: BTreeMap<String, Tensor> =
        model.params().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect();
    tensors.insert(name.into(), Tensor::full(f32::NAN, (24, 24), &Device::Cpu).unwrap());
    let error = model.set_trainable(&tensors).unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("NaN"), "{error}");
}

/// A file of a header that is given, and so many bytes after it.
fn file_of(header: &str, bytes: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(vec![0; bytes]);
    file
}

#[test]
fn headers_made_to_do_harm_are_errors() {
    let dir = changed(true, |_, _| {});
    let one =
        |shape: &str, offsets: &str| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#);
    let with =
        |name: &str, offsets: &str| format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}"#);
    let files: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "shorter"),
        (vec![1, 2, 3], "shorter"),
        (u64::MAX.to_le_bytes().to_vec(), "header is longer"),
        ([1_000_000_u64.to_le_bytes().to_vec(), b"{}".to_vec()].concat(), "header is longer"),
        (file_of("{", 0), "no JSON object"),
        (file_of(&format!("{}1{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000)), 0), "recursion limit"),
        (file_of(r#"{"a":5}"#, 0), "not described"),
        (file_of(&one("[1]", "[4,0]"), 4), "not described"),
        (file_of(&one("[1]", "[0,4,8]"), 4), "not described"),
        (file_of(&one("[-1]", "[0,4]"), 4), "not described"),
        (file_of(&one("[4294967296,4294967296]", "[0,4]"), 4), "other bytes than its shape"),
        (file_of(&one("[2]", "[0,4]"), 4), "other bytes than its shape"),
        (file_of(&one("[1]", "[4,8]"), 8), "does not start where"),
        (file_of(&one("[1]", "[0,4]"), 8), "8 bytes of tensors"),
        (file_of(&one("[1]", "[0,4]"), 3), "3 bytes of tensors"),
        (file_of(&format!("{{{},{}}}", with("a", "[0,4]"), with("b", "[0,4]")), 4), "does not start where"),
        (file_of(&format!("{{{},{}}}", with("a", "[0,4]"), with("a", "[0,4]")), 4), "described twice"),
        (file_of("\u{e4}{", 0), "no JSON object"),
    ];
    for (bytes, part) in files {
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        refused(dir.path(), &["model.safetensors: not a safetensors file", part, "fetch it again"]);
    }
    // A pipe that nobody writes to would be waited for.
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("model.safetensors")).status().unwrap();
    assert!(made.success());
    refused(dir.path(), &["not a regular file"]);
}

#[test]
fn an_index_names_files_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = CausalLm::init(&small_config(false), 3, &Device::Cpu).unwrap();
    model.save_sharded(dir.path(), 20_000).unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    for name in [json!("../x.safetensors"), json!("/etc/passwd"), json!("a/b.safetensors"), json!(".."), json!(5)] {
        let mut bad = good.clone();
        bad["weight_map"]["lm_head.weight"] = name;
        std::fs::write(&index, bad.to_string()).unwrap();
        refused(dir.path(), &["lm_head.weight", "index.json", "beside it"]);
    }
    let mut bad = good.clone();
    bad["weight_map"]["lm_head.weight"] = "model-00009-of-00009.safetensors".into();
    std::fs::write(&index, bad.to_string()).unwrap();
    refused(dir.path(), &["model-00009-of-00009.safetensors"]);
    std::fs::write(&index, good.to_string()).unwrap();
    let again = load(dir.path()).unwrap();
    assert_eq!(logits(&again), logits(&model));
}

/// A base of the golden files with an adapter whose files are changed.
fn adapter(change: impl Fn(&mut Tensors, &mut Value)) -> Result<CausalLm, String> {
    let from = golden_dir().join("lora/llama-attention");
    let dir = tempfile::tempdir().unwrap();
    let mut tensors = candle_core::safetensors::load(from.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    change(&mut tensors, &mut config);
    candle_core::safetensors::save(&tensors, dir.path().join("adapter_model.safetensors")).unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    let base = CausalLm::load(&golden_dir().join("fit/llama"), &Device::Cpu, DType::F32).unwrap();
    base.load_adapter(dir.path(), None).map_err(|error| error.to_string())
}

#[test]
fn an_adapter_that_says_more_than_is_computed_is_refused_by_name() {
    let error = |change: &dyn Fn(&mut Tensors, &mut Value)| adapter(change).unwrap_err();
    assert!(adapter(|_, _| {}).is_ok());
    let text = error(&|_, config| config["use_hyperlora"] = true.into());
    assert!(text.contains("adapter_config.json") && text.contains("`use_hyperlora` (true) is not known"), "{text}");
    let text = error(&|_, config| config["r"] = 8.into());
    assert!(text.contains("rank 8") && text.contains("has rank 4") && text.contains("adapter_config.json"), "{text}");
    let text = error(&|_, config| config["rank_pattern"] = json!({"v_proj": 2}));
    assert!(text.contains("rank 2") && text.contains("v_proj"), "{text}");
    for (target, what) in [("lm_head", "the output projection"), ("embed_tokens", "the embedding")] {
        let text = error(&|_, config| config["target_modules"] = json!(["q_proj", "v_proj", target]));
        assert!(text.contains(target) && text.contains(what) && text.contains("merge_and_unload"), "{text}");
    }
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";
    let text = error(&|tensors, _| {
        let dims = tensors[name].dims().to_vec();
        tensors.insert(name.into(), Tensor::full(f32::NAN, dims, &Device::Cpu).unwrap());
    });
    assert!(text.contains(name) && text.contains("NaN") && text.contains("adapter_model.safetensors"), "{text}");
    let text = error(&|_, config| config["layers_to_transform"] = json!([0]));
    assert!(text.contains("layers.1") && text.contains("belongs to no projection"), "{text}");
    // PEFT writes the embedding beside an adapter where the vocabulary may have grown.
    let base = CausalLm::load(&golden_dir().join("fit/llama"), &Device::Cpu, DType::F32).unwrap();
    let embedding = base.params()[EMBEDDING].as_detached_tensor();
    let stored = "base_model.model.model.embed_tokens.weight";
    let with = |tensor: Tensor| adapter(move |tensors, _| drop(tensors.insert(stored.into(), tensor.clone())));
    assert!(with(embedding.clone()).is_ok());
    let text = with((embedding + 1e-3).unwrap()).unwrap_err();
    assert!(text.contains(stored) && text.contains("merge_and_unload"), "{text}");
}

/// The metadata has two entries, which a map of random order wrote either way.
#[test]
fn equal_adapters_are_equal_bytes() {
    let model = CausalLm::init(&small_config(true), 1, &Device::Cpu).unwrap();
    let save = || {
        let dir = tempfile::tempdir().unwrap();
        let adapted = model.with_new_adapter(&LoraConfig::default(), 5).unwrap();
        adapted.save_adapter(dir.path(), "the/base", Some("digest")).unwrap();
        std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap()
    };
    let first = save();
    for _ in 0..12 {
        assert_eq!(save(), first);
    }
    let header = String::from_utf8_lossy(&first[8..90]).into_owned();
    assert!(header.starts_with(r#"{"__metadata__":{"format":"pt","spin.base":"digest"}"#), "{header}");
}

/// Files are those that the safetensors library writes, so that models of
/// equal weights keep their digests.
#[test]
fn weights_are_written_as_the_library_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let model = CausalLm::init(&small_config(false), 3, &Device::Cpu).unwrap();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let model = model.to_dtype(dtype).unwrap();
        model.save(dir.path()).unwrap();
        let ours = std::fs::read(dir.path().join("model.safetensors")).unwrap();
        let views = safetensors::SafeTensors::deserialize(&ours).unwrap();
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let theirs = safetensors::serialize(views.tensors(), Some(metadata)).unwrap();
        assert!(ours == theirs, "{dtype:?}");
    }
}
