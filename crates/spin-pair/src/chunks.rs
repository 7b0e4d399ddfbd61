//! Demonstrations a part at a time, and which parts of samples belong to which: what
//! is in memory does not grow with the tables.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, ListArray, RecordBatch, StringArray};
use rayon::prelude::*;
use spin_run::run::{PromptFate, TemplateConfig};
use spin_run::schema::{Demonstration, Row, turns};
use spin_store::table;
use spin_text::TextError;

use crate::error::{PairError, Result};
use crate::ids::IdLists;
use crate::join::{RealAnswers, SampleTable};

/// Rows that a thread tokenises before it takes the next.
const PIECE: usize = 256;

/// The ids of a demonstration's prompt and of its answer.
pub type InTokens<'a> = dyn Fn(&Demonstration) -> Result<(Vec<u32>, Vec<u32>), TextError> + Sync + 'a;

/// A part of the demonstrations, in tokens too.
pub struct Chunk {
    /// Its rows, with the columns of [`Demonstration`].
    rows: RecordBatch,
    /// The same in tokens.
    pub real: RealAnswers,
    /// Prompts that are left out as too long.
    pub overlong: u64,
}

impl Chunk {
    /// The prompt of a row, by role and content.
    pub fn prompt(&self, row: usize) -> impl Iterator<Item = (&str, &str)> + Clone {
        let prompts: &ListArray = self.rows.column(1).as_list::<i32>();
        turns::of(prompts, row)
    }

    /// The human answer of a row.
    pub fn response(&self, row: usize) -> &str {
        let responses: &StringArray = self.rows.column(2).as_string::<i32>();
        responses.value(row)
    }
}

/// Where demonstrations come from.
pub struct Chunks<'a> {
    parts: Vec<PathBuf>,
    in_tokens: &'a InTokens<'a>,
    template: &'a TemplateConfig,
    context: usize,
    /// For messages: `demonstrations/name@v1`.
    table: String,
    /// The last one that was asked for.
    last: Option<(usize, Chunk)>,
}

impl<'a> Chunks<'a> {
    /// The parts of a table for a model that reads `context` tokens.
    pub fn new(
        parts: Vec<PathBuf>,
        in_tokens: &'a InTokens<'a>,
        template: &'a TemplateConfig,
        context: usize,
        table: String,
    ) -> Self {
        Chunks { parts, in_tokens, template, context, table, last: None }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.parts.len()
    }

    /// A chunk by its number.
    ///
    /// # Errors
    /// When it cannot be read or a row cannot be tokenised.
    pub fn get(&mut self, number: usize) -> Result<&Chunk> {
        let chunk = match self.last.take() {
            Some((last, chunk)) if last == number => chunk,
            // Before the next one is read.
            other => {
                drop(other);
                self.read(number)?
            }
        };
        Ok(&self.last.insert((number, chunk)).1)
    }

    fn read(&self, number: usize) -> Result<Chunk> {
        let rows = table::read(&self.parts[number], &Demonstration::schema(), Demonstration::SCHEMA_VERSION)?;
        let starts: Vec<usize> = (0..rows.num_rows()).step_by(PIECE).collect();
        let piece = |start: usize| self.tokenise(&rows.slice(start, PIECE.min(rows.num_rows() - start)));
        // What takes the most time; of several bad rows the first is named.
        let pieces: Vec<_> = starts.into_par_iter().map(piece).collect();
        let (mut prompt_ids, mut real_ids, mut overlong) = (IdLists::default(), IdLists::default(), 0);
        for piece in pieces {
            let (prompts, answers, left_out) = piece?;
            prompt_ids.append(&prompts);
            real_ids.append(&answers);
            overlong += left_out;
        }
        let row_ids: &StringArray = rows.column(0).as_string::<i32>();
        let real = RealAnswers { row_ids: row_ids.clone(), prompt_ids, real_ids };
        Ok(Chunk { rows, real, overlong })
    }

