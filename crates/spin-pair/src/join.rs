//! The join itself, as one lazy polars query over the samples' parts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use polars::prelude::*;

use crate::error::{PairError, Result};

/// A demonstration in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealAnswer {
    /// Its id.
    pub row_id: String,
    /// Its prompt.
    pub prompt_ids: Vec<u32>,
    /// The human answer with its EOS.
    pub real_ids: Vec<u32>,
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

/// A pair in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Index of the demonstration.
    pub row: usize,
    /// The iteration that made the sample.
    pub iteration: u32,
    /// Which of the row's samples.
    pub sample_index: u32,
    /// The generated answer's tokens.
    pub generated_ids: Vec<u32>,
    /// The generated answer's text.
    pub response: String,
}

/// What a join kept and dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinResult {
    /// Kept pairs, by iteration, then demonstration, then sample.
    pub pairs: Vec<Joined>,
    /// Number of samples by fate: `kept` or the reason for the drop.
    pub counts: BTreeMap<String, u64>,
}

/// The fates of a sample, in the order in which they are tested.
pub const FATES: [&str; 6] = ["failed", "no_demonstration", "empty", "identical", "over_length", "kept"];

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
}

/// Joins samples with demonstrations on the row id.
///
/// # Errors
/// When a prompt was sampled from other tokens than the demonstration has
/// now, a (row, sample) stands twice, or polars fails.
pub fn join(demonstrations: &[RealAnswer], tables: &[SampleTable], rules: Rules<'_>) -> Result<JoinResult> {
    let Rules { eos, max_length, of_these_rows } = rules;
    let real = demonstrations_frame(demonstrations)?.lazy();
    let mut frames = Vec::new();
    for table in tables {
        for part in &table.parts {
            let columns =
                ["row_id", "sample_index", "prompt_ids", "response_ids", "response", "finish_reason"].map(col);
            let samples = LazyFrame::scan_parquet(PlRefPath::try_from_path(part)?, ScanArgsParquet::default())?;
            frames.push(samples.select(columns).with_column(lit(table.iteration).alias("iteration")));
        }
    }
    let samples = concat(frames, UnionArgs::default())?;
    let ended = eos.iter().fold(lit(false), |any, id| any.or(col("response_ids").list().last().eq(lit(*id))));
    // The number of tokens besides the EOS.
    let own_tokens = col("response_ids").list().len().cast(DataType::Int64) - ended.cast(DataType::Int64);
    let (generated, real_length) = (col("response_ids").list().len(), col("real_ids").list().len());
    let longest = when(generated.clone().gt(real_length.clone())).then(generated).otherwise(real_length);
    let fate = when(col("finish_reason").eq(lit("error")))
        .then(lit(FATES[0]))
        .when(col("row").is_null())
        .then(lit(FATES[1]))
        .when(own_tokens.lt_eq(lit(0)).or(col("response").eq(lit(""))))
        .then(lit(FATES[2]))
        .when(col("response_ids").eq(col("real_ids")))
        .then(lit(FATES[3]))
        .when((col("prompt_ids").list().len() + longest).gt(lit(max_length as u32)))
        .then(lit(FATES[4]))
        .otherwise(lit(FATES[5]))
        .alias("fate");
    let how = if of_these_rows { JoinType::Inner } else { JoinType::Left };
    let joined = samples
        .join(real, [col("row_id")], [col("row_id")], JoinArgs::new(how))
        .with_column(fate)
        .with_column(col("prompt_ids").eq(col("real_prompt_ids")).alias("same_prompt"))
        .select(["row", "iteration", "sample_index", "response_ids", "response", "fate", "same_prompt"].map(col))
        .sort_by_exprs(["iteration", "row", "sample_index"].map(col), SortMultipleOptions::default());
    let frame = joined.collect_with_engine(Engine::Streaming)?.unwrap_single();
    read_back(&frame, demonstrations, tables)
}

fn id_lists<'a>(name: &str, rows: impl ExactSizeIterator<Item = &'a [u32]>) -> Column {
    let mut builder =
        ListPrimitiveChunkedBuilder::<UInt32Type>::new(name.into(), rows.len(), rows.len() * 64, DataType::UInt32);
    for ids in rows {
        builder.append_slice(ids);
    }
    builder.finish().into_column()
}

fn demonstrations_frame(rows: &[RealAnswer]) -> Result<DataFrame> {
    let ids: Vec<&str> = rows.iter().map(|r| r.row_id.as_str()).collect();
    let index: Vec<u32> = (0u32..).take(rows.len()).collect();
    Ok(DataFrame::new(
        rows.len(),
        vec![
            Column::new("row_id".into(), ids),
            Column::new("row".into(), index),
            id_lists("real_prompt_ids", rows.iter().map(|r| r.prompt_ids.as_slice())),
            id_lists("real_ids", rows.iter().map(|r| r.real_ids.as_slice())),
        ],
    )?)
}

