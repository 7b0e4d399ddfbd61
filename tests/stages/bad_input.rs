//! What a user can get wrong. Each: exit code, one message that names the
//! place and the remedy, and a store that is as good as before.

use std::process::Command;

use spin_run::graph::{PairsOf, Product};
use spin_run::schema::{Demonstration, Message, Pair, Row};
use spin_store::{Context, Ending, Outcome, Staged, StoreError};

use crate::project::{Project, both, programs};

/// A project whose first training row is replaced.
fn with_row(line: &str) -> Project {
    let project = Project::new();
    let text = std::fs::read_to_string(project.path("train.jsonl")).unwrap();
    let rest = text.split_once('\n').unwrap().1;
    project.write("train.jsonl", &format!("{line}\n{rest}"));
    project
}

const IMPORT: &str = "spin-store import run.toml";

#[test]
fn rows_that_cannot_be_used() {
    let long = "word ".repeat(200);
    for (row, parts) in [
        (r#"{"question": "q", "answer": "  "}"#.to_owned(), ["row 1", "the answer is empty"]),
        (r#"{"question": "q"}"#.to_owned(), ["row 1", "none of the known layouts"]),
        (r#"{"question": 5, "answer": "a"}"#.to_owned(), ["row 1", "`question` is a number, not text"]),
        (r#"{"id": "000004", "question": "q", "answer": "a"}"#.to_owned(), ["row 5", "already stands in row 1"]),
        (r#"{"question": "q", "ans"#.to_owned(), ["row 1", "is not JSON"]),
    ] {
        let project = with_row(&row);
        project.fails(IMPORT, 3, &parts);
        project.fails(IMPORT, 3, &["train.jsonl"]);
        assert!(project.run("spin-store verify --store store").contains("0 artifacts, all as recorded"));
    }
    // Too long for the context: only a tokenizer can tell.
    let project = with_row(&format!(r#"{{"question": "{long}", "answer": "a"}}"#));
    project.run(IMPORT);
    let parts = ["row \"000000\"", "demonstrations/tiny/train@v1", "template.max_prompt_length = 60", "overlong"];
    project.fails("spin-fit --sft", 3, &parts);
    project.edit("run.toml", "max_length = 110", "max_length = 110\noverlong = \"drop\"");
    project.run("spin-fit --sft --set sft.schedule_epochs=0.2 --set sft.stop_epoch=0.2");
}

#[test]
fn parquet_that_is_missing_truncated_or_of_another_type() {
    let project = Project::new();
    project.edit("run.toml", "train.jsonl", "train.parquet");
    project.fails(IMPORT, 3, &["train.parquet", "No such file"]);
    let row = |i: usize| Demonstration {
        row_id: i.to_string(),
        prompt: vec![Message::new("user", format!("question {i}"))],
        response: "answer".into(),
    };
    let rows: Vec<Demonstration> = (0..500).map(row).collect();
    let path = project.path("train.parquet");
    Demonstration::write_part(&path, &rows, "x", 0).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    project.fails(IMPORT, 3, &["train.parquet", "cannot be read as Parquet", "is it complete?"]);
    std::fs::write(&path, &bytes).unwrap();
    project.run(IMPORT);
    // A table of pairs is no table of demonstrations.
    let pair = Pair {
        row_id: "a".into(),
        iteration: 0,
        sample_index: 0,
        real: vec![Message::new("user", "q")],
        generated: vec![],
        prompt_ids: vec![],
        real_ids: vec![],
        generated_ids: vec![],
    };
    Pair::write_part(&path, &[pair], "x", 0).unwrap();
    project.fails(IMPORT, 3, &["train.parquet", "row 0: the conversation has no answer"]);
}

#[test]
fn damage_in_the_store_stops_the_stages_that_read_it() {
    let project = Project::new();
    project.run_plan("spin-pair");
    let part = project.path("store/samples/tiny/iter-0/v1/part-00002.parquet");
    let good = std::fs::read(&part).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 3] ^= 4;
    std::fs::write(&part, &bad).unwrap();
    project.fails(
        "spin-pair --iteration 0",
        3,
        &["part-00002.parquet", "does not have the digest in its manifest", "run its stage again"],
    );
    std::fs::remove_file(&part).unwrap();
    project.fails("spin-pair --iteration 0", 3, &["part-00002.parquet", "missing"]);
    std::fs::write(&part, &good).unwrap();
    project.run("spin-pair --iteration 0");

    // A manifest without its parents.
    let parent = project.path("store/samples/tiny/iter-0");
    let aside = project.path("aside");
    std::fs::rename(&parent, &aside).unwrap();
    project.fails(
        "spin-store verify --store store",
        4,
        &["pairs/tiny/iter-0@v1", "its parent samples/tiny/iter-0@v1 is not there"],
    );
    project.fails(
        "spin-store lineage pairs/tiny/iter-0 --store store",
        3,
        &["samples/tiny/iter-0@v1 is not there", "restore the parent"],
    );
    project.fails("spin-fit --iteration 0", 3, &["spin-sample run.toml --iteration 0"]);
    std::fs::rename(&aside, &parent).unwrap();
    project.run("spin-store verify --store store");
}

#[test]
fn a_stage_before_its_turn_names_the_stage_that_is_missing() {
    let project = Project::new();
    project.fails("spin-sample --iteration 0", 3, &["model/tiny/base", "spin-store import run.toml"]);
    project.run(IMPORT);
    project.fails("spin-sample --iteration 0", 3, &["model/tiny/iter-0", "spin-fit run.toml --sft"]);
    project.fails("spin-fit --iteration 5", 3, &["2 [[iteration]] tables"]);
    project.fails("spin-fit --baseline nope", 3, &["it has: sft-more"]);
    project.fails("spin-fit", 2, &["--iteration"]);
    project.fails("spin-fit --sft --set fit.learning_rte=1", 3, &["run.toml", "did you mean `learning_rate`?"]);
}

#[test]
fn models_that_cannot_be_used() {
    let project = Project::new();
    std::fs::rename(project.path("model/config.json"), project.path("config.json")).unwrap();
    project.fails(IMPORT, 3, &["has no config.json", "Hugging Face model"]);
    std::fs::rename(project.path("config.json"), project.path("model/config.json")).unwrap();

    let config = std::fs::read_to_string(project.path("model/config.json")).unwrap();
    project.write(
        "model/config.json",
        &config.replace("LlamaForCausalLM", "GPT2LMHeadModel").replace("\"llama\"", "\"gpt2\""),
    );
    project.run(IMPORT);
    project.fails("spin-fit --sft", 3, &["config.json", "GPT2LMHeadModel", "LlamaForCausalLM"]);

    project.write("model/config.json", &config.replace("\"vocab_size\": 460", "\"vocab_size\": 300"));
    project.run(IMPORT);
    project.fails("spin-fit --sft", 3, &["300", "vocab"]);

    project.write("model/config.json", &config);
    project.run(IMPORT);
    project.run("spin-fit --sft");
    project.run("spin-store verify --store store");
}

#[test]
fn special_tokens_in_text_stay_text() {
    let project = with_row(r#"{"question": "Say <|eos|> or <|bos|>.", "answer": "1+1=<|eos|>2\n#### 2"}"#);
    project.run_plan("spin-fit --iteration");
    project.with_graph(|graph| {
        let pairs = Pair::read_all(&graph.pairs(0).unwrap()).unwrap();
        let pair = pairs.iter().find(|p| p.row_id == "000000").expect("the row teaches");
        let count = |ids: &[u32], id: u32| ids.iter().filter(|&&i| i == id).count();
        assert_eq!((count(&pair.prompt_ids, 1), count(&pair.prompt_ids, 2)), (1, 0), "{:?}", pair.prompt_ids);
        assert_eq!((count(&pair.real_ids, 1), count(&pair.real_ids, 2)), (0, 1), "{:?}", pair.real_ids);
        assert_eq!(pair.real_ids.last(), Some(&2));
    });
}

#[test]
fn pairs_of_another_vocabulary_are_refused_before_anything_is_computed() {
    let project = Project::new();
    project.run_plan("spin-fit --iteration");
    project.with_graph(|graph| {
        let (recipe, pairs) = (graph.recipe(&Product::Pairs(PairsOf::Iteration(0))).unwrap(), graph.pairs(0).unwrap());
        let mut rows = Pair::read_all(&pairs).unwrap();
        rows[7].generated_ids[0] = 460;
        rows[7].row_id = "strange".into();
        let anew = Context::silent(graph.store).make_unless(
            &recipe,
            |_| Ok(false),
            |making| {
                let staged = making.staging()?;
                Pair::write_part(&staged.path().join("part-00000.parquet"), &rows, &recipe.identity(), 0)?;
                Ok::<_, StoreError>(Ending::Publish(Staged::new(staged, Default::default())))
            },
        );
        assert!(matches!(anew, Ok(Outcome::Made(_))));
    });
    project.fails(
        "spin-fit --iteration 0",
        3,
        &["row \"strange\" of pairs/tiny/iter-0@v2", "generated_ids hold token 460", "vocabulary of 460", "spin-pair"],
    );
    assert!(!project.path("store/reference").exists());
}

#[test]
fn a_loss_that_is_not_finite_stops_training_and_keeps_the_checkpoint() {
    let project = Project::new();
    project.run(IMPORT);
    let wild = "spin-fit --sft --set sft.learning_rate=1e30 --set sft.max_grad_norm=0";
    project.fails(wild, 1, &["at update", "rows 0", "checkpoint of update", "learning_rate"]);
    assert!(!project.path("store/model/tiny/iter-0").exists());
    project.run("spin-store verify --store store");
}

/// The gradient is finite and the step is not.
#[test]
fn weights_that_are_not_finite_are_not_published() {
    let project = Project::new();
    project.run(IMPORT);
    let one = "--set sft.batch_size=1000 --set sft.warmup_ratio=0 --set sft.schedule_epochs=1 --set sft.stop_epoch=1";
    let wild =
        format!("spin-fit --sft --set sft.learning_rate=1e38 --set sft.max_grad_norm=0 {one} --set sft.eval_every=0");
    project.fails(&wild, 1, &["the weights are not finite after update 1", "model.", "learning_rate"]);
    assert!(!project.path("store/model/tiny/iter-0").exists());
}

/// A training that is done is not lost with the room to publish it.
#[test]
fn a_model_that_cannot_be_published_is_published_by_the_next_run() {
    let project = Project::new();
    project.run(IMPORT);
    // Nothing can be staged where a file is in the way.
    let staging = project.path("store/.staging");
    let _ = std::fs::remove_dir_all(&staging);
    std::fs::write(&staging, "").unwrap();
    let rare = "spin-fit --sft --set sft.checkpoint_every=1000";
    project.fails(rare, 1, &[".staging"]);
    std::fs::remove_file(&staging).unwrap();
    let again = project.run(&format!("{rare} --set sft.patience=0"));
    assert!(again.contains("made model/tiny/iter-0@v1"), "{again}");
    // No update was made again: the log of the second run begins at the end.
    assert!(!again.contains("update 1,") && project.metrics("iter-0").len() == 21, "{again}");
}

#[test]
fn old_weights_of_other_formats_stay_behind() {
    let project = Project::new();
    project.write("model/pytorch_model.bin", "weights of the base");
    project.write("model/special_tokens_map.json", "{}");
    project.run_plan("spin-sample");
    let model = project.path("store/model/tiny/iter-0/v1");
    assert!(model.join("special_tokens_map.json").exists() && !model.join("pytorch_model.bin").exists());
}

#[test]
fn a_full_disk_leaves_the_store_as_it_was() {
    let project = Project::new();
    project.run_plan("spin-sample --iteration 0");
    let before = project.contents();
    // A limit on the size of files stands for a full disk: every write past
    // it fails, with the signal ignored as an error like ENOSPC.
    let limited = |program: &str, blocks: u32| {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec {}/{program}", programs().display());
        let output = Command::new("bash").args(["-c", &script]).current_dir(project.path("")).output().unwrap();
        (output.status.code(), both(&output))
    };
    let (code, said) = limited("spin-sample run.toml --iteration 0", 1);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("failed to") && said.contains(".parquet"), "{said}");
    assert_eq!(project.contents(), before);
    // A training that cannot write its weights.
    let (code, said) = limited("spin-fit run.toml --sft --set seed=8", 4);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("failed to write"), "{said}");
    assert_eq!(project.contents(), before);
    project.run("spin-sample --iteration 0");
    project.run("spin-store verify --store store");
}

/// Which failures of the system are the input's is said in three crates that
/// share no dependency: they agree.
#[test]
fn all_crates_blame_the_same_failures_of_the_system() {
    // All codes of Linux.
    for code in 1..134 {
        let error = || std::io::Error::from_raw_os_error(code);
        let path = || std::path::PathBuf::from("x");
        let of_store = StoreError::Io { action: "read", path: path(), source: error() }.is_bad_input();
        let of_model = spin_model::Error::Read { path: path(), source: error() }.is_bad_input();
        let of_text = spin_text::TextError::Read { path: path(), source: error() }.is_bad_input();
        assert_eq!((of_model, of_text), (of_store, of_store), "{}", error());
    }
}
