//! Shards change nothing.

use spin_store::schema::{Row, Sample};

use crate::project::Project;

#[test]
fn seven_shards_equal_one() {
    let project = Project::new();
    project.run_plan("spin-sample");
    project.run("spin-sample --iteration 0");
    let one = project.with_graph(|g| g.samples(0).unwrap());
    let rows = Sample::read_all(&one).unwrap();
    assert_eq!(rows.len(), 120);
    std::fs::remove_dir_all(project.path("store/samples")).unwrap();
    // Out of order, as an array job would.
    for k in [3, 7, 1, 2, 6, 5, 4] {
        let said = project.run(&format!("spin-sample --iteration 0 --shard {k}/7"));
        assert_eq!(said.contains("made samples"), k == 4, "{said}");
    }
    let seven = project.with_graph(|g| g.samples(0).unwrap());
    assert_eq!(Sample::read_all(&seven).unwrap(), rows);
    assert_eq!(seven.manifest.content, one.manifest.content);
}
