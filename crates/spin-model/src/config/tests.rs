use super::*;

/// The configurations of the golden files with their names, one at least of
/// every architecture.
pub(crate) fn golden_configs() -> Vec<(String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/fit");
    let mut names: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 11, "{names:?}");
    let read = |name: String| {
        let json = std::fs::read(dir.join(&name).join("config.json")).unwrap();
        (name, serde_json::from_slice(&json).unwrap())
    };
    names.into_iter().map(read).collect()
}

fn minimal() -> Map<String, Value> {
    let value = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 64, "hidden_size": 16, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4,
        "bos_token_id": 1,
    });
    value.as_object().unwrap().clone()
}

fn parse(raw: &Map<String, Value>) -> Result<ModelConfig> {
    ModelConfig::from_json(&Value::Object(raw.clone()).to_string(), "test/config.json")
}

fn refusal(key: &str, value: Value) -> String {
    let mut raw = minimal();
    raw.insert(key.to_owned(), value);
    parse(&raw).unwrap_err().to_string()
}

#[test]
fn rope_theta_is_read_from_both_generations_and_written_for_both() {
    let mut raw = minimal();
    raw.insert("rope_parameters".to_owned(), serde_json::json!({"rope_theta": 5000.0, "rope_type": "default"}));
    let config = parse(&raw).unwrap();
    assert_eq!(config.rope.theta, 5000.0);
    let written = config.to_json("float32");
    let again = ModelConfig::from_json(&written, "again").unwrap();
    assert_eq!(again.raw("rope_theta").unwrap().as_f64(), Some(5000.0));
    assert_eq!(again.raw("bos_token_id").unwrap().as_u64(), Some(1));
    assert_eq!(again.raw("torch_dtype"), again.raw("dtype"));
    assert_eq!(again.to_json("float32"), written);

    let mut raw = minimal();
    raw.insert("rope_theta".to_owned(), 7.0.into());
    assert_eq!(parse(&raw).unwrap().rope.theta, 7.0);
    assert_eq!(parse(&minimal()).unwrap().rope.theta, 10_000.0);
}

#[test]
fn what_would_be_computed_wrongly_is_refused() {
    let text = refusal("architectures", serde_json::json!(["GPT2LMHeadModel"]));
    assert!(text.contains("GPT2LMHeadModel") && text.contains("LlamaForCausalLM"));
    assert!(text.starts_with("test/config.json"));
    for name in SUPPORTED_ARCHITECTURES {
        assert!(text.contains(name), "{text}");
    }
    assert!(refusal("hidden_act", "relu".into()).contains("relu"));
    assert!(refusal("attention_dropout", 0.1.into()).contains("attention_dropout"));
    let scaling = serde_json::json!({"rope_type": "yarn", "factor": 8.0});
    assert!(refusal("rope_scaling", scaling).contains("supported: default, linear, llama3"));
    let scaling = serde_json::json!({"rope_type": "llama3", "factor": 8.0});
    assert!(refusal("rope_scaling", scaling).contains("rope_scaling.low_freq_factor"));
    assert!(refusal("num_key_value_heads", 3.into()).contains("multiple"));
    assert!(refusal("hidden_size", 0.into()).contains("positive"));
}

