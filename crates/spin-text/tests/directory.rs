//! Reading model directories: what is found where, and what is said when it is missing.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spin_text::{BosPolicy, Codec, Message, TemplateChoice, TextError};
use tempfile::TempDir;

const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}";

fn chatml() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/text/chatml")
}

/// A directory with the tokenizer of chatml and the configuration given.
fn directory(config: Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(chatml().join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    write(&dir, "tokenizer_config.json", config);
    dir
}

fn write(dir: &TempDir, name: &str, value: Value) {
    fs::write(dir.path().join(name), value.to_string()).unwrap();
}

/// Change the tokenizer file.
fn edit_tokenizer(dir: &TempDir, edit: impl FnOnce(&mut Value)) {
    let path = dir.path().join("tokenizer.json");
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn error(dir: &TempDir) -> TextError {
    Codec::from_dir(dir.path()).map(drop).unwrap_err()
}

/// The message names this directory's file and offers the remedy.
#[track_caller]
fn assert_says(error: &TextError, words: &[&str]) {
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is missing from: {message}");
    }
}

#[test]
fn a_missing_tokenizer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = error(&dir);
    assert!(matches!(error, TextError::NoTokenizer { .. }));
    assert_says(&error, &["tokenizer.json", "save_pretrained", dir.path().to_str().unwrap()]);
}

#[test]
fn broken_files_are_named() {
    let dir = directory(json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}));
    fs::write(dir.path().join("generation_config.json"), "{").unwrap();
    assert_says(&error(&dir), &["generation_config.json", "is not valid"]);
    write(&dir, "generation_config.json", json!({"eos_token_id": "two"}));
    assert_says(&error(&dir), &["generation_config.json", "eos_token_id", "two"]);
    write(&dir, "generation_config.json", json!([]));
    assert_says(&error(&dir), &["generation_config.json", "not a JSON object"]);
    write(&dir, "generation_config.json", json!({}));
    write(&dir, "tokenizer_config.json", json!({"eos_token": 7}));
    assert_says(&error(&dir), &["tokenizer_config.json", "`eos_token`"]);
    write(&dir, "tokenizer_config.json", json!({"eos_token": "<|im_end|>", "chat_template": 7}));
    assert_says(&error(&dir), &["tokenizer_config.json", "`chat_template`"]);
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert_says(&error(&dir), &["tokenizer.json", "is not valid"]);
}

#[test]
fn unreadable_files_are_named() {
    let dir = directory(json!({"eos_token": "<|im_end|>"}));
    fs::create_dir(dir.path().join("chat_template.jinja")).unwrap();
    let error = error(&dir);
    assert!(matches!(error, TextError::Read { .. }));
    assert_says(&error, &["failed to read", "chat_template.jinja"]);
}

#[test]
fn a_missing_template_is_an_error_unless_one_is_chosen() {
    let dir = directory(json!({"eos_token": "<|im_end|>"}));
    let missing = error(&dir);
    assert!(matches!(missing, TextError::NoTemplate { .. }));
    assert_says(&missing, &["chat_template.jinja", "alpaca"]);

    let prompt = [Message::user("Hi")];
    let alpaca = Codec::from_dir_with(dir.path(), TemplateChoice::Alpaca).unwrap();
    assert_eq!(alpaca.prompt_text(&prompt).unwrap(), "### Instruction: Hi\n\n### Response: ");
    let ids = alpaca.response_ids(&prompt, "Hello").unwrap();
    assert_eq!(alpaca.decode_all(&ids).unwrap(), "Hello<|im_end|>");
    let custom = TemplateChoice::Custom(TEMPLATE.to_owned());
    let custom = Codec::from_dir_with(dir.path(), custom).unwrap();
    assert_eq!(custom.prompt_text(&prompt).unwrap(), "[user]Hi<|im_end|>");
}

