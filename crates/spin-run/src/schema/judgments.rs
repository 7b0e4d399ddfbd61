//! The rows of a judge's verdicts.

use super::*;

/// What a judge model said about one turn of the answers to one question, or
/// why it said nothing. A score is recomputed from these rows alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgment {
    /// The question's number.
    pub question_id: u32,
    /// The question's category, e.g. `math`.
    pub category: String,
    /// The turn judged, 1 or 2.
    pub turn: u32,
    /// Name of the judge model, as it was asked for.
    pub judge: String,
    /// Name of the judge prompt, e.g. `single-math-v1`.
    pub prompt_name: String,
    /// The system message sent.
    pub system: String,
    /// The user message sent: the filled template.
    pub user_prompt: String,
    /// What came back, unchanged; `$ERROR$` when nothing did.
    pub judgment: String,
    /// The rating found in it.
    pub rating: Option<f64>,
    /// Why there is no judgment.
    pub error: Option<String>,
    /// How often the judge was asked.
    pub tries: u32,
}

impl Row for Judgment {
    const KIND: Kind = Kind::Judgments;
    const SCHEMA_VERSION: u32 = 1;

    fn schema() -> Arc<Schema> {
        Arc::new(Schema::new(vec![
            u32_field("question_id"),
            utf8("category"),
            u32_field("turn"),
            utf8("judge"),
            utf8("prompt_name"),
            utf8("system"),
            utf8("user_prompt"),
            utf8("judgment"),
            Field::new("rating", DataType::Float64, true),
            Field::new("error", DataType::Utf8, true),
            u32_field("tries"),
        ]))
    }

    fn to_columns(rows: &[Self]) -> Vec<ArrayRef> {
        let text = |of: fn(&Self) -> &str| strings(rows.iter().map(of));
        vec![
            u32s(rows.iter().map(|r| r.question_id)),
            text(|r| &r.category),
            u32s(rows.iter().map(|r| r.turn)),
            text(|r| &r.judge),
            text(|r| &r.prompt_name),
            text(|r| &r.system),
            text(|r| &r.user_prompt),
            text(|r| &r.judgment),
            Arc::new(rows.iter().map(|r| r.rating).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|r| r.error.as_deref()).collect::<StringArray>()),
            u32s(rows.iter().map(|r| r.tries)),
        ]
    }

    fn from_batch(batch: &RecordBatch) -> Vec<Self> {
        let c = Columns(batch);
        c.rows(|i| Judgment {
            question_id: c.u32(0, i),
            category: c.text(1, i),
            turn: c.u32(2, i),
            judge: c.text(3, i),
            prompt_name: c.text(4, i),
            system: c.text(5, i),
            user_prompt: c.text(6, i),
            judgment: c.text(7, i),
            rating: c.optional_f64(8, i),
            error: c.optional_text(9, i),
            tries: c.u32(10, i),
        })
    }
}

#[cfg(test)]
mod tests {
    use spin_store::table;

    use super::*;

    #[test]
    fn every_column_comes_back_under_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j.parquet");
        let rated = Judgment {
            question_id: 101,
            category: "reasoning".into(),
            turn: 2,
            judge: "gpt-4".into(),
            prompt_name: "single-math-v1-multi-turn".into(),
            system: "s".into(),
            user_prompt: "u".into(),
            judgment: "Rating: [[7.5]]\n".into(),
            rating: Some(7.5),
            error: None,
            tries: 3,
        };
        let failed =
            Judgment { judgment: "$ERROR$".into(), rating: None, error: Some("timed out".into()), ..rated.clone() };
        let rows = vec![rated, failed];
        Judgment::write_part(&path, &rows, "id", 0).unwrap();
        assert_eq!(Judgment::read_part(&path).unwrap(), rows);
        let batch = table::read_any(&path).unwrap();
        for (name, value) in [("category", "reasoning"), ("judge", "gpt-4"), ("system", "s"), ("user_prompt", "u")] {
            assert_eq!(batch.column_by_name(name).unwrap().as_string::<i32>().value(0), value, "{name}");
        }
        table::rows_digest(&path).unwrap();
    }
}
