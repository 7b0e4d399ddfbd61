use serde_json::{Value, json};

use super::*;

/// A tokenizer of 256 byte tokens (`0` to `255`), `</s>` (256) and words.
fn codec(words: &[&str], decoder: Value) -> Arc<Codec> {
    let mut vocab: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    vocab.push("</s>".into());
    vocab.extend(words.iter().map(|word| (*word).to_owned()));
    let vocab: serde_json::Map<String, Value> =
        vocab.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{
            "id": 256, "content": "</s>", "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        }],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true},
    });
    let config = json!({"eos_token": "</s>", "chat_template": "{{ messages[0].content }}"});
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Arc::new(Codec::from_dir(dir.path()).unwrap())
}

/// As Llama 2 reads its ids: bytes that are no character spoil their
/// neighbours, and a text loses its first space.
fn llama(words: &[&str]) -> Arc<Codec> {
    let decoders = json!([
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]);
    codec(words, json!({"type": "Sequence", "decoders": decoders}))
}

fn stops(codec: &Arc<Codec>, texts: &[&str]) -> StopTexts {
    StopTexts::new(codec, &texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
}

/// How many tokens there are when a stop text is found first.
fn found_at(stop: &StopTexts, ids: &[u32]) -> Option<usize> {
    let mut search = Search::default();
    (1..=ids.len()).find(|&n| search.found(stop, &ids[..n]).unwrap())
}

/// The same by decoding everything at each token.
fn plainly(stop: &StopTexts, ids: &[u32]) -> Option<usize> {
    (1..=ids.len()).find(|&n| stop.are_in(&stop.codec.decode(&ids[..n]).unwrap()))
}

fn bytes(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn a_stop_text_is_found_at_the_token_that_completes_it() {
    let codec = llama(&["▁Qu", "estion", ":", "▁", "Question:", "x"]);
    let id = |word: &str| codec.tokenizer().token_to_id(word).unwrap();
    let ids = |words: &[&str]| words.iter().map(|word| id(word)).collect::<Vec<_>>();
    let stop = stops(&codec, &["Question:", "\n\n"]);
    // Over three tokens, at the very first token, inside a token, never.
    assert_eq!(found_at(&stop, &ids(&["x", "▁Qu", "estion", ":", "x"])), Some(4));
    assert_eq!(found_at(&stop, &ids(&["Question:", "x"])), Some(1));
    assert_eq!(found_at(&stop, &ids(&["x", "x", "Question:", "x"])), Some(3));
    assert_eq!(found_at(&stop, &ids(&["x", "▁Qu", "estion", "▁", ":", "x"])), None);
    // One line end is none, two are.
    assert_eq!(found_at(&stop, &bytes("a\nb\n\nc")), Some(5));
    // The first space of an answer is not part of its text, later ones are.
    let stop = stops(&codec, &[" Qu"]);
    assert_eq!(found_at(&stop, &ids(&["▁Qu", "x"])), None);
    assert_eq!(found_at(&stop, &ids(&["▁Qu", "x", "▁Qu", "x"])), Some(3));
    // Special tokens have no text and part nothing.
    let stop = stops(&codec, &["xx", "</s>"]);
    assert_eq!(found_at(&stop, &ids(&["x", "▁", "</s>", "x", "</s>", "x"])), Some(6));
}

#[test]
fn texts_that_overlap_and_repeat() {
    let codec = llama(&[]);
    assert_eq!(found_at(&stops(&codec, &["aab"]), &bytes("aaaab")), Some(5));
    assert_eq!(found_at(&stops(&codec, &["abab", "bb"]), &bytes("abaabab")), Some(7));
    assert_eq!(found_at(&stops(&codec, &["abcd", "bc"]), &bytes("abcd")), Some(3));
    assert_eq!(found_at(&stops(&codec, &["", "bc"]), &bytes("abcd")), Some(3));
    assert!(StopTexts::new(&codec, &[]).is_none());
    assert!(StopTexts::new(&codec, &[String::new()]).is_none());
}

#[test]
fn characters_of_several_bytes() {
    let codec = llama(&["x"]);
    let stop = stops(&codec, &["。"]);
    assert_eq!(found_at(&stop, &bytes("あ。い")), Some(6));
    // A broken byte spoils all bytes it touches until a word comes between.
    let mut ids = vec![0xE3];
    ids.extend(bytes("。"));
    assert_eq!(found_at(&stop, &ids), None);
    ids.push(257);
    ids.extend(bytes("。"));
    assert_eq!(found_at(&stop, &ids), Some(8));
    // Long after the ids at the beginning stopped being looked at, at every
    // place within a character.
    for shift in 0..5 {
        let mut ids = bytes(&"x".repeat(shift));
        ids.extend(bytes(&"あ".repeat(100)));
        let length = ids.len();
        ids.extend(bytes("。い"));
        assert_eq!(found_at(&stop, &ids), Some(length + 3));
    }
    let stop = stops(&codec, &["\u{FFFD}!"]);
    let ids = [bytes(&"y".repeat(80)), vec![0xE3], bytes("!")].concat();
    assert_eq!(found_at(&stop, &ids), plainly(&stop, &ids));
}

#[test]
fn only_the_end_is_decoded() {
    let codec = llama(&["▁word"]);
    let stop = stops(&codec, &["\n\n"]);
    let mut search = Search::default();
    for n in 1..=2000 {
        assert!(!search.found(&stop, &vec![257; n]).unwrap());
        assert!(n - search.start <= LONG, "{} of {n}", n - search.start);
    }
}

/// Any ids whatsoever, from few enough tokens that stop texts come together by
/// chance, read by each kind of decoder.
#[test]
fn what_is_found_is_what_decoding_everything_finds() {
    let words = ["▁a", "b", "▁", "。", "a▁b"];
    let byte_level = ["Ġa", "b", "Ġ", "ãĢ", "Ĥ"];
    let codecs = [
        llama(&words),
        codec(&words, json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})),
        codec(
            &byte_level,
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        ),
        codec(&["a", "##b", "##a", "。", "b"], json!({"type": "WordPiece", "prefix": "##", "cleanup": true})),
        codec(&["a</w>", "b", "a", "。", "b</w>"], json!({"type": "BPEDecoder", "suffix": "</w>"})),
    ];
    let texts = ["aba bab", "。。a", "b  a b", "あ。", " a a a a", "a。 b a", "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}aaa"];
    let mut random = 1u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let alphabet = [0xE3, 0x80, 0x82, 0x81, b'a' as usize, 256, 257, 258, 259, 260, 261];
    let (mut hits, mut misses) = (0, 0);
    for round in 0..1500 {
        let codec = &codecs[round % codecs.len()];
        // Few different tokens at a time, so that long stretches look alike.
        let few: Vec<u32> = (0..2 + next(5)).map(|_| alphabet[next(alphabet.len())] as u32).collect();
        let ids: Vec<u32> = (0..40 + next(160)).map(|_| few[next(few.len())]).collect();
        // A piece of what they read as, which occurs and perhaps not earlier.
        let whole: Vec<char> = codec.decode(&ids).unwrap().chars().collect();
        let at = next(whole.len().max(1));
        let piece: String = whole.iter().skip(at).take(3 + next(20)).collect();
        let second = if next(3) == 0 { texts[next(texts.len())] } else { &piece };
        let stop = stops(codec, &[texts[next(texts.len())], second]);
        let expected = plainly(&stop, &ids);
        assert_eq!(found_at(&stop, &ids), expected, "{:?} in {ids:?} by codec {}", stop.texts, round % codecs.len());
        match expected {
            Some(n) if n > LONG => hits += 1,
            Some(_) => {}
            None => misses += 1,
        }
    }
    assert!(hits > 200 && misses > 50, "{hits} found late, {misses} not at all");
}
