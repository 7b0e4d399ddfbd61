//! A baseline on somebody's preference set: imported, paired, and trained as
//! TRL's `DPOTrainer` trains on the same file.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use serde_json::Value;
use spin_run::graph::{ModelId, PairsOf};
use spin_run::schema::{MetricsRow, Pair, ReferenceRow, Row};
use spin_store::Kind;

use crate::project::{Project, shipped};

/// The run file of a golden set: its settings in our words.
fn run_file(setting: &Value) -> String {
    let loss = setting["objective"].as_str().unwrap();
    let optimizer = setting["optimizer"].as_str().unwrap();
    let batch = setting["batch_size"].as_u64().unwrap();
    // Twenty updates over forty rows.
    let epochs = 20 * batch / 40;
    format!(
        r#"
run = "tiny"
seed = 7
store = "store"
model = {{ path = "model" }}
template = {{ chat = "TEMPLATE", max_prompt_length = 100, max_length = 128 }}

[[baseline]]
name = "dpo"
preferences = {{ path = "preferences.jsonl" }}

[baseline.fit]
objective = "dpo"
loss = "{loss}"
beta = {}
optimizer = "{optimizer}"
learning_rate = {}
lr_scheduler = {}
warmup_ratio = 0.1
weight_decay = {}
batch_size = {batch}
micro_batch_size = 5
schedule_epochs = {epochs}
stop_epoch = {epochs}
"#,
        setting["beta"], setting["lr"], setting["scheduler"], setting["weight_decay"]
    )
}

fn golden(set: &str, template: &str) -> (Project, Value, HashMap<String, Tensor>) {
    let dir = shipped("tests/golden/dpo").join(set);
    let cases: Value = serde_json::from_slice(&std::fs::read(dir.join("cases.json")).unwrap()).unwrap();
    let expected = candle_core::safetensors::load(dir.join("expected.safetensors"), &Device::Cpu).unwrap();
    let project = Project::new();
    for file in
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    {
        std::fs::copy(dir.join(file), project.path("model").join(file)).unwrap();
    }
    std::fs::copy(dir.join("preferences.jsonl"), project.path("preferences.jsonl")).unwrap();
    project.write("plain.jinja", "{% for m in messages %}{{ m['content'] }}{% endfor %}");
    project.write("run.toml", &run_file(&cases["setting"]).replace("TEMPLATE", template));
    (project, cases, expected)
}

fn largest_difference(ours: impl Iterator<Item = f64>, expected: &Tensor) -> f64 {
    let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let ours: Vec<f64> = ours.collect();
    assert_eq!(ours.len(), expected.len());
    ours.iter().zip(expected).map(|(a, b)| (a - f64::from(b)).abs()).fold(0.0, f64::max)
}

