//! What `[sample]` and `[template]` ask for, and what rows can get wrong.

use spin_run::schema::{Pair, Row, Sample};

use crate::project::Project;

/// A project whose first training row has a question of 200 words.
fn with_long_row() -> Project {
    let project = Project::new();
    let text = std::fs::read_to_string(project.path("train.jsonl")).unwrap();
    let rest = text.split_once('\n').unwrap().1;
    let question = "Tom has 5 apples. ".repeat(40);
    project.write("train.jsonl", &format!("{{\"question\": \"{question}\", \"answer\": \"5\"}}\n{rest}"));
    project
}

#[test]
fn long_prompts_are_cut_alike_in_all_stages() {
    let project = with_long_row();
    project.edit("run.toml", "max_length = 110", "max_length = 110\noverlong = \"truncate\"");
    project.run_plan("spin-fit --iteration");
    project.with_graph(|graph| {
        let samples = graph.samples(0).unwrap();
        assert_eq!(samples.manifest.facts["truncated_prompts"], 1);
        assert_eq!(samples.manifest.facts["dropped_overlong_prompts"], 0);
        let rows = Sample::read_all(&samples).unwrap();
        let cut = rows.iter().find(|row| row.row_id == "000000").unwrap();
        assert_eq!(cut.prompt_ids.len(), 60);
        let pairs = Pair::read_all(&graph.pairs(0).unwrap()).unwrap();
        let pair = pairs.iter().find(|pair| pair.row_id == "000000").expect("it teaches");
        assert_eq!(pair.prompt_ids, cut.prompt_ids);
        // The end is what is kept, as others have it, and not the beginning.
        let other = &rows[1].prompt_ids;
        assert_eq!(cut.prompt_ids.last(), other.last());
        assert!(other[0] == 1 && cut.prompt_ids[0] != 1, "{:?}", cut.prompt_ids);
    });
    project.run("spin-fit --iteration 0");
}

#[test]
fn a_template_that_raises_names_the_row() {
    let project = Project::new();
    let text = std::fs::read_to_string(project.path("test.jsonl")).unwrap();
    project.write("test.jsonl", &text.replacen("\"question\":\"", "\"question\":\"RAISE ", 1));
    let template = "{% for m in messages %}{% if 'RAISE' in m.content %}{{ raise_exception('no such turn') }}{% endif %}\
                    {{ m.content }}{{ eos_token if m.role == 'assistant' else ' = ' }}{% endfor %}";
    project.write("raises.jinja", template);
    project.edit("run.toml", "[template]", "[template]\nchat = \"raises.jinja\"");
    // The row is among those that no training reads.
    project.run_plan("spin-sample");
    let parts = ["of demonstrations/tiny/test@v1", "row \"", "no such turn", "choose another template"];
    project.fails("spin-sample --iteration 0 --bench", 3, &parts);
    project.run("spin-sample --iteration 0");

    // And who trains says the same.
    let text = std::fs::read_to_string(project.path("train.jsonl")).unwrap();
    project.write("train.jsonl", &text.replacen("\"question\":\"", "\"question\":\"RAISE ", 1));
    project.run("spin-store import run.toml");
    project.fails("spin-fit --sft", 3, &["row \"000000\" of demonstrations/tiny/train@v2", "no such turn"]);
}

#[test]
fn stop_texts_and_ids_end_answers() {
    let project = Project::new();
    project.run_plan("spin-sample");
    let at_nine = "--set sample.stop=[\"9\"] --set sample.max_new_tokens=30";
    project.run(&format!("spin-sample --iteration 0 {at_nine}"));
    let made = |version: u32| {
        let reference = format!("samples/tiny/iter-0@v{version}").parse().unwrap();
        project.with_graph(|graph| Sample::read_all(&graph.store.get(&reference).unwrap()).unwrap())
    };
    let rows = made(1);
    let stopped: Vec<&Sample> = rows.iter().filter(|row| row.response.contains('9')).collect();
    assert!(stopped.len() > 10, "{}", stopped.len());
    for row in stopped {
        assert!(row.finish_reason == "stop" && row.response.find('9') == Some(row.response.len() - 1), "{row:?}");
    }
    assert!(rows.iter().all(|row| row.token_logps.len() == row.response_ids.len()));
    assert!(rows.iter().any(|row| row.finish_reason == "length"));

    // The same as an id, with all tokens that are less likely cut away.
    let id = rows.iter().find(|row| row.response.ends_with('9')).unwrap().response_ids.last().copied().unwrap();
    let by_id = format!("--set sample.stop_token_ids=[{id}] --set sample.max_new_tokens=30 --set sample.top_k=5");
    project.run(&format!("spin-sample --iteration 0 {by_id} --set sample.min_p=0.01"));
    let rows = made(2);
    for row in &rows {
        let at = row.response_ids.iter().position(|other| *other == id);
        assert!(at.is_none_or(|at| at + 1 == row.response_ids.len() && row.finish_reason == "stop"), "{row:?}");
        let sums = [&row.token_logps, &row.token_sampling_logps].map(|logps| logps.iter().sum::<f32>());
        assert!(sums[1] > sums[0] && (f64::from(sums[0]) - row.logps).abs() < 1e-3, "{row:?}");
    }
    for (set, problem) in [
        ("sample.min_p=2", "min_p must be between 0 and 1"),
        ("sample.repetition_penalty=0", "repetition_penalty must be above 0"),
        ("sample.stop=[\"\"]", "stop has an empty text"),
        ("sample.engine=vllm", "unknown variant `vllm`, expected one of `auto`, `mistralrs`, `spin-model`"),
        ("sample.max_failed=-1", "max_failed is a share"),
        ("sample.temperature=1e-9", "0 is greedy"),
    ] {
        project.fails(&format!("spin-sample --iteration 0 --set {set}"), 3, &[problem]);
    }
    project.fails("spin-sample --iteration 0 --device cuda", 3, &["--device cpu"]);
}
