//! Sources become tables, or say why not.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{Files, demonstrations, demonstrations_recipe, preferences, preferences_recipe};
use crate::run::{BadRows, SourceConfig, Turns};
use crate::schema::{Demonstration, Message, Preference, Row};
use spin_store::error::Result;
use spin_store::{Artifact, Context, Staged, Store, StoreError};

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Bench { dir, store }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn import(&self, path: &Path, change: impl FnOnce(&mut SourceConfig)) -> Result<Artifact> {
        let mut source = SourceConfig::new(path);
        change(&mut source);
        let recipe = demonstrations_recipe("x", &source, &Files::at(path)?)?;
        demonstrations(&Context::silent(&self.store), &recipe, &source, &Files::at(path)?).map(|(artifact, _)| artifact)
    }

    fn prefer(&self, path: &Path, change: impl FnOnce(&mut SourceConfig)) -> Result<Artifact> {
        let mut source = SourceConfig::new(path);
        change(&mut source);
        let recipe = preferences_recipe("p", &source, &Files::at(path)?)?;
        preferences(&Context::silent(&self.store), &recipe, &source, &Files::at(path)?).map(|(artifact, _)| artifact)
    }
}

fn read_text(name: &str, text: &str) -> Result<Vec<Demonstration>> {
    let bench = Bench::new();
    Demonstration::read_all(&bench.import(&bench.file(name, text), |_| {})?)
}

fn error_of(name: &str, text: &str) -> String {
    let error = read_text(name, text).unwrap_err();
    assert!(error.is_bad_input(), "{error}");
    error.to_string()
}

fn user(text: &str) -> Vec<Message> {
    vec![Message::user(text)]
}

