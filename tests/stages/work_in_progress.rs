//! Unfinished work that was damaged, or is somebody else's, is made again and
//! never published.

use std::fs;
use std::path::PathBuf;

use spin_run::schema::{Row, Sample};

use crate::project::{Project, both};

/// Nothing but the records can notice: no answer is checked.
const SAMPLE: &str = "spin-sample --iteration 0 --set sample.check_rows=0";

/// A project ready to sample, and the content that an undisturbed run gives.
fn undisturbed() -> (Project, String) {
    let project = Project::new();
    project.run_plan("spin-sample");
    project.run(SAMPLE);
    let content = content(&project);
    fs::remove_dir_all(project.path("store/samples")).unwrap();
    (project, content)
}

fn content(project: &Project) -> String {
    let reference = "samples/tiny/iter-0".parse().unwrap();
    project.with_graph(|graph| {
        let samples = graph.store.get(&reference).unwrap();
        Sample::read_all(&samples).unwrap();
        samples.manifest.content
    })
}

/// Parts and records of the first shard's unfinished work.
fn half(project: &Project, more: &str) -> Vec<PathBuf> {
    project.run(&format!("{SAMPLE} {more} --shard 1/2"));
    let files = project.work_files("part-");
    files.into_iter().filter(|path| path.extension().is_some_and(|end| end == "parquet" || end == "json")).collect()
}

#[test]
fn no_flipped_bit_of_unfinished_work_is_published() {
    let (project, expected) = undisturbed();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..6 {
        let files = half(&project, "");
        assert_eq!(files.len(), 10, "five parts and their records: {files:?}");
        for file in &files {
            let mut bytes = fs::read(file).unwrap();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (random >> 33) as usize % (bytes.len() - 1);
            bytes[at] ^= 1 << (random % 8);
            fs::write(file, &bytes).unwrap();
        }
        let said = project.run(SAMPLE);
        assert!(said.contains("part 0 is made again: ") && said.contains("part 8 is made again: "), "{said}");
        assert_eq!(content(&project), expected, "round {round}");
        project.run("spin-store verify --store store");
        fs::remove_dir_all(project.path("store/samples")).unwrap();
    }
}

#[test]
fn parts_of_other_settings_are_not_published() {
    let (project, expected) = undisturbed();
    let other = half(&project, "--set sample.temperature=0.5");
    let theirs = other[0].parent().unwrap().to_path_buf();
    let ours = half(&project, "").iter().map(|path| path.parent().unwrap().to_path_buf()).find(|dir| *dir != theirs);
    let ours = ours.expect("a directory of its own");
    for file in &other {
        fs::copy(file, ours.join(file.file_name().unwrap())).unwrap();
    }
    let said = project.run(SAMPLE);
    assert!(said.contains("part 0 is made again: it was made for something else"), "{said}");
    assert_eq!(content(&project), expected);
}

#[test]
fn undamaged_work_is_used_and_a_disk_that_does_not_read_is_named() {
    let (project, expected) = undisturbed();
    let files = half(&project, "");
    let part = files.iter().find(|path| path.ends_with("part-00002.parquet")).unwrap();
    let aside = project.path("aside");
    fs::rename(part, &aside).unwrap();
    // Reading it fails with EIO, whoever reads.
    std::os::unix::fs::symlink("/proc/self/mem", part).unwrap();
    let output = project.output(SAMPLE);
    let said = both(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("failed to read") && said.contains("part-00002.parquet"), "{said}");
    assert!(!said.contains("taken away"), "{said}");
    fs::remove_file(part).unwrap();
    fs::rename(&aside, part).unwrap();
    let said = project.run(SAMPLE);
    assert!(!said.contains("made again"), "{said}");
    assert_eq!(content(&project), expected);
}
