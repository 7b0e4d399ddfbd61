//! Inputs that nobody wrote: mutations of good ones, thrown at everything that reads
//! files from outside. A reader may refuse; it may not panic, hang, or write outside
//! of its store.
//!
//! No coverage guides it, so it finds what is near good inputs and no more. A test runs
//! each target for a moment, `mutate TARGET SECONDS` for as long as is asked.

use std::fs;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use candle_core::{DType, Device};
use spin_bench::harness::registry::Registry;
use spin_model::{CausalLm, ModelConfig};
use spin_run::records::{self, Budget, Files};
use spin_run::run::{Profile, RunFile};
use spin_run::schema::{Demonstration, Message, Row};
use spin_store::{Manifest, Reference, Store, bundle};
use spin_text::Codec;

/// What is read.
pub const TARGETS: [&str; 12] = [
    "manifest",
    "journal",
    "reference",
    "run-file",
    "set",
    "jsonl",
    "csv",
    "parquet",
    "bundle",
    "safetensors",
    "template",
    "task-file",
];

/// What came of a target.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Inputs tried.
    pub tried: u64,
    /// Those that were taken for good.
    pub accepted: u64,
    /// The longest that one took.
    pub slowest: Duration,
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// What readers stumble over.
const WORDS: [&[u8]; 24] = [
    b"",
    b"0",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"null",
    b"[]",
    b"{}",
    b"\"\"",
    b"../",
    b"/",
    b"\0",
    b"\n",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"{% for i in range(99999) %}",
    b"{{ x }}",
    b"{%",
    b"}}",
    b"(a+)+$",
    b"true",
    b"=",
    b"\\u0000",
    b"\xed\xa0\x80",
];

/// A good input with a few things changed.
fn mutated(good: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = good.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(out.len() + 1);
        let longest = 1 + random.below(64);
        let end = (at + random.below(longest)).min(out.len());
        match random.below(7) {
            0 if at < out.len() => out[at] ^= 1 << random.below(8),
            1 => drop(out.drain(at..end)),
            2 => {
                let part = out[at..end].to_vec();
                out.splice(at..at, part);
            }
            3 => {
                out.splice(at..end, WORDS[random.below(WORDS.len())].iter().copied());
            }
            4 => out.truncate(at),
            5 => {
                let bytes: Vec<u8> = (0..random.below(9)).map(|_| random.next() as u8).collect();
                out.splice(at..at, bytes);
            }
            _ => {
                let (from, len) = (random.below(good.len()), random.below(200));
                let part = good[from..(from + len).min(good.len())].to_vec();
                out.splice(at..end, part);
            }
        }
    }
    out
}

/// What was read is of no more use.
fn read_as<T, E: Into<anyhow::Error>>(result: Result<T, E>) -> anyhow::Result<()> {
    result.map(drop).map_err(Into::into)
}

type Read = Box<dyn Fn(&[u8]) -> anyhow::Result<()>>;

