//! The run files that ship.

use spin_run::run::RunFile;

use crate::project::shipped;

#[test]
fn every_run_file_that_ships_can_be_read() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(shipped("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let run = RunFile::load(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
        assert!(run.rounds() > 0 || !run.eval.tasks.is_empty(), "{} does nothing", path.display());
        names.push(run.run);
    }
    names.sort();
    let smollm2 = ["smollm2-gsm8k", "smollm2-gsm8k", "smollm2-instruct"];
    assert_eq!(names, [&["demo", "gsm8k", "leaderboard"][..], &smollm2, &["word-problems", "zephyr-7b"]].concat());
}

/// The second file has one baseline more and nothing else, so that it finds the first one's artifacts.
#[test]
fn the_runs_of_smollm2_with_and_without_dpo_share_their_artifacts() {
    let load = |name: &str| RunFile::load(&shipped("pipelines").join(name), &[]).unwrap();
    let (without, mut with) = (load("smollm2-gsm8k.toml"), load("smollm2-gsm8k-dpo.toml"));
    assert_eq!(with.baseline.pop().unwrap().name, "dpo");
    assert_eq!(spin_run::run::as_params(&with), spin_run::run::as_params(&without));
}

/// Experiments of `just questions`: one task, and nothing that differs but
/// what the file says. A number at the end of a name is that of its words to
/// train on.
#[test]
fn the_questions_share_their_task() {
    let load = |path: &std::path::Path| RunFile::load(path, &["seed=77".into()]).unwrap_or_else(|e| panic!("{e}"));
    let dir = shipped("pipelines/questions");
    let base = load(&dir.join("base.toml"));
    let mut files = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let (run, stem) = (load(&path), path.file_stem().unwrap().to_string_lossy().into_owned());
        assert_eq!(run.run, format!("{stem}-77"));
        let words = stem.rsplit('-').next().and_then(|end| end.parse::<usize>().ok()).filter(|words| *words >= 100);
        let mut data = base.data.clone().unwrap();
        data.train.limit = words.unwrap_or(data.train.limit);
        // Some of the same words, which run.sh writes.
        if ["reach-sft", "right"].contains(&stem.as_str()) {
            (data.train.path, data.train.limit) = (run.data.as_ref().unwrap().train.path.clone(), 0);
        }
        assert_eq!((run.data.as_ref(), &run.template), (Some(&data), &base.template), "{stem}");
        // At how many temperatures a model is looked at is no other measure.
        let bench = spin_run::run::BenchConfig { temperatures: base.bench.temperatures.clone(), ..run.bench.clone() };
        assert_eq!(bench, base.bench, "{stem}");
        assert!(run.bench.temperatures.iter().all(|t| base.bench.temperatures.contains(t)), "{stem}");
        assert_eq!(run.store, base.store);
        let from = words.map_or_else(|| "words-77".into(), |words| format!("words-{words}-77"));
        let from = base.model.path.to_string_lossy().replace("words-77", &from);
        let own_model = run.sft.is_some();
        assert_eq!(own_model, stem.starts_with("words") || stem == "restarts", "{stem}");
        assert!(own_model || run.model.path.to_string_lossy() == from, "{stem}: {}", run.model.path.display());
        files += 1;
    }
    assert!(files > 10);
    assert_eq!(base.data.as_ref().unwrap().train.shuffle, Some(77));
}

#[test]
fn zephyr_is_the_papers_ladder() {
    let run = RunFile::load(&shipped("pipelines/zephyr-7b.toml"), &[]).unwrap();
    let ladder: Vec<(f64, f64)> = (0..4).map(|t| run.fit_at(t).map(|f| (f.learning_rate, f.beta)).unwrap()).collect();
    assert_eq!(ladder, [(5e-7, 0.1), (5e-7, 0.1), (1e-7, 0.1), (1e-7, 5.0)]);
    let fit = run.fit_at(0).unwrap();
    assert_eq!((fit.batch_size, fit.schedule_epochs, fit.stop_epoch, fit.warmup_ratio), (64, 6.0, 2.0, 0.1));
    assert_eq!((run.data.as_ref().unwrap().train.limit, run.pair_at(1).unwrap().window), (50_000, 2));
}
