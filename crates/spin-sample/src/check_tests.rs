use std::path::PathBuf;

use spin_model::CausalLm;

use super::*;
use crate::choose::SamplingParams;
use crate::engine::{CachedEngine, Memory};
use crate::noise::Key;
use spin_run::run::Dtype;

/// A model of random weights on disk, and answers that it really gave.
struct Place {
    dir: tempfile::TempDir,
    rows: Vec<Row>,
    samples: Vec<Sample>,
}

impl Place {
    fn new(decoding: SamplingParams) -> Place {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/raw/demo/model/config.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(shipped).unwrap()).unwrap();
        // Weights this large make logits differ.
        json["initializer_range"] = 0.3.into();
        let config = ModelConfig::from_json(&json.to_string(), "the demo's").unwrap();
        let dir = tempfile::tempdir().unwrap();
        CausalLm::init(&config, 1, &Device::Cpu).unwrap().save(dir.path()).unwrap();
        let row = |i: u32| Row {
            row_id: i.to_string(),
            ids: (3..5 + i).collect(),
            decoding,
            max_new_tokens: 12,
            stop_ids: [].into(),
            stop: None,
        };
        let mut place = Place { dir, rows: (0..6).map(row).collect(), samples: Vec::new() };
        let engine = place.engine();
        let answers = engine::answer_all(&engine, place.rows.iter().map(wanted).collect(), &|_| {});
        for (row, answer) in place.rows.iter().zip(answers) {
            let answer = answer.unwrap();
            place.samples.push(Sample {
                row_id: row.row_id.clone(),
                sample_index: 0,
                prompt_ids: row.ids.to_vec(),
                response_ids: answer.ids,
                response: String::new(),
                finish_reason: "length".into(),
                logps: answer.logps,
                token_logps: answer.token_logps,
                token_sampling_logps: answer.token_sampling_logps,
            });
        }
        place
    }

    fn engine(&self) -> CachedEngine {
        CachedEngine::load(self.dir.path(), Dtype::F32, 3, Memory::Bytes(1 << 20)).unwrap()
    }

    fn with<T>(&self, count: usize, look: impl FnOnce(&Checked<'_>) -> T) -> T {
        let mut chosen = Chosen::new(count);
        self.samples.iter().enumerate().for_each(|(row, sample)| chosen.see(0, Job { row, sample_index: 0 }, sample));
        look(&Checked { chosen: &chosen, rows: &self.rows, work: &PathBuf::from("work"), engine: "the engine" })
    }

    fn logps(&self) -> Result<Value> {
        self.with(10, |checked| logps(self.dir.path(), Dtype::F32, checked))
    }

    fn replayed(&self, exact: bool) -> Result<Value> {
        self.with(10, |checked| replayed(&self.engine(), checked, |job| wanted(&self.rows[job.row]), |_| exact))
    }
}

fn wanted(row: &Row) -> Wanted {
    Wanted {
        row_id: row.row_id.clone(),
        prompt_ids: row.ids.clone(),
        key: Key::new(1, "test", &row.row_id, 0),
        decoding: row.decoding,
        max_new_tokens: row.max_new_tokens,
        stop_ids: row.stop_ids.clone(),
        stop: None,
    }
}

#[test]
fn answers_of_the_same_model_pass() {
    let cold = SamplingParams { temperature: 0.01, ..SamplingParams::PLAIN };
    let filtered = SamplingParams { temperature: 1.6, top_k: 9, repetition_penalty: 1.3, ..SamplingParams::PLAIN };
    for decoding in [SamplingParams::PLAIN, SamplingParams::GREEDY, cold, filtered] {
        let place = Place::new(decoding);
        let found = place.logps().unwrap();
        assert_eq!((&found["rows"], &found["tokens"]), (&json!(6), &json!(72)), "{decoding:?}");
        assert!(found["largest_difference"].as_f64().unwrap() < 1e-2, "{decoding:?}: {found}");
        assert_eq!(place.replayed(true).unwrap(), json!({"rows": 6, "tokens": 72, "flipped_tokens": 0}));
    }
}

#[test]
fn a_generator_that_computes_another_model_is_caught() {
    for wrong in [0.002, -0.1, f32::NAN] {
        let mut place = Place::new(SamplingParams::PLAIN);
        place.samples[4].token_logps[7] += wrong;
        let error = place.logps().unwrap_err();
        let row_id = &place.samples[4].row_id;
        assert!(error.to_string().contains(&format!("token 7 of sample 0 of row {row_id:?}")), "{error}");
        assert!(!error.is_bad_input());
    }
    // Other weights under the same name.
    let (place, other) = (Place::new(SamplingParams::PLAIN), Place::new(SamplingParams::PLAIN));
    let model = CausalLm::load(other.dir.path(), &Device::Cpu, DType::F32).unwrap();
    CausalLm::init(model.config(), 2, &Device::Cpu).unwrap().save(place.dir.path()).unwrap();
    assert!(matches!(place.logps(), Err(SampleError::Disagree { .. })));
}

#[test]
fn an_answer_that_does_not_come_out_again_is_an_error_or_counted() {
    let mut place = Place::new(SamplingParams::PLAIN);
    place.samples[2].response_ids[5] ^= 1;
    let error = place.replayed(true).unwrap_err();
    assert!(matches!(error, SampleError::NotReplayed { token: 5, .. }), "{error}");
    // Tokens up to the flip count.
    assert_eq!(place.replayed(false).unwrap(), json!({"rows": 6, "tokens": 66, "flipped_tokens": 1}));
}

#[test]
fn what_is_checked_does_not_depend_on_the_order() {
    let place = Place::new(SamplingParams::GREEDY);
    let chosen = |samples: &mut dyn Iterator<Item = &Sample>, count| {
        let mut chosen = Chosen::new(count);
        samples.for_each(|sample| chosen.see(3, Job { row: 0, sample_index: 0 }, sample));
        chosen.picks().map(|pick| (pick.part, pick.sample.row_id.clone())).collect::<Vec<_>>()
    };
    let some = chosen(&mut place.samples.iter(), 4);
    assert_eq!(some.len(), 4);
    assert_eq!(chosen(&mut place.samples.iter().rev(), 4), some);
    assert_eq!(chosen(&mut place.samples.iter(), 0), []);
    assert_eq!(chosen(&mut place.samples.iter(), 99).len(), 6);
    let failed = Sample { finish_reason: "error".into(), ..place.samples[0].clone() };
    assert_eq!(chosen(&mut [failed].iter(), 4), []);
}
