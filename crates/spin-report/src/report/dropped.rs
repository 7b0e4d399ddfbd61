//! What was left out on the way from files to scores, and why.

use serde_json::Value;

use super::lineage::{Link, Node};

/// One count.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropped {
    /// Where.
    pub link: Link,
    /// What became of them.
    pub why: String,
    /// How many.
    pub count: u64,
    /// Of how many, where that is known.
    pub of: Option<u64>,
}

/// What the manifests of artifacts count as left out, cut or repeated.
pub fn of(nodes: &[Node]) -> Vec<Dropped> {
    nodes.iter().flat_map(of_node).collect()
}

fn of_node(node: &Node) -> Vec<Dropped> {
    let Some(made) = &node.made else { return Vec::new() };
    let facts = &made.facts;
    let mut found = Vec::new();
    let mut add = |why: String, count: Option<u64>, of: Option<u64>| {
        if let Some(count) = count.filter(|count| *count > 0) {
            found.push(Dropped { link: node.link.clone(), why, count, of });
        }
    };
    let number = |key: &str| facts[key].as_u64();
    let counts = |value: &Value| -> Vec<(String, u64)> {
        let all = value.as_object().into_iter().flatten();
        all.filter_map(|(key, count)| Some((key.clone(), count.as_u64()?))).collect()
    };
    for (why, count) in counts(&facts["left_out"]) {
        add(format!("row left out: {why}"), Some(count), None);
    }
    add("rows that repeat another one (kept)".into(), number("repeated_rows"), number("rows"));
    add("rows that repeat a prompt (kept)".into(), number("repeated_prompts"), number("rows"));
    add("files that are no part of a model".into(), facts["left_out_files"]["count"].as_u64(), None);
    add("prompts longer than allowed, not answered".into(), number("dropped_overlong_prompts"), None);
    add("prompts cut to the longest length".into(), number("truncated_prompts"), None);
    let samples = number("samples");
    for (why, count) in counts(&facts["finish_reasons"]) {
        match why.as_str() {
            "length" => add("answers cut at max_new_tokens (kept)".into(), Some(count), samples),
            "error" => add("answers that failed twice".into(), Some(count), samples),
            _ => {}
        }
    }
    let all = samples.or_else(|| number("preferences"));
    for (why, count) in counts(&facts["fates"]).into_iter().filter(|(why, _)| why != "kept") {
        add(format!("pair dropped: {}", why.replace('_', " ")), Some(count), all);
    }
    add("rows longer than allowed, not trained on".into(), number("dropped_over_length"), number("rows"));
    add("rows held out of the training".into(), number("held_out"), number("rows"));
    add("updates that were not finite and changed nothing".into(), number("skipped_updates"), number("updates"));
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::lineage::Made;

    #[test]
    fn counts_of_nothing_are_not_said() {
        let made = Made {
            identity: String::new(),
            stage: "spin-pair 1".into(),
            seed: None,
            params: json!({}),
            facts: json!({"samples": 10, "fates": {"kept": 7, "identical": 3, "too_long": 0}}),
            environment: json!({}),
            files: Vec::new(),
            command: None,
        };
        let link = Link { reference: "pairs/r/iter-0@v1".into(), content: "c".into() };
        let node = Node { link: link.clone(), made: Some(made), parents: Vec::new(), depth: 0 };
        let expected = Dropped { link, why: "pair dropped: identical".into(), count: 3, of: Some(10) };
        assert_eq!(of(&[node]), [expected]);
    }
}
