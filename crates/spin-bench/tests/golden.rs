//! lm-evaluation-harness's own test data: the hash of every zero-shot request
//! of whole splits, the scores of a model that guesses, and the examples drawn
//! for each document. `../shared/golden` says where the values are from.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};
use spin_bench::harness::prompt::{self, Style, Subset, Turn};
use spin_bench::harness::registry::Registry;
use spin_bench::harness::tasks::mmlu;
use spin_bench::harness::{Answer, Doc, Metric, Profile, Task, dataset, filter, measure};
use spin_report::random::PyRandom;
use spin_report::stats;

fn shared() -> PathBuf {
    let dir = PathBuf::from(std::env::var("SPIN_TEST_DATA").expect("cargo sets it"));
    assert!(dir.join("benchmarks").exists(), "this test needs {}", dir.display());
    dir
}

fn golden(shared: &Path, name: &str) -> Value {
    let path = shared.join("golden").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn task(shared: &Path, profile: Profile, name: &str) -> Task {
    Registry::new(profile, &shared.join("benchmarks"), &[]).unwrap().tasks(&[name.into()]).unwrap().remove(0)
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

/// `json.dumps` of a text: ASCII only.
fn dumps_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}").unwrap();
                }
            }
        }
    }
    out.push('"');
}

/// `json.dumps` of a list, given its items.
fn dumps(items: &[String]) -> String {
    format!("[{}]", items.join(", "))
}

fn quoted(text: &str) -> String {
    let mut out = String::new();
    dumps_text(text, &mut out);
    out
}

const PLAIN: Style<'static> = Style { chat: None, multiturn: false, system_instruction: "" };

fn read(shared: &Path, task: &Task, split: &str) -> Vec<Doc> {
    dataset::read_split(task, &shared.join("benchmarks"), split).unwrap().docs
}

/// Something that tells documents apart.
fn names(docs: &[Doc]) -> Vec<String> {
    docs.iter().map(|doc| doc.question.clone()).collect()
}

/// All zero-shot requests of a split in the leaderboard's order, as
/// `[context, continuation]`, and the documents in that order.
fn zero_shot(shared: &Path, task: &Task) -> (Vec<String>, Vec<Doc>) {
    let docs = read(shared, task, &task.split);
    let turns = prompt::turns(task, Profile::LeaderboardV1, &names(&docs), &[], 0, Subset::default()).unwrap();
    let mut requests = Vec::new();
    for turn in &turns {
        let written = prompt::write(task, &PLAIN, &[], &docs[turn.row]).unwrap();
        for (context, continuation) in written.requests() {
            requests.push(dumps(&[quoted(context), quoted(continuation)]));
        }
    }
    let docs = turns.iter().map(|turn| docs[turn.row].clone()).collect();
    (requests, docs)
}