/// A good input of a target, and who reads it. `dir` is theirs.
fn target(name: &str, dir: &Path) -> anyhow::Result<(Vec<u8>, Read)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let fixture = root.join("tests/fixtures/store-0.1");
    let at = |path: &str| dir.join(path);
    let rows = |extension: &str, good: Vec<u8>| -> (Vec<u8>, Read) {
        let path = dir.join(format!("rows.{extension}"));
        let read = move |bytes: &[u8]| {
            fs::write(&path, bytes)?;
            let files = Files::at(&path)?;
            let mut budget = Budget::new(&files.list, None, None);
            records::read(&path, &[], &mut budget, &mut |_, record| {
                if let Ok(mut record) = record {
                    let _ = record.take_id();
                    drop(record.into_map());
                }
                Ok(ControlFlow::Continue(()))
            })?;
            Ok(())
        };
        (good, Box::new(read))
    };
    Ok(match name {
        "manifest" => {
            let good = fs::read(fixture.join("store/pairs/tiny/iter-0/v1/manifest.json"))?;
            let dir = dir.to_path_buf();
            (
                good.clone(),
                Box::new(move |bytes| {
                    fs::write(dir.join("manifest.json"), bytes)?;
                    Manifest::read(&dir)?;
                    // Nothing but what was written is a manifest.
                    assert!(bytes == good, "an altered manifest is read");
                    Ok(())
                }),
            )
        }
        "journal" => {
            let store = Store::open(&at("store"))?;
            for _ in 0..3 {
                let _ = store.pin("model/a@v1", true)?;
            }
            let line = |n: u32| {
                format!(
                    "{{\"entry\":{n},\"event\":\"published\",\"artifact\":\"a/b@v1\",\"seal\":\"\",\"previous\":\"\",\"digest\":\"\"}}\n"
                )
            };
            let good = (1..4).map(line).collect::<String>().into_bytes();
            let path = store.root().join(spin_store::journal::FILE_NAME);
            (
                good,
                Box::new(move |bytes| {
                    fs::write(&path, bytes)?;
                    read_as(store.journal())
                }),
            )
        }
        "reference" => (
            b"demonstrations/demo/train@v12".to_vec(),
            Box::new(|bytes| {
                let reference: Reference = String::from_utf8_lossy(bytes).parse()?;
                anyhow::ensure!(!reference.name.split('/').any(|part| part == ".."), "a way out");
                Ok(())
            }),
        ),
        "run-file" => {
            let path = at("run.toml");
            (
                fs::read(root.join("pipelines/demo.toml"))?,
                Box::new(move |bytes| {
                    fs::write(&path, bytes)?;
                    read_as(RunFile::load(&path, &[]))
                }),
            )
        }
        "set" => {
            let path = root.join("pipelines/demo.toml");
            (
                b"iteration.0.fit.learning_rate=1e-3".to_vec(),
                Box::new(move |bytes| read_as(RunFile::load(&path, &[String::from_utf8_lossy(bytes).into_owned()]))),
            )
        }
        "jsonl" => rows("jsonl", fs::read(root.join("data/raw/demo/test.jsonl"))?[..4000].to_vec()),
        "csv" => rows("csv", b"id,question,answer\n1,\"a, \"\"b\"\"\",c\n2,\"d\ne\",f\n".repeat(9)),
        "parquet" => {
            let message = |i: usize| vec![Message::user(format!("ask {i}"))];
            let row = |i| Demonstration { row_id: format!("{i}"), prompt: message(i), response: format!("say {i}") };
            let all: Vec<Demonstration> = (0..40).map(row).collect();
            rows("parquet", Demonstration::encode_part(&at("x"), &all, "id", 0)?)
        }
        "bundle" => {
            let store = Store::open(&at("from"))?;
            let context = spin_store::Context::silent(&store);
            let source = spin_run::run::SourceConfig::new(root.join("data/raw/demo/test.jsonl"));
            let files = Files::at(&source.path)?;
            let recipe = spin_run::import::demonstrations_recipe("a", &source, &files)?;
            let (artifact, _) = spin_run::import::demonstrations(&context, &recipe, &source, &files)?;
            let path = at("b.spin.tar");
            bundle::write(std::slice::from_ref(&artifact), &artifact, &path)?;
            let good = fs::read(&path)?;
            let (path, to) = (at("bad.spin.tar"), at("to"));
            (
                good,
                Box::new(move |bytes| {
                    fs::write(&path, bytes)?;
                    let _ = fs::remove_dir_all(&to);
                    read_as(bundle::take(&Store::open(&to)?, &path, None))
                }),
            )
        }
        "safetensors" => {
            let model = root.join("data/raw/demo/model");
            let mut config: serde_json::Value = serde_json::from_slice(&fs::read(model.join("config.json"))?)?;
            for (key, value) in
                [("hidden_size", 8), ("intermediate_size", 8), ("num_hidden_layers", 1), ("vocab_size", 8)]
            {
                config[key] = value.into();
            }
            fs::write(at("config.json"), config.to_string())?;
            CausalLm::init(&ModelConfig::load(dir)?, 1, &Device::Cpu)?.save(dir)?;
            let (path, dir) = (at("model.safetensors"), dir.to_path_buf());
            (
                fs::read(&path)?,
                Box::new(move |bytes| {
                    fs::write(&path, bytes)?;
                    read_as(CausalLm::load(&dir, &Device::Cpu, DType::F32))
                }),
            )
        }
        "template" => {
            let model = root.join("data/raw/demo/model");
            for file in ["tokenizer.json", "config.json", "generation_config.json"] {
                fs::copy(model.join(file), at(file))?;
            }
            let (path, dir) = (at("tokenizer_config.json"), dir.to_path_buf());
            (
                fs::read(model.join("tokenizer_config.json"))?,
                Box::new(move |bytes| {
                    fs::write(&path, bytes)?;
                    let codec = Codec::from_dir(&dir)?;
                    read_as(codec.exchange_ids(&[Message::user("one and one")], "two"))
                }),
            )
        }
        "task-file" => {
            let good = "task = \"t\"\ndataset = \"t.jsonl\"\ndoc_to_text = \"{{ question }} is\"\ndoc_to_choice = [\"{{ a }}\", \
                        \"b\"]\ndoc_to_target = 0\nmetrics = [\"acc\"]\n";
            fs::write(at("t.jsonl"), "{\"question\": \"x\", \"a\": \"y\"}\n")?;
            let (path, dir) = (at("t.toml"), dir.to_path_buf());
            (
                good.into(),
                Box::new(move |bytes| {
                    fs::write(&path, bytes)?;
                    let registry = Registry::new(Profile::Current, &dir, std::slice::from_ref(&dir))?;
                    read_as(registry.units(&["t".into()]))
                }),
            )
        }
        other => anyhow::bail!("there is no target {other:?}; there are {}", TARGETS.join(", ")),
    })
}

/// Throws mutations at a target for some time.
///
/// # Errors
/// At the first input that makes it panic; it is kept in `keep`.
pub fn run(name: &str, time: Duration, seed: u64, keep: &Path) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir()?;
    let (good, read) = target(name, dir.path())?;
    let outside = dir.path().parent().map(|parent| parent.join("escaped"));
    let (mut random, mut outcome, start) = (Random(seed), Outcome::default(), Instant::now());
    while start.elapsed() < time {
        let input = mutated(&good, &mut random);
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| read(&input)));
        outcome.slowest = outcome.slowest.max(begun.elapsed());
        outcome.tried += 1;
        match result {
            Ok(Ok(())) => outcome.accepted += 1,
            Ok(Err(error)) => {
                // A message is for people: it says something.
                anyhow::ensure!(!format!("{error:#}").trim().is_empty(), "an error without a word");
            }
            Err(_) => {
                let path: PathBuf = keep.join(format!("{name}-{}.bin", outcome.tried));
                fs::write(&path, &input).context("the input cannot be kept")?;
                anyhow::bail!("{name} panicked; the input is {}", path.display());
            }
        }
        anyhow::ensure!(!outside.as_ref().is_some_and(|path| path.exists()), "{name} wrote outside of its directory");
    }
    Ok(outcome)
}
