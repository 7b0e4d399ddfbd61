use super::*;
use crate::config::golden_configs;
use crate::ops::Operations;

fn batch(groups: usize, prompt: usize, answer: usize) -> Batch {
    let (prompt, answer) = (vec![0; prompt], vec![0; answer]);
    Batch::grouped((0..groups).map(|_| (&prompt[..], [&answer[..], &answer[..]]))).unwrap()
}

#[test]
fn every_architecture_is_counted() {
    for (name, json) in golden_configs() {
        let config = ModelConfig::from_json(&json.to_string(), &name).unwrap();
        let count: u64 = config.param_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum();
        let of = |every| Footprint::of_training(&config, DType::F32, &batch(2, 5, 4), every).unwrap();
        let (kept, again) = (of(0), of(1));
        assert_eq!((kept.weights, kept.gradient), (4 * count, 4 * count), "{name}");
        assert_eq!((again.weights, again.gradient), (4 * count, 4 * count), "{name}");
        assert!(kept.buffers > 0 && again.buffers > 0, "{name}");
        let half = Footprint::of_training(&config, DType::BF16, &batch(2, 5, 4), 0).unwrap();
        assert_eq!((half.weights, half.buffers), (2 * count, kept.buffers), "{name}");
        let generated = Footprint::of_generation(&config, DType::BF16, 3, 5, 4, 2).unwrap();
        let width = config.num_key_value_heads * config.head_dim;
        let cache = 3 * 9 * config.layers.len() * 2 * width * 4;
        assert_eq!((generated.weights, generated.cache), (2 * count, cache as u64), "{name}");
    }
}

#[test]
fn more_layers_cost_more_where_they_are_kept() {
    let llama = golden_configs().into_iter().find(|(_, json)| json["architectures"][0] == "LlamaForCausalLM");
    let (name, mut json) = llama.unwrap();
    let mut of = |layers: usize, every| {
        json["num_hidden_layers"] = layers.into();
        let config = ModelConfig::from_json(&json.to_string(), &name).unwrap();
        Footprint::of_training(&config, DType::F32, &batch(2, 5, 30), every).unwrap().buffers
    };
    let (kept, again) = (of(12, 0) - of(6, 0), of(12, 1) - of(6, 1));
    assert!(kept > 5 * again, "{kept} {again}");
}

#[test]
fn memory_is_given_back() {
    let ops = Dry::default();
    let one = ops.room(10).unwrap();
    let mut two = ops.room(5).unwrap();
    drop(one);
    ops.at_least(&mut two, 9).unwrap();
    assert_eq!((ops.tally.now.load(Ordering::Relaxed), ops.tally.most()), (36, 60));
    drop(two);
    assert_eq!(ops.tally.now.load(Ordering::Relaxed), 0);
}

#[test]
fn what_does_not_fit_the_model_is_refused() {
    let (name, json) = golden_configs().swap_remove(0);
    let config = ModelConfig::from_json(&json.to_string(), &name).unwrap();
    let longest = config.max_position_embeddings;
    assert!(Footprint::of_training(&config, DType::F32, &batch(1, longest, 1), 0).is_err());
    assert!(Footprint::of_generation(&config, DType::F32, 1, longest, 1, 1).is_err());
}