/// transformers' configuration classes have defaults for absent keys, and
/// null means another thing.
#[test]
fn absent_keys_have_the_defaults_of_their_class() {
    let of = |architecture: &str, more: &[(&str, Value)]| {
        let mut raw = minimal();
        raw.insert("architectures".to_owned(), serde_json::json!([architecture]));
        raw.insert("num_attention_heads".to_owned(), 32.into());
        raw.insert("head_dim".to_owned(), 4.into());
        raw.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        parse(&raw).unwrap()
    };
    let mistral = of("MistralForCausalLM", &[]);
    assert_eq!((mistral.num_key_value_heads, mistral.layers[0].window), (8, Some(4096)));
    assert_eq!(of("MistralForCausalLM", &[("sliding_window", Value::Null)]).layers[0].window, None);
    let gemma = of("Gemma2ForCausalLM", &[]);
    assert_eq!((gemma.attention_softcap, gemma.final_softcap), (Some(50.0), Some(30.0)));
    assert_eq!((gemma.layers[0].window, gemma.layers[1].window), (Some(4096), None));
    assert_eq!(of("Gemma2ForCausalLM", &[("final_logit_softcapping", Value::Null)]).final_softcap, None);
    let qwen = [("use_sliding_window", true.into()), ("sliding_window", 9.into()), ("max_window_layers", 0.into())];
    assert!(of("Qwen2ForCausalLM", &qwen).layers.iter().all(|layer| layer.window == Some(9)));
    assert!(of("Qwen2ForCausalLM", &qwen[..2]).layers.iter().all(|layer| layer.window.is_none()));
    let smol = [
        ("use_sliding_window", true.into()),
        ("sliding_window", 9.into()),
        ("no_rope_layers", serde_json::json!([1, 0])),
    ];
    let smol = of("SmolLM3ForCausalLM", &smol);
    assert_eq!(smol.layers[0], LayerConfig { window: None, rope: true });
    assert_eq!(smol.layers[1], LayerConfig { window: Some(9), rope: false });
    assert_eq!((smol.num_key_value_heads, smol.rope.theta), (4, 2e6));
    assert_eq!(of("Phi3ForCausalLM", &[]).rms_norm_eps, 1e-5);
}

#[test]
fn what_is_not_understood_is_refused() {
    let nested = serde_json::json!({
        "full_attention": {"rope_type": "linear", "factor": 2.0}, "sliding_attention": {"rope_type": "default"}
    });
    assert!(refusal("rope_parameters", nested).contains("full_attention"));
    assert!(refusal("rope_scaling", "linear".into()).contains("rope_scaling"));
    assert!(refusal("hidden_act", 5.into()).contains("hidden_act"));
    assert!(refusal("resid_pdrop", 0.1.into()).contains("resid_pdrop"));
    assert!(refusal("num_hidden_layers", 1_000_000.into()).contains("num_hidden_layers"));
    assert!(refusal("num_hidden_layers", 1_000_000_000_000_u64.into()).contains("num_hidden_layers"));
}

