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

#[test]
fn zephyr_is_the_papers_ladder() {
    let run = RunFile::load(&shipped("pipelines/zephyr-7b.toml"), &[]).unwrap();
    let ladder: Vec<(f64, f64)> = (0..4).map(|t| run.fit_at(t).map(|f| (f.learning_rate, f.beta)).unwrap()).collect();
    assert_eq!(ladder, [(5e-7, 0.1), (5e-7, 0.1), (1e-7, 0.1), (1e-7, 5.0)]);
    let fit = run.fit_at(0).unwrap();
    assert_eq!((fit.batch_size, fit.schedule_epochs, fit.stop_epoch, fit.warmup_ratio), (64, 6.0, 2.0, 0.1));
    assert_eq!((run.data.as_ref().unwrap().train.limit, run.pair_at(1).unwrap().window), (50_000, 2));
}