#[test]
fn the_template_file_wins_over_the_configuration() {
    let dir = directory(json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}));
    let text = || Codec::from_dir(dir.path()).unwrap().prompt_text(&[Message::user("Hi")]).unwrap();
    assert_eq!(text(), "[user]Hi<|im_end|>");
    fs::write(dir.path().join("chat_template.jinja"), "from the file\n").unwrap();
    assert_eq!(text(), "from the file");
}

#[test]
fn of_several_templates_the_default_is_taken() {
    let named = |name: &str| json!({"name": name, "template": TEMPLATE});
    let list = json!([{"name": "rag", "template": "rag"}, named("default")]);
    let dir = directory(json!({"eos_token": "<|im_end|>", "chat_template": list}));
    Codec::from_dir(dir.path()).unwrap();
    let list = json!([named("rag"), named("tool_use")]);
    write(&dir, "tokenizer_config.json", json!({"eos_token": "<|im_end|>", "chat_template": list}));
    let error = error(&dir);
    assert!(matches!(error, TextError::NoDefaultTemplate { .. }));
    assert_says(&error, &["tokenizer_config.json", "rag, tool_use"]);
}

#[test]
fn end_of_sequence_ids_are_the_union() {
    let dir = directory(json!({"chat_template": TEMPLATE}));
    assert!(matches!(error(&dir), TextError::NoEos { .. }));
    assert_says(&error(&dir), &["eos_token", "generation_config.json"]);
    let ids = || Codec::from_dir(dir.path()).unwrap().eos_ids().to_vec();
    // config.json counts only where generation_config.json names none.
    write(&dir, "config.json", json!({"eos_token_id": 2}));
    assert_eq!(ids(), [2]);
    write(&dir, "generation_config.json", json!({"eos_token_id": null}));
    assert_eq!(ids(), [2]);
    write(&dir, "generation_config.json", json!({"eos_token_id": [5, 0, 5]}));
    assert_eq!(ids(), [5, 0]);
    write(&dir, "tokenizer_config.json", json!({"eos_token": {"content": "<|im_end|>"}, "chat_template": TEMPLATE}));
    assert_eq!(ids(), [1, 0, 5]);
    // The older place for the token.
    write(&dir, "tokenizer_config.json", json!({"chat_template": TEMPLATE}));
    write(&dir, "special_tokens_map.json", json!({"eos_token": "<|im_start|>"}));
    assert_eq!(ids(), [2, 0, 5]);
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let dir = directory(json!({"eos_token": "<|nowhere|>", "chat_template": TEMPLATE}));
    assert!(matches!(error(&dir), TextError::UnknownToken { .. }));
    assert_says(&error(&dir), &["eos_token", "<|nowhere|>", "tokenizer.json"]);
    write(&dir, "tokenizer_config.json", json!({"chat_template": TEMPLATE}));
    write(&dir, "config.json", json!({"eos_token_id": 4000}));
    assert_says(&error(&dir), &["eos_token_id", "4000"]);
}

#[test]
fn the_bos_policy_follows_the_tokenizer() {
    let config = |add: Value| {
        json!({"bos_token": "<|bos|>", "eos_token": "<|im_end|>", "add_bos_token": add,
               "chat_template": TEMPLATE})
    };
    let policy = |dir: &TempDir| Codec::from_dir(dir.path()).unwrap().bos_policy();
    let ids = |dir: &TempDir| Codec::from_dir(dir.path()).unwrap().prompt_ids(&[Message::user("Hi")]).unwrap();
    let dir = directory(config(Value::Null));
    assert_eq!(policy(&dir), BosPolicy::Template);
    let without = ids(&dir);
    assert_ne!(without[0], 0);
    write(&dir, "tokenizer_config.json", config(json!(true)));
    assert_eq!(policy(&dir), BosPolicy::Prepend);
    assert_eq!(ids(&dir), [&[0][..], &without[..]].concat());
    // The post-processor decides where the configuration is silent, and is overruled by it.
    edit_tokenizer(&dir, |tokenizer| {
        tokenizer["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [0], "tokens": ["<|bos|>"]}},
        });
    });
    write(&dir, "tokenizer_config.json", config(Value::Null));
    assert_eq!(policy(&dir), BosPolicy::Prepend);
    assert_eq!(ids(&dir), [&[0][..], &without[..]].concat());
    write(&dir, "tokenizer_config.json", config(json!(false)));
    assert_eq!(policy(&dir), BosPolicy::Template);
    // A template that writes it gets no second one, a message that writes it gets the real one.
    write(&dir, "tokenizer_config.json", config(json!(true)));
    fs::write(dir.path().join("chat_template.jinja"), format!("{{{{ bos_token }}}}{TEMPLATE}")).unwrap();
    assert_eq!(ids(&dir), [&[0][..], &without[..]].concat());
    fs::write(dir.path().join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let codec = Codec::from_dir(dir.path()).unwrap();
    let typed = codec.prompt_ids(&[Message::user("<|bos|>")]).unwrap();
    assert_eq!(typed.iter().filter(|id| **id == 0).count(), 1);
    assert!(typed.len() > 2);
}

