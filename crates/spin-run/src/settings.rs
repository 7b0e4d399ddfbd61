//! What may stand in a run file, told by the structs that read it: a JSON Schema
//! for editors (`docs/run.schema.json`), and the tables of `docs/settings.md`.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::run::RunFile;

/// The tables of a run file in the order of their description: what they are
/// called, and the struct that reads them.
const TABLES: [(&str, &str); 13] = [
    ("`[model]`", "ModelSource"),
    ("`[data.train]`, `[data.test]` and the `preferences` of a baseline", "SourceConfig"),
    ("`[template]`", "TemplateConfig"),
    ("`[sample]`", "SampleConfig"),
    ("`[pair]`", "PairConfig"),
    ("`[fit]`, `[sft]` and the `fit` of an iteration or a baseline", "FitConfig"),
    ("`[fit.lora]`", "LoraSettings"),
    ("`[bench]`", "BenchConfig"),
    ("`[bench.exact_match]`", "ExactMatch"),
    ("`[eval]`", "EvalConfig"),
    ("`[eval.judge]`", "JudgeConfig"),
    ("`[[iteration]]`", "IterationConfig"),
    ("`[[baseline]]`", "BaselineConfig"),
];

/// What is read before the structs are.
const EXTENDS: &str = "A run file beside this one, which says all that this one does not: tables are merged key by key, \
                       everything else is replaced.";

/// The JSON Schema of a run file. A file that extends another one may leave out
/// what that one has.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(RunFile).to_value();
    let required = schema["required"].take();
    let root = schema.as_object_mut().expect("the schema of a struct");
    root.remove("required");
    root.insert("anyOf".into(), json!([{"required": required}, {"required": ["extends"]}]));
    schema["properties"]["extends"] = json!({
        "type": "string",
        "description": EXTENDS,
    });
    schema
}

/// The tables of `docs/settings.md`.
pub fn markdown() -> String {
    let schema = schemars::schema_for!(RunFile).to_value();
    let mut out = String::from(
        "# The keys of a run file\n\nMade by `spin-run settings` from the structs that read a run file; a test keeps \
         it so. `spin-run settings --format schema` is the same as a JSON Schema ([run.schema.json](run.schema.json)), \
         with which editors complete and check run files. What the tables are for is in [run.md](run.md). A key that \
         is not here is an error.\n\n## At the top\n\n",
    );
    table(&mut out, &schema, &schema);
    let _ = writeln!(out, "| `extends` | none | {EXTENDS} |");
    for (title, name) in TABLES {
        let _ = write!(out, "\n## {title}\n\n");
        table(&mut out, &schema["$defs"][name], &schema);
    }
    out
}

/// One table of keys: its name, its default, what it means.
fn table(out: &mut String, of: &Value, schema: &Value) {
    out.push_str("| key | default | |\n|---|---|---|\n");
    let nothing = Map::new();
    let is_required = |key: &str| of["required"].as_array().is_some_and(|keys| keys.iter().any(|k| k == key));
    for (key, property) in of["properties"].as_object().unwrap_or(&nothing) {
        let default = match &property["default"] {
            _ if is_required(key) => "needed".to_owned(),
            Value::Null => "none".to_owned(),
            Value::Object(_) => "that of its keys".to_owned(),
            value => format!("`{value}`"),
        };
        let text = [property["description"].as_str().unwrap_or_default().to_owned(), values(property, schema)];
        let text = text.join(" ").split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let _ = writeln!(out, "| `{key}` | {default} | {text} |");
    }
}

/// The words that may stand there, where it is one of some words, and what they
/// mean.
fn values(property: &Value, schema: &Value) -> String {
    let of = |value: &Value| value["$ref"].as_str().and_then(|name| schema.pointer(name.strip_prefix('#')?)).cloned();
    let inner = of(property).or_else(|| property["anyOf"].as_array()?.iter().find_map(of));
    let words = inner.as_ref().and_then(|inner| inner["oneOf"].as_array());
    let word = |value: &Value| {
        let meaning = value["description"].as_str().unwrap_or_default();
        format!("`{}`: {meaning}", value["const"])
    };
    words.map_or_else(String::new, |words| words.iter().map(word).collect::<Vec<_>>().join(" "))
}
