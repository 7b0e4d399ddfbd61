//! Every step of every optimiser against PyTorch's.

use serde_json::Value;

use super::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../../tests/golden/optim.json")).unwrap()
}

fn tensors(golden: &Value, key: &str) -> BTreeMap<String, Tensor> {
    let shapes = golden["shapes"].as_object().unwrap();
    shapes
        .iter()
        .map(|(name, shape)| {
            let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
            let values = floats(&golden[key][name]);
            (name.clone(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect()
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn vars(golden: &Value, dtype: DType) -> BTreeMap<String, Var> {
    tensors(golden, "initial")
        .into_iter()
        .map(|(name, tensor)| (name, Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()))
        .collect()
}

/// The gradients that the golden file's steps were given.
fn gradients(golden: &Value, step: usize) -> Gradients {
    let mut grads = Gradients::zeros(&vars(golden, DType::F32)).unwrap();
    for (name, grad) in tensors(golden, "gradients") {
        grads.add(&name, &grad).unwrap();
    }
    grads.scale(1.5 - (step % 3) as f64).unwrap();
    grads
}

/// The golden optimisers were given all weights in one group.
fn optimizer(rule: Rule, params: &BTreeMap<String, Var>) -> Optimizer {
    Optimizer::new(rule, params, |_, _| true).unwrap()
}

/// The rule and the learning rate of a case.
fn rule(case: &Value) -> (Rule, f64) {
    let mut options = case["options"].clone();
    let lr = options.as_object_mut().unwrap().remove("lr").unwrap();
    let rule = match case["optimiser"].as_str().unwrap() {
        "rmsprop" => Rule::RmsProp(serde_json::from_value(options).unwrap()),
        _ => Rule::AdamW(serde_json::from_value(options).unwrap()),
    };
    (rule, lr.as_f64().unwrap())
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn step_and_compare(
    golden: &Value,
    case: &Value,
    optimizer: &mut Optimizer,
    params: &BTreeMap<String, Var>,
    steps: std::ops::Range<usize>,
) -> f32 {
    let lr = rule(case).1;
    let mut worst = 0.0_f32;
    for index in steps {
        let step = &case["steps"][index];
        let mut grads = gradients(golden, index);
        if let Some(max_norm) = case["max_norm"].as_f64() {
            let norm = grads.clip_global_norm(max_norm).unwrap();
            assert!((norm - step["norm"].as_f64().unwrap()).abs() < 1e-5, "{norm}");
        }
        optimizer.step(&grads, lr).unwrap();
        for (name, var) in params {
            for (actual, expected) in flat(var).iter().zip(floats(&step["params"][name])) {
                worst = worst.max((actual - expected).abs());
            }
        }
    }
    worst
}

#[test]
fn weights_follow_those_of_torch() {
    let golden = golden();
    for case in golden["optimisers"].as_array().unwrap() {
        let params = vars(&golden, DType::F32);
        let mut optimizer = optimizer(rule(case).0, &params);
        let worst = step_and_compare(&golden, case, &mut optimizer, &params, 0..8);
        eprintln!("{:?}: within {worst:.1e}", rule(case).0);
        assert!(worst < 1e-6, "{worst}");
    }
}

/// The composed update is for other devices; f64 weights take it on the CPU.
#[test]
fn the_composed_update_is_the_same() {
    let golden = golden();
    for case in golden["optimisers"].as_array().unwrap() {
        let params = vars(&golden, DType::F64);
        let mut optimizer = optimizer(rule(case).0, &params);
        assert!(matches!(optimizer.slots[0].state, State::Device(_)));
        let worst = step_and_compare(&golden, case, &mut optimizer, &params, 0..8);
        assert!(worst < 2e-6, "{worst}");
    }
}

#[test]
fn a_restored_optimiser_carries_on_exactly() {
    let golden = golden();
    for case in golden["optimisers"].as_array().unwrap() {
        let params = vars(&golden, DType::F32);
        let mut first = optimizer(rule(case).0, &params);
        step_and_compare(&golden, case, &mut first, &params, 0..5);
        let mut second = optimizer(rule(case).0, &params);
        second.load_state_dict(&first.state_dict().unwrap()).unwrap();
        assert_eq!(second.steps(), 5);
        let worst = step_and_compare(&golden, case, &mut second, &params, 5..8);
        assert!(worst < 1e-6, "{worst}");
    }
}

#[test]
fn foreign_state_is_refused() {
    let params = vars(&golden(), DType::F32);
    let adamw = optimizer(Rule::AdamW(AdamW::default()), &params);
    let mut rmsprop = optimizer(Rule::RmsProp(RmsProp::default()), &params);
    let error = rmsprop.load_state_dict(&adamw.state_dict().unwrap()).unwrap_err();
    assert!(error.to_string().contains("a.weight.square_avg"), "{error}");
}

#[test]
fn small_weights_are_rounded_from_f32_masters() {
    let golden = golden();
    for (dtype, ulp) in [(DType::BF16, 1.0 / 256.0), (DType::F16, 1.0 / 2048.0)] {
        for case in golden["optimisers"].as_array().unwrap() {
            // Start where the small type can: both see the same weights.
            let small = vars(&golden, dtype);
            let full: BTreeMap<_, _> = small
                .iter()
                .map(|(name, var)| (name.clone(), Var::from_tensor(&var.to_dtype(DType::F32).unwrap()).unwrap()))
                .collect();
            let mut on_small = optimizer(rule(case).0, &small);
            let mut on_full = optimizer(rule(case).0, &full);
            for step in 0..8 {
                on_small.step(&gradients(&golden, step), rule(case).1).unwrap();
                on_full.step(&gradients(&golden, step), rule(case).1).unwrap();
            }
            let state = on_small.state_dict().unwrap();
            for (name, var) in &full {
                assert_eq!(flat(&state[&format!("{name}.master")]), flat(var), "{name}");
                for (rounded, exact) in flat(&small[name]).into_iter().zip(flat(var)) {
                    assert!((rounded - exact).abs() <= exact.abs() * ulp, "{name}: {rounded} for {exact}");
                }
            }
            // A restored optimiser takes its masters from the state, not from
            // the rounded weights.
            let mut restored = optimizer(rule(case).0, &small);
            restored.load_state_dict(&state).unwrap();
            for index in [8, 9] {
                restored.step(&gradients(&golden, index), rule(case).1).unwrap();
                on_full.step(&gradients(&golden, index), rule(case).1).unwrap();
            }
            for (name, var) in &full {
                assert_eq!(flat(&restored.state_dict().unwrap()[&format!("{name}.master")]), flat(var), "{name}");
            }
        }
    }
}

#[test]
fn vectors_do_not_decay() {
    let golden = golden();
    let zeros = Gradients::zeros(&vars(&golden, DType::F32)).unwrap();
    for rule in [
        Rule::AdamW(AdamW { weight_decay: 0.5, ..AdamW::default() }),
        Rule::RmsProp(RmsProp { weight_decay: 0.5, ..RmsProp::default() }),
    ] {
        let params = vars(&golden, DType::F32);
        let before: BTreeMap<_, _> = params.iter().map(|(name, var)| (name.clone(), flat(var))).collect();
        Optimizer::new(rule, &params, decays).unwrap().step(&zeros, 0.1).unwrap();
        assert_ne!(flat(&params["a.weight"]), before["a.weight"], "a matrix decays");
        assert_eq!(flat(&params["b.weight"]), before["b.weight"], "a vector does not");
    }
}

#[test]
fn a_tensor_without_a_gradient_is_named() {
    let params = vars(&golden(), DType::F32);
    let some: BTreeMap<_, _> = params.iter().take(1).map(|(k, v)| (k.clone(), v.clone())).collect();
    let grads = Gradients::zeros(&some).unwrap();
    let error = optimizer(Rule::AdamW(AdamW::default()), &params).step(&grads, 0.1).unwrap_err();
    assert!(error.to_string().contains("b.weight"), "{error}");
}

/// A machine with memory of its own computes with a copy of a weight until it is told.
#[test]
fn who_writes_to_a_weight_says_so() {
    let golden = golden();
    let params = vars(&golden, DType::F32);
    let (rule, lr) = rule(&golden["optimisers"][0]);
    let mut optimizer = optimizer(rule, &params);
    for steps in 1..=2 {
        optimizer.step(&gradients(&golden, 0), lr).unwrap();
        assert!(params.values().all(|var| spin_model::times_written(var) == steps), "after {steps} steps");
    }
    // What another process looks after.
    let var = params.values().next().unwrap();
    let mut bytes = Vec::new();
    read_numbers(var, 0..1, &mut bytes).unwrap();
    write_numbers(var, 0, &bytes).unwrap();
    assert_eq!(spin_model::times_written(var), 3);
}