/// `tests/golden/config.json`, by `make_config_golden.py`.
fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What transformers takes is taken, with the same numbers; what it fails on
/// or decides silently is refused.
#[test]
fn configurations_mean_what_they_mean_to_transformers() {
    let golden = golden();
    let (mut taken, mut refused) = (0, 0);
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let read = ModelConfig::from_json(&case["config"].to_string(), name);
        let Some(expected) = case.get("resolved") else {
            let error = read.expect_err(name).to_string();
            assert!(error.starts_with(name), "{error}");
            refused += 1;
            continue;
        };
        let config = read.unwrap();
        assert_eq!(config.rope.theta, expected["theta"].as_f64().unwrap(), "{name}");
        let frequencies: Vec<f64> = serde_json::from_value(expected["frequencies"].clone()).unwrap();
        let ours = config.rope.frequencies();
        assert_eq!(ours.len(), frequencies.len(), "{name}");
        for (ours, theirs) in ours.iter().zip(&frequencies) {
            assert!((f64::from(*ours) - theirs).abs() <= 1e-6 * theirs, "{name}: {ours} for {theirs}");
        }
        let windows: Vec<Option<usize>> = serde_json::from_value(expected["windows"].clone()).unwrap();
        let rope: Vec<bool> = serde_json::from_value(expected["rope"].clone()).unwrap();
        for (layer, ours) in config.layers.iter().enumerate() {
            assert_eq!((ours.window, ours.rope), (windows[layer], rope[layer]), "{name}: layer {layer}");
        }
        let number = |key: &str| expected[key].as_f64();
        assert_eq!(Some(config.head_dim as f64), number("head_dim"), "{name}");
        assert_eq!(Some(config.num_key_value_heads as f64), number("key_value_heads"), "{name}");
        assert_eq!(Some(config.max_position_embeddings as f64), number("positions"), "{name}");
        assert_eq!(Some(config.rms_norm_eps), number("eps"), "{name}");
        assert!((config.attention_scale - number("scale").unwrap()).abs() < 1e-12, "{name}");
        assert_eq!(config.attention_softcap, number("attention_cap"), "{name}");
        assert_eq!(config.final_softcap, number("final_cap"), "{name}");
        assert_eq!(Some(config.tie_word_embeddings), expected["tied"].as_bool(), "{name}");
        let of_1 = match config.activation {
            Activation::Silu => 1.0 / (1.0 + (-1.0_f64).exp()),
            Activation::GeluTanh => 0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (1.0 + 0.044_715)).tanh()),
        };
        assert!((of_1 - number("activation_of_1").unwrap()).abs() < 1e-9, "{name}");
        let first = |(name, _): &(String, Vec<usize>)| !name.contains(".layers.") || name.contains(".layers.0.");
        let shapes: std::collections::BTreeMap<_, _> = config.param_shapes().into_iter().filter(first).collect();
        let theirs = serde_json::from_value(expected["shapes"].clone()).unwrap();
        assert_eq!(shapes, theirs, "{name}");
        // What is written is the same model, for us.
        let again = ModelConfig::from_json(&config.to_json("float32"), name).unwrap();
        assert_eq!(ModelConfig { raw: Map::new(), ..again }, ModelConfig { raw: Map::new(), ..config }, "{name}");
        taken += 1;
    }
    assert!(taken > 100 && refused > 20, "{taken} taken, {refused} refused");
}

/// Every key that transformers has a field for, or reads, is in the lists.
#[test]
fn every_key_of_transformers_is_known() {
    let golden = golden();
    for architecture in SUPPORTED_ARCHITECTURES {
        let mut raw = minimal();
        raw.insert("architectures".to_owned(), serde_json::json!([architecture]));
        raw.insert("num_key_value_heads".to_owned(), 4.into());
        let family = parse(&raw).unwrap().architecture.model_type();
        let fields = golden["fields"][family].as_object().unwrap().keys().map(String::as_str);
        let reads = golden["reads"][family].as_array().unwrap().iter().filter_map(Value::as_str);
        for key in fields.chain(reads) {
            assert_ne!(fields::fate(key), fields::Fate::Unknown, "{family}: {key}");
        }
    }
    for key in golden["generation"].as_array().unwrap().iter().filter_map(Value::as_str) {
        assert_ne!(fields::fate(key), fields::Fate::Unknown, "{key}");
    }
}

#[test]
fn an_unknown_key_is_refused_by_name_and_an_idle_one_is_not() {
    let text = refusal("attention_sink_size", 4.into());
    assert!(text.contains("`attention_sink_size` (4) is not known") && text.contains("remove it"), "{text}");
    assert!(refusal("attn_logit_scale", serde_json::json!([1.0])).contains("attn_logit_scale"));
    // What directories hold that people publish.
    let mut raw = minimal();
    let idle = serde_json::json!({
        "_name_or_path": "someone/something", "_attn_implementation_autoset": true, "_commit_hash": null,
        "pretraining_tp": 2, "use_cache": false, "torch_dtype": "bfloat16", "transformers_version": "4.31.0",
        "temperature": 0.6, "top_p": 0.9, "do_sample": true, "max_length": 4096, "task_specific_params": {"a": 1},
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "unsloth_version": "2026.1",
        "unsloth_fixed": true, "is_llama_config": true, "rope_interleaved": false, "max_sequence_length": 2048,
        "embd_pdrop": 0.0, "attention_dropout": 0, "use_mrope": false, "pruned_heads": {}, "id2label": {"0": "a"},
        "a_key_of_tomorrow": null, "max_window_layers": 28, "sliding_window": null, "quantization_config": {},
        "auto_map": {"AutoConfig": "configuration_llama.C", "AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"},
    });
    raw.extend(idle.as_object().unwrap().clone());
    let config = parse(&raw).unwrap();
    assert_eq!(config.raw("temperature").unwrap().as_f64(), Some(0.6));
    let code = serde_json::json!({"AutoModelForCausalLM": "someone/else--modeling_other.OtherForCausalLM"});
    assert!(refusal("auto_map", code).contains("OtherForCausalLM"));
    assert!(refusal("model_type", "qwen2".into()).contains("`model_type` is `qwen2`, not `llama`"));
}

