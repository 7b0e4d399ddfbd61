//! What a manifest and a line of the journal look like, for others.

use serde_json::Value;

use crate::journal::Entry;
use crate::manifest::Manifest;

/// The JSON Schema of a manifest, and of a line of the journal.
pub fn schema() -> Value {
    let of = |schema| serde_json::to_value(schema).expect("a schema is plain JSON");
    let (mut schema, mut entry): (Value, Value) =
        (of(schemars::schema_for!(Manifest)), of(schemars::schema_for!(Entry)));
    let inner = entry.as_object_mut().and_then(|entry| {
        entry.remove("$schema");
        entry.remove("$defs")
    });
    let all = schema["$defs"].as_object_mut().expect("a manifest has parts");
    all.extend(inner.iter().filter_map(Value::as_object).flatten().map(|(name, of)| (name.clone(), of.clone())));
    all.insert("JournalEntry".into(), entry);
    schema
}
