//! Inputs from outside the store: files, and the prose that stood in their
//! place before.

use serde_json::{Map, json};
use spin_run::schema::keys;
use spin_run::schema::{Row, ScoreRow};
use spin_store::{Artifact, Context, Kind, Parent, Recipe, StageId, Staged, Store, StoreError, audit, table};

fn publish(store: &Store, name: &str, parents: Vec<Parent>) -> Artifact {
    let recipe = Recipe {
        kind: Kind::Scores,
        name: name.into(),
        stage: StageId { name: "test".into(), version: 1 },
        params: json!({"seed": 1}),
        parents,
    };
    let row = ScoreRow {
        task: "t".into(),
        metric: "m".into(),
        row_id: "r".into(),
        value: 1.0,
        weight: 1.0,
        prediction: None,
        target: None,
    };
    let made = Context::silent(store).make(&recipe, |making| {
        let staged = making.staging()?;
        ScoreRow::write_part(&staged.path().join(table::part_name(0)), &[row], &recipe.identity(), 0)?;
        Ok::<_, StoreError>(Staged::new(staged, Map::new()))
    });
    made.unwrap().0
}

fn parent(reference: &str, content: &str) -> Parent {
    Parent { role: "data mt_bench".into(), origin: reference.to_owned().into(), content: content.into(), seal: None }
}

/// A store that was written when MT-Bench's questions were a parent in prose
/// verifies, and its lineage can be drawn.
#[test]
fn prose_stands_for_an_outside_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let digest = "ab".repeat(32);
    let old = publish(&store, "old", vec![parent("questions and judge prompts", &digest)]);
    let new = publish(&store, "new", vec![parent("file:question.jsonl", &digest), old.as_parent("answers")]);
    let (count, findings) = audit::verify(&store, audit::Level::Rows, &keys::doubled).unwrap();
    assert_eq!((count, findings.len()), (2, 0), "{findings:?}");
    let text = audit::lineage(&store, &new).unwrap().to_text();
    assert!(text.contains("data mt_bench: file:question.jsonl  abababababab"), "{text}");
    assert!(text.contains("data mt_bench: questions and judge prompts  abababababab"), "{text}");
}

/// A parent that should be in the store is still missed, even of a kind that
/// this program does not know.
#[test]
fn artifacts_are_still_missed() {
    for reference in ["scores/gone@v1", "rewards/of-a-newer-program@v3"] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let child = publish(&store, "child", vec![parent(reference, &"cd".repeat(32))]);
        let (_, findings) = audit::verify(&store, audit::Level::Rows, &keys::doubled).unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].error.to_string().contains(reference), "{}", findings[0].error);
        assert!(audit::lineage(&store, &child).is_err());
    }
}
