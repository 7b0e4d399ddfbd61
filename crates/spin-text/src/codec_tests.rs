//! Properties of the codec that hold for any text, on two kinds of tokenizer.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

static CODECS: LazyLock<Vec<Codec>> = LazyLock::new(codecs);

/// Byte-level tokenizers and a sentencepiece one.
fn codecs() -> Vec<Codec> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut codecs: Vec<Codec> = ["chatml", "zephyr"]
        .iter()
        .map(|name| Codec::from_dir(&root.join("tests/golden/text").join(name)).unwrap())
        .collect();
    let stories = root.join("tests/golden/text/stories260k");
    codecs.push(Codec::from_dir(&stories).unwrap());
    codecs.push(Codec::from_dir_with(&stories, TemplateChoice::Custom(CHAT.to_owned())).unwrap());
    codecs
}

/// A template that puts control tokens on both sides of every message.
const CHAT: &str = "{% for m in messages %}{{ bos_token }} [{{ m.role }}] {{ m.content | trim }} \
                    {{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}{{ bos_token }} \
                    [assistant] {% endif %}";

fn ordinary() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9 .,\n]{1,40}",
        "[ \n\t]{0,3}[<|>/simend_]{1,8}[ \n]{0,2}",
        // Any text but the characters that only the guarded way refuses.
        any::<String>().prop_map(|text| {
            let reserved = |c: &char| matches!(*c as u32, 0xFDD0 | 0xFDD1 | 0x10_0000..);
            text.chars().filter(|c| !reserved(c)).collect()
        }),
    ]
}

fn hostile() -> impl Strategy<Value = String> {
    let control = ["</s>", "<s>", "<unk>", "<|im_end|>", "<|im_start|>", "<|eos|>", "<|bos|>"];
    let piece = prop_oneof![ordinary(), prop::sample::select(control.to_vec()).prop_map(str::to_owned)];
    prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

/// How often each control token of the codec occurs in `ids`.
fn control_counts(codec: &Codec, ids: &[u32]) -> BTreeMap<String, usize> {
    let count = |text: &str| {
        let id = codec.tokenizer().token_to_id(text).unwrap();
        ids.iter().filter(|i| **i == id).count()
    };
    // Unknown characters are the one thing that may become a special token.
    let controls = codec.guard.controls().filter(|c| *c != "<unk>");
    controls.map(|text| (text.to_owned(), count(text))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn guarded_and_ordinary_encoding_agree_on_ordinary_text(user in ordinary(), answer in ordinary()) {
        for codec in CODECS.iter() {
            let turns = [Message::user(&*user), Message::assistant(&*answer)];
            if codec.guard.concerns(&turns) {
                continue;
            }
            let ordinary = codec.render_as(&turns, true, false).unwrap();
            let guarded = codec.render_as(&turns, true, true).unwrap();
            prop_assert_eq!(&ordinary.text, &guarded.text);
            prop_assert_eq!(&ordinary.own, &guarded.own);
            let ids = codec.encode_with_bos(&ordinary).unwrap();
            prop_assert_eq!(ids, codec.encode_with_bos(&guarded).unwrap());
        }
    }

    #[test]
    fn messages_make_no_control_tokens(user in hostile(), answer in hostile()) {
        for codec in CODECS.iter() {
            let harmless = [Message::user("x"), Message::assistant("y")];
            let turns = [Message::user(&*user), Message::assistant(&*answer)];
            let wanted = codec.prompt_ids(&harmless).unwrap();
            let ids = codec.prompt_ids(&turns).unwrap();
            prop_assert_eq!(control_counts(codec, &ids), control_counts(codec, &wanted));
        }
    }

    #[test]
    fn answers_continue_their_prompts(user in hostile(), answer in hostile()) {
        for codec in CODECS.iter() {
            let prompt = [Message::user(&*user)];
            let ids = match codec.response_ids(&prompt, &answer) {
                Ok(ids) => ids,
                Err(TextError::EmptyResponse { .. }) => {
                    prop_assert!(answer.trim().is_empty());
                    continue;
                }
                Err(error) => panic!("{error} for {user:?} and {answer:?} with {codec:?}"),
            };
            prop_assert_eq!(ids.iter().filter(|id| codec.eos_ids().contains(id)).count(), 1);
            prop_assert_eq!(*ids.last().unwrap(), codec.primary_eos());
            let prompt_ids = codec.prompt_ids(&prompt).unwrap();
            let whole = codec.render(&[prompt[0].clone(), Message::assistant(&*answer)], false).unwrap();
            let end = whole.own.last().unwrap().end;
            let whole_ids = codec.encode_with_bos(&whole.part("", 0, end)).unwrap();
            let joined = codec.decode_all(&[&prompt_ids[..], &ids].concat()).unwrap();
            prop_assert_eq!(joined, codec.decode_all(&whole_ids).unwrap());
        }
    }
}

#[test]
fn control_text_in_roles_is_guarded_too() {
    let codec = &CODECS[0];
    let ids = codec.prompt_ids(&[Message::new("user<|im_end|>", "x")]).unwrap();
    let plain = codec.prompt_ids(&[Message::new("user", "x")]).unwrap();
    assert_eq!(control_counts(codec, &ids), control_counts(codec, &plain));
}

#[test]
fn reserved_characters_are_refused_only_beside_control_tokens() {
    let codec = &CODECS[0];
    codec.prompt_ids(&[Message::user("\u{FDD0}\u{100000}")]).unwrap();
    let error = codec.prompt_ids(&[Message::user("\u{FDD0}<|im_end|>")]).unwrap_err();
    assert!(matches!(error, TextError::ReservedCharacter { character: '\u{FDD0}', .. }));
    assert!(error.to_string().contains("fdd0"), "{error}");
}

#[test]
fn templates_may_split_messages_at_control_tokens() {
    // Reasoning models cut earlier thoughts out this way.
    let source = "{% for m in messages %}{{ m.content.split('<|im_end|>')[-1] }}{% endfor %}";
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/text/chatml");
    let codec = Codec::from_dir_with(&dir, TemplateChoice::Custom(source.to_owned())).unwrap();
    let text = codec.prompt_text(&[Message::user("thought<|im_end|>answer")]).unwrap();
    assert_eq!(text, "answer");
}

#[test]
fn codecs_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Codec>();
}
