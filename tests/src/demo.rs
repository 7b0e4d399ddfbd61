//! The demo's task: two-step word problems in GSM8K's answer format, and a
//! tokenizer for them. What ships in `data/raw/demo/` is written by the
//! program `make-demo` from here; a test compares the two.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use spin_noise::SplitMix64;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

/// Seed of the problems that ship.
pub const SEED: u64 = 20_240_102;
/// Problems to train on.
pub const TRAIN: usize = 4400;
/// Problems to score on; no prompt stands in both.
pub const TEST: usize = 2000;
/// Ids in the tokenizer.
pub const VOCAB: usize = 460;

const NAMES: [&str; 20] = [
    "Ann", "Ben", "Cara", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivan", "Jade", "Kim", "Leo", "Mia", "Ned", "Ola",
    "Pam", "Raj", "Sue", "Tom", "Uma",
];
const ITEMS: [&str; 16] = [
    "apples", "books", "cards", "coins", "eggs", "hats", "kites", "lamps", "nuts", "pens", "pears", "rocks", "shells",
    "socks", "stamps", "toys",
];

/// A number of a plan's step: a quantity of the problem, or the last result.
#[derive(Clone, Copy)]
enum Term {
    A,
    B,
    C,
    D,
    E,
    Last,
}
use Term::{A, B, C, D, E, Last};

type Step = (Term, char, Term);

/// Texts with the two steps of their solution. `a`, `b` are up to `LARGEST`,
/// `c` smaller, `d`, `e` one-digit factors.
const TEMPLATES: [(&str, [Step; 2]); 8] = [
    ("{N} has {a} {i}. {N} buys {b} more and gives away {c}. How many {i} are left?", [(A, '+', B), (Last, '-', C)]),
    ("{N} had {a} {i} and lost {c}. Then {N} found {b}. How many {i} now?", [(A, '-', C), (Last, '+', B)]),
    ("{N} has {a} {i}. {M} gives {N} {d} bags of {e} {i}. How many {i} does {N} have?", [(D, '*', E), (A, '+', Last)]),
    ("{N} buys {d} boxes of {e} {i} and {M} adds {b}. How many {i} in all?", [(D, '*', E), (Last, '+', B)]),
    ("{N} has {a} {i}. {M} has {c} more than {N}. How many {i} do both have?", [(A, '+', C), (A, '+', Last)]),
    ("{N} has {a} {i}. {M} has {c} fewer than {N}. How many {i} do both have?", [(A, '-', C), (A, '+', Last)]),
    ("{N} packs {d} trays of {e} {i} and sells {c}. How many {i} remain?", [(D, '*', E), (Last, '-', C)]),
    ("{N} picks {a} {i} and {M} picks {b}. They drop {c}. How many {i} are left?", [(A, '+', B), (Last, '-', C)]),
];

/// Largest two-digit quantity.
const LARGEST: i64 = 59;
/// Largest intermediate or final result.
const LARGEST_RESULT: i64 = 199;

/// A problem with its worked answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The text.
    pub question: String,
    /// Two worked steps and `#### n`.
    pub answer: String,
}

/// What is drawn, in order.
struct Random(SplitMix64);

impl Random {
    fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.0.below((high - low + 1) as u64) as i64
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.0.below(words.len() as u64) as usize]
    }
}

fn draw(random: &mut Random) -> Option<Problem> {
    let (text, steps) = TEMPLATES[random.0.below(TEMPLATES.len() as u64) as usize];
    let (a, b) = (random.between(11, LARGEST), random.between(11, LARGEST));
    let (c, d, e) = (random.between(2, 49), random.between(2, 9), random.between(2, 9));
    let (name, other, item) = (random.pick(&NAMES), random.pick(&NAMES), random.pick(&ITEMS));
    if name == other {
        return None;
    }
    let (mut last, mut answer) = (0, String::new());
    for (x, op, y) in steps {
        let value = |t| match t {
            A => a,
            B => b,
            C => c,
            D => d,
            E => e,
            Last => last,
        };
        let (x, y) = (value(x), value(y));
        last = match op {
            '+' => x + y,
            '-' => x - y,
            _ => x * y,
        };
        if !(1..=LARGEST_RESULT).contains(&last) {
            return None;
        }
        answer.push_str(&format!("{x}{op}{y}={last}\n"));
    }
    answer.push_str(&format!("#### {last}"));
    let mut question = text.to_owned();
    let numbers = [("{a}", a), ("{b}", b), ("{c}", c), ("{d}", d), ("{e}", e)];
    for (slot, number) in numbers {
        question = question.replace(slot, &number.to_string());
    }
    for (slot, word) in [("{N}", name), ("{M}", other), ("{i}", item)] {
        question = question.replace(slot, word);
    }
    Some(Problem { question, answer })
}