/// Token ids, reference, and every number of twenty updates.
fn equals_trl(set: &str, template: &str) {
    let (project, cases, expected) = golden(set, template);
    let plan = project.run("spin-store plan run.toml");
    let lines: Vec<&str> = plan.lines().collect();
    assert_eq!(
        lines,
        ["spin-store import run.toml", "spin-pair run.toml --baseline dpo", "spin-fit run.toml --baseline dpo",]
    );
    let imported = project.run("spin-store import run.toml");
    assert!(imported.contains("preferences/tiny/dpo@v1 (40 rows)"), "{imported}");
    let paired = project.run("spin-pair --baseline dpo");
    assert!(paired.contains("made pairs/tiny/dpo@v1: 40 pairs"), "{paired}");
    let trained = project.run("spin-fit --baseline dpo");
    assert!(trained.contains("made model/tiny/dpo@v1: 20 updates"), "{trained}");

    project.with_graph(|graph| {
        let of = PairsOf::Baseline("dpo".into());
        let pairs = Pair::read_all(&graph.pairs_of(&of).unwrap()).unwrap();
        let rows = cases["rows"].as_array().unwrap();
        assert_eq!(pairs.len(), rows.len());
        let ids = |value: &Value| serde_json::from_value::<Vec<u32>>(value.clone()).unwrap();
        for (pair, row) in pairs.iter().zip(rows) {
            assert_eq!(pair.prompt_ids, ids(&row["prompt_ids"]), "{}", pair.row_id);
            assert_eq!(pair.real_ids, ids(&row["chosen_ids"]), "{}", pair.row_id);
            assert_eq!(pair.generated_ids, ids(&row["rejected_ids"]), "{}", pair.row_id);
        }
        let reference = ReferenceRow::read_all(&graph.reference_of(&of).unwrap()).unwrap();
        let both = reference.iter().flat_map(|row| [row.real_logps, row.generated_logps]);
        let apart = largest_difference(both, &expected["reference"]);
        eprintln!("{set}: reference within {apart:.1e}");
        assert!(apart < 1e-4, "{apart}");
        // Lineage reaches the file.
        let model = graph.model(&ModelId::Baseline("dpo".into())).unwrap();
        let roles: Vec<&str> = model.manifest.parents.iter().map(|p| p.role.as_str()).collect();
        assert_eq!(roles, ["model", "pairs", "reference"]);
    });
    let rows = project.metrics("dpo");
    assert_eq!(rows.len(), 20);
    // Key in the golden file, value of ours, how far they may be apart.
    type Series = (&'static str, fn(&MetricsRow) -> f64, f64);
    let series: [Series; 8] = [
        ("losses", |row| row.loss, 1e-4),
        ("rewards.chosen", |row| row.rewards_real.unwrap(), 1e-4),
        ("rewards.rejected", |row| row.rewards_generated.unwrap(), 1e-4),
        ("rewards.margins", |row| row.rewards_margins.unwrap(), 1e-4),
        // Sums of some thirty logarithms.
        ("logps.chosen", |row| row.logps_real.unwrap(), 1e-3),
        ("logps.rejected", |row| row.logps_generated.unwrap(), 1e-3),
        ("grad_norm", |row| row.grad_norm, 1e-3),
        ("learning_rate", |row| row.learning_rate, 1e-9),
    ];
    for (key, value, tolerance) in series {
        let apart = largest_difference(rows.iter().map(value), &expected[key]);
        eprintln!("{set}: {key} within {apart:.1e}");
        assert!(apart < tolerance, "{set} {key}: {apart}");
    }
    let lineage = project.run("spin-store lineage model/tiny/dpo --store store");
    assert!(lineage.contains("file:preferences.jsonl") && lineage.contains("preferences/tiny/dpo@v1"), "{lineage}");
    project.run("spin-store verify --store store");
    assert!(project.run("spin-fit --baseline dpo").contains("already there"));
}

#[test]
fn twenty_updates_on_messages_equal_trls_dpo_trainer() {
    equals_trl("chat", "model");
}

#[test]
fn twenty_updates_on_strings_equal_trls_dpo_trainer() {
    equals_trl("text", "plain.jinja");
}

/// Starts from the model of the first round.
const BASELINE: &str = r#"
[[baseline]]
name = "prefer"
from = 1
match_iterations = 1
preferences = { path = "preferences.jsonl" }
fit = { objective = "OBJECTIVE", beta = 0.1 }
"#;

fn with_preferences(objective: &str) -> Project {
    let project = Project::new();
    let text = std::fs::read_to_string(project.path("run.toml")).unwrap();
    project.write("run.toml", &format!("{text}{}", BASELINE.replace("OBJECTIVE", objective)));
    let golden = std::fs::read_to_string(shipped("tests/golden/dpo/chat/preferences.jsonl")).unwrap();
    let mut rows: Vec<Value> = golden.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // The second lies beyond max_length = 110 tokens.
    for (id, rejected) in [("short", "#### 5".to_owned()), ("long", "2 and 2 is ".repeat(40))] {
        let mut row = rows[0].clone();
        row["id"] = id.into();
        row["rejected"][0]["content"] = rejected.into();
        rows.push(row);
    }
    if objective == "spin" {
        // As the published SPIN sets: both answers behind the prompt.
        let whole = |row: &Value, answer: &str| serde_json::json!([row["prompt"][0], row[answer][0]]);
        let published = |row: &Value| serde_json::json!({"id": row["id"], "real": whole(row, "chosen"), "generated": whole(row, "rejected")});
        rows = rows.iter().map(published).collect();
    }
    project.write("preferences.jsonl", &rows.iter().map(|row| format!("{row}\n")).collect::<String>());
    project
}

#[test]
fn a_preference_baseline_starts_from_any_model_and_is_scored_with_the_others() {
    let project = with_preferences("spin");
    let plan = project.run("spin-store plan run.toml");
    for line in [
        "spin-pair run.toml --baseline prefer",
        "spin-fit run.toml --baseline prefer",
        "spin-bench run.toml --baseline prefer",
    ] {
        assert!(plan.lines().any(|l| l == line), "no {line} in\n{plan}");
    }
    project.run("spin-store import run.toml");
    // What is missing is named with the command that makes it.
    project.fails("spin-fit --baseline prefer", 3, &["model/tiny/iter-0", "spin-fit run.toml --sft"]);
    project.run_plan("spin-sample --iteration 1");
    project.fails("spin-fit --baseline prefer", 3, &["pairs/tiny/prefer", "spin-pair run.toml --baseline prefer"]);
    let paired = project.run("spin-pair --baseline prefer");
    assert!(paired.contains("\"over_length\":1") && paired.contains("\"kept\":41"), "{paired}");
    assert!(project.run("spin-pair --baseline prefer").contains("already there"));
    let trained = project.run("spin-fit --baseline prefer");
    project.with_graph(|graph| {
        let id = ModelId::Baseline("prefer".into());
        let (model, first) = (graph.model(&id).unwrap(), graph.model(&ModelId::Iteration(1)).unwrap());
        // As many updates as the first round, from its model, which is the opponent.
        assert_eq!(model.manifest.facts["updates"], first.manifest.facts["updates"]);
        let parents = &model.manifest.parents;
        assert_eq!((parents[0].role.as_str(), &parents[0].content), ("model", &first.manifest.content));
        let loss = model.manifest.facts["first_loss"].as_f64().unwrap();
        assert!((loss - std::f64::consts::LN_2).abs() < 1e-4, "policy and opponent differ at the start: {loss}");
        let reference = graph.reference_of(&PairsOf::Baseline("prefer".into())).unwrap();
        assert_eq!(reference.manifest.parents[0].content, first.manifest.content);
        assert_eq!((reference.manifest.kind, reference.manifest.name.as_str()), (Kind::Reference, "tiny/prefer"));
    });
    assert!(trained.contains("objective spin"), "{trained}");
    project.run("spin-sample --baseline prefer --bench");
    project.run("spin-sample --iteration 0 --bench");
    project.run("spin-bench --baseline prefer");
}

#[test]
fn what_cannot_be_trained_on_preferences_is_refused_before_any_work() {
    let project = with_preferences("sft");
    project.fails(
        "spin-store import run.toml",
        3,
        &["\"prefer\"", "fit.objective = \"dpo\" or \"spin\"", "leave preferences out"],
    );
    let project = Project::new();
    project.edit("run.toml", "fit = { optimizer = \"adamw\"", "fit = { objective = \"dpo\", optimizer = \"adamw\"");
    project.fails("spin-store plan run.toml", 3, &["\"sft-more\"", "preferences = { path"]);
    let project = Project::new();
    project.fails("spin-pair --baseline sft-more", 3, &["trained on demonstrations", "preferences = { path"]);
    project.fails("spin-pair --baseline none", 3, &["no [[baseline]] \"none\"", "sft-more"]);
    project.fails("spin-pair", 2, &["--iteration", "--baseline"]);
    project.fails("spin-pair --iteration 0 --baseline sft-more", 2, &["cannot be used with"]);
}
