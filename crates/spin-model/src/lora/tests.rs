use super::super::targets::Targets;
use super::*;

fn refusal(key: &str, value: Value) -> String {
    let mut raw: Map<String, Value> = serde_json::from_str(&LoraConfig::default().to_json("base")).unwrap();
    raw.insert(key.to_owned(), value);
    LoraConfig::from_json(&Value::Object(raw).to_string(), "a/adapter_config.json").unwrap_err().to_string()
}

#[test]
fn settings_survive_and_foreign_ones_are_refused() {
    let config = LoraConfig { use_rslora: true, lora_alpha: 6.5, ..LoraConfig::default() };
    assert_eq!(LoraConfig::from_json(&config.to_json("base"), "x").unwrap(), config);
    assert_eq!(config.scale(), 6.5 / 4.0);
    assert_eq!(LoraConfig::default().scale(), 2.0);
    assert!(refusal("peft_type", "IA3".into()).contains("only LORA"));
    assert!(refusal("use_dora", true.into()).contains("`use_dora` is true"));
    assert!(refusal("bias", "all".into()).contains("bias"));
    assert!(refusal("rank_pattern", json!({"q_proj": 0})).contains("rank_pattern"));
    assert!(refusal("rank_pattern", json!({"q_proj": "4"})).contains("rank_pattern"));
    assert!(refusal("alpha_pattern", json!({"q_proj": -1})).contains("alpha_pattern"));
    assert!(refusal("alpha_pattern", json!(["q_proj"])).contains("alpha_pattern"));
    assert!(refusal("target_modules", "(q_proj".into()).contains("cannot be compiled"));
    assert!(refusal("target_modules", "[a-z&&[^q]]".into()).contains("Python"));
    assert!(refusal("target_modules", 5.into()).contains("give a list"));
    assert!(refusal("layers_to_transform", json!(["0"])).contains("layers_to_transform"));
    assert!(refusal("layers_pattern", "layers".into()).contains("goes with `layers_to_transform`"));
    assert!(refusal("modules_to_save", json!(["lm_head"])).contains("modules_to_save"));
    assert!(refusal("lora_dropout", 1.0.into()).contains("below 1"));
    assert!(refusal("r", 0.into()).contains("at least 1"));
}

#[test]
fn targets_are_whole_ends_of_names() {
    let config =
        LoraConfig { target_modules: vec!["q_proj".into(), "layers.1.mlp.up_proj".into()], ..Default::default() };
    let targets = |config: &LoraConfig, module: &str| Targets::of(config).unwrap().has(module).unwrap();
    assert!(targets(&config, "model.layers.0.self_attn.q_proj"));
    let targets = |config: &LoraConfig, module: &str| Targets::of(config).unwrap().has(module).unwrap();
    assert!(targets(&config, "model.layers.1.mlp.up_proj"));
    assert!(!targets(&config, "model.layers.11.mlp.up_proj") && !targets(&config, "model.layers.0.self_attn.aq_proj"));
    let all = LoraConfig { target_modules: vec!["all-linear".into()], ..Default::default() };
    assert!(targets(&all, "model.layers.0.mlp.down_proj"));
}

#[test]
fn an_unknown_key_is_refused_by_name_and_an_idle_one_is_not() {
    let text = refusal("use_hyperlora", true.into());
    assert!(text.contains("`use_hyperlora` (true) is not known") && text.contains("remove it"), "{text}");
    let mut raw: Map<String, Value> = serde_json::from_str(&LoraConfig::default().to_json("base")).unwrap();
    let idle = json!({
        "peft_version": "0.21.2", "auto_mapping": {"unsloth_fixed": true}, "loftq_config": {}, "eva_config": null,
        "megatron_core": "megatron.core", "qalora_group_size": 16, "unsloth_training": true, "revision": "main",
        "a_key_of_tomorrow": null, "rank_pattern": {}, "layers_to_transform": [], "exclude_modules": null,
    });
    raw.extend(idle.as_object().unwrap().clone());
    let config = LoraConfig::from_json(&Value::Object(raw).to_string(), "x").unwrap();
    assert_eq!(config, LoraConfig::default());
    // Every field of PEFT's class.
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/config.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for key in golden["fields"]["lora"].as_object().unwrap().keys() {
        assert!(is_known(key), "{key}");
    }
}

/// What PEFT says of every module under settings of every kind.
#[test]
fn modules_are_chosen_as_peft_chooses_them() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/lora_targets.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let modules: Vec<&str> = golden["modules"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let text = case["config"].to_string();
        let config = LoraConfig::from_json(&text, "golden").unwrap();
        let again = LoraConfig::from_json(&config.to_json("base"), "again").unwrap();
        assert_eq!(again, config, "{text}");
        let targets = Targets::of(&config).unwrap();
        let mut chosen = Map::new();
        for module in &modules {
            if targets.has(module).unwrap() {
                let (rank, scale) = targets.rank_and_scale(module).unwrap();
                chosen.insert((*module).to_owned(), json!([rank, scale]));
            }
        }
        assert_eq!(Value::Object(chosen), case["chosen"], "{text}");
    }
}

#[test]
fn an_expression_that_never_ends_is_an_error() {
    let patterns = LoraPatterns { target: Some(r"(?=(a*)*\1b)(a|aa)*c".into()), ..LoraPatterns::default() };
    let config = LoraConfig { target_modules: Vec::new(), patterns, ..LoraConfig::default() };
    let targets = Targets::of(&config).unwrap();
    assert!(targets.has(&"a".repeat(60)).is_err() || !targets.has(&"a".repeat(60)).unwrap());
}
