use super::super::row;
use super::*;

const CAPITALS: &str = r#"
task = "capitals"
dataset = "capitals.jsonl"
doc_to_text = "Capital of {{ country.strip() }}?"
doc_to_choice = "{{ cities }}"
doc_to_target = "{{ answer }}"
metrics = ["acc_norm", "acc"]
"#;

fn parse(text: &str) -> Result<Task> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    std::fs::write(&path, text).unwrap();
    read(&path)
}

#[test]
fn a_file_makes_a_task() {
    let task = parse(CAPITALS).unwrap();
    assert_eq!((task.name.as_str(), task.metric_names().len()), ("capitals", 2));
    for answer in ["1", "\"Rome\""] {
        let json = format!(r#"{{"country": " Italy", "cities": ["Bari", "Rome"], "answer": {answer}}}"#);
        assert_eq!((task.read)(&row(&json)).unwrap().shown(), ("Capital of Italy?", "Rome"));
    }
    let list = CAPITALS.replace("\"{{ cities }}\"", "[\"{{ cities[0] }}\", \"no\"]").replace("\"{{ answer }}\"", "0");
    let json = r#"{"country": "Italy", "cities": ["Bari"]}"#;
    assert_eq!((parse(&list).unwrap().read)(&row(json)).unwrap().shown().1, "Bari");
}

#[test]
fn generated_answers_have_filters() {
    let text = r#"
task = "sums"
dataset = "sums.jsonl"
output_type = "generate_until"
doc_to_text = "question"
doc_to_target = "answer"
until = ["\n"]
ignore_case = true
[[filter]]
name = "last-number"
regex = "-?[0-9]+"
select = "last"
"#;
    let task = parse(text).unwrap();
    assert_eq!(task.metric_names(), ["exact_match,last-number"]);
    let doc = (task.read)(&row(r#"{"question": "1+1=", "answer": 2}"#)).unwrap();
    assert_eq!(doc, Doc { question: "1+1=".into(), answer: Answer::Text("2".into()) });
    let error = parse(&text.replace("-?[0-9]+", "(?<=a)b")).unwrap_err().to_string();
    assert!(error.contains("last-number") && error.contains("look-around"), "{error}");
}

#[test]
fn mistakes_are_named() {
    let error = |text: &str| parse(text).unwrap_err().to_string();
    let text = error(&CAPITALS.replace("doc_to_text", "doc_to_txt"));
    assert!(text.contains("t.toml") && text.contains("doc_to_txt"), "{text}");
    assert!(error("task = \"x\"\n").contains("missing field"));
    assert!(error(&CAPITALS.replace("{{ cities }}", "{{ cities")).contains("doc_to_choice"));
    assert!(error(&CAPITALS.replace("acc_norm", "f1")).contains("acc_bytes"));
    assert!(error(&format!("{CAPITALS}num_fewshot = 2\n")).contains("fewshot_split"));
    let task = parse(CAPITALS).unwrap();
    let text = (task.read)(&row(r#"{"country": "Italy", "cities": ["Bari"], "answer": "Rome"}"#)).unwrap_err();
    assert!(text.contains("none of its 1 choices"), "{text}");
    let text = (task.read)(&row(r#"{"cities": ["Bari"], "answer": 0}"#)).unwrap_err();
    assert!(text.contains("doc_to_text"), "{text}");
}

/// Expected values: lm_eval 0.4.13, or an error where it would go on with
/// a row that nothing can be right for.
#[test]
fn answers_and_choices_read_as_in_the_harness() {
    let json = r#"{"q": "Tom has a", "choices": ["1", "cat", "0"], "gold": 1, "answer": "B", "label": "cat",
        "opts": {"text": ["dog", "cat"], "label": ["A", "B"]}, "digit": "0", "bad": -1, "half": 1.0, "yes": true,
        "numbers": [1, 2.5], "empty": [], "several": ["cat", "dog"], "nothing": null, "text": "['x', 'cat']", "w": "7"}"#;
    let read = |choice: &str, target: &str| {
        let file = format!(
            "task = \"t\"\ndataset = \"t.jsonl\"\ndoc_to_text = \"q\"\ndoc_to_choice = {choice:?}\ndoc_to_target = {target:?}\n"
        );
        let doc = (parse(&file).unwrap().read)(&row(json))?;
        let Answer::Choices { choices, gold } = doc.answer else { panic!("choices") };
        Ok::<_, String>(choices[gold].clone())
    };
    let right = [
        ("{{ opts.text }}", "{{ opts.label.index(answer) }}", "cat"),
        ("choices", "{{ [\"A\",\"B\"].index(answer) }}", "cat"),
        ("choices", "label", "cat"),
        ("choices", "{{ 'cat' }}", "cat"),
        // A column is taken as it is, a template's digits are an index.
        ("choices", "digit", "0"),
        ("choices", "{{ digit }}", "1"),
        ("choices", "yes", "cat"),
        ("['{{ answer }}', '{{ label }}']", "gold", "cat"),
        ("{{ text }}", "gold", "cat"),
        ("[\"A\",\"B\"]", "{{ gold }}", "B"),
    ];
    for (choice, target, expected) in right {
        assert_eq!(read(choice, target).as_deref(), Ok(expected), "{choice} {target}");
    }
    let wrong = [
        ("choices", "zebra", "no column \"zebra\", which is its doc_to_target"),
        ("choices", "{{ 'zebra' }}", "the answer \"zebra\" for doc_to_target, which is none of its 3 choices"),
        // Not even where the word is a choice: another row may have the column.
        ("choices", "cat", "no column \"cat\""),
        ("choices", "{{ bad }}", "the answer \"-1\" for doc_to_target"),
        ("choices", "bad", "the answer -1 for doc_to_target"),
        ("choices", "{{ half }}", "the answer \"1.0\""),
        ("choices", "half", "the answer 1.0"),
        ("choices", "{{ yes }}", "the answer \"True\""),
        ("choices", "{{ w }}", "the answer 7"),
        ("choices", "several", "one right answer only"),
        ("choices", "{{ several }}", "one right answer only"),
        ("choices", "nothing", "the answer null"),
        // In the harness a column must hold the list itself.
        ("text", "gold", "no list"),
        ("numbers", "gold", "has 1 among its choices for doc_to_choice"),
        ("{{ numbers }}", "gold", "has 1 among its choices for doc_to_choice"),
        ("{{ nosuch }}", "gold", "doc_to_choice: undefined value (in choice:1): there is no nosuch"),
        ("{{ [q, nosuch] }}", "gold", "\"['Tom has a', Undefined]\" for doc_to_choice, which is no list"),
        ("empty", "gold", "has no choices: doc_to_choice"),
        ("nosuch", "gold", "no column \"nosuch\", which is its doc_to_choice; it has q, choices"),
        ("{{ q }}", "gold", "\"Tom has a\" for doc_to_choice, which is no list"),
        ("{{ opts.text }}", "{{ opts.label.index('Z') }}", "doc_to_target"),
    ];
    for (choice, target, problem) in wrong {
        let error = read(choice, target).unwrap_err();
        assert!(error.contains(problem), "{choice} {target}: {error}");
    }
}

#[test]
fn generated_answers_are_never_lists_or_gaps() {
    let read = |target: &str, json: &str| {
        let file = format!(
            "task = \"t\"\ndataset = \"t.jsonl\"\noutput_type = \"generate_until\"\ndoc_to_text = \"{{{{ q }}}}\"\ndoc_to_target = \"{target}\"\n"
        );
        (parse(&file).unwrap().read)(&row(json))
    };
    let text = |target: &str, json: &str| read(target, json).unwrap().shown().1.to_owned();
    assert_eq!(text("a", r#"{"q": "5", "a": 1.5e-7}"#), "1.5e-07");
    assert_eq!(text("{{ a }}", r#"{"q": "5", "a": "[x]"}"#), "[x]");
    for (target, json, problem) in [
        ("a", r#"{"q": "x", "a": ["b", "c"]}"#, "one right answer only"),
        ("{{ a }}", r#"{"q": "x", "a": ["b", "c"]}"#, "one right answer only"),
        ("a", r#"{"q": "x", "a": null}"#, "has nothing in \"a\""),
        ("a", r#"{"q": "x"}"#, "has no column \"a\""),
    ] {
        let error = read(target, json).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
}
