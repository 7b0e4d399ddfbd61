//! Where an artifact is from, in the words of W3C PROV (PROV-JSON, the W3C member
//! submission of 2013-04-24): artifacts and files are entities, each making an
//! activity, a release of the programs its agent.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use spin_store::error::Result;
use spin_store::{Artifact, Store};

/// Names of this project, as PROV needs one for its own attributes.
const NAMESPACE: &str = "urn:spin:";

/// All that an artifact is from, as a PROV-JSON document.
///
/// # Errors
/// When an ancestor is missing or damaged.
pub fn document(store: &Store, artifact: &Artifact) -> Result<Value> {
    let mut document = Document::default();
    document.visit(store, artifact)?;
    let Document { entities, activities, agents, used, generated, derived, associated } = document;
    Ok(json!({
        "prefix": {"spin": NAMESPACE},
        "entity": entities,
        "activity": activities,
        "agent": agents,
        "used": numbered("used", used),
        "wasGeneratedBy": numbered("generated", generated),
        "wasDerivedFrom": numbered("derived", derived),
        "wasAssociatedWith": numbered("associated", associated),
    }))
}

fn numbered(of: &str, relations: Vec<Value>) -> Map<String, Value> {
    relations.into_iter().enumerate().map(|(i, relation)| (format!("_:{of}{i}"), relation)).collect()
}

/// A name without what qualified names cannot have.
fn id(of: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._@".contains(c);
    let escaped = |c: char| if plain(c) { c.to_string() } else { format!("%{:02X}", c as u32) };
    format!("spin:{}", of.chars().map(escaped).collect::<String>())
}

#[derive(Default)]
struct Document {
    entities: BTreeMap<String, Value>,
    activities: BTreeMap<String, Value>,
    agents: BTreeMap<String, Value>,
    used: Vec<Value>,
    generated: Vec<Value>,
    derived: Vec<Value>,
    associated: Vec<Value>,
}

impl Document {
    fn visit(&mut self, store: &Store, artifact: &Artifact) -> Result<()> {
        let m = &artifact.manifest;
        let entity = id(&artifact.reference());
        if self.entities.contains_key(&entity) {
            return Ok(());
        }
        let said = json!({
            "prov:type": format!("spin:{}", m.kind), "spin:content": m.content, "spin:identity": m.identity,
            "spin:seal": m.seal, "spin:rows": m.rows(), "spin:bytes": m.bytes(),
        });
        self.entities.insert(entity.clone(), said);
        let activity = id(&format!("making/{}", artifact.reference()));
        let text = |key: &str| m.environment.get(key).and_then(Value::as_str);
        let mut made = json!({
            "prov:type": format!("spin:{}", m.stage.name.replace(' ', "-")), "spin:behaviour": m.stage.version,
            "spin:params": m.params.to_string(),
        });
        if let Some(at) = text("finished_at") {
            made["prov:endTime"] = json!(at);
        }
        self.activities.insert(activity.clone(), made);
        let commit = text("commit").unwrap_or("unknown");
        let agent = id(&format!("programs/{commit}"));
        self.agents
            .entry(agent.clone())
            .or_insert_with(|| json!({"prov:type": "prov:SoftwareAgent", "spin:commit": commit}));
        self.generated.push(json!({"prov:entity": entity, "prov:activity": activity}));
        self.associated.push(json!({"prov:activity": activity, "prov:agent": agent}));
        for parent in &m.parents {
            let from = if parent.is_outside() {
                let from = id(&format!("{}/{}", parent.origin, &parent.content[..parent.content.len().min(12)]));
                let said = json!({"prov:type": "spin:file", "spin:content": parent.content});
                self.entities.entry(from.clone()).or_insert(said);
                from
            } else {
                self.visit(store, &store.parent(parent)?)?;
                id(&parent.origin.to_string())
            };
            self.used.push(json!({"prov:activity": activity, "prov:entity": from, "prov:role": parent.role}));
            self.derived.push(json!({"prov:generatedEntity": entity, "prov:usedEntity": from}));
        }
        Ok(())
    }
}