/// The version that the harness's test data was made of: an older prompt, and
/// the choices' texts.
fn old_mmlu(subject: &str) -> Task {
    let read = |row: &spin_bench::harness::RawRow| {
        let choices: Vec<String> =
            row["choices"].as_array().unwrap().iter().map(|c| c.as_str().unwrap().to_owned()).collect();
        let gold = row["answer"].as_u64().unwrap() as usize;
        let mut question = format!("Question: {}\nChoices:\n", row["question"].as_str().unwrap());
        for (letter, choice) in "ABCD".chars().zip(&choices) {
            writeln!(question, "{letter}. {choice}").unwrap();
        }
        question.push_str("Answer:");
        Ok(Doc { question, answer: Answer::Choices { choices, gold } })
    };
    Task {
        description: String::new(),
        metrics: vec![Metric::Acc, Metric::AccNorm],
        read: Arc::new(read),
        ..mmlu::subject(subject)
    }
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn every_zero_shot_request_has_the_harness_hash() {
    let shared = shared();
    let hashes = golden(&shared, "harness_testdata_hashes.json");
    let check = |key: &str, requests: &[String]| assert_eq!(sha256(&dumps(requests)), hashes[key], "{key}");
    for name in ["arc_challenge", "openbookqa", "winogrande"] {
        let task = task(&shared, Profile::LeaderboardV1, name);
        check(&format!("{name}-v0-loglikelihood"), &zero_shot(&shared, &task).0);
    }
    check("hendrycksTest-abstract_algebra-v0-loglikelihood", &zero_shot(&shared, &old_mmlu("abstract_algebra")).0);
    // Per document the choices of mc1, then those of mc2.
    let one = task(&shared, Profile::LeaderboardV1, "truthfulqa_mc1");
    let two = task(&shared, Profile::LeaderboardV1, "truthfulqa_mc2");
    let (first, first_docs) = zero_shot(&shared, &one);
    let (second, second_docs) = zero_shot(&shared, &two);
    let count = |doc: &Doc| match &doc.answer {
        Answer::Choices { choices, .. } | Answer::Labels { choices, .. } => choices.len(),
        _ => unreachable!(),
    };
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    for (a, b) in first_docs.iter().zip(&second_docs) {
        mixed.extend(first.by_ref().take(count(a)));
        mixed.extend(second.by_ref().take(count(b)));
    }
    check("truthfulqa_mc-v1-loglikelihood", &mixed);
    // Generated, until a line break in that version.
    let gsm8k = task(&shared, Profile::LeaderboardV1, "gsm8k");
    let docs = read(&shared, &gsm8k, "test");
    let turns = prompt::turns(&gsm8k, Profile::LeaderboardV1, &names(&docs), &[], 0, Subset::default()).unwrap();
    let requests: Vec<String> = turns
        .iter()
        .map(|turn| {
            let written = prompt::write(&gsm8k, &PLAIN, &[], &docs[turn.row]).unwrap();
            dumps(&[quoted(&written.contexts[0]), dumps(&[quoted("\n")])])
        })
        .collect();
    check("gsm8k-v0-greedy_until", &requests);
}

/// Scores of a model that returns `-random.random()` for each request.
#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn a_guessing_model_gets_the_harness_scores() {
    let shared = shared();
    let expected = golden(&shared, "harness_testdata_hashes.json");
    let check = |task: &str, version: &str, metric: &str, values: &[f64]| {
        let results = &expected[format!("{task}-{version}-res.json")]["results"][task];
        let found = stats::mean(values).unwrap();
        let close = |found: f64, key: &str| {
            let expected = results[key].as_f64().unwrap();
            assert!((found - expected).abs() <= 1e-15, "{task} {key}: {found} instead of {expected}");
        };
        close(found.value, metric);
        close(found.stderr.unwrap(), &format!("{metric}_stderr"));
    };
    let guess = |task: &Task, rng: &mut PyRandom, doc: &Doc| {
        let count = prompt::write(task, &PLAIN, &[], doc).unwrap().continuations.len();
        let logps: Vec<f64> = (0..count).map(|_| -rng.random()).collect();
        measure::choices(task, Profile::LeaderboardV1, doc, &logps).values
    };
    for (name, own) in [
        ("arc_challenge", task(&shared, Profile::LeaderboardV1, "arc_challenge")),
        ("openbookqa", task(&shared, Profile::LeaderboardV1, "openbookqa")),
        ("winogrande", task(&shared, Profile::LeaderboardV1, "winogrande")),
        ("hendrycksTest-abstract_algebra", old_mmlu("abstract_algebra")),
    ] {
        let mut rng = PyRandom::new(42);
        let values: Vec<Vec<f64>> = zero_shot(&shared, &own).1.iter().map(|doc| guess(&own, &mut rng, doc)).collect();
        for (i, metric) in own.metrics.iter().enumerate() {
            let column: Vec<f64> = values.iter().map(|values| values[i]).collect();
            check(name, "v0", metric.name(), &column);
        }
    }
    let one = task(&shared, Profile::LeaderboardV1, "truthfulqa_mc1");
    let two = task(&shared, Profile::LeaderboardV1, "truthfulqa_mc2");
    let mut rng = PyRandom::new(42);
    let (mut mc1, mut mc2) = (Vec::new(), Vec::new());
    for (a, b) in zero_shot(&shared, &one).1.iter().zip(&zero_shot(&shared, &two).1) {
        mc1.push(guess(&one, &mut rng, a)[0]);
        mc2.push(guess(&two, &mut rng, b)[0]);
    }
    check("truthfulqa_mc", "v1", "mc1", &mc1);
    check("truthfulqa_mc", "v1", "mc2", &mc2);
}

fn indices(rows: &[usize]) -> String {
    dumps(&rows.iter().map(usize::to_string).collect::<Vec<_>>())
}

