//! From answers and log-probabilities to one value per row.

use std::collections::HashMap;

use spin_model::{Batch, CausalLm, ScoreOptions, ScoreRequest};
use spin_report::names::{
    FLEXIBLE, LOGP_MARGIN, NLL_PER_TOKEN, PREFERS_REAL, STRICT, WHOLE, error_rate_metric, exact_match_metric,
    expected_match_at, nll_at,
};
use spin_run::graph::Decoding;
use spin_run::run::{EXACT_MATCH, GSM8K, MARGIN, NLL, Normaliser, PREFERENCE, WER};
use spin_run::schema::{Demonstration, Sample, ScoreRow};
use spin_text::Codec;

use crate::error::{BenchError, Result};
use crate::extract;

/// Exact match of the final number, for both filters.
///
/// # Errors
/// When a demonstration has no `#### answer`, or a row has no sample.
pub fn gsm8k(rows: &[Demonstration], samples: &[Sample], decoding: Decoding, table: &str) -> Result<Vec<ScoreRow>> {
    let by_row: HashMap<&str, &Sample> = samples.iter().map(|s| (s.row_id.as_str(), s)).collect();
    let mut out = Vec::with_capacity(rows.len() * 2);
    for row in rows {
        let bad = |problem: &str, remedy: &str| BenchError::Row {
            row_id: row.row_id.clone(),
            table: table.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        };
        let target = extract::gold(&row.response)
            .ok_or_else(|| bad("its answer has no `#### number`", "take \"gsm8k\" out of bench.tasks for such data"))?;
        // A prompt over the length limit was dropped by the sampler: wrong.
        let text = by_row.get(row.row_id.as_str()).map(|s| s.response.as_str());
        for (filter, find) in [(STRICT, extract::strict as fn(&str) -> Option<String>), (FLEXIBLE, extract::flexible)] {
            let prediction = text.and_then(find);
            out.push(ScoreRow {
                task: GSM8K.into(),
                metric: exact_match_metric(filter, decoding),
                row_id: row.row_id.clone(),
                value: f64::from(u8::from(extract::exact_match(prediction.as_deref(), target))),
                weight: 1.0,
                prediction,
                target: Some(target.to_owned()),
            });
        }
    }
    Ok(out)
}

/// A row for each demonstration of which the whole answer is compared with the
/// human one, both as `normaliser` leaves them: `measure` gives value and weight
/// of an answer, `None` where there is none, and a human one. A prompt over the
/// length limit was dropped by the sampler: it has no answer.
fn compared(
    (task, metric): (&str, &str),
    rows: &[Demonstration],
    samples: &[Sample],
    normaliser: &Normaliser,
    measure: impl Fn(Option<&str>, &str) -> (f64, f64),
) -> Vec<ScoreRow> {
    let by_row: HashMap<&str, &Sample> = samples.iter().map(|s| (s.row_id.as_str(), s)).collect();
    let score = |row: &Demonstration| {
        let prediction = by_row.get(row.row_id.as_str()).map(|sample| normaliser.apply(&sample.response));
        let target = normaliser.apply(&row.response);
        let (value, weight) = measure(prediction.as_deref(), &target);
        ScoreRow {
            task: task.into(),
            metric: metric.into(),
            row_id: row.row_id.clone(),
            value,
            weight,
            prediction,
            target: Some(target),
        }
    };
    rows.iter().map(score).collect()
}

/// Exact match of the whole answer with the human one, both as `normaliser`
/// leaves them. No answer is wrong.
pub fn exact_match(
    rows: &[Demonstration],
    samples: &[Sample],
    decoding: Decoding,
    normaliser: &Normaliser,
) -> Vec<ScoreRow> {
    let metric = exact_match_metric(WHOLE, decoding);
    compared((EXACT_MATCH, &metric), rows, samples, normaliser, |found, wanted| {
        (f64::from(u8::from(found == Some(wanted))), 1.0)
    })
}

