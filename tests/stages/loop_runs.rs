//! The whole loop on a tiny model.

use spin_store::graph::{ModelId, Split};
use spin_store::schema::{Demonstration, Pair, ReferenceRow, Row, Sample};

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
        assert_eq!(Demonstration::read_all(&graph.demonstrations(Split::Test).unwrap()).unwrap().len(), 40);
    });
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let project = Project::new();
    project.run_plan("spin-pair");
    let files: Vec<_> = walk(&project.path("store"));
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