/// `train` and `test` problems, all questions different.
pub fn problems(seed: u64, train: usize, test: usize) -> (Vec<Problem>, Vec<Problem>) {
    let mut random = Random(SplitMix64::new(seed));
    let mut seen = HashSet::new();
    let mut all = Vec::with_capacity(train + test);
    while all.len() < train + test {
        if let Some(problem) = draw(&mut random)
            && seen.insert(problem.question.clone())
        {
            all.push(problem);
        }
    }
    let test = all.split_off(train);
    (all, test)
}

/// Problems as JSON lines with GSM8K's keys.
pub fn to_jsonl(problems: &[Problem]) -> String {
    problems.iter().map(|p| json!({"question": p.question, "answer": p.answer}).to_string() + "\n").collect()
}

/// A byte-level BPE with single digits, trained on the problems.
///
/// # Errors
/// When the library refuses.
pub fn tokenizer(problems: &[Problem]) -> anyhow::Result<Tokenizer> {
    let wrapped = |e| anyhow!("tokenizers: {e}");
    let digits = SplitPattern::Regex(r"\d".into());
    let digits = Split::new(digits, SplitDelimiterBehavior::Isolated, false).map_err(wrapped)?;
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(digits),
        PreTokenizerWrapper::ByteLevel(bytes),
    ])));
    tokenizer.with_decoder(Some(bytes));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(VOCAB)
        .min_frequency(2)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(["<|pad|>", "<|bos|>", "<|eos|>"].map(|t| AddedToken::from(t, true)).to_vec())
        .build()
        .into();
    let texts = problems.iter().map(|p| format!("{}\n{}", p.question, p.answer));
    tokenizer.train(&mut trainer, texts).map_err(wrapped)?;
    Ok(tokenizer)
}

/// `config.json` of the demo's model.
pub fn config() -> Value {
    llama(VOCAB, 64, 168, 2, 128)
}

/// `config.json` of a small Llama of four heads, whose first tokens are padding, begin
/// and end.
pub fn llama(vocab: usize, hidden: usize, inner: usize, layers: usize, positions: usize) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "attention_bias": false,
        "mlp_bias": false,
        "initializer_range": 0.02,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        "dtype": "float32",
        "use_cache": true,
    })
}

fn tokenizer_config() -> Value {
    conversations(
        128,
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}{{ m['content'] }}\n{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}",
    )
}

/// `tokenizer_config.json` with the demo's control tokens and a template.
pub fn conversations(positions: usize, template: &str) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|pad|>",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "model_max_length": positions,
        "clean_up_tokenization_spaces": false,
        "chat_template": template,
    })
}

/// Writes data and model directory.
///
/// # Errors
/// When a file cannot be written.
pub fn write(dir: &Path) -> anyhow::Result<()> {
    let (train, test) = problems(SEED, TRAIN, TEST);
    let model = dir.join("model");
    std::fs::create_dir_all(&model)?;
    let pretty = |v: &Value| serde_json::to_string_pretty(v).map(|s| s + "\n");
    let files = [
        (dir.join("train.jsonl"), to_jsonl(&train)),
        (dir.join("test.jsonl"), to_jsonl(&test)),
        (model.join("config.json"), pretty(&config())?),
        (
            model.join("generation_config.json"),
            pretty(&json!({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}))?,
        ),
        (model.join("tokenizer_config.json"), pretty(&tokenizer_config())?),
        (model.join("tokenizer.json"), tokenizer(&train)?.to_string(true).map_err(|e| anyhow!("{e}"))? + "\n"),
    ];
    for (path, text) in files {
        std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ships_is_what_the_generator_writes() {
        let shipped = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/raw/demo"));
        let dir = std::env::temp_dir().join(format!("spin-demo-{}", std::process::id()));
        write(&dir).unwrap();
        let files = [
            "train.jsonl",
            "test.jsonl",
            "model/config.json",
            "model/generation_config.json",
            "model/tokenizer_config.json",
            "model/tokenizer.json",
        ];
        for file in files {
            let (a, b) = (std::fs::read(shipped.join(file)).unwrap(), std::fs::read(dir.join(file)).unwrap());
            assert!(a == b, "data/raw/demo/{file} is not what make-demo writes; run it and commit");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn answers_are_right_and_prompts_disjoint() {
        let (train, test) = problems(5, 500, 500);
        let train: HashSet<_> = train.iter().map(|p| &p.question).collect();
        for p in &test {
            assert!(!train.contains(&p.question));
            let last = p.answer.lines().nth(1).and_then(|l| l.rsplit_once('=')).unwrap().1;
            assert_eq!(p.answer.lines().last().unwrap(), format!("#### {last}"));
            assert!(!p.question.contains('{'), "{}", p.question);
            for line in p.answer.lines().take(2) {
                let (sum, result) = line.split_once('=').unwrap();
                let op = sum.find(['+', '-', '*']).unwrap();
                let (x, y): (i64, i64) = (sum[..op].parse().unwrap(), sum[op + 1..].parse().unwrap());
                let expected = match &sum[op..=op] {
                    "+" => x + y,
                    "-" => x - y,
                    _ => x * y,
                };
                assert_eq!(result.parse::<i64>().unwrap(), expected);
            }
        }
    }
}
