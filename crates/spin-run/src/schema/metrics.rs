//! The rows of a training's metrics.

use arrow::array::BooleanArray;

use super::*;

/// What one update of a training did. The columns that TRL has too have its
/// names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricsRow {
    /// Counts from 1.
    pub update: u32,
    /// Mean loss: per pair, or per response token in supervised training.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate used.
    pub learning_rate: f64,
    /// Tokens of the update's sequences, prompts and answers.
    pub tokens: f64,
    /// Whether loss or gradient were not finite and the weights left alone.
    pub skipped: bool,
    /// Whether the human answers had become less likely than at the start.
    pub real_falls: bool,
    /// Mean reward of the human answers; rewards are beta times the
    /// log-probability gained over the opponent, in nats.
    pub rewards_real: Option<f64>,
    /// Mean reward of the generated answers.
    pub rewards_generated: Option<f64>,
    /// Mean difference of the two.
    pub rewards_margins: Option<f64>,
    /// Share of pairs whose human answer gained more.
    pub rewards_accuracies: Option<f64>,
    /// Mean log-probability of the human answers in nats, summed over tokens.
    pub logps_real: Option<f64>,
    /// The same of the generated answers.
    pub logps_generated: Option<f64>,
    /// Held-out loss, where it was evaluated.
    pub eval_loss: Option<f64>,
    /// Held-out margin of rewards.
    pub eval_margin: Option<f64>,
    /// Held-out share of pairs whose human answer gained more.
    pub eval_accuracy: Option<f64>,
    /// When the update was done, in seconds since 1970.
    pub wall_time: f64,
    /// Seconds it took, evaluation and checkpoints left out.
    pub seconds: f64,
    /// `tokens` by `seconds`.
    pub tokens_per_second: f64,
    /// Model FLOP utilisation, from 0 to 1.
    pub flop_utilisation: Option<f64>,
    /// Resident memory in MiB.
    pub resident_mib: Option<f64>,
}

/// Columns that tell of the process rather than of the training, and differ each time.
pub const OF_THE_PROCESS: [&str; 5] = ["wall_time", "seconds", "tokens_per_second", "flop_utilisation", "resident_mib"];

fn optional(name: &str) -> Field {
    Field::new(name, DataType::Float64, true)
}

fn flag(name: &str) -> Field {
    Field::new(name, DataType::Boolean, false)
}

impl Row for MetricsRow {
    const KIND: Kind = Kind::Metrics;
    const SCHEMA_VERSION: u32 = 1;

    fn schema() -> Arc<Schema> {
        Arc::new(Schema::new(vec![
            u32_field("update"),
            f64_field("loss"),
            f64_field("grad_norm"),
            f64_field("learning_rate"),
            f64_field("tokens"),
            flag("skipped"),
            flag("real_falls"),
            optional("rewards/real"),
            optional("rewards/generated"),
            optional("rewards/margins"),
            optional("rewards/accuracies"),
            optional("logps/real"),
            optional("logps/generated"),
            optional("eval_loss"),
            optional("eval_margin"),
            optional("eval_accuracy"),
            f64_field("wall_time"),
            f64_field("seconds"),
            f64_field("tokens_per_second"),
            optional("flop_utilisation"),
            optional("resident_mib"),
        ]))
    }

    fn to_columns(rows: &[Self]) -> Vec<ArrayRef> {
        let numbers = |of: fn(&Self) -> f64| f64s(rows.iter().map(of));
        let options =
            |of: fn(&Self) -> Option<f64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Float64Array>()) };
        let flags = |of: fn(&Self) -> bool| -> ArrayRef {
            Arc::new(BooleanArray::from(rows.iter().map(of).collect::<Vec<_>>()))
        };
        vec![
            u32s(rows.iter().map(|r| r.update)),
            numbers(|r| r.loss),
            numbers(|r| r.grad_norm),
            numbers(|r| r.learning_rate),
            numbers(|r| r.tokens),
            flags(|r| r.skipped),
            flags(|r| r.real_falls),
            options(|r| r.rewards_real),
            options(|r| r.rewards_generated),
            options(|r| r.rewards_margins),
            options(|r| r.rewards_accuracies),
            options(|r| r.logps_real),
            options(|r| r.logps_generated),
            options(|r| r.eval_loss),
            options(|r| r.eval_margin),
            options(|r| r.eval_accuracy),
            numbers(|r| r.wall_time),
            numbers(|r| r.seconds),
            numbers(|r| r.tokens_per_second),
            options(|r| r.flop_utilisation),
            options(|r| r.resident_mib),
        ]
    }

    fn from_batch(batch: &RecordBatch) -> Vec<Self> {
        let c = Columns(batch);
        c.rows(|i| MetricsRow {
            update: c.u32(0, i),
            loss: c.f64(1, i),
            grad_norm: c.f64(2, i),
            learning_rate: c.f64(3, i),
            tokens: c.f64(4, i),
            skipped: c.bool(5, i),
            real_falls: c.bool(6, i),
            rewards_real: c.optional_f64(7, i),
            rewards_generated: c.optional_f64(8, i),
            rewards_margins: c.optional_f64(9, i),
            rewards_accuracies: c.optional_f64(10, i),
            logps_real: c.optional_f64(11, i),
            logps_generated: c.optional_f64(12, i),
            eval_loss: c.optional_f64(13, i),
            eval_margin: c.optional_f64(14, i),
            eval_accuracy: c.optional_f64(15, i),
            wall_time: c.f64(16, i),
            seconds: c.f64(17, i),
            tokens_per_second: c.f64(18, i),
            flop_utilisation: c.optional_f64(19, i),
            resident_mib: c.optional_f64(20, i),
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
        let path = dir.path().join("m.parquet");
        let full = MetricsRow {
            update: 1,
            loss: 2.0,
            grad_norm: 3.0,
            learning_rate: 4.0,
            tokens: 5.0,
            skipped: true,
            real_falls: false,
            rewards_real: Some(8.0),
            rewards_generated: Some(9.0),
            rewards_margins: Some(10.0),
            rewards_accuracies: Some(11.0),
            logps_real: Some(12.0),
            logps_generated: Some(13.0),
            eval_loss: Some(14.0),
            eval_margin: Some(15.0),
            eval_accuracy: Some(16.0),
            wall_time: 17.0,
            seconds: 18.0,
            tokens_per_second: 19.0,
            flop_utilisation: Some(20.0),
            resident_mib: Some(21.0),
        };
        let rows = vec![full, MetricsRow { update: 2, real_falls: true, ..MetricsRow::default() }];
        MetricsRow::write_part(&path, &rows, "id", 0).unwrap();
        assert_eq!(MetricsRow::read_part(&path).unwrap(), rows);
        let batch = table::read_any(&path).unwrap();
        for (name, value) in [("rewards/margins", 10.0), ("eval_accuracy", 16.0), ("resident_mib", 21.0)] {
            let column = batch.column_by_name(name).unwrap().as_primitive::<Float64Type>();
            assert_eq!(column.value(0), value, "{name}");
            assert!(column.is_null(1), "{name}");
        }
        table::rows_digest(&path).unwrap();
    }
}
