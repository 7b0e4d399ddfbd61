//! The rows of leaderboard tasks: what a model is asked to generate, and what
//! came of each document.

use arrow::array::{BooleanArray, BooleanBuilder, Float64Builder};

use super::*;

/// A prompt of a task that needs a generated answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestRow {
    /// `task/document`, unique in its table.
    pub row_id: String,
    /// The exact token ids to send.
    pub prompt_ids: Vec<u32>,
    /// Texts that end the answer, besides the end-of-sequence tokens.
    pub until: Vec<String>,
    /// Longest answer in tokens.
    pub max_new_tokens: u32,
    /// 0 is greedy.
    pub temperature: f64,
}

/// What came of one document. Lists with one entry per request have the order
/// of the choices; a generated answer is one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvaluationRow {
    /// The task, e.g. `mmlu_anatomy`.
    pub task: String,
    /// The document's row in its split, from 0.
    pub doc_id: u32,
    /// SHA-256 of the first request's prompt, as lm-evaluation-harness logs it.
    pub prompt_hash: String,
    /// What was scored after the prompt.
    pub continuations: Vec<String>,
    /// Tokens before the continuation, after truncation.
    pub context_tokens: Vec<u32>,
    /// Tokens cut from the left because the model's context is shorter.
    pub truncated_tokens: Vec<u32>,
    /// Continuations that the tokenizer joined with the end of their prompt.
    pub merged_boundaries: u32,
    /// Tokens of the continuation.
    pub continuation_tokens: Vec<u32>,
    /// Natural log-probability of the continuation, summed over its tokens.
    pub logps: Vec<f64>,
    /// Whether each of its tokens was the likeliest one.
    pub is_greedy: Vec<bool>,
    /// The generated text, cut at the first stop string.
    pub response: Option<String>,
    /// What the model was taken to answer: a choice's index, or an extracted
    /// text.
    pub prediction: String,
    /// What it should have been.
    pub gold: String,
    /// Names of the document's metrics, e.g. `acc` or
    /// `exact_match,strict-match`.
    pub metrics: Vec<String>,
    /// Their values.
    pub values: Vec<f64>,
    /// Whether the chat template refused the system message, which was then
    /// left out.
    pub dropped_system: bool,
}

impl EvaluationRow {
    /// The value of a metric.
    pub fn value(&self, metric: &str) -> Option<f64> {
        self.metrics.iter().position(|name| name == metric).map(|i| self.values[i])
    }
}

fn list_field(name: &str, item: DataType) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new("item", item, false))), false)
}

fn text_lists<'a>(values: impl Iterator<Item = &'a [String]>) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new()).with_field(Field::new("item", DataType::Utf8, false));
    for texts in values {
        texts.iter().for_each(|text| builder.values().append_value(text));
        builder.append(true);
    }
    Arc::new(builder.finish())
}

fn f64_lists<'a>(values: impl Iterator<Item = &'a [f64]>) -> ArrayRef {
    let mut builder = ListBuilder::new(Float64Builder::new()).with_field(Field::new("item", DataType::Float64, false));
    for numbers in values {
        builder.values().append_slice(numbers);
        builder.append(true);
    }
    Arc::new(builder.finish())
}

fn bool_lists<'a>(values: impl Iterator<Item = &'a [bool]>) -> ArrayRef {
    let mut builder = ListBuilder::new(BooleanBuilder::new()).with_field(Field::new("item", DataType::Boolean, false));
    for flags in values {
        builder.values().append_slice(flags);
        builder.append(true);
    }
    Arc::new(builder.finish())
}

impl Columns<'_> {
    fn texts(&self, column: usize, row: usize) -> Vec<String> {
        let values = self.list(column).value(row);
        values.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned()).collect()
    }

    fn f64_list(&self, column: usize, row: usize) -> Vec<f64> {
        self.list(column).value(row).as_primitive::<Float64Type>().values().to_vec()
    }

    fn bool_list(&self, column: usize, row: usize) -> Vec<bool> {
        self.list(column).value(row).as_boolean().values().iter().collect()
    }
}

impl Row for RequestRow {
    const KIND: Kind = Kind::Requests;
    const SCHEMA_VERSION: u32 = 1;

    fn schema() -> Arc<Schema> {
        Arc::new(Schema::new(vec![
            utf8("row_id"),
            ids_field("prompt_ids"),
            list_field("until", DataType::Utf8),
            u32_field("max_new_tokens"),
            f64_field("temperature"),
        ]))
    }

    fn to_columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            strings(rows.iter().map(|r| r.row_id.as_str())),
            id_lists(rows.iter().map(|r| r.prompt_ids.as_slice())),
            text_lists(rows.iter().map(|r| r.until.as_slice())),
            u32s(rows.iter().map(|r| r.max_new_tokens)),
            f64s(rows.iter().map(|r| r.temperature)),
        ]
    }

    fn from_batch(batch: &RecordBatch) -> Vec<Self> {
        let c = Columns(batch);
        c.rows(|i| RequestRow {
            row_id: c.text(0, i),
            prompt_ids: c.ids(1, i),
            until: c.texts(2, i),
            max_new_tokens: c.u32(3, i),
            temperature: c.f64(4, i),
        })
    }
}

