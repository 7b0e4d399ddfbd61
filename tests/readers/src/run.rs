//! What people write: run files, flags, task files.

use std::fs;
use std::path::Path;

use spin_bench::harness::dataset::read_split;
use spin_bench::harness::registry::Registry;
use spin_run::run::{Profile, RunFile};

use crate::{Target, read_as, shipped, templates};

pub fn file(dir: &Path) -> anyhow::Result<Target> {
    let path = dir.join("run.toml");
    let mut seeds = Vec::new();
    for name in ["demo", "word-problems", "smollm2-gsm8k", "smollm2-gsm8k-dpo"] {
        seeds.push(fs::read(shipped("pipelines").join(format!("{name}.toml")))?);
    }
    Ok(Target::new(seeds, move |bytes| {
        fs::write(&path, bytes)?;
        read_as(RunFile::load(&path, &[]))
    }))
}

pub fn set() -> anyhow::Result<Target> {
    let path = shipped("pipelines/demo.toml");
    let seeds = ["iteration.0.fit.learning_rate=1e-3", "seed=7", "bench.tasks=[\"nll\"]", "data.train.limit=64"];
    Ok(Target::new(seeds.map(|seed| seed.as_bytes().to_vec()).into(), move |bytes| {
        read_as(RunFile::load(&path, &[String::from_utf8_lossy(bytes).into_owned()]))
    }))
}

const TASK: &str = r#"task = "t"
dataset = "t.jsonl"
doc_to_text = "{{ question }} is"
doc_to_choice = ["{{ a }}", "b"]
doc_to_target = 0
metrics = ["acc"]
"#;

const GENERATED: &str = r#"task = "t"
dataset = "t.jsonl"
output_type = "generate_until"
doc_to_text = "{{ question }}{% for x in list %}, {{ x|upper }}{% endfor %}:"
doc_to_target = "{{ a }}"
until = ["\n"]
max_gen_toks = 9
ignore_case = true
[[filter]]
name = "f"
regex = "(-?[0-9.,]{2,})|(-?[0-9]+)"
select = "last"
"#;

pub fn task_file(dir: &Path) -> anyhow::Result<Target> {
    fs::write(dir.join("t.jsonl"), "{\"question\": \"x\", \"a\": \"y\", \"n\": 2, \"list\": [\"p\", \"q\"]}\n")?;
    let (path, dir) = (dir.join("t.toml"), dir.to_path_buf());
    let mut seeds = vec![TASK.into(), GENERATED.into()];
    for source in templates()? {
        // A string of JSON is one of TOML.
        let text = serde_json::to_string(&source)?;
        seeds.push(TASK.replace("\"{{ question }} is\"", &text).into_bytes());
    }
    Ok(Target::new(seeds, move |bytes| {
        fs::write(&path, bytes)?;
        let registry = Registry::new(Profile::Current, &dir, std::slice::from_ref(&dir))?;
        for task in registry.tasks(&["t".into()])? {
            read_split(&task, &dir, &task.split)?;
        }
        Ok(())
    }))
}
