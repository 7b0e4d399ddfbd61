//! Answers to the prompts of leaderboard tasks, from published requests to
//! published samples, with a real model.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};
use spin_run::graph::{Graph, ModelId, Product};
use spin_run::import;
use spin_run::run::{EvalConfig, Init, ModelSource, RunFile};
use spin_run::schema::{RequestRow, Row, Sample};
use spin_sample::engine::{Device, EngineKind, EngineOptions, Memory};
use spin_sample::stage;
use spin_sample::task::{Options, Task};
use spin_store::{Artifact, Context, Kind, Left, Outcome, Recipe, StageId, Staged, Store, StoreError, table};
use spin_text::Codec;

const MODEL: ModelId = ModelId::Iteration(0);

/// The model and its golden ids. The first five ids are a prompt, the others its
/// greedy answer.
fn golden() -> (PathBuf, Vec<u32>) {
    let shared = PathBuf::from(std::env::var("SPIN_TEST_DATA").expect("cargo sets it"));
    let (model, golden) = (shared.join("models/stories260K"), shared.join("golden/stories260K_golden.json"));
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let ids = serde_json::from_value(golden["greedy_ids"].clone()).unwrap();
    (model, ids)
}

/// A store with nothing but the model, and the run that evaluates it.
struct Bench {
    dir: tempfile::TempDir,
    run: RunFile,
    store: Store,
}

impl Bench {
    fn new(model: &Path, rows_per_part: usize) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let config = ModelSource { path: std::path::absolute(model).unwrap(), init: Init::Pretrained };
        let mut run = RunFile::for_model("stories260K", config, dir.path().join("store"), EvalConfig::default());
        run.sample.rows_per_part = rows_per_part;
        let store = Store::open(&run.store_dir()).unwrap();
        let bench = Bench { dir, run, store };
        let recipe = bench.graph().recipe(&Product::Base).unwrap();
        import::model(&Context::silent(&bench.store), &recipe, model).unwrap();
        bench
    }

    fn graph(&self) -> Graph<'_> {
        Graph::new(&self.run, &self.store)
    }

    /// Publishes requests as `spin-bench eval --requests` does.
    fn publish(&self, unit: &str, rows: &[RequestRow]) -> Artifact {
        let graph = self.graph();
        let recipe = Recipe {
            kind: Kind::Requests,
            name: graph.evaluation_name(&MODEL, unit),
            stage: StageId { name: "spin-bench eval".into(), version: 1 },
            params: json!({}),
            parents: vec![graph.model(&MODEL).unwrap().as_parent("tokenizer")],
        };
        let made = Context::silent(&self.store).make(&recipe, |making| {
            let staged = making.staging()?;
            RequestRow::write_part(&staged.path().join(table::part_name(0)), rows, &recipe.identity(), 0)?;
            Ok::<_, StoreError>(Staged::new(staged, Map::new()))
        });
        made.unwrap().0
    }

    /// Answers the only table; a stop is asked for once `stop_after` answers
    /// are there.
    fn answer(&self, shard: &str, engines: usize, stop_after: u64) -> spin_sample::Result<Outcome> {
        let graph = self.graph();
        let tasks = Task::eval(&graph, &MODEL)?;
        assert_eq!(tasks.len(), 1);
        let stop = AtomicBool::new(false);
        let watch = |done: u64, _: u64, _: u64| stop.store(done >= stop_after, Ordering::Relaxed);
        let engine = EngineOptions {
            kind: EngineKind::Auto,
            device: Device::Cpu,
            batch_size: engines,
            copies: engines,
            memory: Memory::Bytes(1 << 30),
            gpu_memory_utilization: 0.9,
        };
        let options = Options { shard: shard.parse().unwrap(), engine, processor: "a processor".into() };
        let context = Context { stop: &stop, ..Context::silent(&self.store) };
        stage::run(&graph, &tasks[0], &options, &context, &watch)
    }

    fn made(&self) -> (Artifact, Vec<Sample>) {
        let Outcome::Made(artifact) = self.answer("1/1", 2, u64::MAX).unwrap() else { panic!("not made") };
        let rows = Sample::read_all(&artifact).unwrap();
        (artifact, rows)
    }

    fn program(&self, rest: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spin-sample"));
        command.args(rest).current_dir(self.dir.path()).output().unwrap()
    }
}

fn request(row_id: &str, prompt: &[u32], until: &[&str], max_new_tokens: u32) -> RequestRow {
    RequestRow {
        row_id: row_id.into(),
        prompt_ids: prompt.to_vec(),
        until: until.iter().map(|text| (*text).to_owned()).collect(),
        max_new_tokens,
        temperature: 0.0,
    }
}

