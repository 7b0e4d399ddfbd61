//! Tables by a rule.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use candle_core::Device;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use spin_model::{CausalLm, ModelConfig};
use spin_run::graph::{Graph, Product, Split};
use spin_run::run::RunFile;
use spin_run::schema::{Demonstration, Row, Sample};
use spin_store::{Context, Staged, Store, table};
use spin_text::Codec;

/// Every so many answers are the human's, every so many others too long.
const IDENTICAL: usize = 10;
const LONG: usize = 25;

/// A table that is being measured.
pub struct Table {
    dir: PathBuf,
    rows_per_part: usize,
}

/// Digits apart, as the tokenizer has them.
fn spaced(number: u64) -> String {
    number.to_string().chars().map(String::from).collect::<Vec<_>>().join(" ")
}

/// Digits of the golden ratio's multiples: texts that do not compress to nothing.
fn mixed(i: usize) -> u64 {
    (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn prompt(i: usize) -> String {
    format!("how many are {} and {} of {} ?", spaced(mixed(i) % 9973), spaced((mixed(i) >> 20) % 991), spaced(i as u64))
}

fn answer(i: usize) -> String {
    format!("there are {} of them", spaced(mixed(i) >> 40))
}

/// A tokenizer of the words above: what is measured is the store, not a tokenizer.
fn tokenizer() -> Value {
    let special = ["<|pad|>", "<|bos|>", "<|eos|>"];
    let words = "<|unk|> how many are and of ? there them no 0 1 2 3 4 5 6 7 8 9";
    let vocab: Map<String, Value> =
        special.into_iter().chain(words.split(' ')).enumerate().map(|(id, word)| (word.into(), json!(id))).collect();
    let added = special.iter().enumerate().map(|(id, content)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Value>(),
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<|unk|>"},
    })
}

impl Table {
    /// Writes source, model and run file.
    pub fn prepare(dir: &Path, rows: usize, rows_per_part: usize) -> anyhow::Result<Table> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir.join("model"))?;
        let mut out = BufWriter::new(fs::File::create(dir.join("train.jsonl"))?);
        for i in 0..rows {
            writeln!(out, "{}", json!({"prompt": prompt(i), "response": answer(i)}))?;
        }
        out.flush()?;
        fs::write(dir.join("test.jsonl"), format!("{}\n", json!({"prompt": "a", "response": "b"})))?;
        let demo = Path::new("data/raw/demo/model");
        for file in ["tokenizer_config.json", "generation_config.json", "config.json"] {
            fs::copy(demo.join(file), dir.join("model").join(file)).context("run it in the project's directory")?;
        }
        fs::write(dir.join("model/tokenizer.json"), tokenizer().to_string())?;
        CausalLm::init(&ModelConfig::load(demo)?, 1, &Device::Cpu)?.save(&dir.join("model"))?;
        fs::write(
            dir.join("run.toml"),
            format!(
                "run = \"big\"\nseed = 1\nstore = \"store\"\n[model]\npath = \"model\"\n[data]\ntrain = {{ path = \
                 \"train.jsonl\" }}\ntest = {{ path = \"test.jsonl\" }}\n[template]\nmax_prompt_length = 60\nmax_length = 100\n[bench]\ntasks = [\"nll\"]\n[sample]\nrows_per_part = \
                 {rows_per_part}\n[[iteration]]\n"
            ),
        )?;
        Ok(Table { dir: dir.into(), rows_per_part })
    }

    /// The source.
    pub fn jsonl(&self) -> PathBuf {
        self.dir.join("train.jsonl")
    }

    fn each<T>(&self, look: impl FnOnce(&Graph<'_>, &Codec, Vec<PathBuf>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let run = RunFile::load(&self.dir.join("run.toml"), &[])?;
        let store = Store::open_existing(&run.store_dir())?;
        let graph = Graph::new(&run, &store);
        let codec = Codec::of_run(&self.dir.join("model"), graph.chat()?)?;
        let parts = graph.demonstrations(Split::Train)?.verified()?.parts();
        look(&graph, &codec, parts)
    }

    /// Publishes samples; how many parts, and how many of them are pairs.
    pub fn samples(&self) -> anyhow::Result<(usize, usize)> {
        self.each(|graph, codec, parts| {
            let recipe = graph.recipe(&Product::Samples(0))?;
            let (mut part, mut kept, mut number, mut waiting) = (0, 0, 0, Vec::new());
            let made = Context::silent(graph.store).make(&recipe, |making| -> anyhow::Result<Staged> {
                let staged = making.staging()?;
                let mut write = |rows: &mut Vec<Sample>| -> anyhow::Result<()> {
                    if !rows.is_empty() {
                        Sample::write_part(
                            &staged.path().join(table::part_name(part)),
                            rows,
                            &recipe.identity(),
                            part,
                        )?;
                        part += 1;
                        rows.clear();
                    }
                    Ok(())
                };
                for path in &parts {
                    let rows = Demonstration::read_part(path)?;
                    let all: Vec<_> = rows
                        .par_iter()
                        .map(|row| codec.exchange_ids(&row.prompt, &row.response))
                        .collect::<Result<_, _>>()?;
                    for (i, (row, (prompt_ids, own))) in rows.iter().zip(&all).enumerate() {
                        // The opponent says what is right for another row.
                        let (other, said) = (&rows[(i + 1) % rows.len()], &all[(i + 1) % rows.len()].1);
                        let (response, response_ids) = match number {
                            n if n % IDENTICAL == 0 => (row.response.clone(), own.clone()),
                            n if n % LONG == 1 => ("no ".repeat(100), [vec![13; 100], vec![2]].concat()),
                            _ => (other.response.clone(), said.clone()),
                        };
                        kept += usize::from(number % LONG != 1 && response_ids != *own);
                        let logps = vec![-0.5_f32; response_ids.len()];
                        waiting.push(Sample {
                            row_id: row.row_id.clone(),
                            sample_index: 0,
                            prompt_ids: prompt_ids.clone(),
                            logps: -0.5 * response_ids.len() as f64,
                            response_ids,
                            response,
                            finish_reason: "stop".into(),
                            token_logps: logps.clone(),
                            token_sampling_logps: logps,
                        });
                        number += 1;
                        if waiting.len() == self.rows_per_part {
                            write(&mut waiting)?;
                        }
                    }
                }
                write(&mut waiting)?;
                Ok(Staged::new(staged, Map::new()))
            })?;
            anyhow::ensure!(made.1, "there were samples");
            Ok((part, kept))
        })
    }

    /// Demonstrations in tokens, for the peers: the id's column of one table, and lists
    /// as another has them.
    pub fn tokens(&self, to: &Path) -> anyhow::Result<()> {
        self.each(|_, codec, parts| {
            let mut rows = Vec::new();
            for path in &parts {
                for row in Demonstration::read_part(path)? {
                    let (prompt_ids, response_ids) = codec.exchange_ids(&row.prompt, &row.response)?;
                    rows.push(Sample {
                        row_id: row.row_id,
                        sample_index: 0,
                        prompt_ids,
                        response_ids,
                        response: String::new(),
                        finish_reason: String::new(),
                        logps: 0.0,
                        token_logps: Vec::new(),
                        token_sampling_logps: Vec::new(),
                    });
                }
            }
            Ok(Sample::write_part(to, &rows, "tokens", 0)?)
        })
    }
}