    /// Prompts and answers of some rows, and how many prompts are left out as too long.
    fn tokenise(&self, rows: &RecordBatch) -> Result<(IdLists, IdLists, u64)> {
        let (mut prompts, mut answers, mut overlong) = (IdLists::default(), IdLists::default(), 0);
        for row in Demonstration::from_batch(rows) {
            let in_row = |error: TextError| error.in_row(&row.row_id, &self.table);
            let (ids, real_ids) = (self.in_tokens)(&row).map_err(in_row)?;
            answers.push(&real_ids);
            let whole = ids.clone();
            match self.template.prompt(ids, self.context) {
                // What is cut was sampled from what is left of it.
                PromptFate::Used(cut, _) => prompts.push(&cut),
                PromptFate::Dropped => {
                    prompts.push(&whole);
                    overlong += 1;
                }
                // Such a row was refused when answers were sampled.
                PromptFate::TooLong(..) => prompts.push(&whole),
            }
        }
        Ok((prompts, answers, overlong))
    }

    /// Which chunk each row is in.
    ///
    /// # Errors
    /// When a part cannot be read.
    pub fn places(&self) -> Result<Places> {
        let mut places = Places { hasher: RandomState::new(), of: HashMap::new() };
        let hashes = |part: &PathBuf| -> Result<Vec<u64>> {
            let batch = table::read_columns(part, &["row_id"])?;
            Ok(table::texts(&batch, "row_id", part)?.map(|row_id| places.hasher.hash_one(row_id)).collect())
        };
        let parts: Vec<_> = self.parts.par_iter().map(hashes).collect();
        for (number, hashes) in (0..).zip(parts) {
            places.of.extend(hashes?.into_iter().map(|hash| (hash, number)));
        }
        Ok(places)
    }
}

/// Chunks by the ids of their rows.
pub struct Places {
    hasher: RandomState,
    of: HashMap<u64, u32>,
}

/// Samples by the chunks that their rows are in.
#[derive(Debug, Default)]
pub struct Spread {
    /// Parts for each chunk.
    pub parts: Vec<Vec<PathBuf>>,
    /// Samples of rows that are in no chunk, and those of them that failed.
    pub unknown: (u64, u64),
    /// All samples.
    pub samples: u64,
}

/// What a part of the samples has: the chunks of its rows, and the rest as in [`Spread`].
#[derive(Default)]
struct Looked {
    chunks: BTreeSet<u32>,
    unknown: (u64, u64),
    samples: u64,
}

impl Places {
    /// How the samples of a table are spread over `chunks` chunks.
    ///
    /// # Errors
    /// When a part cannot be read.
    pub fn spread(&self, samples: &SampleTable, chunks: usize) -> Result<Spread> {
        let mut spread = Spread { parts: vec![Vec::new(); chunks], ..Spread::default() };
        let looked: Vec<_> = samples.parts.par_iter().map(|part| self.look_at(part)).collect();
        for (part, looked) in samples.parts.iter().zip(looked) {
            let looked = looked?;
            spread.samples += looked.samples;
            spread.unknown.0 += looked.unknown.0;
            spread.unknown.1 += looked.unknown.1;
            looked.chunks.into_iter().for_each(|chunk| spread.parts[chunk as usize].push(part.clone()));
        }
        Ok(spread)
    }

    fn look_at(&self, part: &Path) -> Result<Looked> {
        let batch = table::read_columns(part, &["row_id", "finish_reason"])?;
        let ids = table::texts(&batch, "row_id", part)?;
        let reasons = table::texts(&batch, "finish_reason", part)?;
        let mut looked = Looked::default();
        for (row_id, reason) in ids.zip(reasons) {
            looked.samples += 1;
            match self.of.get(&self.hasher.hash_one(row_id)) {
                Some(chunk) => drop(looked.chunks.insert(*chunk)),
                None if reason == "error" => looked.unknown.1 += 1,
                None => looked.unknown.0 += 1,
            }
        }
        Ok(looked)
    }
}