fn check_draws(turns: &[Turn], expected: &Value, what: &str) {
    let drawn = |turn: &Turn| serde_json::to_value(&turn.examples).unwrap();
    if let Some(first) = expected["first3_docs_fewshot_idx"].as_array() {
        assert_eq!(turns[..3].iter().map(drawn).collect::<Vec<_>>(), *first, "{what}");
        assert_eq!(drawn(turns.last().unwrap()), expected["last_doc_fewshot_idx"], "{what}");
    }
    if let Some(first) = expected["first10_idx"].as_array() {
        assert_eq!(turns[..10].iter().map(|turn| drawn(turn)[0].clone()).collect::<Vec<_>>(), *first, "{what}");
    }
    if let Some(hash) = expected["all_idx_sha256"].as_str() {
        let all: Vec<String> = turns.iter().map(|turn| indices(&turn.examples)).collect();
        assert_eq!(sha256(&dumps(&all)), hash, "{what}");
    }
    if let Some(hash) = expected["doc_order_sha256"].as_str() {
        let order: Vec<usize> = turns.iter().map(|turn| turn.row).collect();
        assert_eq!(sha256(&indices(&order)), hash, "{what}");
        assert_eq!(serde_json::to_value(&order[..10]).unwrap(), expected["first10_doc_order"], "{what}");
    }
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn examples_are_those_that_the_harness_draws() {
    let shared = shared();
    let golden = golden(&shared, "fewshot_golden.json");
    let orders = [("v04x_main", Profile::Current), ("b281b0921b", Profile::LeaderboardV1)];
    for (key, name, shots) in [
        ("arc_challenge", "arc_challenge", 25),
        ("winogrande", "winogrande", 5),
        ("gsm8k", "gsm8k", 5),
        ("openbookqa_5shot", "openbookqa", 5),
        ("openbookqa_1shot", "openbookqa", 1),
    ] {
        for (order, profile) in orders {
            let expected = &golden[key][order];
            if expected.is_null() {
                continue;
            }
            let what = format!("{key} {order}");
            let task = task(&shared, profile, name);
            let docs = read(&shared, &task, &task.split);
            let pool = read(&shared, &task, "train");
            let turns = prompt::turns(&task, profile, &names(&docs), &names(&pool), shots, Subset::default()).unwrap();
            check_draws(&turns, expected, &what);
            let Some(hash) = expected["all_ctx_sha256"].as_str() else { continue };
            let contexts: Vec<String> = turns
                .iter()
                .map(|turn| {
                    let examples: Vec<&Doc> = turn.examples.iter().map(|i| &pool[*i]).collect();
                    let written = prompt::write(&task, &PLAIN, &examples, &docs[turn.row]).unwrap();
                    let context = match (&docs[turn.row].answer, profile) {
                        // The golden values hold the examples alone, or with
                        // the right option.
                        (Answer::Blank { contexts, .. }, Profile::Current) => {
                            written.contexts[0].strip_suffix(contexts[0].as_str()).unwrap()
                        }
                        (Answer::Blank { gold, .. }, _) => &written.contexts[*gold],
                        _ => &written.contexts[0],
                    };
                    quoted(context)
                })
                .collect();
            assert_eq!(sha256(&dumps(&contexts)), hash, "{what}");
        }
    }
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn hellaswag_draws_need_no_data() {
    let shared = shared();
    let golden = golden(&shared, "fewshot_golden.json");
    let expected = &golden["hellaswag_idx_only"];
    let doc = |i: usize| Doc { question: i.to_string(), answer: Answer::Text(String::new()) };
    let docs: Vec<Doc> = (0..10_042).map(doc).collect();
    let pool: Vec<Doc> = (0..39_905).map(doc).collect();
    for (order, profile) in [("v04x_main", Profile::Current), ("b281b0921b", Profile::LeaderboardV1)] {
        let task = task(&shared, profile, "hellaswag");
        let turns = prompt::turns(&task, profile, &names(&docs), &names(&pool), 10, Subset::default()).unwrap();
        check_draws(&turns, &expected[order], order);
    }
}

#[test]
#[ignore = "needs SPIN_TEST_DATA"]
fn mmlu_prompts_have_the_harness_hash() {
    let shared = shared();
    let golden = golden(&shared, "fewshot_golden.json");
    let hashes = golden["mmlu_5shot_ctx_sha256_by_subject"].as_object().unwrap();
    assert_eq!(hashes.len(), 57);
    for (subject, hash) in hashes {
        let task = task(&shared, Profile::Current, &format!("mmlu_{subject}"));
        let (docs, pool) = (read(&shared, &task, "test"), read(&shared, &task, "dev"));
        let turns = prompt::turns(&task, Profile::Current, &names(&docs), &names(&pool), 5, Subset::default()).unwrap();
        let examples: Vec<&Doc> = turns[0].examples.iter().map(|i| &pool[*i]).collect();
        let contexts: Vec<String> =
            docs.iter().map(|doc| quoted(&prompt::write(&task, &PLAIN, &examples, doc).unwrap().contexts[0])).collect();
        assert_eq!(sha256(&dumps(&contexts)), *hash, "{subject}");
    }
}

/// The harness's filters and metric on hand-written texts; see
/// `tests/parity/filters.py`.
#[test]
fn filters_read_what_the_harness_reads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/filters.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let gsm8k = spin_bench::harness::tasks::gsm8k::gsm8k(Profile::Current).generation.unwrap();
    check_filters(&golden["gsm8k"], &gsm8k.filters, gsm8k.normalise);
    let bbh = [("get-answer".to_owned(), filter::Extract::AnswerIs)];
    check_filters(&golden["bbh_cot"], &bbh, filter::Normalise::Nothing);
}

fn check_filters(section: &Value, filters: &[(String, filter::Extract)], normalise: filter::Normalise) {
    let until: Vec<String> =
        section["until"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect();
    let cases = section["cases"].as_array().unwrap();
    assert!(cases.len() > 40);
    for case in cases {
        let text = filter::cut(case["text"].as_str().unwrap(), &until);
        assert_eq!(text, case["cut"].as_str().unwrap(), "{case}");
        for (name, extract) in filters {
            let expected = &case["filters"][name];
            let found = extract.find(text);
            assert_eq!(found, expected["prediction"].as_str().unwrap(), "{case}");
            let gold = case["target"].as_str().unwrap();
            let right = normalise.apply(&found) == normalise.apply(gold);
            assert_eq!(f64::from(u8::from(right)), expected["exact_match"].as_f64().unwrap(), "{case}");
        }
    }
}
