use super::*;

fn shape(name: &str) -> ModelConfig {
    let (_, text) = SHAPES.iter().find(|(known, _)| *known == name).expect("a name");
    ModelConfig::from_json(text, name).expect("a configuration")
}

fn training<'a>(model: &'a ModelConfig, config: &'a FitConfig, world: usize, shards: usize) -> Training<'a> {
    let lengths = Lengths { prompt: 200, answer: 300 };
    Training { model, config, shards, world, lengths, machine: MACHINES[2] }
}

fn of(model: &ModelConfig, config: &FitConfig, world: usize, shards: usize) -> Scale {
    training(model, config, world, shards).scale()
}

#[test]
fn weights_are_counted_as_their_names_say() {
    let counts = SHAPES.map(|(name, _)| of(&shape(name), &FitConfig::default(), 1, 1).parameters);
    assert_eq!(counts, [1_235_814_400, 6_738_415_616, 13_015_864_320, 70_553_706_496]);
}

#[test]
fn state_is_shared_and_what_is_sent_follows_from_rounds() {
    let model = shape("llama-7b");
    let config = FitConfig { dtype: FitDtype::Bf16, optimizer: OptimizerKind::Rmsprop, ..FitConfig::default() };
    let (one, eight) = (of(&model, &config, 1, 1), of(&model, &config, 8, 8));
    let p = one.parameters;
    assert_eq!((one.weights, one.gradient, one.state, one.sent), (2 * p, 4 * p, 8 * p, 0));
    assert_eq!((eight.weights, eight.gradient, eight.state), (2 * p, 4 * p, p));
    assert_eq!((eight.sent, one.checkpoint, eight.checkpoint), (7 * 6 * p / 8, 10 * p, 10 * p));
    assert!(eight.computing < one.computing / 7.9 && eight.sending > 0.0);
    // Four processes take two rounds, and keep the sum of their part on the host; masters and state are there, too.
    let four = of(&model, &config, 4, 8);
    assert_eq!((four.gradient, four.sent), (4 * p, 3 * 10 * p / 4));
    assert_eq!(four.host - eight.host, p + p);
    assert!(one.memory() - one.activations < 80_000_000_000 && one.host > 14 * p, "{one:?}");
    assert!(four.hosting > eight.hosting && one.hosting > 0.0);
    // A CPU has all of it in one memory.
    let here = Training { machine: MACHINES[0], ..training(&model, &config, 4, 8) }.scale();
    assert_eq!((here.gradient, here.host, here.hosting), (5 * p, 0, 0.0));
    assert!(here.memory() > four.memory() + 2 * p);
    // On a node its memory decides, which the eight share; across nodes the network, for all but seven of 63.
    let many = of(&model, &config, 64, 64);
    let near = |bytes: f64, seconds: f64| (seconds * 50e9 / bytes - 1.0).abs() < 1e-9;
    assert!(near(many.sent as f64 * 56.0 / 63.0, many.sending), "{many:?}");
    assert!(near(eight.sent as f64 * 4.0, eight.sending), "{eight:?}");
    assert!(many.overlapped() <= many.seconds());
}

#[test]
fn recomputation_trades_memory_for_time_and_adapters_are_small() {
    let model = shape("llama-7b");
    let kept = FitConfig { micro_batch_size: 8, recompute_every: 0, ..FitConfig::default() };
    let again = FitConfig { recompute_every: 1, ..kept.clone() };
    let (kept, again) = (of(&model, &kept, 1, 1), of(&model, &again, 1, 1));
    assert!(again.activations < kept.activations / 5 && again.computing > 1.2 * kept.computing);
    let lora = serde_json::from_value(serde_json::json!({"r": 8, "target_modules": ["q_proj", "v_proj"]}));
    let lora = of(&model, &FitConfig { lora: Some(lora.expect("settings")), ..FitConfig::default() }, 1, 1);
    assert_eq!(lora.trained, 32 * 2 * 8 * (4096 + 4096));
}

#[test]
fn paper_agrees_with_what_the_code_asks_for() {
    let model = shape("llama-7b");
    for (rows, recompute_every) in [(1, 0), (2, 1), (8, 1), (2, 4)] {
        let config = FitConfig {
            dtype: FitDtype::Bf16,
            batch_size: 64,
            micro_batch_size: rows,
            recompute_every,
            ..FitConfig::default()
        };
        let lengths = Lengths { prompt: 512, answer: 512 };
        let training = Training { model: &model, config: &config, shards: 1, world: 1, lengths, machine: MACHINES[2] };
        let (paper, asked) = (training.scale(), training.dry_run().expect("it fits").expect("all are trained"));
        assert_eq!((paper.weights, paper.gradient), (asked.weights, asked.gradient));
        let buffers = (paper.activations + paper.logits) as f64;
        let ratio = buffers / asked.buffers as f64;
        assert!((0.9..1.1).contains(&ratio), "{rows} rows, {recompute_every}: {buffers} for {asked:?}");
    }
}
