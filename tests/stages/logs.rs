//! What schedulers read: messages as objects, with the programs that a run starts.

use std::process::Output;

use serde_json::{Map, Value};

use crate::project::Project;

/// Standard error as one object a line, all with time, level and program.
fn records(output: &Output) -> Vec<Map<String, Value>> {
    let text = std::str::from_utf8(&output.stderr).expect("text");
    let record = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    let records: Vec<Map<String, Value>> = text.lines().map(record).collect();
    assert!(!records.is_empty());
    for record in &records {
        for key in ["time", "level", "program", "message"] {
            assert!(record[key].as_str().is_some_and(|text| !text.is_empty()), "{record:?}");
        }
    }
    records
}

fn has(records: &[Map<String, Value>], fields: &[(&str, &str)]) -> bool {
    records.iter().any(|record| {
        fields
            .iter()
            .all(|(key, part)| record.get(*key).and_then(Value::as_str).is_some_and(|text| text.contains(part)))
    })
}

#[test]
fn messages_are_objects_if_asked_for() {
    let project = Project::new();
    let output =
        project.command("spin-fit --iteration 0 --log-format json").env("SLURM_JOB_ID", "41").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let all = records(&output);
    assert!(has(
        &all,
        &[("level", "error"), ("program", "spin-fit"), ("message", "no artifact"), ("slurm_job_id", "41")]
    ));
    // A run has its programs do the same, and says which of its steps each is.
    let output = project.output("spin-run run run.toml --jobs 2 --log-format json");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all = records(&output);
    assert!(has(&all, &[("program", "spin-fit"), ("step", "sft"), ("message", "made model/tiny/iter-0@v1")]));
    assert!(has(&all, &[("program", "spin-run"), ("level", "info")]));
    assert!(String::from_utf8_lossy(&output.stdout).contains("iter-2"), "the table is no message");
    // By the variable; a flag wins, and a wrong one is named.
    let with = |variable: &str, line: &str| project.command(line).env("SPIN_LOG_FORMAT", variable).output().unwrap();
    records(&with("json", "spin-pair --iteration 0"));
    let text = with("json", "spin-pair --iteration 0 --log-format text");
    let text = String::from_utf8_lossy(&text.stderr);
    assert!(text.starts_with("pairs/tiny/iter-0@v") && text.contains(" is already there"), "{text}");
    let wrong = with("xml", "spin-pair --iteration 0");
    assert!(wrong.status.code() == Some(2) && String::from_utf8_lossy(&wrong.stderr).contains("SPIN_LOG_FORMAT"));
}
