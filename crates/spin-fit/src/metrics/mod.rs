//! What is recorded about each update, and where it goes: JSON lines and
//! Parquet for programs, event files for TensorBoard.

pub mod events;
pub mod flops;
mod real;

use serde::{Deserialize, Serialize};
use spin_run::schema::MetricsRow;

pub use real::{RealWatch, TOLERANCE_NATS, WINDOW};

/// What one update did, as it is written to `training_metrics.jsonl`. Equal
/// trainings give equal records: there are no times here. Names follow TRL
/// where it has one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateLog {
    /// Counts from 1.
    pub update: usize,
    /// Mean loss of the update's rows (`spin`, `dpo`: per pair, `sft`: per
    /// response token).
    #[serde(with = "finite_or_null")]
    pub loss: f64,
    /// Learning rate used.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping.
    #[serde(with = "finite_or_null")]
    pub grad_norm: f64,
    /// Tokens of the update's sequences, the prompt counted with each answer.
    pub tokens: usize,
    /// Whether loss or gradient were not finite and the weights left alone.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub skipped: bool,
    /// Whether the human answers had become less likely than at the start.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub real_falls: bool,
    /// The pairs' metrics (`spin`, `dpo`): mean reward of the human answers.
    #[serde(rename = "rewards/real", skip_serializing_if = "Option::is_none", default)]
    pub rewards_real: Option<f64>,
    /// As above, of the generated answers.
    #[serde(rename = "rewards/generated", skip_serializing_if = "Option::is_none", default)]
    pub rewards_generated: Option<f64>,
    /// Share of pairs whose real answer gained more.
    #[serde(rename = "rewards/accuracies", skip_serializing_if = "Option::is_none", default)]
    pub rewards_accuracies: Option<f64>,
    /// Mean difference of the two rewards.
    #[serde(rename = "rewards/margins", skip_serializing_if = "Option::is_none", default)]
    pub rewards_margins: Option<f64>,
    /// Mean log-probability of the real answers: it may fall while the loss
    /// does too.
    #[serde(rename = "logps/real", skip_serializing_if = "Option::is_none", default)]
    pub logps_real: Option<f64>,
    /// Mean log-probability of the generated answers.
    #[serde(rename = "logps/generated", skip_serializing_if = "Option::is_none", default)]
    pub logps_generated: Option<f64>,
    /// What the real answers gained over the opponent, in nats.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub real_gain: Option<f64>,
    /// Held-out loss, where it was evaluated: per pair, or in nats per token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eval_loss: Option<f64>,
    /// Held-out margin of rewards.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eval_margin: Option<f64>,
    /// Held-out share of pairs whose real answer gained more.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eval_accuracy: Option<f64>,
}

/// JSON has no NaN: what is not finite is `null`.
mod finite_or_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

/// How fast an update was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// When it was done, in seconds since 1970.
    pub wall_time: f64,
    /// Seconds it took, evaluation and checkpoints left out.
    pub seconds: f64,
    /// Tokens of all sequences by the seconds.
    pub tokens_per_second: f64,
    /// Model FLOP utilisation, from 0 to 1; see [`flops`].
    pub flop_utilisation: Option<f64>,
    /// Resident memory in MiB.
    pub resident_mib: Option<f64>,
}

/// A line of the log of unfinished training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// What it did.
    pub update: UpdateLog,
    /// How fast.
    pub timing: Timing,
}

impl LogLine {
    /// As a row of the metrics table.
    pub fn row(&self) -> MetricsRow {
        let (u, t) = (&self.update, &self.timing);
        MetricsRow {
            update: u.update as u32,
            loss: u.loss,
            grad_norm: u.grad_norm,
            learning_rate: u.learning_rate,
            tokens: u.tokens as f64,
            skipped: u.skipped,
            real_falls: u.real_falls,
            rewards_real: u.rewards_real,
            rewards_generated: u.rewards_generated,
            rewards_margins: u.rewards_margins,
            rewards_accuracies: u.rewards_accuracies,
            logps_real: u.logps_real,
            logps_generated: u.logps_generated,
            eval_loss: u.eval_loss,
            eval_margin: u.eval_margin,
            eval_accuracy: u.eval_accuracy,
            wall_time: t.wall_time,
            seconds: t.seconds,
            tokens_per_second: t.tokens_per_second,
            flop_utilisation: t.flop_utilisation,
            resident_mib: t.resident_mib,
        }
    }

    /// What TensorBoard shows, by tag.
    pub fn scalars(&self) -> Vec<(&'static str, f64)> {
        let (u, t) = (&self.update, &self.timing);
        let flag = |on: bool| Some(f64::from(u8::from(on)));
        let all = [
            ("train/loss", Some(u.loss)),
            ("train/grad_norm", Some(u.grad_norm)),
            ("train/learning_rate", Some(u.learning_rate)),
            ("train/skipped", flag(u.skipped)),
            ("train/real_falls", u.real_gain.and(flag(u.real_falls))),
            ("rewards/real", u.rewards_real),
            ("rewards/generated", u.rewards_generated),
            ("rewards/margins", u.rewards_margins),
            ("rewards/accuracies", u.rewards_accuracies),
            ("logps/real", u.logps_real),
            ("logps/generated", u.logps_generated),
            ("eval/loss", u.eval_loss),
            ("eval/margin", u.eval_margin),
            ("eval/accuracy", u.eval_accuracy),
            ("speed/tokens_per_second", Some(t.tokens_per_second)),
            ("speed/flop_utilisation", t.flop_utilisation),
            ("speed/resident_mib", t.resident_mib),
        ];
        all.into_iter().filter_map(|(tag, value)| Some((tag, value?))).collect()
    }
}

/// Records as JSON lines.
pub fn json_lines<'a, T: Serialize + 'a>(records: impl IntoIterator<Item = &'a T>) -> String {
    records.into_iter().map(|r| serde_json::to_string(r).expect("plain numbers") + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_even_when_its_loss_is_not_a_number() {
        let mut line = LogLine::default();
        line.update.update = 3;
        line.update.loss = 0.1 + 0.2;
        line.update.rewards_margins = Some(-1e-9);
        line.timing.seconds = 1.0 / 3.0;
        let read = |line: &LogLine| serde_json::from_str::<LogLine>(json_lines([line]).trim()).unwrap();
        assert_eq!(read(&line), line);
        line.update.loss = f64::NAN;
        line.update.skipped = true;
        let back = read(&line);
        assert!(back.update.loss.is_nan() && back.update.skipped);
        assert_eq!(back.update.rewards_margins, line.update.rewards_margins);
        assert!(!json_lines([&LogLine::default()]).contains("eval_loss"));
    }

    #[test]
    fn table_and_events_show_the_same_numbers() {
        let update = UpdateLog { loss: 0.5, eval_margin: Some(2.0), real_gain: Some(1.0), ..UpdateLog::default() };
        let line = LogLine { update, timing: Timing { tokens_per_second: 9.0, ..Timing::default() } };
        let scalars = line.scalars();
        for expected in
            [("train/loss", 0.5), ("eval/margin", 2.0), ("speed/tokens_per_second", 9.0), ("train/real_falls", 0.0)]
        {
            assert!(scalars.contains(&expected), "{expected:?} not in {scalars:?}");
        }
        assert!(!scalars.iter().any(|(tag, _)| *tag == "rewards/real"));
        assert_eq!((line.row().loss, line.row().eval_margin, line.row().tokens_per_second), (0.5, Some(2.0), 9.0));
    }
}