/// Word ([`WER`]) or character error rate of the answers, both sides as
/// `normaliser` leaves them: a row's value is its edits (V. I. Levenshtein,
/// 1966), its weight what the human answer has of words or characters, so that
/// the mean is the rate of all rows together, as `jiwer` and `evaluate` give
/// it. It can be above 1. Of no answer no word is right.
pub fn error_rate(
    task: &str,
    rows: &[Demonstration],
    samples: &[Sample],
    decoding: Decoding,
    normaliser: &Normaliser,
) -> Vec<ScoreRow> {
    let units = |text: &str| -> Vec<String> {
        match task {
            WER => text.split_whitespace().map(str::to_owned).collect(),
            _ => text.chars().map(String::from).collect(),
        }
    };
    let metric = error_rate_metric(task, decoding);
    compared((task, &metric), rows, samples, normaliser, |found, wanted| {
        let (found, wanted) = (units(found.unwrap_or_default()), units(wanted));
        (strsim::generic_levenshtein(&found, &wanted) as f64, wanted.len() as f64)
    })
}

/// The human answers by row id: token ids, and their summed log-probability.
pub type RealAnswers = HashMap<String, (Vec<u32>, f64)>;

/// A prompt and an answer in tokens.
struct Answer<'a> {
    row_id: &'a str,
    prompt: Vec<u32>,
    response: Vec<u32>,
}

/// Summed log-probabilities of answers and how many tokens they have;
/// `None` for an answer that does not fit the model's context. A sum that is
/// not finite is an error: no score can be made of it.
fn logps(
    model: &CausalLm,
    task: &str,
    answers: &[Answer<'_>],
    batch_size: usize,
    done: &mut dyn FnMut(u64),
) -> Result<Vec<Option<f64>>> {
    let context = model.config().max_position_embeddings;
    let fit = |answer: &Answer<'_>| answer.prompt.len() + answer.response.len() <= context;
    let fits: Vec<usize> = (0..answers.len()).filter(|&i| fit(&answers[i])).collect();
    let mut out = vec![None; answers.len()];
    for chunk in fits.chunks(batch_size) {
        let batch = Batch::new(chunk.iter().map(|&i| (answers[i].prompt.as_slice(), answers[i].response.as_slice())))?;
        for (&i, tokens) in chunk.iter().zip(model.response_token_logps(&batch)?) {
            let sum: f64 = tokens.into_iter().map(f64::from).sum();
            if !sum.is_finite() {
                return Err(BenchError::NotFinite { task: task.into(), doc: format!("row {:?}", answers[i].row_id) });
            }
            out[i] = Some(sum);
        }
        done(chunk.len() as u64);
    }
    Ok(out)
}

/// Negative log-likelihood of each human answer with its EOS, in nats, and
/// the log-probabilities themselves by row id. `weight` is the number of
/// tokens, so the mean is per token.
///
/// # Errors
/// When a row cannot be tokenised, or the model gives no number for it.
pub fn nll(
    model: &CausalLm,
    codec: &Codec,
    rows: &[Demonstration],
    batch_size: usize,
    done: &mut dyn FnMut(u64),
) -> Result<(Vec<ScoreRow>, RealAnswers)> {
    let answers = rows
        .iter()
        .map(|row| {
            let (prompt, response) = codec.exchange_ids(&row.prompt, &row.response)?;
            Ok(Answer { row_id: &row.row_id, prompt, response })
        })
        .collect::<Result<Vec<Answer<'_>>>>()?;
    let found = logps(model, NLL, &answers, batch_size, done)?;
    let (mut out, mut real) = (Vec::new(), HashMap::new());
    for ((row, answer), logp) in rows.iter().zip(answers).zip(found) {
        let Some(logp) = logp else { continue };
        let ids = answer.response;
        out.push(ScoreRow {
            task: NLL.into(),
            metric: NLL_PER_TOKEN.into(),
            row_id: row.row_id.clone(),
            value: -logp,
            weight: ids.len() as f64,
            prediction: None,
            target: None,
        });
        real.insert(row.row_id.clone(), (ids, logp));
    }
    Ok((out, real))
}

/// What `temperatures` make of a model: at each, and at 1, the probability
/// that a sample is the human answer, token by token and with its EOS; and the
/// negative log-likelihood as of [`nll`], whose results for these rows `real`
/// has. Logits are divided by the temperature for both, so a model is judged
/// as what it is used as.
///
/// # Errors
/// When a row cannot be tokenised, or the model gives no number for it.
pub fn at_temperatures(
    model: &CausalLm,
    codec: &Codec,
    rows: &[Demonstration],
    real: &RealAnswers,
    temperatures: &[f64],
    done: &mut dyn FnMut(u64),
) -> Result<Vec<ScoreRow>> {
    let mut sequences = Vec::new();
    for row in rows {
        if let Some((ids, _)) = real.get(&row.row_id) {
            let (mut tokens, _) = codec.exchange_ids(&row.prompt, &row.response)?;
            tokens.extend(ids);
            sequences.push((row.row_id.as_str(), tokens, ids.len()));
        }
    }
    let score = |metric: String, row_id: &str, value: f64, weight: f64| ScoreRow {
        task: NLL.into(),
        metric,
        row_id: row_id.into(),
        value,
        weight,
        prediction: None,
        target: None,
    };
    let mut out: Vec<ScoreRow> =
        sequences.iter().map(|(id, ..)| score(expected_match_at(1.0), id, real[*id].1.exp(), 1.0)).collect();
    let requests: Vec<ScoreRequest<'_>> = sequences
        .iter()
        .map(|(_, tokens, continuation)| ScoreRequest { tokens, continuation: *continuation })
        .collect();
    for &temperature in temperatures.iter().filter(|temperature| **temperature != 1.0) {
        let options = ScoreOptions { temperature, ..ScoreOptions::default() };
        let mut before = 0;
        let (found, _) = model.score(&requests, &options, &mut |n| {
            done((n - before) as u64);
            before = n;
        })?;
        for ((row_id, _, tokens), found) in sequences.iter().zip(found) {
            let logp: f64 = found.token_logps.into_iter().map(f64::from).sum();
            if !logp.is_finite() {
                return Err(BenchError::NotFinite { task: NLL.into(), doc: format!("row {row_id:?}") });
            }
            out.push(score(nll_at(temperature), row_id, -logp, *tokens as f64));
            out.push(score(expected_match_at(temperature), row_id, logp.exp(), 1.0));
        }
    }
    Ok(out)
}

/// A human answer and one of θ0's to the same prompt, with the model's summed
/// log-probabilities of both.
pub struct RealAndGenerated<'a> {
    row_id: &'a str,
    real: f64,
    generated: f64,
}