fn read_back(frame: &DataFrame, demonstrations: &[RealAnswer], tables: &[SampleTable]) -> Result<JoinResult> {
    let rows = frame.column("row")?.u32()?;
    let iterations = frame.column("iteration")?.cast(&DataType::UInt32)?;
    let iterations = iterations.u32()?;
    let samples = frame.column("sample_index")?.u32()?;
    let ids = frame.column("response_ids")?.list()?;
    let responses = frame.column("response")?.str()?;
    let fates = frame.column("fate")?.str()?;
    let same_prompt = frame.column("same_prompt")?.bool()?;
    let mut result = JoinResult { pairs: Vec::new(), counts: FATES.map(|f| (f.to_owned(), 0)).into_iter().collect() };
    let mut previous = None;
    for i in 0..frame.height() {
        let fate = fates.get(i).unwrap_or("unknown");
        *result.counts.entry(fate.to_owned()).or_default() += 1;
        let Some(row) = rows.get(i) else { continue };
        let iteration = iterations.get(i).unwrap_or_default();
        let sample_index = samples.get(i).unwrap_or_default();
        let row_id = &demonstrations[row as usize].row_id;
        let mismatch = |problem: String, remedy: &str| {
            let table = tables.iter().find(|t| t.iteration == iteration).map(|t| t.reference.clone());
            Err(PairError::Mismatch { table: table.unwrap_or_default(), problem, remedy: remedy.into() })
        };
        if previous == Some((iteration, row, sample_index)) {
            return mismatch(format!("sample {sample_index} of row {row_id:?} stands twice"), "make the samples again");
        }
        previous = Some((iteration, row, sample_index));
        if same_prompt.get(i) != Some(true) {
            return mismatch(
                format!("the prompt of row {row_id:?} was sampled from other tokens than the demonstration gives now"),
                "the template or tokenizer changed; make the samples again",
            );
        }
        if fate == "kept" {
            let generated = ids.get_as_series(i).map(|s| s.u32().map(|c| c.into_no_null_iter().collect::<Vec<u32>>()));
            result.pairs.push(Joined {
                row: row as usize,
                iteration,
                sample_index,
                generated_ids: generated.transpose()?.unwrap_or_default(),
                response: responses.get(i).unwrap_or_default().to_owned(),
            });
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spin_run::schema::{Row, Sample};

    const EOS: u32 = 2;

    fn rules(max_length: usize) -> Rules<'static> {
        Rules { eos: &[EOS], max_length, of_these_rows: false }
    }

    fn real(row_id: &str, real_ids: &[u32]) -> RealAnswer {
        RealAnswer { row_id: row_id.into(), prompt_ids: vec![1, 5], real_ids: real_ids.to_vec() }
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
        let demonstrations = [real("b", &[7, EOS]), real("a", &[8, 9, EOS])];
        let first = table(
            dir.path(),
            0,
            &[
                sample("a", 0, &[8, 9, EOS]),
                sample("a", 1, &[8, EOS]),
                sample("b", 0, &[EOS]),
                sample("b", 1, &[7, 7, 7, 7, 7, EOS]),
                sample("gone", 0, &[7, EOS]),
                Sample { finish_reason: "error".into(), ..sample("a", 2, &[]) },
            ],
        );
        let second = table(dir.path(), 1, &[sample("a", 0, &[6, EOS]), sample("b", 0, &[6, 6])]);
        let result = join(&demonstrations, &[first, second], rules(6)).unwrap();
        let counts: Vec<(&str, u64)> = result.counts.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        let expected =
            [("empty", 1), ("failed", 1), ("identical", 1), ("kept", 3), ("no_demonstration", 1), ("over_length", 1)];
        assert_eq!(counts, expected);
        let keys: Vec<_> = result.pairs.iter().map(|p| (p.iteration, p.row, p.sample_index)).collect();
        assert_eq!(keys, [(0, 1, 1), (1, 0, 0), (1, 1, 0)]);
        assert_eq!(result.pairs[0].generated_ids, [8, EOS]);
        assert_eq!(result.pairs[1].generated_ids, [6, 6]);
    }

    #[test]
    fn doubled_samples_and_changed_prompts_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let doubled = table(dir.path(), 0, &[sample("a", 0, &[6, EOS]), sample("a", 0, &[7, EOS])]);
        let error = join(&[real("a", &[8, EOS])], &[doubled], rules(9)).unwrap_err().to_string();
        assert!(error.contains("samples/t/iter-0@v1") && error.contains("stands twice"), "{error}");
        let changed = table(dir.path(), 1, &[Sample { prompt_ids: vec![1], ..sample("a", 0, &[6, EOS]) }]);
        let error = join(&[real("a", &[8, EOS])], &[changed], rules(9)).unwrap_err().to_string();
        assert!(error.contains("row \"a\"") && error.contains("other tokens"), "{error}");
    }
}