/// Says that samples were counted otherwise than they are: two ids that hash alike.
///
/// # Errors
/// When the two numbers differ.
pub fn check_counted(table: &str, counted: u64, samples: u64) -> Result<()> {
    if counted == samples {
        return Ok(());
    }
    let problem = format!("{counted} of its {samples} samples were counted");
    Err(PairError::Mismatch { table: table.into(), problem, remedy: "run this again, and report it".into() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use spin_run::schema::{Message, Sample};
    use spin_text::Codec;

    use super::*;
    use crate::join::{self, Rules};

    /// The demo's tokenizer: a token for each character.
    fn codec() -> Codec {
        Codec::from_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/raw/demo/model")).unwrap()
    }

    /// Parts of demonstrations and of samples that are cut at other rows, with samples
    /// of rows that nobody has, give what they give in one piece.
    #[test]
    fn pieces_give_what_the_whole_gives() {
        let (dir, codec, template) = (tempfile::tempdir().unwrap(), codec(), TemplateConfig::default());
        let rows: Vec<Demonstration> = (0..30)
            .map(|i| Demonstration {
                row_id: format!("r{i}"),
                prompt: vec![Message::user(format!("ask {i}"))],
                response: format!("answer {}", i % 7),
            })
            .collect();
        let write = |name: &str, rows: &[Demonstration]| {
            let path = dir.path().join(name);
            Demonstration::write_part(&path, rows, "id", 0).unwrap();
            path
        };
        let whole = vec![write("all", &rows)];
        let pieces = vec![write("0", &rows[..11]), write("1", &rows[11..12]), write("2", &rows[12..])];
        let in_tokens = |row: &Demonstration| codec.exchange_ids(&row.prompt, &row.response);
        let chunks = |parts| Chunks::new(parts, &in_tokens, &template, 512, "demonstrations/t@v1".into());
        let mut one = chunks(whole);
        let real = one.get(0).unwrap().real.clone();
        let samples: Vec<Sample> = (0..30)
            .flat_map(|i| [(i, 0), (i, 1)])
            .map(|(i, sample_index)| {
                let ids = codec.response_ids(&rows[i].prompt, &format!("answer {}", (i + sample_index) % 7)).unwrap();
                Sample {
                    // Every ninth is of a row that nobody has, every third of those failed.
                    row_id: if i % 9 == 8 { format!("gone{i}") } else { format!("r{i}") },
                    sample_index: sample_index as u32,
                    prompt_ids: real.prompt_ids.get(i).to_vec(),
                    response_ids: ids,
                    response: "answer".into(),
                    finish_reason: if i % 27 == 8 { "error" } else { "stop" }.into(),
                    logps: -1.0,
                    token_logps: Vec::new(),
                    token_sampling_logps: Vec::new(),
                }
            })
            .collect();
        let parts: Vec<PathBuf> = [0..20, 20..26, 26..60]
            .into_iter()
            .enumerate()
            .map(|(i, range)| {
                let path = dir.path().join(format!("s{i}"));
                Sample::write_part(&path, &samples[range], "id", i).unwrap();
                path
            })
            .collect();
        let table = SampleTable { iteration: 0, reference: "samples/t@v1".into(), parts };
        let rules = |of_these_rows| Rules { eos: codec.eos_ids(), max_length: 100, of_these_rows, min_identical: 0 };
        let kept = |joined: &join::JoinResult, before: usize| -> Vec<_> {
            let one = |pair| (joined.generated_ids(pair).to_vec(), joined.response(pair).to_owned());
            joined.pairs.iter().map(|pair| (pair.row + before, pair.sample_index, one(pair))).collect()
        };
        let expected = join::join(&real, &table, rules(false)).unwrap();

        let mut pieces = chunks(pieces);
        let spread = pieces.places().unwrap().spread(&table, pieces.count()).unwrap();
        assert_eq!(spread.parts.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 2]);
        assert_eq!((spread.unknown, spread.samples), ((4, 2), 60));
        let (mut pairs, mut counts, mut before): (Vec<_>, BTreeMap<String, u64>, _) = (Vec::new(), BTreeMap::new(), 0);
        for (number, parts) in spread.parts.iter().enumerate() {
            let chunk = pieces.get(number).unwrap();
            let table = SampleTable { parts: parts.clone(), ..table.clone() };
            let joined = join::join(&chunk.real, &table, rules(true)).unwrap();
            pairs.extend(kept(&joined, before));
            assert_eq!(chunk.response(0), rows[before].response);
            assert!(chunk.prompt(0).eq([("user", rows[before].prompt[0].content.as_str())]));
            joined.counts.into_iter().for_each(|(fate, n)| *counts.entry(fate).or_default() += n);
            before += chunk.rows.num_rows();
        }
        *counts.get_mut("no_demonstration").unwrap() += spread.unknown.0;
        *counts.get_mut("failed").unwrap() += spread.unknown.1;
        assert_eq!((pairs, counts), (kept(&expected, 0), expected.counts));
        assert!(check_counted("t", 3, 4).unwrap_err().to_string().contains("3 of its 4 samples"));
    }
}
