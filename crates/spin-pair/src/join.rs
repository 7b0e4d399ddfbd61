//! The join itself: each part of the samples against the demonstrations' ids, by a hash of the row's
//! id, parts beside each other. What is kept stays where it was decoded until it is written.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, ListArray, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{Schema, UInt32Type};
use rayon::prelude::*;
use spin_run::schema::{Row as _, Sample};
use spin_store::table;

use crate::error::{PairError, Result};
use crate::ids::IdLists;

/// Demonstrations in tokens.
#[derive(Clone, Debug)]
pub struct RealAnswers {
    /// Their ids.
    pub row_ids: StringArray,
    /// Their prompts.
    pub prompt_ids: IdLists,
    /// The human answers with their EOS.
    pub real_ids: IdLists,
}

/// The samples of one iteration.
#[derive(Clone, Debug)]
pub struct SampleTable {
    /// The iteration that made them.
    pub iteration: u32,
    /// For messages: `samples/name@v1`.
    pub reference: String,
    /// Its Parquet parts.
    pub parts: Vec<PathBuf>,
}

/// A sample that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Index of the demonstration.
    pub row: usize,
    /// Which of the row's samples.
    pub sample_index: u32,
    /// The part it is in, and its place there.
    at: (u32, u32),
}

/// What a join kept and dropped.
#[derive(Debug)]
pub struct JoinResult {
    /// Kept samples, by demonstration, then sample.
    pub pairs: Vec<Joined>,
    /// Number of samples by fate: `kept` or the reason for the drop.
    pub counts: BTreeMap<String, u64>,
    /// Answers of every part that has some of `pairs`.
    answers: Vec<Option<Answers>>,
}

impl JoinResult {
    /// The generated answer's tokens.
    pub fn generated_ids(&self, pair: &Joined) -> &[u32] {
        let (part, at) = (pair.at.0 as usize, pair.at.1 as usize);
        self.answers[part].as_ref().map_or(&[], |answers| ids_of(&answers.ids, at))
    }

    /// The generated answer's text.
    pub fn response(&self, pair: &Joined) -> &str {
        let (part, at) = (pair.at.0 as usize, pair.at.1 as usize);
        self.answers[part].as_ref().map_or("", |answers| answers.texts.value(at))
    }
}

/// The answers of a part.
#[derive(Debug)]
struct Answers {
    ids: ListArray,
    texts: StringArray,
}

/// The fate of samples whose prompt has too few identical ones; counted only where
/// [`Rules::min_identical`] asks for any.
pub const TOO_FEW_IDENTICAL: &str = "too_few_identical";

/// The fates of a sample, in the order in which they are tested.
pub const FATES: [&str; 6] = ["failed", "no_demonstration", "empty", "identical", "over_length", "kept"];
const FAILED: usize = 0;
const NO_DEMONSTRATION: usize = 1;
const EMPTY: usize = 2;
const IDENTICAL: usize = 3;
const OVER_LENGTH: usize = 4;
const KEPT: usize = 5;

/// What decides a sample's fate beside its row.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The ids that end an answer.
    pub eos: &'a [u32],
    /// Most tokens of prompt and longer answer together.
    pub max_length: usize,
    /// Whether samples of other rows are left to other calls, rather than counted as
    /// without a demonstration.
    pub of_these_rows: bool,
    /// How many of a row's samples have to be its human answer for the others to be kept.
    pub min_identical: u32,
}

/// A sample of a demonstration.
struct Found {
    row: u32,
    sample_index: u32,
    part: u32,
    at: u32,
    fate: usize,
    same_prompt: bool,
}