/// Greedy and sampled rows, with and without stop texts.
fn mixed(prompt: &[u32]) -> Vec<RequestRow> {
    (0..9)
        .map(|i| {
            let until: &[&str] = if i % 3 == 0 { &["\n", "the"] } else { &[] };
            let temperature = [0.0, 0.7, 1.5][i % 3];
            RequestRow { temperature, ..request(&format!("mixed/{i}"), &prompt[..2 + i % 4], until, 10 + i as u32) }
        })
        .collect()
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn greedy_answers_are_golden_and_end_at_stop_texts() {
    let (model, ids) = golden();
    let (prompt, expected) = ids.split_at(5);
    let codec = Codec::from_dir(&model).unwrap();
    let long: Vec<u32> = [1].into_iter().chain(ids.iter().copied().cycle().skip(1)).take(512).collect();
    let bench = Bench::new(&model, 1024);
    // "outside" is five tokens; "," is the first one; "Lilyx" never comes.
    let stops = ["outside", ",", "Lily", "park. One d", "Lilyx"];
    let mut rows = vec![request("all", prompt, &[], expected.len() as u32)];
    rows.extend(stops.iter().map(|stop| request(stop, prompt, &["never", stop], expected.len() as u32)));
    rows.push(request("exactly full", &long[..510], &[], 50));
    rows.push(request("full", &long, &["never"], 50));
    // The stop text is complete with the last token that there is room for.
    let at = (1..).find(|&n| codec.decode(&expected[..n]).unwrap().contains("park.")).unwrap();
    rows.push(request("last", prompt, &["park."], at as u32));
    rows.push(request("cut", prompt, &["park."], at as u32 - 1));
    let requests = bench.publish("gsm8k", &rows);
    let (artifact, answers) = bench.made();

    assert_eq!(answers.iter().map(|a| a.row_id.as_str()).collect::<Vec<_>>(), {
        rows.iter().map(|r| r.row_id.as_str()).collect::<Vec<_>>()
    });
    assert!(answers.iter().zip(&rows).all(|(a, r)| a.prompt_ids == r.prompt_ids && a.sample_index == 0));
    let of = |row_id: &str| answers.iter().find(|a| a.row_id == row_id).unwrap();
    assert_eq!((of("all").response_ids.as_slice(), of("all").finish_reason.as_str()), (expected, "length"));
    for stop in stops {
        let (answer, ended) = (of(stop), stop != "Lilyx");
        let n = answer.response_ids.len();
        assert_eq!(answer.response_ids, expected[..n], "{stop}");
        assert_eq!(answer.finish_reason, if ended { "stop" } else { "length" }, "{stop}");
        assert_eq!(codec.decode(&expected[..n]).unwrap().contains(stop), ended, "{stop}");
        assert!(!codec.decode(&expected[..n - 1]).unwrap().contains(stop), "{stop} was complete earlier");
        assert_eq!(n == expected.len(), !ended, "{stop}");
    }
    assert_eq!(of(",").response_ids.len(), 1);
    assert_eq!(of("Lily").response, ", there was a little girl named Lily");
    let ends = ["exactly full", "full", "last", "cut"].map(|id| (of(id).response_ids.len(), &*of(id).finish_reason));
    assert_eq!(ends, [(2, "length"), (1, "length"), (at, "stop"), (at - 1, "length")]);
    // The log-probabilities are those of the recorded ids alone.
    assert!(of(",").logps > of("Lily").logps && of("Lily").logps > of("all").logps);

    // What reads them finds them, and they are made once.
    let graph = bench.graph();
    assert_eq!(graph.answers(&MODEL, &requests).unwrap().manifest.content, artifact.manifest.content);
    let facts = &artifact.manifest.facts;
    assert_eq!((&facts["samples"], &facts["finish_reasons"]["stop"]), (&json!(rows.len()), &json!(5)));
    assert!(matches!(bench.answer("1/1", 1, u64::MAX), Ok(Outcome::Found(_))));
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn stops_shards_and_engines_change_no_row() {
    let (model, ids) = golden();
    let rows = mixed(&ids);
    let one = Bench::new(&model, 2);
    one.publish("bbh", &rows);
    let (artifact, expected) = one.made();
    assert_eq!(expected.len(), 9);
    // Rows with the same prompt at temperatures 0, 0.7 and 1.5, by their order.
    let greedy = expected.iter().find(|a| a.row_id == "mixed/6").unwrap();
    assert!(greedy.finish_reason == "stop" || greedy.response_ids.len() == 16);
    let sampled: Vec<_> = ["mixed/4", "mixed/8"].map(|id| expected.iter().find(|a| a.row_id == id).unwrap()).to_vec();
    assert_eq!(sampled[0].prompt_ids, sampled[1].prompt_ids);
    assert_ne!(sampled[0].response_ids[..14], sampled[1].response_ids[..14]);

    let two = Bench::new(&model, 2);
    two.publish("bbh", &rows);
    let Outcome::Left(Left::Stopped(place)) = two.answer("1/1", 1, 5).unwrap() else { panic!("not stopped") };
    let present: usize = place.strip_suffix(" of 5 parts").unwrap().parse().unwrap();
    assert!((1..5).contains(&present), "{place}");
    assert!(two.graph().answers(&MODEL, &two.graph().requests(&MODEL).unwrap()[0]).is_err());
    let shard = two.answer("2/2", 3, u64::MAX).unwrap();
    assert!(matches!(&shard, Outcome::Left(Left::Partial(place)) if place == "3 of 5 parts"), "{shard:?}");
    let (resumed, again) = two.made();
    assert_eq!(again, expected);
    assert_eq!(resumed.manifest.content, artifact.manifest.content);

    // Parts of another size are no use to what comes after, and do no harm.
    let mut three = Bench::new(&model, 2);
    three.publish("bbh", &rows);
    assert!(matches!(three.answer("1/1", 1, 5), Ok(Outcome::Left(Left::Stopped(_)))));
    three.run.sample.rows_per_part = 4;
    assert_eq!(three.made().1, expected);
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn requests_that_cannot_be_answered_are_named() {
    let (model, ids) = golden();
    let too_long = [1].repeat(513);
    let hot = RequestRow { temperature: f64::NAN, ..request("r/1", &ids[..5], &[], 5) };
    for (row, problem) in [
        (request("r/1", &[], &[], 5), "0 tokens"),
        (request("r/1", &too_long, &[], 5), "513 tokens"),
        (request("r/1", &ids[..5], &[], 0), "no tokens"),
        (hot, "temperature is NaN"),
    ] {
        let bench = Bench::new(&model, 1024);
        bench.publish("gsm8k", &[row]);
        let error = bench.answer("1/1", 1, u64::MAX).unwrap_err().to_string();
        assert!(error.contains("\"r/1\"") && error.contains("gsm8k") && error.contains(problem), "{error}");
    }
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn the_program_answers_for_a_directory() {
    let (model, ids) = golden();
    let bench = Bench::new(&model, 1024);
    let model = std::path::absolute(&model).unwrap();
    let model = model.to_str().unwrap();
    let call = |rest: &[&str]| {
        let output = bench.program(&[&["--eval", "--model", model, "--store", "store"], rest].concat());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = call(&[]);
    assert!(code == Some(0) && said.contains("no requests are published for stories260K/iter-0"), "{said}");
    let requests = bench.publish("gsm8k", &mixed(&ids));
    let (code, said) = call(&[]);
    assert!(code == Some(0) && said.contains("made samples/stories260K/iter-0/gsm8k/eval@v1: 9 answers"), "{said}");
    let (code, said) = call(&["--name", "stories260K"]);
    assert!(code == Some(0) && said.contains("eval@v1 is already there"), "{said}");
    assert_eq!(Sample::read_all(&bench.graph().answers(&MODEL, &requests).unwrap()).unwrap().len(), 9);
    // The same requests with other weights are other answers, of another run none.
    let (code, said) = call(&["--dtype", "f16"]);
    assert!(code == Some(0) && said.contains("eval@v2: 9 answers"), "{said}");
    let (code, said) = call(&["--name", "other"]);
    assert!(code == Some(0) && said.contains("no requests are published for other/iter-0"), "{said}");

    let (code, said) = call(&["--name", "a/b"]);
    assert!(code == Some(3) && said.contains("is not a name"), "{said}");
    let (code, said) = call(&["--dtype", "f8"]);
    assert!(code == Some(2) && said.contains("dtype must be f32, bf16 or f16"), "{said}");
    for usage in [
        &["--model", model] as &[&str],
        &["--eval"],
        &["run.toml", "--baseline", "b"],
        &["run.toml", "--iteration", "0", "--bench", "--eval"],
        &["run.toml", "--eval", "--model", model],
    ] {
        assert_eq!(bench.program(usage).status.code(), Some(2), "{usage:?}");
    }
}
