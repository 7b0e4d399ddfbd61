//! LoRA through the stages: trained, published merged and in PEFT's format,
//! carried on from, merged by hand; and bf16 weights likewise.

use candle_core::{DType, Device};
use spin_model::{Batch, CausalLm};
use spin_run::graph::ModelId;
use spin_run::schema::{Pair, ReferenceRow, Row};

use crate::project::{Project, both};

const LORA: &str =
    "[fit.lora]\nr = 4\nlora_alpha = 8\nlora_dropout = 0.1\ntarget_modules = [\"all-linear\"]\n\n[bench]";

fn load(dir: &std::path::Path) -> CausalLm {
    CausalLm::load(dir, &Device::Cpu, DType::F32).unwrap()
}

#[test]
fn an_adapter_is_trained_merged_and_carried_on() {
    let project = Project::new();
    project.edit("run.toml", "[bench]", LORA);
    project.edit("run.toml", "learning_rate = 1e-4\nbeta = 0.5", "learning_rate = 1e-3\nbeta = 0.5");
    project.run_plan("spin-sample --iteration 1");

    let (base, trained, identity) = project.with_graph(|graph| {
        let (start, end) = (graph.model(&ModelId::Iteration(0)).unwrap(), graph.model(&ModelId::Iteration(1)).unwrap());
        // The opponent is the base, its adapter off.
        let pairs = Pair::read_all(&graph.pairs(0).unwrap()).unwrap();
        let reference = ReferenceRow::read_all(&graph.reference(0).unwrap()).unwrap();
        let (pair, row) = (&pairs[0], &reference[0]);
        let batch = Batch::grouped([(pair.prompt_ids.as_slice(), [pair.real_ids.as_slice(), &pair.generated_ids])]);
        let batch = batch.unwrap();
        let adapted =
            load(start.place()).load_adapter(&end.place().join("adapter"), Some(&start.manifest.content)).unwrap();
        let off = adapted.without_adapter().sum_logps(&batch).unwrap();
        assert!((off[0] - row.real_logps).abs() < 1e-4 && (off[1] - row.generated_logps).abs() < 1e-4);
        // What is published is the base with the adapter.
        let (on, merged) = (adapted.sum_logps(&batch).unwrap(), load(end.place()).sum_logps(&batch).unwrap());
        assert!((on[0] - merged[0]).abs() < 1e-4 && (on[1] - merged[1]).abs() < 1e-4);
        assert!((on[0] - off[0]).abs() > 1e-3, "nothing was learnt");
        assert_eq!(adapted.adapter().unwrap().r, 4);
        (start.place().to_owned(), end.place().to_owned(), start.manifest.content)
    });

    // Merging by hand gives the same weights, once.
    let line = format!("{} {} merged", base.display(), trained.join("adapter").display());
    let merge = |line: &str| {
        let mut command = project.command("spin-fit");
        let program = command.get_program().to_owned();
        command = std::process::Command::new(program);
        command.arg("merge").args(line.split(' ')).current_dir(project.path("")).output().unwrap()
    };
    let output = merge(&line);
    assert!(output.status.success(), "{}", both(&output));
    let bytes = |path: std::path::PathBuf| std::fs::read(path).unwrap();
    assert_eq!(bytes(project.path("merged/model.safetensors")), bytes(trained.join("model.safetensors")));
    assert!(project.path("merged/tokenizer.json").exists());
    let output = merge(&line);
    assert!(output.status.code() == Some(3) && both(&output).contains("exists already"), "{}", both(&output));

    // From that adapter on, which must fit settings and base.
    let adapter = project.path("carried");
    std::fs::create_dir(&adapter).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(trained.join("adapter").join(file), adapter.join(file)).unwrap();
    }
    let again = project.run("spin-fit --iteration 0 --set fit.lora.from=carried");
    assert!(again.contains("made model/tiny/iter-1@v2"), "{again}");
    let other = "--set fit.lora.from=carried --set fit.lora.r=2";
    project.fails(&format!("spin-fit --iteration 0 {other}"), 3, &["adapter of other settings", "\"r\": 4"]);
    project.fails("spin-fit --iteration 0 --set fit.lora.r=0", 3, &["[lora] needs r of at least 1"]);
    let unknown = "spin-fit --iteration 0 --set fit.lora.target_modules=[\"query\"]";
    project.fails(unknown, 3, &["names no projection", "down_proj, gate_proj"]);
    // The next round's base is another model.
    for program in ["spin-sample", "spin-pair"] {
        project.run(&format!("{program} --iteration 1 --set fit.lora.from=carried"));
    }
    let foreign = "spin-fit --iteration 1 --set fit.lora.from=carried";
    project.fails(foreign, 3, &["trained on the base", &identity]);
}

#[test]
fn bf16_weights_are_trained_with_masters_and_published_as_bf16() {
    let project = Project::new();
    for table in ["[sft]\n", "[fit]\n"] {
        project.edit("run.toml", table, &format!("{table}dtype = \"bf16\"\nrecompute_every = 1\n"));
    }
    project.run_plan("spin-fit --iteration 1");
    project.with_graph(|graph| {
        for t in [0, 1] {
            let dir = graph.model(&ModelId::Iteration(t)).unwrap().place().to_owned();
            let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
            assert!(tensors.values().all(|tensor| tensor.dtype() == DType::BF16), "iteration {t}");
        }
    });
    // mistral.rs reads them, too.
    project.run("spin-sample --iteration 1");
}