/// Joins samples with demonstrations on the row id.
///
/// # Errors
/// When a prompt was sampled from other tokens than the demonstration has
/// now, a (row, sample) stands twice, or a part cannot be read.
pub fn join(real: &RealAnswers, table: &SampleTable, rules: Rules<'_>) -> Result<JoinResult> {
    let rows: HashMap<&str, u32> = real.row_ids.iter().flatten().zip(0..).collect();
    let look =
        |(part, path): (usize, &PathBuf)| look_at(path, u32::try_from(part).expect("few parts"), &rows, real, rules);
    // Of several parts that cannot be read the first is named.
    let parts: Vec<_> = table.parts.par_iter().enumerate().map(look).collect();
    let (mut counts, mut found, mut answers) = ([0; FATES.len()], Vec::new(), Vec::new());
    for part in parts {
        let part = part?;
        counts.iter_mut().zip(part.counts).for_each(|(sum, count)| *sum += count);
        found.extend(part.found);
        answers.push(part.answers);
    }
    found.sort_unstable_by_key(|one| (one.row, one.sample_index, one.part, one.at));
    let (mut pairs, mut identical) = (Vec::new(), HashMap::<usize, u32>::new());
    let mut previous = None;
    for one in found {
        let row_id = || real.row_ids.value(one.row as usize);
        let mismatch = |problem: String, remedy: &str| {
            Err(PairError::Mismatch { table: table.reference.clone(), problem, remedy: remedy.into() })
        };
        if previous == Some((one.row, one.sample_index)) {
            let problem = format!("sample {} of row {:?} stands twice", one.sample_index, row_id());
            return mismatch(problem, "make the samples again");
        }
        previous = Some((one.row, one.sample_index));
        if !one.same_prompt {
            let row = row_id();
            return mismatch(
                format!("the prompt of row {row:?} was sampled from other tokens than the demonstration gives now"),
                "the template or tokenizer changed; make the samples again",
            );
        }
        match one.fate {
            KEPT => {
                pairs.push(Joined { row: one.row as usize, sample_index: one.sample_index, at: (one.part, one.at) })
            }
            IDENTICAL => *identical.entry(one.row as usize).or_default() += 1,
            _ => {}
        }
    }
    let mut counts: BTreeMap<_, _> =
        FATES.iter().zip(counts).map(|(fate, count)| ((*fate).to_owned(), count)).collect();
    if rules.min_identical > 0 {
        let kept = pairs.len();
        pairs.retain(|pair| identical.get(&pair.row).is_some_and(|count| *count >= rules.min_identical));
        counts.insert(FATES[KEPT].to_owned(), pairs.len() as u64);
        counts.insert(TOO_FEW_IDENTICAL.to_owned(), (kept - pairs.len()) as u64);
    }
    Ok(JoinResult { pairs, counts, answers })
}

/// What a part of the samples has.
struct Part {
    counts: [u64; FATES.len()],
    found: Vec<Found>,
    answers: Option<Answers>,
}

/// The columns that a join reads, in the order in which it does.
const COLUMNS: [&str; 6] = ["row_id", "sample_index", "prompt_ids", "response_ids", "response", "finish_reason"];

fn look_at(
    path: &Path,
    part: u32,
    rows: &HashMap<&str, u32>,
    real: &RealAnswers,
    Rules { eos, max_length, of_these_rows, .. }: Rules<'_>,
) -> Result<Part> {
    let schema = Sample::schema();
    let fields = COLUMNS.map(|name| schema.field_with_name(name).expect("a column of samples").clone());
    let batch = table::read(path, &Arc::new(Schema::new(fields.to_vec())), Sample::SCHEMA_VERSION)?;
    let text = |column: usize| -> &StringArray { batch.column(column).as_string::<i32>() };
    let (row_ids, responses, reasons) = (text(0), text(4), text(5));
    let sample_indices: &UInt32Array = batch.column(1).as_primitive::<UInt32Type>();
    let (prompts, answers) = (lists(&batch, 2), lists(&batch, 3));
    let (mut counts, mut found) = ([0; FATES.len()], Vec::new());
    for at in 0..batch.num_rows() {
        let row = rows.get(row_ids.value(at)).copied();
        let failed = reasons.value(at) == "error";
        let Some(row) = row else {
            if !of_these_rows {
                counts[if failed { FAILED } else { NO_DEMONSTRATION }] += 1;
            }
            continue;
        };
        let (prompt_ids, ids) = (ids_of(prompts, at), ids_of(answers, at));
        let real_ids = real.real_ids.get(row as usize);
        let ended = ids.last().is_some_and(|id| eos.contains(id));
        let fate = if failed {
            FAILED
        } else if ids.len() == usize::from(ended) || responses.value(at).is_empty() {
            EMPTY
        } else if ids == real_ids {
            IDENTICAL
        } else if prompt_ids.len() + ids.len().max(real_ids.len()) > max_length {
            OVER_LENGTH
        } else {
            KEPT
        };
        counts[fate] += 1;
        let same_prompt = prompt_ids == real.prompt_ids.get(row as usize);
        let (sample_index, at) = (sample_indices.value(at), u32::try_from(at).expect("a part has few rows"));
        found.push(Found { row, sample_index, part, at, fate, same_prompt });
    }
    let answers = (counts[KEPT] > 0).then(|| Answers { ids: answers.clone(), texts: responses.clone() });
    Ok(Part { counts, found, answers })
}

fn lists(batch: &RecordBatch, column: usize) -> &ListArray {
    batch.column(column).as_list::<i32>()
}

