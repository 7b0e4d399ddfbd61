//! Tables by a rule.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use candle_core::Device;
use serde_json::{Map, json};
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

fn prompt(i: usize) -> String {
    // Digits of the golden ratio's multiples: texts that do not compress to nothing.
    let mixed = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("how many are {} and {} of {i}?", mixed % 9973, (mixed >> 20) % 99_991)
}

fn answer(i: usize) -> String {
    format!("there are {} of them", (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40)
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
        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"] {
            fs::copy(demo.join(file), dir.join("model").join(file)).context("run it in the project's directory")?;
        }
        CausalLm::init(&ModelConfig::load(demo)?, 1, &Device::Cpu)?.save(&dir.join("model"))?;
        fs::write(
            dir.join("run.toml"),
            format!(
                "run = \"big\"\nseed = 1\nstore = \"store\"\n[model]\npath = \"model\"\n[data]\ntrain = {{ path = \
                 \"train.jsonl\" }}\ntest = {{ path = \"test.jsonl\" }}\n[bench]\ntasks = [\"nll\"]\n[sample]\nrows_per_part = \
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
                    for row in Demonstration::read_part(path)? {
                        let is_identical = number % IDENTICAL == 0;
                        let text = match number {
                            _ if is_identical => row.response.clone(),
                            n if n % LONG == 1 => "no ".repeat(400),
                            n => answer(n + 1),
                        };
                        kept += usize::from(!is_identical && number % LONG != 1 && text != row.response);
                        let response_ids = codec.response_ids(&row.prompt, &text)?;
                        let logps = vec![-0.5_f32; response_ids.len()];
                        waiting.push(Sample {
                            row_id: row.row_id,
                            sample_index: 0,
                            prompt_ids: codec.prompt_ids(&row.prompt)?,
                            logps: -0.5 * response_ids.len() as f64,
                            response_ids,
                            response: text,
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
