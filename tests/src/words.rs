//! A task of real annotation: how English words are pronounced, from the CMU
//! Pronouncing Dictionary. What ships in `data/raw/words/` is written from the
//! dictionary by the program `make-words`; a test compares the two where the
//! dictionary is.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, ensure};
use flate2::{Compression, GzBuilder};
use serde_json::{Map, Value, json};

use crate::demo;

/// Shortest and longest word in letters.
pub const LETTERS: std::ops::RangeInclusive<usize> = 4..=12;

/// The dictionary's phonemes, without the digits of stress.
pub const PHONEMES: [&str; 39] = [
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
];

/// Tokens that no text has: padding, the ends of an exchange, and what stands
/// between word and pronunciation.
const CONTROL: [&str; 4] = ["<|pad|>", "<|bos|>", "<|eos|>", "<|say|>"];

/// A word of the dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// In lower case.
    pub word: String,
    /// Its first pronunciation.
    pub phonemes: Vec<String>,
}

/// The words of the dictionary that the task has: of 4 to 12 letters and
/// nothing else, each with its first pronunciation.
///
/// # Errors
/// A phoneme that is none.
pub fn words(dictionary: &str) -> anyhow::Result<Vec<Word>> {
    let mut all = Vec::new();
    for line in dictionary.lines() {
        // What follows a `#` is a remark; a word as `abkhazia(2)` is another pronunciation.
        let mut parts = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(word) = parts.next() else { continue };
        if !LETTERS.contains(&word.len()) || !word.bytes().all(|b| b.is_ascii_lowercase()) {
            continue;
        }
        let phonemes: Vec<String> =
            parts.map(|p| p.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()).collect();
        let known = |p: &String| PHONEMES.contains(&p.as_str());
        ensure!(!phonemes.is_empty() && phonemes.iter().all(known), "{line:?} has a phoneme that is none");
        all.push(Word { word: word.to_owned(), phonemes });
    }
    Ok(all)
}

/// Words as JSON lines: the word's letters are the prompt.
pub fn to_jsonl(words: &[Word]) -> String {
    let row = |w: &Word| {
        let letters: Vec<String> = w.word.chars().map(String::from).collect();
        json!({"id": w.word, "prompt": letters.join(" "), "response": w.phonemes.join(" ")}).to_string() + "\n"
    };
    words.iter().map(row).collect()
}

/// The ids of the vocabulary in order.
fn vocabulary() -> Vec<String> {
    let letters = ('a'..='z').map(String::from);
    CONTROL.into_iter().map(str::to_owned).chain(letters).chain(PHONEMES.into_iter().map(str::to_owned)).collect()
}

fn tokenizer() -> Value {
    let added = CONTROL.iter().enumerate().map(|(id, content)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    });
    let vocab: Map<String, Value> =
        vocabulary().into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Value>(),
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<|unk|>"},
    })
}

fn config() -> Value {
    demo::llama(vocabulary().len(), 96, 256, 3, 64)
}

fn tokenizer_config() -> Value {
    demo::conversations(
        64,
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}{{ m['content'] }}<|say|>{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}",
    )
}

/// Writes data and model directory.
///
/// # Errors
/// When a file cannot be written, or the dictionary is none.
pub fn write(dictionary: &str, dir: &Path) -> anyhow::Result<()> {
    let model = dir.join("model");
    std::fs::create_dir_all(&model)?;
    let pretty = |v: &Value| serde_json::to_string_pretty(v).map(|s| s + "\n");
    // Without name and time, so that equal rows are equal bytes.
    let mut packed = GzBuilder::new().write(Vec::new(), Compression::best());
    packed.write_all(to_jsonl(&words(dictionary)?).as_bytes())?;
    let files = [
        (dir.join("words.jsonl.gz"), packed.finish()?),
        (model.join("config.json"), pretty(&config())?.into_bytes()),
        (
            model.join("generation_config.json"),
            pretty(&json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}))?.into_bytes(),
        ),
        (model.join("tokenizer_config.json"), pretty(&tokenizer_config())?.into_bytes()),
        (model.join("tokenizer.json"), pretty(&tokenizer())?.into_bytes()),
    ];
    for (path, bytes) in files {
        std::fs::write(&path, bytes).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs SPIN_TEST_DATA"]
    fn what_ships_is_what_the_dictionary_gives() {
        let shipped = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/raw/words"));
        let data = std::env::var("SPIN_TEST_DATA").expect("cargo sets it");
        let dictionary = std::fs::read_to_string(Path::new(&data).join("sft/cmudict.dict")).unwrap();
        assert_eq!(words(&dictionary).unwrap().len(), 112_796);
        let dir = tempfile::tempdir().unwrap();
        write(&dictionary, dir.path()).unwrap();
        let model = ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"];
        for file in model.map(|file| format!("model/{file}")).into_iter().chain(["words.jsonl.gz".to_owned()]) {
            let (a, b) = (std::fs::read(shipped.join(&file)).unwrap(), std::fs::read(dir.path().join(&file)).unwrap());
            assert!(a == b, "data/raw/words/{file} is not what make-words writes; run it and commit");
        }
    }

    #[test]
    fn remarks_variants_and_stress_are_left_out() {
        let text = "'bout B AW1 T\nabkhazia AE0 B K AA1 Z Y AH0 # place\nabkhazia(2) AE0 B K AA1 Z\nthe DH AH0\n";
        let found = words(text).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            to_jsonl(&found),
            "{\"id\":\"abkhazia\",\"prompt\":\"a b k h a z i a\",\"response\":\"AE B K AA Z Y AH\"}\n"
        );
        assert!(words("abcd Q1\n").is_err());
    }
}
