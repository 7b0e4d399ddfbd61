//! What the tests of this module share.

use std::path::{Path, PathBuf};

/// The published data. Tests that need it are ignored unless asked for.
pub fn data_dir() -> PathBuf {
    Path::new(&std::env::var("SPIN_TEST_DATA").expect("cargo sets it")).join("benchmarks/mt_bench")
}

/// Three small questions with their prompts and references.
pub fn write_data(dir: &Path) {
    let question = r#"{"question_id": 1, "category": "writing", "turns": ["hello", "more?"]}
{"question_id": 2, "category": "math", "turns": ["6*7", "again"]}

{"question_id": 3, "category": "stem", "turns": ["why", "really"], "reference": ["x"]}
"#;
    let mut prompts = String::new();
    for (name, template) in [
        ("single-v1", "Q {question} A {answer}"),
        ("single-v1-multi-turn", "{question_1} {answer_1} {question_2} {answer_2}"),
        ("single-math-v1", "Q {question} R {ref_answer_1} A {answer}"),
        ("single-math-v1-multi-turn", "{question_1} {ref_answer_1} {answer_1} {question_2} {ref_answer_2} {answer_2}"),
    ] {
        let line = serde_json::json!({"name": name, "type": "single", "system_prompt": format!("You are {name}."),
            "prompt_template": template, "category": "general", "output_format": "[[rating]]"});
        prompts.push_str(&format!("{line}\n"));
    }
    let reference = r#"{"question_id": 2, "choices": [{"index": 0, "turns": ["42", "42 {again}"]}]}"#;
    std::fs::write(dir.join("question.jsonl"), question).unwrap();
    std::fs::write(dir.join("judge_prompts.jsonl"), prompts).unwrap();
    std::fs::write(dir.join("reference_answer_gpt-4.jsonl"), reference).unwrap();
}
