//! The whole loop on a tiny model.

use spin_run::graph::{ModelId, Split};
use spin_run::run::FitDtype;
use spin_run::schema::{Demonstration, Pair, ReferenceRow, Row, Sample};
use spin_store::Artifact;

use crate::project::Project;

#[test]
fn two_rounds_from_import_to_table() {
    let project = Project::new();
    project.run_plan("never");

    // The table has all models, with intervals.
    let table = project.run("spin-bench table");
    for part in ["iter-0", "iter-1", "iter-2", "sft-more", "accuracy, sampled", "NLL per token", "±"] {
        assert!(table.contains(part), "no {part} in\n{table}");
    }
    assert!(project.run("spin-bench table --format markdown").starts_with("| model"));
    let json: serde_json::Value = serde_json::from_str(&project.run("spin-bench table --format json")).unwrap();
    assert_eq!(json["models"].as_array().unwrap().len(), 4);
    let nll = &json["models"][0]["results"]["nll"]["nll_per_token"];
    assert!(nll["value"].as_f64().unwrap() > 0.0 && nll["rows"] == 40);

    // A second time nothing is made.
    let before = project.contents();
    project.run_plan("never");
    assert_eq!(project.contents(), before);
    let again = project.run("spin-fit --iteration 1");
    assert!(again.contains("already there"), "{again}");

    // The last score reaches the demonstrations, the sources and the seed.
    let lineage = project.run("spin-store lineage scores/tiny/iter-2 --store store");
    for part in
        ["demonstrations/tiny/train@v1", "file:train.jsonl", "pairs/tiny/iter-1@v1", "seed 7", "model/tiny/base@v1"]
    {
        assert!(lineage.contains(part), "no {part} in\n{lineage}");
    }
    let verified = project.run("spin-store verify --store store");
    assert!(verified.contains("all as recorded"), "{verified}");

    project.with_graph(|graph| {
        // Tokens sampled are the tokens trained on, and the window mixes two
        // iterations.
        let samples: Vec<Sample> =
            [0, 1].iter().flat_map(|&t| Sample::read_all(&graph.samples(t).unwrap()).unwrap()).collect();
        let pairs = Pair::read_all(&graph.pairs(1).unwrap()).unwrap();
        assert!(pairs.iter().any(|p| p.iteration == 0) && pairs.iter().any(|p| p.iteration == 1));
        for pair in &pairs {
            let sampled = samples.iter().any(|s| s.row_id == pair.row_id && s.response_ids == pair.generated_ids);
            assert!(sampled, "{} was not sampled as it is trained on", pair.row_id);
        }
        // Every sample has a fate, and the counts are in the manifest.
        let manifest = graph.pairs(1).unwrap().manifest;
        let counted: u64 = manifest.facts["fates"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum();
        assert_eq!(counted as usize, samples.len());
        // The sampler's log-probability is the trainer's.
        let first = Sample::read_all(&graph.samples(0).unwrap()).unwrap();
        let reference = ReferenceRow::read_all(&graph.reference(0).unwrap()).unwrap();
        for row in &reference {
            let sample = first.iter().find(|s| s.row_id == row.row_id && s.sample_index == row.sample_index).unwrap();
            let difference = (sample.logps - row.generated_logps).abs();
            assert!(difference < 1e-3, "{}: sampler {} trainer {}", row.row_id, sample.logps, row.generated_logps);
        }
        // The first loss of each round is ln 2: policy and opponent agree.
        for t in [1, 2] {
            let facts = graph.model(&ModelId::Iteration(t)).unwrap().manifest.facts;
            let loss = facts["first_loss"].as_f64().unwrap();
            assert!((loss - std::f64::consts::LN_2).abs() < 1e-4, "iteration {t} starts at {loss}");
        }
        // A reference that is handed over must be the opponent's, of the same
        // pairs, in the same type.
        let (model, pairs) = (|t| graph.model(&ModelId::Iteration(t)).unwrap(), |t| graph.pairs(t).unwrap());
        let own = graph.reference(1).unwrap();
        let refused_on = |device: &str, model: &Artifact, pairs: &Artifact, dtype| {
            spin_fit::reference::read(&own, model, pairs, dtype, device).unwrap_err().to_string()
        };
        let refused = |model: &Artifact, pairs: &Artifact, dtype| refused_on("cpu", model, pairs, dtype);
        assert_eq!(
            spin_fit::reference::read(&own, &model(1), &pairs(1), FitDtype::F32, "cpu").unwrap().len(),
            pairs(1).manifest.rows() as usize
        );
        let weights = refused(&model(0), &pairs(1), FitDtype::F32);
        assert!(weights.contains("other weights") && weights.contains("needs model/tiny/iter-0@v1"), "{weights}");
        let other = refused(&model(1), &pairs(0), FitDtype::F32);
        assert!(other.contains("reference/tiny/iter-1@v1") && other.contains("other pairs"), "{other}");
        let dtype = refused(&model(1), &pairs(1), FitDtype::Bf16);
        assert!(dtype.contains("made with f32, this training needs bf16"), "{dtype}");
        let device = refused_on("cuda:1", &model(1), &pairs(1), FitDtype::F32);
        assert!(
            device.contains("other device") && device.contains("made with cpu, this training needs cuda:1"),
            "{device}"
        );
        assert_eq!(Demonstration::read_all(&graph.demonstrations(Split::Test).unwrap()).unwrap().len(), 40);
    });
}

#[test]
fn objectives_evaluations_and_metrics_from_the_run_file() {
    let project = Project::new();
    project.run_plan("spin-fit --iteration");
    project.fails(
        "spin-fit --iteration 0 --set fit.loss=ipo",
        3,
        &["loss = \"ipo\"", "objective = \"spin\"", "logistic"],
    );
    project.fails("spin-fit --iteration 0 --set fit.stop_margin=1", 3, &["stop_margin", "eval_every"]);
    project.fails("spin-fit --iteration 0 --peak-gflops 0", 2, &["above 0"]);

    let dpo = "spin-fit --iteration 0 --peak-gflops 50 --set fit.objective=dpo --set fit.loss=hinge \
               --set fit.eval_every=3 --set fit.eval_rows=20 --set fit.max_tokens_per_batch=900 \
               --set fit.on_nonfinite=skip --set fit.checkpoint_every=1000";
    let said = project.run(dpo);
    assert!(said.contains("20 held out") && said.contains("objective dpo (hinge)"), "{said}");
    assert!(said.contains("held-out loss") && said.contains("per pair, margin"), "{said}");
    project.with_graph(|graph| {
        let model = graph.store.get(&"model/tiny/iter-1".parse().unwrap()).unwrap().manifest;
        assert_eq!(model.params["fit"]["loss"], "hinge");
        // What does not decide the numbers is not in the recipe.
        assert!(model.params["fit"]["checkpoint_every"].is_null() && model.params["fit"]["recompute_every"].is_null());
        // Policy and opponent agree at the start: max(0, 1 - 0).
        assert!((model.facts["first_loss"].as_f64().unwrap() - 1.0).abs() < 1e-3, "{}", model.facts["first_loss"]);
        assert_eq!((&model.facts["held_out"], &model.facts["skipped_updates"]), (&20.into(), &0.into()));
        let metrics = graph.store.get(&"metrics/tiny/iter-1".parse().unwrap()).unwrap();
        assert_eq!(metrics.manifest.params, model.params);
        assert!(metrics.place().join("events.out.tfevents.0.spin-fit").exists());
    });
    // 100 of 120 rows are left: seven updates, evaluated at 3, 6 and the last.
    let rows = project.metrics("iter-1");
    let evaluated: Vec<u32> = rows.iter().filter(|row| row.eval_loss.is_some()).map(|row| row.update).collect();
    assert_eq!((rows.len(), evaluated), (7, vec![3, 6, 7]));
    for row in &rows {
        assert!(row.tokens > 0.0 && row.tokens_per_second > 0.0 && row.wall_time > 1.7e9, "{row:?}");
        let utilisation = row.flop_utilisation.expect("a peak was given");
        assert!(utilisation > 0.0 && utilisation.is_finite(), "{row:?}");
        assert!(
            row.logps_real.is_some() && row.rewards_margins.is_some() && row.eval_accuracy.is_none_or(|a| a <= 1.0)
        );
    }
    // The same said in other words is the same training.
    let again = format!("{dpo} --set fit.recompute_every=1");
    assert!(project.run(&again).contains("already there"));
    // Without demonstrations left there is nothing to train on.
    project.fails(
        "spin-fit --iteration 0 --set fit.eval_every=1 --set fit.eval_rows=500",
        3,
        &["no row to train on", "lower eval_rows"],
    );
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let project = Project::new();
    project.run_plan("spin-pair");
    let mut files: Vec<_> = walk(&project.path("store"));
    // The file whose lock says that the store is open.
    files.retain(|path| !path.ends_with(".in-use"));
    assert!(files.len() > 10);
    for path in files {
        let original = std::fs::read(&path).unwrap();
        // The first, a middle and the last byte of each file.
        for at in [0, original.len() / 2, original.len() - 1] {
            let mut bytes = original.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let output = project.output("spin-store verify --store store");
            let code = output.status.code();
            // A damaged STORE.json is refused before anything is looked at.
            assert!(
                code == Some(4) || (path.ends_with("STORE.json") && code == Some(3)),
                "bit {at} of {} gave {code:?}: {}",
                path.display(),
                crate::project::both(&output)
            );
        }
        std::fs::write(&path, &original).unwrap();
    }
    project.run("spin-store verify --store store");
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(walk(&path));
        } else {
            out.push(path);
        }
    }
    out
}
