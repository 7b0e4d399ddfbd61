//! Held-out scores at other temperatures and of margins, and the tables that
//! are made of them, through the programs.

use std::collections::BTreeMap;

use spin_run::graph::ModelId;
use spin_run::schema::{Row as _, ScoreRow};

use crate::project::Project;

/// Values and weights by row id.
type Rows = BTreeMap<String, (f64, f64)>;

fn rows(project: &Project, t: usize, metric: &str) -> Rows {
    project.with_graph(|graph| {
        let all = ScoreRow::read_all(&graph.scores(&ModelId::Iteration(t)).unwrap()).unwrap();
        let own = all.into_iter().filter(|row| row.metric == metric);
        own.map(|row| (row.row_id, (row.value, row.weight))).collect()
    })
}

#[test]
fn temperatures_and_margins_are_scored_and_tabled() {
    let project = Project::new();
    project.edit(
        "run.toml",
        "[bench]\n",
        "[bench]\ntasks = [\"gsm8k\", \"exact_match\", \"nll\", \"preference\", \"margin\"]\ntemperatures = [1.0, 0.5, 1e7]\n",
    );
    project.run_plan("never");
    let plain = rows(&project, 2, "nll_per_token");
    assert_eq!(plain.len(), 40);
    // At 1 a sample is the human answer with the probability that the model gives it.
    let expected = rows(&project, 2, "expected_match,temperature=1");
    assert!(plain.iter().all(|(id, (nll, _))| (expected[id].0 - (-nll).exp()).abs() < 1e-12), "{expected:?}");
    // So hot that all tokens of the vocabulary are as likely as each other.
    let vocabulary: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(project.path("model/config.json")).unwrap()).unwrap();
    let uniform = vocabulary["vocab_size"].as_f64().unwrap().ln();
    let hot = rows(&project, 2, "nll_per_token,temperature=10000000");
    assert!(hot.values().all(|(nll, tokens)| (nll / tokens - uniform).abs() < 1e-4), "{hot:?}");
    // A half is none of the two, and 1 is not scored twice.
    let cool = rows(&project, 2, "nll_per_token,temperature=0.5");
    assert!(cool.len() == 40 && cool.iter().all(|(id, (nll, _))| *nll != plain[id].0 && *nll != hot[id].0));
    assert!(rows(&project, 2, "nll_per_token,temperature=1").is_empty());
    // Who prefers the human answer has a margin above 0.
    let (margins, prefers) = (rows(&project, 2, "logp_margin"), rows(&project, 2, "prefers_real"));
    assert!(!margins.is_empty() && margins.len() == prefers.len());
    assert!(margins.iter().all(|(id, (margin, _))| (*margin > 0.0) == (prefers[id].0 == 1.0)), "{margins:?}");

    let table = project.run("spin-bench table");
    assert!(table.contains("beaten in both by") && table.contains("iter-0     0.5"), "{table}");
    let json = project.run("spin-bench table --format json");
    project.write("tiny-7.json", &json);
    let summed = project.run("spin-bench seeds tiny-7.json");
    assert!(summed.contains("less iter-0") && summed.contains("above a temperature of equal NLL"), "{summed}");
    assert!(summed.ends_with("Seeds 7.\n"), "{summed}");
    project.fails("spin-bench seeds run.toml", 3, &["run.toml is no table in JSON"]);
    let answers = project.run("spin-bench answers --each 2 --sampled");
    assert!(answers.contains("human") && answers.contains("sft-more"), "{answers}");
    // Other temperatures are other scores; of answers and weights they change nothing.
    let status = project.run("spin-run status run.toml --set bench.temperatures=[0.5]");
    assert!(status.contains("25 done, 4 stale, 0 missing"), "{status}");
}
