//! What an exported data set says of itself: a card for the hub, and Croissant 1.0
//! (mlcommons.org/croissant/1.0).

use serde_json::{Value, json};

use super::Layout;
use spin_store::Artifact;
use spin_store::digest::Digests;

/// A data set as it was written.
pub struct Described<'a> {
    pub artifact: &'a Artifact,
    pub layout: Layout,
    pub columns: &'static [&'static str],
    pub rows: u64,
    /// Its file, from the data set's directory.
    pub file: &'static str,
    pub digests: Digests,
}

impl Described<'_> {
    fn name(&self) -> String {
        let m = &self.artifact.manifest;
        format!("{}-{}-v{}", m.name.replace('/', "-"), m.kind, m.version)
    }

    fn what(&self) -> String {
        let m = &self.artifact.manifest;
        format!("{} rows of {}, made by {} {}", self.rows, self.artifact.reference(), m.stage.name, m.stage.version)
    }

    /// Text that stands in a table of Markdown, of YAML even.
    fn plain(text: &str) -> String {
        text.chars().map(|c| if c.is_control() || "|`<>\\".contains(c) { ' ' } else { c }).collect()
    }

    pub fn readme(&self) -> String {
        let m = &self.artifact.manifest;
        let size = match self.rows {
            0..1_000 => "n<1K",
            1_000..10_000 => "1K<n<10K",
            10_000..100_000 => "10K<n<100K",
            100_000..1_000_000 => "100K<n<1M",
            1_000_000..10_000_000 => "1M<n<10M",
            _ => "10M<n<100M",
        };
        let mut out = format!(
            "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {}\ntags:\n- spin\n- \
             self-play\nsize_categories:\n- {size}\n---\n# {}\n\n{}.\n\n| column | |\n|---|---|\n",
            self.file,
            self.name(),
            self.what()
        );
        for column in self.columns {
            out += &format!("| `{column}` | {} |\n", meaning(column, self.layout));
        }
        out += "\n## Where it is from\n\n| | content digest (BLAKE3) |\n|---|---|\n";
        out += &format!("| this | `{}` |\n", m.content);
        for parent in &m.parents {
            out += &format!(
                "| {}: {} | `{}` |\n",
                Self::plain(&parent.role),
                Self::plain(&parent.origin.to_string()),
                parent.content
            );
        }
        let said = |key: &str| m.environment.get(key).and_then(Value::as_str).map(Self::plain);
        if let Some(commit) = said("commit") {
            out += &format!("\nMade by the programs of commit `{commit}`");
            out += &said("finished_at").map_or_else(|| ".".into(), |at| format!(", finished {at}."));
            out.push('\n');
        }
        out += &format!(
            "\n`{}` has the SHA-256 `{}`. The demonstrations' own terms hold for what is quoted from them.\n",
            self.file, self.digests.sha256
        );
        out
    }

    pub fn croissant(&self) -> String {
        let m = &self.artifact.manifest;
        let of_column = |column: &&str| {
            let source = |path: &str| {
                json!({"fileObject": {"@id": self.file}, "extract": {"column": column},
                    "transform": {"jsonPath": path}})
            };
            let part = |name: &str| {
                json!({"@type": "cr:Field", "@id": format!("default/{column}/{name}"), "dataType": "sc:Text",
                    "source": source(&format!("$[*].{name}"))})
            };
            json!({"@type": "cr:Field", "@id": format!("default/{column}"), "description": meaning(column, self.layout),
                "repeated": true, "subField": [part("role"), part("content")]})
        };
        let format = match self.layout {
            Layout::Jsonl => "application/jsonlines",
            Layout::Trl | Layout::Spin => "application/x-parquet",
        };
        let mut document = json!({
            "@context": context(),
            "@type": "sc:Dataset",
            "name": self.name(),
            "description": self.what(),
            "conformsTo": "http://mlcommons.org/croissant/1.0",
            "version": format!("{}.0.0", m.version),
            "distribution": [{
                "@type": "cr:FileObject", "@id": self.file, "name": self.file, "contentUrl": self.file,
                "encodingFormat": format, "contentSize": format!("{} B", self.digests.bytes),
                "sha256": self.digests.sha256,
            }],
            "recordSet": [{
                "@type": "cr:RecordSet", "@id": "default", "name": "default",
                "field": self.columns.iter().map(of_column).collect::<Vec<Value>>(),
            }],
        });
        if let Some(at) = m.environment.get("finished_at") {
            document["datePublished"] = at.clone();
        }
        format!("{}\n", serde_json::to_string_pretty(&document).expect("plain JSON"))
    }
}

fn meaning(column: &str, layout: Layout) -> &'static str {
    match (column, layout) {
        ("prompt", _) => "the conversation up to the answer",
        ("completion", _) => "the human answer",
        ("chosen", _) => "the human or preferred answer",
        ("rejected", _) => "the opponent's or the other answer",
        ("real", _) => "the conversation with the human or preferred answer",
        _ => "the conversation with the opponent's or the other answer",
    }
}

/// The context that the Croissant 1.0 specification gives (its appendix 1).
fn context() -> Value {
    json!({
        "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
        "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/", "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
        "equivalentProperty": "cr:equivalentProperty", "samplingRate": "cr:samplingRate",
        "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field",
        "fileProperty": "cr:fileProperty", "fileObject": "cr:fileObject", "fileSet": "cr:fileSet",
        "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset",
        "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField",
        "path": "cr:path", "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex",
        "repeated": "cr:repeated", "replace": "cr:replace", "sc": "https://schema.org/",
        "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField", "transform": "cr:transform",
    })
}
