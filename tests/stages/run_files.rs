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
    assert_eq!(names, ["demo", "gsm8k", "leaderboard", "zephyr-7b"]);
}

/// Experiments of `just questions`: one task, and nothing that differs but
/// what the file says.
#[test]
fn the_questions_share_their_task() {
    let load = |path: &std::path::Path| RunFile::load(path, &["seed=77".into()]).unwrap_or_else(|e| panic!("{e}"));
    let dir = shipped("pipelines/questions");
    let base = load(&dir.join("base.toml"));
    let mut files = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let (run, stem) = (load(&path), path.file_stem().unwrap().to_string_lossy().into_owned());
        assert_eq!(run.run, format!("{stem}-77"));
        assert_eq!((&run.data, &run.template, &run.bench), (&base.data, &base.template, &base.bench), "{stem}");
        assert_eq!(run.store, base.store);
        let own_model = run.sft.is_some();
        assert_eq!(own_model, stem == "words");
        assert!(own_model || run.model == base.model, "{stem}");
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
