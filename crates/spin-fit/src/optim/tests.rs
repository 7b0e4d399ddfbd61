//! Every step of every optimiser against PyTorch's.

use candle_core::backprop::GradStore;
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
    let mut grads = Gradients::from(tensors(golden, "gradients"));
    grads.scale(1.5 - (step % 3) as f64).unwrap();
    grads
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
        let mut optimizer = Optimizer::new(rule(case).0, &params).unwrap();
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
        let mut optimizer = Optimizer::new(rule(case).0, &params).unwrap();
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
        let mut first = Optimizer::new(rule(case).0, &params).unwrap();
        step_and_compare(&golden, case, &mut first, &params, 0..5);
        let mut second = Optimizer::new(rule(case).0, &params).unwrap();
        second.load_state_dict(&first.state_dict().unwrap()).unwrap();
        assert_eq!(second.steps(), 5);
        let worst = step_and_compare(&golden, case, &mut second, &params, 5..8);
        assert!(worst < 1e-6, "{worst}");
    }
}

#[test]
fn foreign_state_is_refused() {
    let params = vars(&golden(), DType::F32);
    let adamw = Optimizer::new(Rule::AdamW(AdamW::default()), &params).unwrap();
    let mut rmsprop = Optimizer::new(Rule::RmsProp(RmsProp::default()), &params).unwrap();
    let error = rmsprop.load_state_dict(&adamw.state_dict().unwrap()).unwrap_err();
    assert!(error.to_string().contains("a.weight.square_avg"), "{error}");
}

#[test]
fn a_norm_that_is_not_finite_is_reported_and_changes_nothing() {
    let golden = golden();
    let mut grads = gradients(&golden, 0);
    grads.scale(f64::INFINITY).unwrap();
    assert!(!grads.clip_global_norm(1.0).unwrap().is_finite());
}

#[test]
fn gradients_are_collected_and_accumulated() {
    let params = vars(&golden(), DType::F32);
    let loss = |names: &[&str]| -> GradStore {
        let sums = names.iter().map(|name| params[*name].sqr().unwrap().sum_all().unwrap());
        sums.reduce(|a, b| (a + b).unwrap()).unwrap().backward().unwrap()
    };
    let error = Gradients::take(&params, &mut loss(&["a.weight"])).unwrap_err();
    assert!(error.to_string().contains("b.weight"), "{error}");

    let mut both = Gradients::take(&params, &mut loss(&["a.weight", "b.weight"])).unwrap();
    let once = both.clone();
    both.accumulate(&once).unwrap();
    assert!((both.global_norm().unwrap() - 2.0 * once.global_norm().unwrap()).abs() < 1e-6);
    let expected = flat(&(params["b.weight"].as_tensor() * 4.0).unwrap());
    assert_eq!(flat(&both.tensors()["b.weight"]), expected);
}