#[test]
fn quantised_weights_are_named_as_such() {
    for (value, part) in [
        (serde_json::json!({"quant_method": "gptq", "bits": 4}), "quantised (gptq)"),
        (serde_json::json!({"quant_method": "awq", "bits": 4}), "quantised (awq)"),
        (serde_json::json!({"quant_method": "fp8", "weight_block_size": [128, 128]}), "quantised (fp8)"),
        (serde_json::json!({"quant_method": "mxfp4"}), "quantised (mxfp4)"),
        (serde_json::json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), "quantised (bitsandbytes, 4 bits)"),
    ] {
        let text = refusal("quantization_config", value);
        assert!(text.contains(part) && text.contains("dequantize"), "{text}");
    }
    // MLX.
    assert!(refusal("quantization", serde_json::json!({"group_size": 64, "bits": 4})).contains("quantised"));
}

/// The kind of case 23: theta where only one generation of programs looks.
#[test]
fn theta_is_read_wherever_it_stands_and_contradictions_are_refused() {
    let theta = |changes: Value| {
        let mut raw = minimal();
        raw.extend(changes.as_object().unwrap().clone());
        parse(&raw).map(|config| config.rope.theta).map_err(|error| error.to_string())
    };
    let table = |theta: f64| serde_json::json!({"rope_type": "default", "rope_theta": theta});
    for place in ["rope_scaling", "rope_parameters"] {
        assert_eq!(theta(serde_json::json!({place: table(5e5)})), Ok(5e5));
        let nested = serde_json::json!({place: {"full_attention": table(5e5), "sliding_attention": table(5e5)}});
        assert_eq!(theta(nested), Ok(5e5));
        let error = theta(serde_json::json!({place: table(5e5), "rope_theta": 1e4})).unwrap_err();
        assert!(error.contains("`rope_theta` is 10000") && error.contains("is 500000; they must agree"), "{error}");
        let nested = serde_json::json!({place: {"full_attention": table(5e5), "sliding_attention": table(1e4)}});
        assert!(theta(nested).unwrap_err().contains("sliding_attention"));
    }
    assert!(theta(serde_json::json!({"rope_scaling": table(1.0), "rope_parameters": table(2.0)})).is_err());
    assert!(theta(serde_json::json!({"rope_scaling": {"rope_type": "default", "rope_theta": "5e5"}})).is_err());
    let idle = serde_json::json!({"rope_scaling": {"rope_type": "default", "beta_fast": 32}});
    assert!(theta(idle).unwrap_err().contains("`rope_scaling.beta_fast` is 32"));
}

#[test]
fn sizes_that_no_model_has_are_mistakes() {
    let mut raw = minimal();
    for key in ["vocab_size", "hidden_size", "intermediate_size"] {
        raw.insert(key.to_owned(), (1_u64 << 28).into());
    }
    raw.insert("num_hidden_layers".to_owned(), 9_999.into());
    assert!(parse(&raw).unwrap_err().to_string().contains("parameters; correct them"));
    let deep = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    assert!(ModelConfig::from_json(&deep, "deep").unwrap_err().to_string().contains("recursion limit"));
}