#[test]
fn adding_a_bos_needs_one() {
    let dir = directory(json!({"eos_token": "<|im_end|>", "add_bos_token": true, "chat_template": TEMPLATE}));
    assert!(matches!(error(&dir), TextError::NoBos { .. }));
    assert_says(&error(&dir), &["tokenizer_config.json", "bos_token"]);
}

#[test]
fn truncation_and_padding_of_the_file_are_ignored() {
    let dir = directory(json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}));
    let prompt = [Message::user("A prompt that is longer than four tokens.")];
    let ids = || Codec::from_dir(dir.path()).unwrap().prompt_ids(&prompt).unwrap();
    let whole = ids();
    edit_tokenizer(&dir, |tokenizer| {
        tokenizer["truncation"] =
            json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
        tokenizer["padding"] = json!({"strategy": {"Fixed": 100}, "direction": "Left",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<|bos|>"});
    });
    assert_eq!(ids(), whole);
}

#[test]
fn an_eos_that_the_tokenizer_file_holds_as_ordinary_is_special() {
    let dir = directory(json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}));
    edit_tokenizer(&dir, |tokenizer| tokenizer["added_tokens"][1]["special"] = json!(false));
    let codec = Codec::from_dir(dir.path()).unwrap();
    let prompt = [Message::user("<|im_end|>")];
    let ids = codec.prompt_ids(&prompt).unwrap();
    assert_eq!(ids.iter().filter(|id| **id == 1).count(), 1);
    assert_eq!(codec.decode(&ids).unwrap(), "[user]<|im_end|>");
}

#[test]
fn the_vocabulary_must_fit_the_model() {
    let codec = Codec::from_dir(&chatml()).unwrap();
    assert_eq!(codec.vocab_size(), 400);
    codec.check_vocab(400).unwrap();
    codec.check_vocab(512).unwrap();
    let error = codec.check_vocab(399).unwrap_err();
    assert!(matches!(error, TextError::Vocabulary { .. }));
    assert_says(&error, &["tokenizer.json", "id 399", "config.json", "is 399"]);
}

#[test]
fn conversations_need_a_prompt_and_an_answer() {
    let codec = Codec::from_dir(&chatml()).unwrap();
    assert!(matches!(codec.prompt_ids(&[]), Err(TextError::EmptyPrompt)));
    let error = codec.response_ids(&[Message::user("Why?")], "").unwrap_err();
    assert!(matches!(error, TextError::EmptyResponse { .. }));
    assert_says(&error, &["Why?", "drop the row"]);
    // An answer that the template trims to nothing.
    let source = "{% for m in messages %}[{{ m.content | trim }}{{ eos_token }}{% endfor %}\
                  {% if add_generation_prompt %}[{% endif %}";
    let custom = TemplateChoice::Custom(source.to_owned());
    let codec = Codec::from_dir_with(&chatml(), custom).unwrap();
    let error = codec.response_ids(&[Message::user("Why?")], " \n").unwrap_err();
    assert!(matches!(error, TextError::EmptyResponse { .. }));
}