/// The log-probabilities that [`preference`] and [`margin`] compare; pairs with
/// identical answers teach nothing and are left out.
///
/// # Errors
/// When the model gives no number for a generated answer.
pub fn beside_generated<'a>(
    model: &CausalLm,
    real: &RealAnswers,
    generated: &'a [Sample],
    batch_size: usize,
    done: &mut dyn FnMut(u64),
) -> Result<Vec<RealAndGenerated<'a>>> {
    let differ = |s: &&'a Sample| real.get(&s.row_id).is_some_and(|(ids, _)| *ids != s.response_ids);
    let pairs: Vec<&'a Sample> = generated.iter().filter(differ).collect();
    let answer =
        |s: &&'a Sample| Answer { row_id: &s.row_id, prompt: s.prompt_ids.clone(), response: s.response_ids.clone() };
    let answers: Vec<Answer<'_>> = pairs.iter().map(answer).collect();
    let found = logps(model, PREFERENCE, &answers, batch_size, done)?;
    let both = |(sample, generated): (&&'a Sample, Option<f64>)| {
        Some(RealAndGenerated { row_id: &sample.row_id, real: real[&sample.row_id].1, generated: generated? })
    };
    Ok(pairs.iter().zip(found).filter_map(both).collect())
}

fn compare_pairs(
    (task, metric): (&str, &str),
    pairs: &[RealAndGenerated<'_>],
    value: impl Fn(&RealAndGenerated<'_>) -> f64,
) -> Vec<ScoreRow> {
    let score = |pair: &RealAndGenerated<'_>| ScoreRow {
        task: task.into(),
        metric: metric.into(),
        row_id: pair.row_id.into(),
        value: value(pair),
        weight: 1.0,
        prediction: None,
        target: None,
    };
    pairs.iter().map(score).collect()
}

/// Whether the model gives the real answer a higher probability than the
/// generated one; ties count half.
pub fn preference(pairs: &[RealAndGenerated<'_>]) -> Vec<ScoreRow> {
    compare_pairs((PREFERENCE, PREFERS_REAL), pairs, |pair| match pair.real == pair.generated {
        true => 0.5,
        false => f64::from(u8::from(pair.real > pair.generated)),
    })
}

/// By how much the real answer's log-probability is above the generated one's,
/// in nats. What it has grown by since θ0, times beta, is the held-out margin
/// of rewards.
pub fn margin(pairs: &[RealAndGenerated<'_>]) -> Vec<ScoreRow> {
    compare_pairs((MARGIN, LOGP_MARGIN), pairs, |pair| pair.real - pair.generated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spin_run::schema::Message;

    fn row(row_id: &str, response: &str) -> Demonstration {
        Demonstration { row_id: row_id.into(), prompt: vec![Message::new("user", "q")], response: response.into() }
    }

    fn sample(row_id: &str, response: &str) -> Sample {
        Sample {
            row_id: row_id.into(),
            sample_index: 0,
            prompt_ids: vec![1],
            response_ids: vec![2],
            response: response.into(),
            finish_reason: "stop".into(),
            logps: 0.0,
            token_logps: Vec::new(),
            token_sampling_logps: Vec::new(),
        }
    }

    #[test]
    fn exact_match_counts_missing_answers_as_wrong() {
        let rows = [row("a", "2+2=4\n#### 4"), row("b", "#### 1,000"), row("c", "#### 7")];
        let samples = [sample("b", "so #### 1000"), sample("a", "it is 4")];
        let scores = gsm8k(&rows, &samples, Decoding::Greedy, "t").unwrap();
        let strict: Vec<f64> =
            scores.iter().filter(|s| s.metric == "exact_match,strict-match,greedy").map(|s| s.value).collect();
        let flexible: Vec<f64> = scores.iter().filter(|s| s.metric.contains("flexible")).map(|s| s.value).collect();
        assert_eq!(strict, [0.0, 1.0, 0.0]);
        assert_eq!(flexible, [1.0, 1.0, 0.0]);
        let error = gsm8k(&[row("x", "four")], &[], Decoding::Greedy, "demonstrations/t@v1").unwrap_err();
        assert!(error.to_string().contains("\"x\" of demonstrations/t@v1"), "{error}");
    }

    // jiwer 4.0.0: wer(["HH AH L OW", "a b"], ["HH EH L OW AH", "b"]) = 3/6, cer(…) = 6/13.
    #[test]
    fn error_rates_are_of_all_rows_together() {
        let rows = [row("a", "HH AH L OW"), row("b", "a b"), row("c", "x y")];
        let samples = [sample("a", "HH EH L OW AH"), sample("b", "b")];
        let config = spin_run::run::ExactMatch::default().compile().unwrap();
        let values = |task: &str, rows: &[Demonstration]| {
            let scores = error_rate(task, rows, &samples, Decoding::Greedy, &config);
            assert!(scores.iter().all(|s| s.task == task && s.metric == format!("{task},none,greedy")));
            scores.into_iter().map(|s| (s.value, s.weight)).collect::<Vec<_>>()
        };
        assert_eq!(values(WER, &rows), [(2.0, 4.0), (1.0, 2.0), (2.0, 2.0)]);
        assert_eq!(values("cer", &rows[..2]), [(4.0, 10.0), (2.0, 3.0)]);
    }

    #[test]
    fn whole_answers_are_compared_after_normalisation() {
        let rows = [row("a", "Paris."), row("b", "the Seine"), row("c", "1889"), row("d", "iron")];
        let samples = [sample("a", " paris\n"), sample("b", "Seine"), sample("c", "1889!")];
        let values = |config: spin_run::run::ExactMatch| {
            let scores = exact_match(&rows, &samples, Decoding::Sampled, &config.compile().unwrap());
            assert!(scores.iter().all(|s| s.task == "exact_match" && s.metric == "exact_match,none,sampled"));
            scores.into_iter().map(|s| s.value).collect::<Vec<_>>()
        };
        let mut config = spin_run::run::ExactMatch::default();
        assert_eq!(values(config.clone()), [0.0, 0.0, 0.0, 0.0]);
        (config.ignore_case, config.ignore_punctuation) = (true, true);
        assert_eq!(values(config.clone()), [1.0, 0.0, 1.0, 0.0]);
        config.ignore_articles = true;
        assert_eq!(values(config), [1.0, 1.0, 1.0, 0.0]);
    }
}
