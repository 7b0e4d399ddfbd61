//! Ids and texts equal those of `transformers` (tests/golden/make_text_golden.py writes the files).

use std::path::{Path, PathBuf};

use serde::Deserialize;
use spin_text::{BosPolicy, Codec, Message, TOKENIZERS_VERSION};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    protected: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    messages: Vec<Message>,
    response: String,
    prompt_text: String,
    prompt_ids: Vec<u32>,
    full_text: String,
    full_ids: Vec<u32>,
    #[serde(default)]
    special_ids: Vec<u32>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn golden(name: &str) -> Golden {
    let path = root().join("tests/golden/text").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Every case of a tokenizer whose template writes all there is, and whose pieces never merge across
/// the boundary: our prompt and answer are the two halves of the conversation of `transformers`.
fn check_exact(codec: &Codec, golden: &Golden) {
    for case in golden.cases.iter().chain(&golden.protected) {
        assert_eq!(codec.prompt_text(&case.messages).unwrap(), case.prompt_text);
        assert_eq!(codec.prompt_ids(&case.messages).unwrap(), case.prompt_ids, "{}", case.prompt_text);
        let ids = codec.response_ids(&case.messages, &case.response).unwrap();
        let whole = [&case.prompt_ids[..], &ids].concat();
        // What follows the end-of-sequence token is one line break.
        let (newline, upto) = case.full_ids.split_last().unwrap();
        assert_eq!(codec.decode(&[*newline]).unwrap(), "\n");
        assert_eq!(whole, upto, "{}", case.full_text);
        assert_eq!(codec.decode_all(&whole).unwrap() + "\n", case.full_text);
        assert_eq!(codec.decode_response(&case.prompt_ids, &ids).unwrap(), answer(case));
    }
}

/// The answer as the zephyr and chatml templates show it.
fn answer(case: &Case) -> &str {
    &case.response
}

#[test]
fn chatml_equals_transformers() {
    let codec = Codec::from_dir(&root().join("tests/golden/text/chatml")).unwrap();
    let golden = golden("chatml.json");
    assert_eq!(codec.bos_policy(), BosPolicy::Template);
    assert!(!golden.protected.is_empty());
    check_exact(&codec, &golden);
}

#[test]
fn zephyr_equals_transformers() {
    let codec = Codec::from_dir(&root().join("tests/golden/text/zephyr")).unwrap();
    let golden = golden("zephyr.json");
    assert_eq!(codec.bos_id(), None);
    assert!(!golden.protected.is_empty());
    check_exact(&codec, &golden);
}

#[test]
fn stories_equals_transformers() {
    let dir = root().join("tests/golden/text/stories260k");
    let codec = Codec::from_dir(&dir).unwrap();
    assert_eq!(codec.bos_policy(), BosPolicy::Prepend);
    assert_eq!((codec.primary_eos(), codec.eos_ids()), (2, &[2, 1][..]));
    assert_eq!((codec.bos_id(), codec.vocab_size()), (Some(1), 512));
    let mut apart = 0;
    for case in &golden("stories260k.json").cases {
        assert_eq!(codec.prompt_text(&case.messages).unwrap(), case.prompt_text);
        // The template writes no BOS, the tokenizer does.
        let prompt = codec.prompt_ids(&case.messages).unwrap();
        assert_eq!(prompt[0], 1);
        assert_eq!(prompt[1..], case.prompt_ids);
        assert_eq!(prompt, case.special_ids);

        let ids = codec.response_ids(&case.messages, &case.response).unwrap();
        let (whole, wanted) = ([&prompt[1..], &ids].concat(), &case.full_ids);
        assert_eq!(ids.last(), Some(&2));
        if whole != *wanted {
            // The prompt ends with a space, which sentencepiece merges with the first word.
            assert_ne!(wanted[..case.prompt_ids.len()], case.prompt_ids);
            apart += 1;
        }
        assert_eq!(codec.decode_all(&whole).unwrap(), codec.decode_all(wanted).unwrap());
        assert_eq!(codec.decode_response(&prompt, &ids).unwrap(), case.response);
    }
    assert!(apart > 0, "the cases should cover answers that merge with their prompt");
}

#[test]
fn stories_control_tokens_are_text() {
    let dir = root().join("tests/golden/text/stories260k");
    let codec = Codec::from_dir(&dir).unwrap();
    let prompt = [Message::user("Say </s> and <s>, 🦀<unk>.")];
    let prompt_ids = codec.prompt_ids(&prompt).unwrap();
    assert_eq!(prompt_ids.iter().filter(|id| **id < 3).collect::<Vec<_>>(), [&1]);
    let ids = codec.response_ids(&prompt, "</s> <s>🦀<unk>").unwrap();
    assert_eq!(ids.iter().filter(|id| **id < 3).collect::<Vec<_>>(), [&2]);
    assert_eq!(codec.decode_response(&prompt_ids, &ids).unwrap(), "</s> <s>🦀<unk>");
    let text = codec.decode(&prompt_ids).unwrap();
    assert_eq!(text, "### Instruction: Say </s> and <s>, 🦀<unk>.\n\n### Response: ");
}

/// Manifests name the library that made the ids.
#[test]
fn tokenizers_version_is_the_locked_one() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let ours = lock.split("[[package]]").find(|p| p.contains("name = \"spin-text\"")).unwrap();
    let line = ours.lines().find(|line| line.contains("\"tokenizers")).unwrap();
    let only = lock.matches("name = \"tokenizers\"\n").count() == 1;
    let version = format!("tokenizers {TOKENIZERS_VERSION}");
    assert!(only || line.contains(&version), "TOKENIZERS_VERSION is stale: {line}");
}

