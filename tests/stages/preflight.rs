//! What data, template and configuration alone can refuse is refused by the first stage, before
//! weights are loaded or a token is generated; and templates that cost too much.

use std::time::{Duration, Instant};

use crate::project::{Project, both};

/// A project whose model plays as it is, with a chat template of its own.
fn imported(template: &str) -> Project {
    let trained = Project::new();
    trained.run("spin-store import run.toml");
    trained.run("spin-fit --sft");
    let project = Project::new();
    let weights = "model.safetensors";
    std::fs::copy(trained.path("store/model/tiny/iter-0/v1").join(weights), project.path("model").join(weights))
        .unwrap();
    project.write("model/chat_template.jinja", template);
    let run = std::fs::read_to_string(project.path("run.toml")).unwrap().replace("init = \"random\"", "");
    let (before, rest) = run.split_once("[sft]").unwrap();
    let (_, after) = rest.split_once("[sample]").unwrap();
    project.write("run.toml", &format!("{before}[sample]{after}"));
    project.run("spin-store import run.toml");
    project
}

const ANSWERS: &str =
    "{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' else ':' }}{% endfor %}";

#[test]
fn answers_that_no_later_stage_could_use_are_refused_before_any_is_generated() {
    for (template, words) in [
        // The end of a turn is never written where an answer ends, but the marker of thinking is.
        (
            "{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<think>{% endif %}",
            "chat_template.jinja",
        ),
        (
            "{{ raise_exception('no turns of the assistant') if messages[-1].role == 'assistant' }}{{ messages[0].content }}",
            "no turns of the assistant",
        ),
    ] {
        let project = imported(template);
        project.fails("spin-sample --iteration 0", 3, &["row", "train", words]);
        assert!(project.work_files("part-").is_empty());
    }
}

#[test]
fn rows_of_which_none_is_left_are_told_at_once() {
    let project = imported(ANSWERS);
    let drop = "--set template.overlong=drop --set template.max_prompt_length=2";
    project.fails(
        &format!("spin-sample --iteration 0 {drop}"),
        3,
        &["train", "no row is left", "template.max_prompt_length"],
    );
    let short = "--set template.max_prompt_length=60 --set template.max_length=61 --set template.overlong=drop";
    project.write(
        "train.jsonl",
        &format!("{{\"question\":\"{}\",\"answer\":\"{}\"}}\n", "1 ".repeat(25), "2 ".repeat(20)),
    );
    project.run("spin-store import run.toml");
    project.fails(&format!("spin-sample --iteration 0 {short}"), 3, &["train", "template.max_length = 61", "raise"]);
    assert!(project.work_files("part-").is_empty());
    project.run("spin-sample --iteration 0");
}

#[test]
fn templates_without_end_are_refused_in_time_and_memory() {
    let doubling = "{% set ns = namespace(x='ab') %}{% for c in messages[0].content %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}";
    let deep = format!("{{{{ {}1 }}}}", "(".repeat(50_000));
    let long = format!("{{{{ {} }}}}", vec!["messages"; 50_000].join("+"));
    let project = Project::new();
    project.run("spin-store import run.toml");
    // One that the trial at the start does not see; 30 times make 10 GB of ten bytes.
    let hidden = "{% set ns = namespace(x='0123456789') %}{% if messages[0].content | length < 150 and \
                  messages[0].content != 'short' %}{% for i in range(30) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}\
                  {% endif %}{{ messages[0].content }}{{ ns.x | length }}";
    for (template, words) in [
        (doubling, "MiB of memory"),
        (hidden, "GiB of memory for one text"),
        (loops, "steps"),
        (deep.as_str(), "hostile.jinja"),
        (long.as_str(), "are the most"),
    ] {
        project.write("hostile.jinja", template);
        let start = Instant::now();
        project.fails("spin-fit --sft --set template.chat=hostile.jinja", 3, &[words]);
        assert!(start.elapsed() < Duration::from_secs(30), "{words}");
    }
}

/// Whatever it was built with, it does not train beside others as if alone.
#[test]
fn processes_that_do_not_meet_do_not_train() {
    let project = Project::new();
    project.run("spin-store import run.toml");
    let output = project.command("spin-fit --sft").env("PMI_SIZE", "2").output().expect("it starts");
    let text = both(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("would train alone"), "{text}");
    project.run("spin-fit --sft");
}
