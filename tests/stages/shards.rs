//! Shards, kills and other processes change nothing.

use std::process::Stdio;
use std::time::{Duration, Instant};

use spin_run::graph::Product;
use spin_run::schema::{Row, Sample};
use spin_store::{Artifact, Kind, table};

use crate::project::Project;

/// Several answers to a prompt, in parts small enough to be killed between.
const SAMPLE: &str = "spin-sample --iteration 0 --set sample.samples_per_prompt=6 --set sample.rows_per_part=9 \
                      --set sample.top_p=0.95";

fn published(project: &Project) -> Artifact {
    project.with_graph(|graph| {
        let listed = graph.store.list().unwrap();
        let entry = listed.iter().find(|(kind, name, _)| *kind == Kind::Samples && name == "tiny/iter-0").unwrap();
        graph.store.load_listed(entry).unwrap()
    })
}

fn made(project: &Project) -> (Vec<Sample>, String) {
    let samples = published(project);
    (Sample::read_all(&samples).unwrap(), samples.manifest.content.clone())
}

#[test]
fn seven_shards_equal_one_and_ten_kills() {
    for engine in ["spin-model", "mistralrs"] {
        let sample = format!("{SAMPLE} --set sample.engine={engine}");
        let project = Project::new();
        project.run_plan("spin-sample");
        let said = project.run(&sample);
        assert!(said.contains("log-probabilities of 16 checked"), "{said}");
        let (rows, content) = made(&project);
        assert_eq!(rows.len(), 720);
        let again = || project.run("spin-store rm samples/tiny/iter-0@v1 --store store");

        again();
        // Out of order, as an array job would.
        for k in [3, 7, 1, 2, 6, 5, 4] {
            let said = project.run(&format!("{sample} --shard {k}/7 --batch-size {k} --engines 2"));
            assert_eq!(said.contains("made samples"), k == 4, "{said}");
        }
        assert!(made(&project) == (rows.clone(), content.clone()), "{engine}: shards differ");

        again();
        let parts = || {
            let files = project.work_files(".parquet");
            files.iter().filter(|path| path.extension().is_some_and(|end| end == "parquet")).count()
        };
        let mut hits = 0;
        while hits < 10 {
            let before = parts();
            let mut child = project.command(&sample).stderr(Stdio::null()).spawn().unwrap();
            let start = Instant::now();
            while parts() < before + 2 + hits % 3 {
                assert!(start.elapsed() < Duration::from_secs(60), "{engine}: no part in a minute");
                assert!(child.try_wait().unwrap().is_none(), "{engine}: it ended after {hits} kills");
                std::thread::sleep(Duration::from_micros(200));
            }
            child.kill().unwrap();
            assert_eq!(child.wait().unwrap().code(), None);
            hits += 1;
            project.run("spin-store verify --store store");
        }
        project.run(&sample);
        assert!(made(&project) == (rows, content), "{engine}: kills change rows");
    }
}

#[test]
fn a_part_in_work_is_left_to_who_makes_it() {
    let project = Project::new();
    project.run_plan("spin-sample");
    let sample = "spin-sample --iteration 0";
    let listed = |text: String| text.lines().filter(|line| line.contains('\t')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(listed(project.run(&format!("{sample} --missing"))).len(), 10);
    assert_eq!(
        listed(project.run(&format!("{sample} --missing --shard 2/7"))),
        ["samples/tiny/iter-0\t1\t12\t", "samples/tiny/iter-0\t8\t12\t"]
    );

    let identity = project.with_graph(|graph| graph.recipe(&Product::Samples(0)).unwrap().identity());
    let work = project.with_graph(|graph| graph.store.work(&identity).unwrap());
    let lock = work.lock_as(&format!("{}.lock", table::part_name(4)), "process 1 on another host").unwrap();
    project.fails(sample, 75, &["9 of 10 parts are there", "part 4 is held by process 1 on another host"]);
    let missing = listed(project.run(&format!("{sample} --missing")));
    assert_eq!(missing, ["samples/tiny/iter-0\t4\t12\tprocess 1 on another host"]);
    drop(lock);
    let said = project.run(sample);
    assert!(said.contains("made samples/tiny/iter-0@v1: 120 answers"), "{said}");
    assert_eq!(listed(project.run(&format!("{sample} --missing"))), [""; 0]);

    // Two at once share the parts; who is last publishes.
    std::fs::remove_dir_all(project.path("store/samples")).unwrap();
    let two = [(); 2].map(|()| project.command(sample).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let codes = two.map(|mut child| child.wait().unwrap().code());
    assert!(codes.iter().all(|code| matches!(code, Some(0 | 75))), "{codes:?}");
    let said = project.run(sample);
    assert!(said.contains("iter-0@v1"), "{said}");
    project.run("spin-store verify --store store");
}

#[test]
fn manifests_say_who_generated_and_what_was_checked() {
    let project = Project::new();
    project.run_plan("spin-sample");
    project.run("spin-sample --iteration 0 --set sample.temperature=0.8 --set sample.check_rows=5");
    let facts = published(&project).manifest.facts;
    assert!(facts["engine"].as_str().unwrap().starts_with("spin-model"), "{facts:?}");
    assert_eq!(facts["replay"], "exact");
    assert_eq!((&facts["replayed"]["rows"], &facts["replayed"]["flipped_tokens"]), (&5.into(), &0.into()));
    let check = &facts["logps_check"];
    assert_eq!((&check["rows"], &check["tokens"]), (&5.into(), &facts["replayed"]["tokens"]));
    let largest = check["largest_difference"].as_f64().unwrap();
    assert!(largest < 1e-3, "{largest}");

    // Nothing is checked if that is what is asked for, and low temperatures
    // magnify rounding.
    std::fs::remove_dir_all(project.path("store/samples")).unwrap();
    project.run("spin-sample --iteration 0 --set sample.check_rows=0");
    assert_eq!(published(&project).manifest.facts.get("logps_check"), None);
    project.run("spin-sample --iteration 0 --set sample.temperature=0.001 --set sample.check_rows=1000");
}
