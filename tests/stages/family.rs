//! Objectives after SPIN, through the programs.

use spin_run::graph::{ModelId, Product};
use spin_run::schema::{MetricsRow, Pair, Row, Sample};
use spin_store::Artifact;

use crate::project::{Project, programs, shipped};

fn roles(model: &Artifact) -> Vec<String> {
    model.manifest.parents.iter().map(|parent| parent.role.clone()).collect()
}

#[test]
fn tspin_has_no_reference_and_takes_the_first_models_answers_from_the_second_round_on() {
    let project = Project::new();
    project.edit("run.toml", "[fit]\n", "[fit]\nobjective = \"tspin\"\n");
    project.edit("run.toml", "[sample]\n", "[sample]\nsamples_per_prompt = 2\n");
    let plan = project.run("spin-run plan run.toml");
    assert!(plan.contains("sample-1"), "{plan}");
    project.run("spin-run run run.toml");
    project.with_graph(|graph| {
        let model = |t| graph.model(&ModelId::Iteration(t)).unwrap();
        assert_eq!(roles(&model(1)), ["model", "pairs"]);
        assert_eq!(roles(&model(2)), ["model", "pairs", "initial"]);
        let initial = model(2).manifest.parents.iter().find(|p| p.role == "initial").unwrap().clone();
        let samples = graph.samples(0).unwrap();
        assert_eq!(initial.content, samples.manifest.content);
        assert!(graph.reference(0).is_err() && graph.reference(1).is_err());
        // Both rounds mix two samples per prompt; θ0 answered every one of them.
        let pairs = Pair::read_all(&graph.pairs(1).unwrap()).unwrap();
        let empty = Sample::read_all(&samples).unwrap().iter().filter(|s| s.response_ids.is_empty()).count();
        assert_eq!(empty, 0);
        assert_eq!(model(2).manifest.facts["pairs_with_initial_answer"], pairs.len());
        // Where y' and y0 are one answer the second term is 0.1 ln 2 and gives no slope.
        let log = |t| {
            let metrics = graph.artifact(&Product::Metrics(ModelId::Iteration(t))).unwrap();
            MetricsRow::read_all(&metrics).unwrap()
        };
        assert!(log(1).iter().chain(&log(2)).all(|row| row.loss.is_finite() && !row.real_falls));
    });
    // Another weight is another training, and 0 needs no answers of θ0.
    let changed = project.run("spin-run status run.toml --set iteration.1.fit.initial_weight=0.0");
    assert!(changed.contains("initial"), "{changed}");
    project.run("spin-fit --iteration 1 --set iteration.1.fit.initial_weight=0.0");
}

#[test]
fn space_trains_against_the_reference_and_starts_at_two_ln_two() {
    let project = Project::new();
    project.edit("run.toml", "[fit]\n", "[fit]\nobjective = \"space\"\nmu = 1.0\n");
    project.run_plan("spin-sample run.toml --iteration 1");
    project.with_graph(|graph| {
        let id = ModelId::Iteration(1);
        assert_eq!(roles(&graph.model(&id).unwrap()), ["model", "pairs", "reference"]);
        let log = MetricsRow::read_all(&graph.artifact(&Product::Metrics(id)).unwrap()).unwrap();
        // -log σ_1(0) - log(1 - σ_1(0)).
        assert!((log[0].loss - 2.0 * std::f64::consts::LN_2).abs() < 1e-5, "{}", log[0].loss);
        // Rewards are the gains themselves.
        let row = log.last().unwrap();
        let margin = row.rewards_real.unwrap() - row.rewards_generated.unwrap();
        assert!((row.rewards_margins.unwrap() - margin).abs() < 1e-9);
    });
}

/// As earlier releases did, to the same identity: with the reference as a parent.
#[test]
fn a_round_of_sft_trains_on_the_human_answers_of_its_pairs() {
    let project = Project::new();
    project.edit("run.toml", "[fit]\n", "[fit]\nobjective = \"sft\"\n");
    project.edit("run.toml", "beta = 0.5\n", "");
    project.run_plan("spin-sample run.toml --iteration 1");
    project.with_graph(|graph| {
        let id = ModelId::Iteration(1);
        assert_eq!(roles(&graph.model(&id).unwrap()), ["model", "pairs", "reference"]);
        let log = MetricsRow::read_all(&graph.artifact(&Product::Metrics(id)).unwrap()).unwrap();
        assert!(log.iter().all(|row| row.rewards_real.is_none()));
    });
}

#[test]
fn settings_of_another_objective_are_refused() {
    let project = Project::new();
    for (set, said) in [
        ("fit.mu=2", "mu is for objective = \"space\" alone"),
        ("fit.initial_weight=1", "initial_weight is for objective = \"tspin\" alone"),
        ("fit.loss=\"nce\"", "objective = \"spin\" has the losses"),
    ] {
        project.fails(&format!("spin-run plan run.toml --set {set}"), 3, &[said]);
    }
    project.fails("spin-run plan run.toml --set fit.objective=space --set fit.mu=0", 3, &["mu = 0 must be above 0"]);
}

/// The example is built with the tests.
#[test]
fn the_tables_and_the_figure_of_the_docs_are_what_the_example_prints() {
    let dir = tempfile::tempdir().unwrap();
    let figure = dir.path().join("tabular.svg");
    let example = programs().join("examples/tabular_game");
    let output = std::process::Command::new(example).arg(&figure).output().expect("cargo test builds examples");
    assert!(output.status.success());
    let shipped = |file: &str| std::fs::read_to_string(shipped("docs/questions").join(file)).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), shipped("tabular.txt"));
    assert_eq!(std::fs::read_to_string(figure).unwrap(), shipped("tabular.svg"));
}