#[test]
fn each_layout_is_told_from_its_keys() {
    for (line, prompt, response) in [
        (
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"},{"role":"user","content":"more"}]}"#,
            user("q"),
            "a",
        ),
        (r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#, user("q"), "a"),
        (r#"{"real":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#, user("q"), "a"),
        (r#"{"prompt":"q","completion":"a"}"#, user("q"), "a"),
        (r#"{"prompt":[{"role":"user","content":"q"}],"response":"a"}"#, user("q"), "a"),
        (r#"{"prompt":"q","completion":[{"role":"assistant","content":"a"}]}"#, user("q"), "a"),
        (r#"{"question":"q","answer":"a"}"#, user("q"), "a"),
        (r#"{"instruction":"i","input":"x","output":"a"}"#, user("i\n\nx"), "a"),
        (r#"{"instruction":"i","input":"","output":"a"}"#, user("i"), "a"),
        (r#"{"instruction":"i","input":null,"output":"a"}"#, user("i"), "a"),
        (
            r#"{"instruction":"i","instances":[{"input":"x","output":"a"},{"input":"y","output":"b"}],"is_classification":true}"#,
            user("i\n\nx"),
            "a",
        ),
    ] {
        let rows = read_text("t.jsonl", line).unwrap();
        assert_eq!((&rows[0].prompt, rows[0].response.as_str()), (&prompt, response), "{line}");
        assert_eq!(rows[0].row_id, "000000");
        let list = read_text("t.json", &format!("[{line}]")).unwrap();
        assert_eq!(list, rows);
    }
}

#[test]
fn bad_rows_are_named() {
    for (text, part) in [
        ("{\"question\":\"q\",\"answer\":\"a\"}\n{\"question\":\"q\"}", "row 2: it has no `answer`"),
        ("{\"question\":\"q\",\"answer\":\"a\"}\n\n{\"question\":3,\"answer\":\"a\"}", "row 3: `question` is a number"),
        ("{\"question\":\"q\",\"answer\":\" \"}", "row 1: the answer is empty"),
        ("{\"question\":\"\",\"answer\":\"a\"}", "row 1: the prompt is empty"),
        ("{\"question\":\"q\",\"answer\"", "row 1: is not JSON"),
        ("[1]", "row 1: is a list"),
        ("{\"x\":1}", "keys (x)"),
        ("{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"b\"}", "preference set"),
        ("", "no rows"),
        ("{\"id\":[],\"prompt\":\"q\",\"response\":\"a\"}", "its id is neither"),
        (
            "{\"id\":\"k\",\"prompt\":\"q\",\"response\":\"a\"}\n{\"id\":\"k\",\"prompt\":\"q\",\"response\":\"b\"}",
            "row 2: its id \"k\" already stands in row 1",
        ),
        (r#"{"messages":[{"role":"assistant","content":"a"}]}"#, "role \"assistant\""),
        (r#"{"messages":[{"role":"user","content":"a"}]}"#, "no answer"),
        (r#"{"instruction":"i","instances":[]}"#, "row 1: `instances` is empty"),
        (r#"{"instruction":"i","instances":"x"}"#, "row 1: `instances` is text, not a list"),
        (r#"{"instruction":"i","instances":[{"input":"x"}]}"#, "row 1: an instance has no `output`"),
        (r#"{"instruction":"i","instances":[{"input":"x","output":" "}]}"#, "row 1: the instruction or an instance's"),
        (r#"{"instruction":"i","instances":[{"output":"a"}],"output":"a"}"#, "row 1: `output` and `instances`"),
    ] {
        let error = error_of("bad.jsonl", text);
        assert!(error.contains("bad.jsonl") && error.contains(part), "{text} gave {error}");
    }
}

/// An answer is what the assistant says, wherever it stands.
#[test]
fn roles_decide_and_not_places() {
    let chat = |turns: &[(&str, Value)]| {
        let list: Vec<Value> = turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        json!({"messages": list}).to_string()
    };
    let t = |text: &str| json!(text);
    let completion =
        |list: Value| json!({"prompt": [{"role": "user", "content": "q"}], "completion": list}).to_string();
    let tool_call = json!([{"type": "function", "function": {"name": "w", "arguments": "{}"}}]);
    for (line, part) in [
        (completion(json!([{"role": "tool", "content": "RAW"}, {"role": "assistant", "content": "a"}])), "turn 1 of `completion` is a turn of role \"tool\" where the assistant's answer"),
        (completion(json!([{"role": "user", "content": "no"}, {"role": "assistant", "content": "a"}])), "turn 1 of `completion` is a turn of role \"user\""),
        (completion(json!([])), "`completion` is empty"),
        (completion(json!([{"role": "assistant", "content": "a", "tool_calls": tool_call.clone()}])), "turn 1 of `completion` (assistant) has `tool_calls`"),
        (json!({"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}], "response": "a"}).to_string(), "turn 2 of `prompt`, the prompt's last"),
        (json!({"prompt": [], "response": "a"}).to_string(), "the prompt is empty"),
        (chat(&[("user", t("q")), ("assistant", Value::Null)]), "`content` of turn 2 of `messages` (assistant) is null"),
        (json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": null, "tool_calls": tool_call}]}).to_string(), "turn 2 of `messages` (assistant) has `tool_calls`"),
        (chat(&[("user", t("q")), ("narrator", t("x")), ("assistant", t("a"))]), "turn 2 of `messages` has the role \"narrator\""),
        (chat(&[("user", t("q")), ("assistant", t("a")), ("narrator", t("x"))]), "turn 3 of `messages` has the role \"narrator\""),
        (chat(&[("user", t("q")), ("user", t("r")), ("assistant", t("a"))]), "turn 2 of `messages` is a turn of role \"user\" where the assistant's answer"),
        (chat(&[("user", t("q")), ("system", t("s")), ("assistant", t("a"))]), "turn 2 of `messages` is a turn of role \"system\""),
        (chat(&[("assistant", t("hello")), ("user", t("q")), ("assistant", t("a"))]), "turn 1 of `messages` is a turn of role \"assistant\" where the first user turn"),
        (chat(&[("user", t("q")), ("tool", t("x")), ("assistant", t("a"))]), "turn 2 of `messages` is a turn of role \"tool\""),
        (chat(&[("system", t("s")), ("user", t(" ")), ("assistant", t("a"))]), "turn 2 of `messages` (user) is empty"),
        (chat(&[("user", t("q")), ("assistant", t(""))]), "the answer is empty (turn 2"),
        (chat(&[("user", json!([{"type": "image_url", "image_url": {}}, {"type": "text", "text": "q"}])), ("assistant", t("a"))]), "turn 1 of `messages` (user) has a part of type \"image_url\""),
        (json!({"messages": [{"content": "q"}]}).to_string(), "turn 1 of `messages` has no `role`"),
        (json!({"messages": ["q"]}).to_string(), "turn 1 of `messages` is text"),
        (json!({"conversations": []}).to_string(), "no answer"),
        (json!({"conversations": [{"from": "chatgpt", "value": "x"}, {"from": "human", "value": "hi"}]}).to_string(), "turn 1 of `conversations` is a turn of role \"assistant\""),
    ] {
        let error = error_of("t.jsonl", &line);
        assert!(error.contains("row 1") && error.contains(part), "{line} gave {error}");
    }
}

#[test]
fn spellings_and_parts_of_plain_text_are_read() {
    for (line, prompt, answer) in [
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "?", "image": null}]}, {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}]}),
            user("hi?"),
            "yes",
        ),
        (
            json!({"messages": [{"role": "Human", "content": "q"}, {"role": "bot", "content": "a", "tool_calls": []}]}),
            user("q"),
            "a",
        ),
        (
            json!({"conversations": [{"from": "system", "value": "s"}, {"from": "user", "value": "q"}, {"from": "chatgpt", "value": "a"}]}),
            vec![Message::system("s"), Message::user("q")],
            "a",
        ),
        (
            json!({"conversations": [{"from": "human", "value": "q", "role": null}, {"from": "model", "value": "a"}, {"from": "observation", "value": null}]}),
            user("q"),
            "a",
        ),
    ] {
        let rows = read_text("t.jsonl", &line.to_string()).unwrap();
        assert_eq!((&rows[0].prompt, rows[0].response.as_str()), (&prompt, answer), "{line}");
    }
}

#[test]
fn all_answers_of_a_conversation_can_be_used_and_what_is_not_is_counted() {
    let bench = Bench::new();
    let turns = ["s", "q1", "a1", "q2", "a2", "q3"];
    let roles = ["system", "user", "assistant", "user", "assistant", "user"];
    let list: Vec<Value> = roles.iter().zip(turns).map(|(r, c)| json!({"role": r, "content": c})).collect();
    let path =
        bench.file("t.jsonl", format!("{}\n{}\n", json!({"messages": list}), json!({"id": 7, "messages": list[1..3]})));
    let messages: Vec<Message> = roles.iter().zip(turns).map(|(r, c)| Message::new(*r, c)).collect();
    let row = |id: &str, from: usize, to: usize| Demonstration {
        row_id: id.into(),
        prompt: messages[from..to].to_vec(),
        response: turns[to].into(),
    };
    for (which, rows, later) in [
        (Turns::First, vec![row("000000", 0, 2), row("7", 1, 2)], 3),
        (Turns::Last, vec![row("000000", 0, 4), row("7", 1, 2)], 1),
        (Turns::All, vec![row("000000#1", 0, 2), row("000000#2", 0, 4), row("7#1", 1, 2)], 1),
    ] {
        let artifact = bench.import(&path, |s| s.turns = which).unwrap();
        assert_eq!(Demonstration::read_all(&artifact).unwrap(), rows);
        let facts = &artifact.manifest.facts;
        assert_eq!((&facts["rows"], &facts["read"]), (&json!(rows.len()), &json!(2)));
        assert_eq!(facts["left_out"], json!({"later turns": later}), "{which:?}");
    }
    // A completion of several turns goes on from its prompt.
    let completion = json!({"prompt": list[..2], "completion": list[2..5]}).to_string();
    let path = bench.file("c.jsonl", completion);
    let rows = Demonstration::read_all(&bench.import(&path, |s| s.turns = Turns::All).unwrap()).unwrap();
    assert_eq!(rows, [row("000000#1", 0, 2), row("000000#2", 0, 4)]);
}

#[test]
fn instances_of_an_instruction_are_counted_as_answers_are() {
    let bench = Bench::new();
    let instances = json!([{"input": "x", "output": "a"}, {"input": "", "output": "b"}, {"output": "c"}]);
    let path = bench.file("t.jsonl", json!({"id": "s", "instruction": "i", "instances": instances}).to_string());
    let row = |id: &str, prompt: &str, answer: &str| Demonstration {
        row_id: id.into(),
        prompt: user(prompt),
        response: answer.into(),
    };
    for (which, rows, others) in [
        (Turns::First, vec![row("s", "i\n\nx", "a")], Some(2)),
        (Turns::Last, vec![row("s", "i", "c")], Some(2)),
        (Turns::All, vec![row("s#1", "i\n\nx", "a"), row("s#2", "i", "b"), row("s#3", "i", "c")], None),
    ] {
        let artifact = bench.import(&path, |s| s.turns = which).unwrap();
        assert_eq!(Demonstration::read_all(&artifact).unwrap(), rows);
        let left_out = artifact.manifest.facts.get("left_out").cloned();
        assert_eq!(left_out, others.map(|n| json!({"other instances of an instruction": n})), "{which:?}");
    }
}

#[test]
fn many_bad_rows_are_counted_and_can_be_dropped() {
    let bench = Bench::new();
    let lines: Vec<String> = (0..40)
        .map(|i| match i {
            20 => "{\"prompt\": NaN}".to_owned(),
            _ if i % 3 == 1 => json!({"prompt": format!("q{i}"), "response": ""}).to_string(),
            _ => json!({"prompt": format!("q{i}"), "response": "a"}).to_string(),
        })
        .collect();
    let path = bench.file("t.jsonl", lines.join("\n"));
    let error = bench.import(&path, |_| {}).unwrap_err();
    assert!(error.is_bad_input());
    let text = error.to_string();
    assert!(
        text.contains("14 of 40 rows are bad") && text.contains("and 4 more") && text.contains("on_bad_row"),
        "{text}"
    );
    assert!(text.contains("row 2: the answer is empty") && text.contains("row 21: has NaN"), "{text}");
    assert_eq!(text.matches("\n  row ").count(), 10);
    assert!(bench.store.list().unwrap().is_empty());

    let artifact = bench.import(&path, |s| s.on_bad_row = BadRows::Drop).unwrap();
    assert_eq!(artifact.manifest.facts["left_out"], json!({"empty answer": 13, "not JSON": 1}));
    let rows = Demonstration::read_all(&artifact).unwrap();
    // Numbers are those of the source: dropping moves no other row's id.
    assert_eq!((rows.len(), rows[1].row_id.as_str()), (26, "000002"));
    // The limit counts the source's rows.
    let artifact = bench.import(&path, |s| (s.on_bad_row, s.limit) = (BadRows::Drop, 3)).unwrap();
    assert_eq!(Demonstration::read_all(&artifact).unwrap().len(), 2);

    let path = bench.file("none.jsonl", "{\"prompt\":\"q\",\"response\":\"\"}\n");
    let error = bench.import(&path, |s| s.on_bad_row = BadRows::Drop).unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("none is left (1 empty answer)"), "{error}");
}

#[test]
fn rows_that_stand_twice_are_counted() {
    let bench = Bench::new();
    let row = |a: &str| json!({"prompt": "q", "response": a}).to_string();
    let path = bench.file("t.jsonl", [row("a"), row("b"), row("a")].join("\n"));
    let facts = bench.import(&path, |_| {}).unwrap().manifest.facts;
    assert_eq!((&facts["repeated_prompts"], &facts["repeated_rows"]), (&json!(2), &json!(1)));
}

#[test]
fn shards_are_one_table_with_all_files_as_parents() {
    let bench = Bench::new();
    bench.file("s/b.jsonl", "{\"prompt\":\"q1\",\"response\":\"a\"}\n");
    bench.file("s/a.csv", "prompt,response\nq0,a\n");
    std::fs::remove_file(bench.dir.path().join("s/a.csv")).unwrap();
    bench.file("s/a.jsonl", "{\"prompt\":\"q0\",\"response\":\"a\"}\n");
    let artifact = bench.import(&bench.dir.path().join("s"), |_| {}).unwrap();
    let rows = Demonstration::read_all(&artifact).unwrap();
    assert_eq!(rows.iter().map(|r| r.row_id.as_str()).collect::<Vec<_>>(), ["000000", "000001"]);
    assert_eq!(rows[1].prompt, user("q1"));
    let names: Vec<String> = artifact.manifest.parents.iter().map(|p| p.origin.to_string()).collect();
    assert_eq!(names, ["file:a.jsonl", "file:b.jsonl"]);
    bench.file("s/b.jsonl", "{\"prompt\":\"q1\",\"response\":\"\"}\n");
    let error = bench.import(&bench.dir.path().join("s"), |_| {}).unwrap_err().to_string();
    assert!(error.contains("b.jsonl, row 1"), "{error}");
}

#[test]
fn what_was_hashed_is_what_is_imported() {
    let bench = Bench::new();
    let path = bench.file("t.jsonl", "{\"prompt\":\"q\",\"response\":\"a\"}\n");
    let source = SourceConfig::new(&path);
    let files = Files::at(&path).unwrap();
    let recipe = demonstrations_recipe("x", &source, &files).unwrap();
    bench.file("t.jsonl", "{\"prompt\":\"q\",\"response\":\"b\"}\n");
    let error = demonstrations(&Context::silent(&bench.store), &recipe, &source, &files).unwrap_err();
    assert!(error.to_string().contains("changed while it was read"), "{error}");
}

/// What earlier releases imported is found again; what they misread is not.
#[test]
fn identities_of_what_was_right_stay() {
    use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
    use std::sync::Arc;
    let bench = Bench::new();
    let path = bench.file("t.jsonl", "{\"question\":\"q\",\"answer\":\"a\"}\n");
    let recipe =
        |path: &Path, source: &SourceConfig| demonstrations_recipe("x", source, &Files::at(path).unwrap()).unwrap();
    let plain = recipe(&path, &SourceConfig::new(&path));
    assert_eq!(plain.params, json!({"format": "auto", "limit": 0}));
    // What 0.1.0 made of this file, and the content of its table.
    assert_eq!(plain.identity(), "b0f1aa251f4ecf81d76ff3650cfe5fd96676cd6b53251841871d18efcd0bd318");
    let content = bench.import(&path, |_| {}).unwrap().manifest.content;
    assert_eq!(content, "a53490500dead24d038e8dab1e630041926f593ad228c390cb983a044562a7fe");
    let all = SourceConfig { turns: Turns::All, on_bad_row: BadRows::Drop, ..SourceConfig::new(&path) };
    let expect = json!({"format": "auto", "limit": 0, "turns": "all", "on_bad_row": "drop"});
    assert_eq!(recipe(&path, &all).params, expect);
    let bounded = SourceConfig { max_bytes: Some(1), max_row_bytes: Some(1), ..SourceConfig::new(&path) };
    assert_eq!(recipe(&path, &bounded).identity(), plain.identity());

    let write = |bytes: bool| {
        let path = bench.file("t.parquet", "");
        let text = ["q"];
        let column: ArrayRef = if bytes {
            Arc::new(BinaryArray::from_vec(text.iter().map(|t| t.as_bytes()).collect()))
        } else {
            Arc::new(StringArray::from(text.to_vec()))
        };
        let batch = RecordBatch::try_from_iter([
            ("question", column),
            ("answer", Arc::new(StringArray::from(vec!["a"])) as ArrayRef),
            ("image", Arc::new(BinaryArray::from_vec(vec![b"\xff"])) as ArrayRef),
        ])
        .unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        path
    };
    let path = write(false);
    assert_eq!(recipe(&path, &SourceConfig::new(&path)).params, json!({"format": "auto", "limit": 0}));
    let path = write(true);
    assert_eq!(recipe(&path, &SourceConfig::new(&path)).params["bytes"], "utf-8");
    assert_eq!(Demonstration::read_all(&bench.import(&path, |_| {}).unwrap()).unwrap()[0].prompt, user("q"));
}

/// An earlier release published the wrong turn as the answer, under the
/// identity that these rows have.
#[test]
fn what_an_earlier_release_took_from_the_wrong_turn_is_not_used_again() {
    let bench = Bench::new();
    let line = |role: &str| {
        let list = json!([{"role": role, "content": "x"}, {"role": "assistant", "content": "a"}]);
        json!({"prompt": "q", "completion": list}).to_string()
    };
    for (role, fine) in [("assistant", true), ("tool", false)] {
        let path = bench.file("t.jsonl", line(role));
        let source = SourceConfig::new(&path);
        let files = Files::at(&path).unwrap();
        let recipe = demonstrations_recipe(role, &source, &files).unwrap();
        let row = Demonstration { row_id: "000000".into(), prompt: user("q"), response: "x".into() };
        let earlier = Context::silent(&bench.store).make(&recipe, |making| {
            let staged = making.staging()?;
            Demonstration::write_part(&staged.path().join("part-00000.parquet"), &[row], &recipe.identity(), 0)?;
            Ok::<_, StoreError>(Staged::new(staged, Map::from_iter([("rows".to_owned(), json!(1))])))
        });
        assert!(earlier.unwrap().1);
        let again = demonstrations(&Context::silent(&bench.store), &recipe, &source, &files);
        match again {
            Ok((_, made)) => assert!(fine && !made),
            Err(e) => assert!(!fine && e.to_string().contains("earlier release"), "{e}"),
        }
    }
}

#[test]
fn parquet_rows_read_like_json() {
    let bench = Bench::new();
    let path = bench.file("t.parquet", "");
    let rows = vec![Demonstration { row_id: "x".into(), prompt: user("q \"quoted\""), response: "a".into() }];
    Demonstration::write_part(&path, &rows, "id", 0).unwrap();
    assert_eq!(Demonstration::read_all(&bench.import(&path, |_| {}).unwrap()).unwrap(), rows);
}

fn prefer(line: &Value) -> Result<Vec<Preference>> {
    let bench = Bench::new();
    Preference::read_all(&bench.prefer(&bench.file("t.jsonl", line.to_string()), |_| {})?)
}

#[test]
fn preferences_are_pairs_in_every_layout() {
    let u = |t: &str| json!({"role": "user", "content": t});
    let a = |t: &str| json!({"role": "assistant", "content": t});
    for (line, prompt, chosen, rejected) in [
        (json!({"prompt": "q", "chosen": "c", "rejected": "r", "margin": 0.5}), user("q"), "c", "r"),
        (json!({"prompt": [u("q")], "chosen": [a("c")], "rejected": [a("r")]}), user("q"), "c", "r"),
        (json!({"chosen": [u("q"), a("c")], "rejected": [u("q"), a("r")]}), user("q"), "c", "r"),
        // A prompt of text beside conversations says their beginning again.
        (
            json!({"prompt": "q", "chosen": [u("q"), a("c")], "rejected": [u("q"), a("r")], "score_chosen": 9}),
            user("q"),
            "c",
            "r",
        ),
        (json!({"prompt": [u("q")], "chosen": [u("q"), a("c")], "rejected": [u("q"), a("r")]}), user("q"), "c", "r"),
        (json!({"real": [u("q"), a("c")], "generated": [u("q"), a("r")]}), user("q"), "c", "r"),
        (
            json!({"chosen": [u("q"), a("x"), u("p"), a("c")], "rejected": [u("q"), a("x"), u("p"), a("r")]}),
            vec![Message::user("q"), Message::assistant("x"), Message::user("p")],
            "c",
            "r",
        ),
        // As TRL's extract_prompt: without the space before what differs.
        (
            json!({"chosen": "The sky is blue.", "rejected": "The sky is green."}),
            user("The sky is"),
            " blue.",
            " green.",
        ),
        (json!({"chosen": "a\u{e9}b", "rejected": "a\u{e9}c"}), user("a\u{e9}"), "b", "c"),
        (json!({"chosen": "abc", "rejected": "abcd"}), user("ab"), "c", "cd"),
        (
            json!({"chosen": "\n\nHuman: hi\n\nAssistant: I see", "rejected": "\n\nHuman: hi\n\nAssistant: I do not"}),
            user("hi"),
            "I see",
            "I do not",
        ),
    ] {
        let rows = prefer(&line).unwrap();
        let expect = Preference { row_id: "000000".into(), prompt, chosen: chosen.into(), rejected: rejected.into() };
        assert_eq!(rows, [expect], "{line}");
    }
    for (line, part) in [
        (json!({"chosen": [u("q"), a("c")], "rejected": [u("other"), a("r")]}), "no common beginning"),
        (
            json!({"chosen": [u("q"), a("c"), u("p"), a("d")], "rejected": [u("q"), a("r")]}),
            "`chosen` has 3 turns after the prompt",
        ),
        (
            json!({"chosen": [u("q"), u("c")], "rejected": [u("q"), a("r")]}),
            "`chosen` ends with a turn of role \"user\"",
        ),
        (
            json!({"prompt": [u("q")], "chosen": [u("c")], "rejected": [a("r")]}),
            "`chosen` ends with a turn of role \"user\"",
        ),
        (json!({"prompt": "q", "chosen": "c"}), "it has no `rejected`"),
        (json!({"prompt": "q", "chosen": "c", "rejected": [a("r")]}), "`rejected` is a list"),
        (json!({"prompt": "q", "chosen": "c", "rejected": " "}), "answer of `rejected` is empty"),
        (json!({"prompt": " ", "chosen": "c", "rejected": "r"}), "the prompt is empty"),
        (json!({"chosen": "c", "rejected": "r"}), "no common beginning"),
        (json!({"question": "q", "answer": "r"}), "not those of a preference set"),
    ] {
        let error = prefer(&line).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains(part), "{line} gave {error}");
    }
}

#[test]
fn equal_answers_prefer_nothing() {
    let bench = Bench::new();
    let pair = |c: &str, r: &str| json!({"prompt": "q", "chosen": c, "rejected": r}).to_string();
    let path = bench.file("t.jsonl", [pair("a", "a"), pair("a", "b")].join("\n"));
    let artifact = bench.prefer(&path, |_| {}).unwrap();
    let rows = Preference::read_all(&artifact).unwrap();
    assert_eq!((rows.len(), rows[0].row_id.as_str()), (1, "000001"));
    assert_eq!(artifact.manifest.facts["left_out"], json!({"identical answers": 1}));
    let error = bench.prefer(&bench.file("u.jsonl", pair("a", "a")), |_| {}).unwrap_err();
    assert!(error.to_string().contains("none is left"), "{error}");
    let error = bench.prefer(&path, |s| s.turns = Turns::All).unwrap_err();
    assert!(error.to_string().contains("only demonstrations have"), "{error}");
}

#[test]
fn nothing_a_model_would_have_been_told_is_left_out_without_a_word() {
    let chat = |more: &str| {
        format!(r#"{{{more}"messages":[{{"role":"user","content":"q"}},{{"role":"assistant","content":"a"}}]}}"#)
    };
    for (key, value) in [
        ("system", r#""You are a pirate.""#),
        ("tools", r#"[{"name":"search"}]"#),
        ("history", r#"[["q","a"]]"#),
        ("chat_template_kwargs", r#"{"enable_thinking":true}"#),
    ] {
        let text = error_of("t.jsonl", &chat(&format!("\"{key}\":{value},")));
        assert!(text.contains(&format!("`{key}` stands beside")) && text.contains("row 1"), "{text}");
    }
    for empty in ["null", "\"\"", "[]", "{}", "false"] {
        assert_eq!(read_text("t.jsonl", &chat(&format!("\"system\":{empty},\"tools\":{empty},"))).unwrap().len(), 1);
    }
    let thinking =
        r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","reasoning_content":"hm"}]}"#;
    assert!(error_of("t.jsonl", thinking).contains("`reasoning_content` beside its content"));
    assert_eq!(read_text("t.jsonl", &thinking.replace("hm", "")).unwrap().len(), 1);

    let two = r#"{"prompt":"q","response":"x","completion":"y"}"#;
    assert!(error_of("t.jsonl", two).contains("say different things"));
    assert_eq!(read_text("t.jsonl", &two.replace('y', "x")).unwrap()[0].response, "x");

    let bench = Bench::new();
    let counted = |prompt: &str| {
        let path = bench.file("t.jsonl", chat(&format!("\"prompt\":\"{prompt}\",")));
        bench.import(&path, |_| {}).unwrap().manifest.facts.get("left_out").cloned()
    };
    assert_eq!(counted("q"), None);
    assert_eq!(counted("other"), Some(json!({"prompts that the messages do not say": 1})));
}