impl Row for EvaluationRow {
    const KIND: Kind = Kind::Evaluations;
    const SCHEMA_VERSION: u32 = 1;

    fn schema() -> Arc<Schema> {
        Arc::new(Schema::new(vec![
            utf8("task"),
            u32_field("doc_id"),
            utf8("prompt_hash"),
            list_field("continuations", DataType::Utf8),
            ids_field("context_tokens"),
            ids_field("truncated_tokens"),
            u32_field("merged_boundaries"),
            ids_field("continuation_tokens"),
            list_field("logps", DataType::Float64),
            list_field("is_greedy", DataType::Boolean),
            Field::new("response", DataType::Utf8, true),
            utf8("prediction"),
            utf8("gold"),
            list_field("metrics", DataType::Utf8),
            list_field("values", DataType::Float64),
            Field::new("dropped_system", DataType::Boolean, false),
        ]))
    }

    fn to_columns(rows: &[Self]) -> Vec<ArrayRef> {
        vec![
            strings(rows.iter().map(|r| r.task.as_str())),
            u32s(rows.iter().map(|r| r.doc_id)),
            strings(rows.iter().map(|r| r.prompt_hash.as_str())),
            text_lists(rows.iter().map(|r| r.continuations.as_slice())),
            id_lists(rows.iter().map(|r| r.context_tokens.as_slice())),
            id_lists(rows.iter().map(|r| r.truncated_tokens.as_slice())),
            u32s(rows.iter().map(|r| r.merged_boundaries)),
            id_lists(rows.iter().map(|r| r.continuation_tokens.as_slice())),
            f64_lists(rows.iter().map(|r| r.logps.as_slice())),
            bool_lists(rows.iter().map(|r| r.is_greedy.as_slice())),
            Arc::new(rows.iter().map(|r| r.response.as_deref()).collect::<StringArray>()),
            strings(rows.iter().map(|r| r.prediction.as_str())),
            strings(rows.iter().map(|r| r.gold.as_str())),
            text_lists(rows.iter().map(|r| r.metrics.as_slice())),
            f64_lists(rows.iter().map(|r| r.values.as_slice())),
            Arc::new(rows.iter().map(|r| Some(r.dropped_system)).collect::<BooleanArray>()),
        ]
    }

    fn from_batch(batch: &RecordBatch) -> Vec<Self> {
        let c = Columns(batch);
        c.rows(|i| EvaluationRow {
            task: c.text(0, i),
            doc_id: c.u32(1, i),
            prompt_hash: c.text(2, i),
            continuations: c.texts(3, i),
            context_tokens: c.ids(4, i),
            truncated_tokens: c.ids(5, i),
            merged_boundaries: c.u32(6, i),
            continuation_tokens: c.ids(7, i),
            logps: c.f64_list(8, i),
            is_greedy: c.bool_list(9, i),
            response: c.optional_text(10, i),
            prediction: c.text(11, i),
            gold: c.text(12, i),
            metrics: c.texts(13, i),
            values: c.f64_list(14, i),
            dropped_system: c.bool(15, i),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_and_requests_survive_a_part() {
        let dir = tempfile::tempdir().unwrap();
        let row = EvaluationRow {
            task: "arc_challenge".into(),
            doc_id: 3,
            prompt_hash: "ab".into(),
            continuations: vec![" é".into(), " b".into()],
            context_tokens: vec![5, 5],
            truncated_tokens: vec![0, 1],
            merged_boundaries: 1,
            continuation_tokens: vec![1, 2],
            logps: vec![-0.1, f64::NEG_INFINITY],
            is_greedy: vec![true, false],
            response: None,
            prediction: "0".into(),
            gold: "1".into(),
            metrics: vec!["acc".into()],
            values: vec![0.0],
            dropped_system: true,
        };
        let rows = [row, EvaluationRow { response: Some("x".into()), ..EvaluationRow::default() }];
        let path = dir.path().join("e.parquet");
        EvaluationRow::write_part(&path, &rows, "id", 0).unwrap();
        assert_eq!(EvaluationRow::read_part(&path).unwrap(), rows);
        assert_eq!((rows[0].value("acc"), rows[0].value("acc_norm")), (Some(0.0), None));
        let request = RequestRow {
            row_id: "gsm8k/0".into(),
            prompt_ids: vec![1, 2],
            until: vec!["\n\n".into()],
            max_new_tokens: 8,
            temperature: 0.0,
        };
        let path = dir.path().join("r.parquet");
        RequestRow::write_part(&path, std::slice::from_ref(&request), "id", 0).unwrap();
        assert_eq!(RequestRow::read_part(&path).unwrap(), [request]);
    }
}