/// A template that writes the beginning-of-sequence token anywhere gets no second one, also from a
/// tokenizer that puts one in front of every text.
#[test]
fn a_bos_that_the_template_writes_is_the_only_one() {
    #[derive(serde::Deserialize)]
    struct Form {
        name: String,
        template: String,
        ids: Vec<u32>,
    }
    #[derive(serde::Deserialize)]
    struct Forms {
        bos: u32,
        content: String,
        cases: Vec<Form>,
    }
    let text = root().join("tests/golden/text");
    let forms: Forms = serde_json::from_str(&std::fs::read_to_string(text.join("bos.json")).unwrap()).unwrap();
    assert!(forms.cases.len() >= 7);
    for form in &forms.cases {
        let dir = tempfile::tempdir().unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(text.join("chatml").join(file), dir.path().join(file)).unwrap();
        }
        let path = dir.path().join("tokenizer_config.json");
        let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        config["add_bos_token"] = true.into();
        std::fs::write(&path, config.to_string()).unwrap();
        std::fs::write(dir.path().join("chat_template.jinja"), &form.template).unwrap();
        let codec = Codec::from_dir(dir.path()).unwrap();
        assert_eq!((codec.bos_policy(), codec.bos_id()), (BosPolicy::Prepend, Some(forms.bos)));
        let prompt = [Message::user(&forms.content)];
        assert_eq!(codec.prompt_ids(&prompt).unwrap(), form.ids, "{}", form.name);
        // The boundary is exact all the same.
        let answer = codec.response_ids(&prompt, "Seven.").unwrap();
        assert_eq!(answer.last(), Some(&codec.primary_eos()));
        assert!(!answer.contains(&forms.bos), "{}", form.name);
    }
}

/// Keys that transformers does not read change nothing; keys that change ids are refused.
#[test]
fn keys_of_the_tokenizer_are_inert_or_refused() {
    let text = root().join("tests/golden/text/chatml");
    let ids = |change: &dyn Fn(&mut serde_json::Value)| {
        let dir = tempfile::tempdir().unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(text.join(file), dir.path().join(file)).unwrap();
        }
        let path = dir.path().join("tokenizer_config.json");
        let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
        let codec = Codec::from_dir(dir.path()).map_err(|error| error.to_string())?;
        codec.prompt_ids(&[Message::user("Hello, hello!")]).map_err(|error| error.to_string())
    };
    let plain = ids(&|_| ()).unwrap();
    for key in ["some_future_key", "add_prefix_space", "legacy", "add_eos_token", "clean_up_tokenization_spaces"] {
        assert_eq!(ids(&|config| config[key] = true.into()).unwrap(), plain, "{key}");
    }
    assert_eq!(ids(&|config| config["additional_special_tokens"] = serde_json::json!(["<never>"])).unwrap(), plain);
    let error = ids(&|config| config["split_special_tokens"] = true.into()).unwrap_err();
    assert!(error.contains("`split_special_tokens` is true"), "{error}");
    let token = |content: &str| serde_json::json!({"content": content, "special": false});
    let error = ids(&|config| config["added_tokens_decoder"] = serde_json::json!({"5": token("hello")})).unwrap_err();
    assert!(error.contains("added_tokens_decoder.5") && error.contains("no such token"), "{error}");
    let error =
        ids(&|config| config["added_tokens_decoder"] = serde_json::json!({"5": token("<|im_end|>")})).unwrap_err();
    assert!(error.contains("added_tokens_decoder.5") && error.contains("tokenizer.json has it as"), "{error}");
    let writes = |config: &mut serde_json::Value| {
        config["additional_special_tokens"] = serde_json::json!(["<turn>"]);
        config["chat_template"] = "{{ '<turn>' }}{{ messages[0].content }}".into();
    };
    let error = ids(&writes).unwrap_err();
    assert!(error.contains("<turn>") && error.contains("the vocabulary lacks"), "{error}");
}