#[test]
fn answers_must_continue_the_prompt() {
    let source = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}";
    let custom = TemplateChoice::Custom(source.to_owned());
    let codec = Codec::from_dir_with(&chatml(), custom).unwrap();
    let error = codec.response_ids(&[Message::user("Why?")], "So.").unwrap_err();
    assert!(matches!(error, TextError::NotContinuation { .. }));
    assert_says(&error, &["custom", "Why?", "once it is answered"]);
}

#[test]
fn an_end_is_appended_where_the_template_writes_none() {
    let source = "{% for m in messages %}{{ m.content }}\n{% endfor %}";
    let custom = TemplateChoice::Custom(source.to_owned());
    let codec = Codec::from_dir_with(&chatml(), custom).unwrap();
    let ids = codec.response_ids(&[Message::user("Why?")], "So.").unwrap();
    assert_eq!(codec.decode_all(&ids).unwrap(), "So.\n<|im_end|>");
}

#[test]
fn any_end_of_sequence_id_ends_an_answer() {
    // The template ends turns with a token that generation_config.json lists, not with the
    // tokenizer's own: generation stops there, so the answer ends there.
    let source = "{% for m in messages %}{{ m.content }}<|im_start|>\n{% endfor %}";
    let dir = directory(json!({"eos_token": "<|im_end|>", "chat_template": source}));
    write(&dir, "generation_config.json", json!({"eos_token_id": [1, 2]}));
    let codec = Codec::from_dir(dir.path()).unwrap();
    let ids = codec.response_ids(&[Message::user("Why?")], "So.").unwrap();
    assert_eq!(codec.decode_all(&ids).unwrap(), "So.<|im_start|>");
}

#[test]
fn a_second_end_inside_the_answer_is_refused() {
    // "Z" as an end-of-sequence id, which no template can be asked to avoid.
    let dir = directory(json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}));
    let tokenizer = Codec::from_dir(dir.path()).unwrap();
    let id = tokenizer.tokenizer().token_to_id("Z").unwrap();
    write(&dir, "generation_config.json", json!({"eos_token_id": [1, id]}));
    let codec = Codec::from_dir(dir.path()).unwrap();
    let error = codec.response_ids(&[Message::user("Why?")], "Z").unwrap_err();
    assert!(matches!(error, TextError::Eos { count: 2, .. }), "{error}");
    assert_says(&error, &["generation_config.json", "2 end-of-sequence ids"]);
}

#[test]
fn answers_that_no_encoding_continues_are_refused() {
    // A normalizer that reaches across the boundary.
    let source = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let dir = directory(json!({"eos_token": "<|im_end|>", "chat_template": source}));
    edit_tokenizer(&dir, |tokenizer| {
        tokenizer["normalizer"] = json!({"type": "Replace", "pattern": {"String": "Wxyz"}, "content": "Q"});
    });
    let codec = Codec::from_dir(dir.path()).unwrap();
    let error = codec.response_ids(&[Message::user("W")], "xyz").unwrap_err();
    assert!(matches!(error, TextError::Boundary { .. }), "{error}");
    assert_says(&error, &["tokenizer.json", "xyz", "line break"]);
}

#[test]
fn control_text_that_stays_a_control_token_is_refused() {
    // A word-level model: its vocabulary holds </s> as a word, so no other ids can spell it.
    let dir = tempfile::tempdir().unwrap();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    write(
        &dir,
        "tokenizer.json",
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(0, "<unk>"), special(1, "</s>")],
            "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
            "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "</s>": 1, "yes": 2}, "unk_token": "<unk>"},
        }),
    );
    write(
        &dir,
        "tokenizer_config.json",
        json!({"eos_token": "</s>", "chat_template":
        "{% for m in messages %}{{ m.content }} {{ eos_token }} {% endfor %}"}),
    );
    let codec = Codec::from_dir(dir.path()).unwrap();
    // Unknown words become <unk>, with and without control text beside them.
    assert_eq!(codec.prompt_ids(&[Message::user("yes no")]).unwrap(), [2, 0, 1]);
    assert_eq!(codec.prompt_ids(&[Message::user("yes x</s>")]).unwrap(), [2, 0, 1]);
    let error = codec.prompt_ids(&[Message::user("yes </s>")]).unwrap_err();
    assert!(matches!(error, TextError::ControlText { .. }), "{error}");
    assert_says(&error, &["tokenizer.json", "</s>", "yes", "drop the row"]);
}

