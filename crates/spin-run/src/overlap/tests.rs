use serde_json::Map;

use super::*;
use crate::schema::Message;
use spin_store::{StageId, Store};

fn publish(store: &Store, name: &str, rows: &[(&str, String, &str)]) -> Artifact {
    let recipe = Recipe {
        kind: Kind::Demonstrations,
        name: name.into(),
        stage: StageId { name: "test".into(), version: 1 },
        params: json!({"name": name}),
        parents: Vec::new(),
    };
    let rows: Vec<Demonstration> = rows
        .iter()
        .map(|(id, prompt, response)| Demonstration {
            row_id: (*id).into(),
            prompt: vec![Message::new("user", prompt.clone())],
            response: (*response).into(),
        })
        .collect();
    let made = Context::silent(store).make(&recipe, |making| {
        let staged = making.staging()?;
        Demonstration::write_part(&staged.path().join(table::part_name(0)), &rows, &recipe.identity(), 0)?;
        Ok::<_, StoreError>(Staged::new(staged, Map::new()))
    });
    made.unwrap().0
}

/// A sentence of many words, none of which two seeds share.
fn sentence(seed: usize, words: usize) -> String {
    (0..words).map(|i| format!("w{seed}x{i}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_planted_leak_and_a_doubled_row_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let leak = sentence(7, 14);
    let mut rows: Vec<(String, String)> = (0..60).map(|i| (format!("r{i}"), sentence(100 + i, 30))).collect();
    // A question of a benchmark in the middle of a prompt, in other letters.
    rows[3].1 = format!("Hello! {}, they said", leak.to_uppercase().replace(' ', ",  "));
    // Twelve words are no leak, thirteen are.
    rows[4].1 = format!("a b {} c d", sentence(8, 12));
    rows[5].1 = format!("a b {} c d", sentence(8, 13));
    rows[6].1 = sentence(9, 6).replace(' ', "; ");
    // A row twice, and one with a word changed.
    rows[40].1 = rows[20].1.clone();
    rows[41].1 = rows[21].1.replace("w121x29", "other");
    let all: Vec<(&str, String, &str)> = rows.iter().map(|(id, text)| (id.as_str(), text.clone(), "")).collect();
    let train = publish(&store, "t/train", &all);
    let test = publish(&store, "t/test", &[("q", sentence(110, 30), ""), ("p", sentence(999, 30), "")]);
    let data = dir.path().join("benchmarks/task");
    std::fs::create_dir_all(&data).unwrap();
    let lines = [leak, sentence(8, 13), sentence(9, 6), "yes".into()];
    let lines: Vec<String> = lines.iter().map(|text| json!({"q": {"stem": text}, "label": "A"}).to_string()).collect();
    std::fs::write(data.join("test.jsonl"), lines.join("\n")).unwrap();

    let against = [Against::Files(data_below(&dir.path().join("benchmarks")).unwrap()), Against::Table(Box::new(test))];
    let context = Context::silent(&store);
    let (artifact, made) = run(&context, &train, &against, Options::default()).unwrap();
    assert!(made && !run(&context, &train, &against, Options::default()).unwrap().1);
    let rows = Overlap::read_all(&artifact).unwrap();
    let told: Vec<(&str, &str, &str)> =
        rows.iter().map(|r| (r.how.as_str(), r.row_id.as_str(), r.document.as_str())).collect();
    let file = "task/test.jsonl#";
    let expected = [
        ("ngram", "r3", format!("{file}1")),
        ("ngram", "r5", format!("{file}2")),
        ("exact", "r6", format!("{file}3")),
        ("exact", "r10", "q".into()),
        ("near", "r40", "r20".into()),
        ("near", "r41", "r21".into()),
    ];
    assert_eq!(told, expected.iter().map(|(a, b, c)| (*a, *b, c.as_str())).collect::<Vec<_>>());
    assert!(rows[0].text.starts_with("w7x0 w7x1") && rows[5].similarity > 0.8 && rows[5].similarity < 1.0);
    let facts = &artifact.manifest.facts;
    assert_eq!((&facts["rows"], &facts["near_duplicates"]), (&json!(60), &json!(2)));
    assert_eq!(facts["against"]["demonstrations/t/test@v1"]["rows_exact"], 1);
}

#[test]
fn chance_makes_no_near_duplicates() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    // Half of the words are shared: no near-duplicates at four fifths.
    let texts: Vec<String> = (0..200).map(|i| format!("{} {}", sentence(1, 20), sentence(50 + i, 20))).collect();
    let ids: Vec<String> = (0..200).map(|i| format!("r{i}")).collect();
    let rows: Vec<(&str, String, &str)> = ids.iter().zip(texts).map(|(id, text)| (id.as_str(), text, "")).collect();
    let table = publish(&store, "t/train", &rows);
    assert_eq!(near::pairs(&table, 0.8).unwrap(), []);
}