fn ids_of(lists: &ListArray, row: usize) -> &[u32] {
    let ends = &lists.value_offsets()[row..=row + 1];
    &lists.values().as_primitive::<UInt32Type>().values()[ends[0] as usize..ends[1] as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOS: u32 = 2;

    fn rules(max_length: usize) -> Rules<'static> {
        Rules { eos: &[EOS], max_length, of_these_rows: false, min_identical: 0 }
    }

    fn real(rows: &[(&str, &[u32])]) -> RealAnswers {
        let (mut prompt_ids, mut real_ids) = (IdLists::default(), IdLists::default());
        for (_, ids) in rows {
            prompt_ids.push(&[1, 5]);
            real_ids.push(ids);
        }
        let row_ids = StringArray::from_iter_values(rows.iter().map(|row| row.0));
        RealAnswers { row_ids, prompt_ids, real_ids }
    }

    fn sample(row_id: &str, sample_index: u32, response_ids: &[u32]) -> Sample {
        Sample {
            row_id: row_id.into(),
            sample_index,
            prompt_ids: vec![1, 5],
            response_ids: response_ids.to_vec(),
            response: if response_ids.len() > 1 { "text".into() } else { String::new() },
            finish_reason: "stop".into(),
            logps: -1.0,
            token_logps: Vec::new(),
            token_sampling_logps: Vec::new(),
        }
    }

    fn table(dir: &std::path::Path, iteration: u32, samples: &[Sample]) -> SampleTable {
        let path = dir.join(format!("s{iteration}.parquet"));
        Sample::write_part(&path, samples, "id", 0).unwrap();
        SampleTable { iteration, reference: format!("samples/t/iter-{iteration}@v1"), parts: vec![path] }
    }

    #[test]
    fn every_sample_has_one_fate() {
        let dir = tempfile::tempdir().unwrap();
        let demonstrations = real(&[("b", &[7, EOS]), ("a", &[8, 9, EOS])]);
        let samples = [
            sample("a", 0, &[8, 9, EOS]),
            sample("a", 1, &[8, EOS]),
            sample("b", 0, &[EOS]),
            sample("b", 1, &[7, 7, 7, 7, 7, EOS]),
            sample("gone", 0, &[7, EOS]),
            Sample { finish_reason: "error".into(), ..sample("a", 2, &[]) },
            Sample { finish_reason: "error".into(), ..sample("gone", 1, &[]) },
            sample("b", 2, &[6, 6]),
            // Nothing was drawn, or only what is no text.
            Sample { response: "text".into(), ..sample("a", 3, &[]) },
            Sample { response: String::new(), ..sample("a", 4, &[8, 8, EOS]) },
        ];
        let result = join(&demonstrations, &table(dir.path(), 0, &samples), rules(6)).unwrap();
        let counts: Vec<(&str, u64)> = result.counts.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        let expected =
            [("empty", 3), ("failed", 2), ("identical", 1), ("kept", 2), ("no_demonstration", 1), ("over_length", 1)];
        assert_eq!(counts, expected);
        let of_these = Rules { of_these_rows: true, ..rules(6) };
        let result = join(&demonstrations, &table(dir.path(), 0, &samples), of_these).unwrap();
        assert_eq!((result.counts["failed"], result.counts["no_demonstration"]), (1, 0));
        let kept: Vec<_> =
            result.pairs.iter().map(|p| (p.row, p.sample_index, result.generated_ids(p), result.response(p))).collect();
        assert_eq!(kept, [(0, 2, &[6, 6][..], "text"), (1, 1, &[8, EOS], "text")]);
    }

    #[test]
    fn prompts_that_are_never_answered_as_the_human_did_can_be_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let demonstrations = real(&[("a", &[8, EOS]), ("b", &[7, EOS]), ("c", &[6, EOS])]);
        let (right, wrong) = (&[8, EOS][..], &[9, EOS][..]);
        let samples = [
            sample("a", 0, right),
            sample("a", 1, wrong),
            sample("a", 2, right),
            sample("b", 0, wrong),
            sample("b", 1, &[7, EOS]),
            // Never.
            sample("c", 0, wrong),
            sample("c", 1, &[9, 9, EOS]),
        ];
        let table = table(dir.path(), 0, &samples);
        for (min_identical, expected) in [(0, &[0, 1, 2, 2][..]), (1, &[0, 1]), (2, &[0]), (3, &[])] {
            let result = join(&demonstrations, &table, Rules { min_identical, ..rules(9) }).unwrap();
            let rows: Vec<usize> = result.pairs.iter().map(|pair| pair.row).collect();
            assert_eq!(rows, expected, "{min_identical}");
            assert_eq!(result.counts["kept"], rows.len() as u64);
            let dropped = (min_identical > 0).then_some(4 - rows.len() as u64);
            assert_eq!(result.counts.get(TOO_FEW_IDENTICAL).copied(), dropped, "no such key where nobody asked");
            assert_eq!(result.counts.values().sum::<u64>(), samples.len() as u64);
        }
    }

    #[test]
    fn doubled_samples_and_changed_prompts_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let doubled = table(dir.path(), 0, &[sample("a", 0, &[6, EOS]), sample("a", 0, &[7, EOS])]);
        let error = join(&real(&[("a", &[8, EOS])]), &doubled, rules(9)).unwrap_err().to_string();
        assert!(error.contains("samples/t/iter-0@v1") && error.contains("stands twice"), "{error}");
        let changed = table(dir.path(), 1, &[Sample { prompt_ids: vec![1], ..sample("a", 0, &[6, EOS]) }]);
        let error = join(&real(&[("a", &[8, EOS])]), &changed, rules(9)).unwrap_err().to_string();
        assert!(error.contains("row \"a\"") && error.contains("other tokens"), "{error}");
    }
}