#[test]
fn decoding_ignores_padding_rows_and_stops_at_the_end() {
    let codec = Codec::from_dir(&chatml()).unwrap();
    let prompt = [Message::user("Hi")];
    let prompt_ids = codec.prompt_ids(&prompt).unwrap();
    let mut ids = codec.response_ids(&prompt, " Hello").unwrap();
    ids.insert(0, 4000);
    ids.extend([42, 42]);
    assert_eq!(codec.decode_response(&prompt_ids, &ids).unwrap(), " Hello");
}

#[test]
fn descriptions_do_not_depend_on_the_place() {
    let codec = Codec::from_dir(&chatml()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(chatml()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let description = codec.describe();
    assert_eq!(description, Codec::from_dir(copy.path()).unwrap().describe());
    assert_eq!(description["bos"]["policy"], "template");
    assert_eq!(description["eos"]["primary"], 1);
    assert_eq!(description["tokens"]["eos_token"], "<|im_end|>");
    assert!(description["template"].as_str().unwrap().contains("{% generation %}"));
}

/// A regular expression of a tokenizer.json that takes exponentially many steps is an error, not the
/// end of the program.
#[test]
fn an_expression_without_end_is_an_error() {
    let dir = directory(json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}));
    edit_tokenizer(&dir, |value| {
        value["pre_tokenizer"] =
            json!({"type": "Split", "pattern": {"Regex": "(a*)*b"}, "behavior": "Isolated", "invert": false});
    });
    let codec = Codec::from_dir(dir.path()).unwrap();
    let error = codec.prompt_ids(&[Message::user(format!("{}cb", "a".repeat(5000)))]).unwrap_err();
    assert!(matches!(error, TextError::Tokenizer { .. }), "{error}");
    assert_says(&error, &["tokenizer.json", "too many steps"]);
    codec.prompt_ids(&[Message::user("b")]).unwrap();
}

/// Settings under which the tokenizers library panics are errors that name the file.
#[test]
fn settings_that_the_library_cannot_use_are_errors() {
    let mut errors = 0;
    for (key, value) in [
        ("normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": "aa"})),
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": ""})),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "special_tokens": {},
                   "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                   "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]}),
        ),
        ("decoder", json!({"type": "Strip", "content": "a", "start": 999_999_999, "stop": 0})),
    ] {
        let dir = directory(json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}));
        edit_tokenizer(&dir, |tokenizer| tokenizer[key] = value.clone());
        let used = || {
            let codec = Codec::from_dir(dir.path())?;
            codec.decode(&codec.prompt_ids(&[Message::user("ab, ba")])?)
        };
        // Where the library does not fail on this text, it gives one.
        if let Err(error) = used() {
            assert_says(&error, &["tokenizer.json"]);
            errors += 1;
        }
    }
    assert!(errors >= 1, "no setting was one that the library cannot use");
}

/// A tokenizer that gives other ids each time is refused by name.
#[test]
fn dropout_is_refused() {
    let dir = directory(json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE}));
    edit_tokenizer(&dir, |tokenizer| tokenizer["model"]["dropout"] = json!(0.1));
    assert_says(&Codec::from_dir(dir.path()).unwrap_err(), &["tokenizer.json", "model.dropout", "0.1", "null"]);
    for harmless in [json!(null), json!(0.0)] {
        edit_tokenizer(&dir, |tokenizer| tokenizer["model"]["dropout"] = harmless.clone());
        assert!(Codec::from_dir(dir.path()).is_ok(), "{harmless}");
    }
}
