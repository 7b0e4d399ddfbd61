//! What processes tell each other, and how gradients come together.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use spin_model::{CHUNK, Gradients};

use super::folding::Among;
use super::threads::among;
use super::{Failure, Solo, conclude, talk, told};
use crate::error::{FitError, Verdict};

#[test]
fn everybody_hears_everybody_and_the_first_alone_decides() {
    for heard in among(3, |world| talk(&*world, Ok(&vec![7; world.rank()])).unwrap()) {
        assert_eq!(heard, [vec![], vec![7], vec![7, 7]]);
    }
    for heard in among(3, |world| told(&*world, format!("I am {}", world.rank()).as_bytes()).unwrap()) {
        assert_eq!(heard, b"I am 0");
    }
    assert_eq!(told(&Solo, b"alone").unwrap(), b"alone");
}

#[test]
fn who_fails_is_heard_wherever_the_others_are() {
    let ends = among(3, |world| {
        let body = || match world.rank() {
            // Before the others have said anything.
            1 => Err(FitError::Exists { path: "it".into() }),
            _ => {
                told(&*world, b"first")?;
                told(&*world, b"second")
            }
        };
        conclude(&*world, body(), Failure::of).unwrap_err()
    });
    assert!(matches!(ends[1], FitError::Exists { .. }));
    for rank in [0, 2] {
        assert!(matches!(ends[rank], FitError::Peer { rank: 1, verdict: Verdict::BadInput, .. }), "{:?}", ends[rank]);
        assert!(ends[rank].is_bad_input());
        assert!(ends[rank].to_string().starts_with("process 1 of those that train together: it exists already"));
    }
    // What all find is said by the first.
    let ends = among(3, |world| {
        conclude(&*world, Err::<(), _>(FitError::Exists { path: "it".into() }), Failure::of).unwrap_err()
    });
    assert!(matches!(ends[0], FitError::Exists { .. }));
    assert!(ends[1..].iter().all(|end| matches!(end, FitError::Peer { rank: 0, .. })));
    // Who is gone without a word is missed.
    let ends = among(2, |world| if world.rank() == 1 { None } else { talk(&*world, Ok(&[])).err() });
    assert!(matches!(ends[0], Some(FitError::Peer { rank: 1, .. })));
}

fn params(dtype: DType) -> BTreeMap<String, Var> {
    let var = |length: usize| Var::zeros(length, dtype, &Device::Cpu).unwrap();
    BTreeMap::from([("a", 3 * CHUNK + 11), ("b", 5), ("c", CHUNK)].map(|(name, length)| (name.to_owned(), var(length))))
}

/// A share's gradients: numbers whose sum depends on the order.
fn gradients(share: usize) -> Gradients {
    let mut gradients = Gradients::zeros(&params(DType::F32)).unwrap();
    let names: Vec<String> = gradients.names().map(str::to_owned).collect();
    for name in names {
        for (i, value) in gradients.values_mut(&name).unwrap().iter_mut().enumerate() {
            let bits = spin_noise::mix((i * 7 + share * 13 + name.len()) as u64);
            *value = (bits as u32 as f32 / 4e9 - 0.5) * [1.0, 1e3, 1e-4][(bits >> 40) as usize % 3];
        }
    }
    gradients
}

#[test]
fn a_sum_is_in_the_order_of_the_shares_and_its_norm_in_that_of_the_chunks() {
    for (shards, world) in [(2, 2), (3, 3), (6, 2), (6, 3), (4, 4)] {
        let mut expected = gradients(0);
        (1..shards).for_each(|share| expected.add_all(&gradients(share)).unwrap());
        let norm = expected.clip_global_norm(0.5).unwrap();
        let parts = among(world, |one| {
            let rounds = shards / world;
            let mut among = Among::new(one.clone(), &params(DType::F32), rounds);
            // Twice: nothing is left of the update before.
            let mut own = gradients(99);
            for round in (0..rounds).chain(0..rounds) {
                own = gradients(round * world + one.rank());
                among.fold(&mut own, round, rounds).unwrap();
            }
            assert_eq!(among.norm(&mut own).unwrap().to_bits(), norm.to_bits());
            among.scale(&mut own, spin_model::clip_factor(norm, 0.5).unwrap());
            (0..3)
                .map(|tensor| {
                    let range = among.parts().of(one.rank(), tensor);
                    own.values_mut(["a", "b", "c"][tensor]).unwrap()[range].to_vec()
                })
                .collect::<Vec<_>>()
        });
        for (tensor, name) in ["a", "b", "c"].into_iter().enumerate() {
            let whole: Vec<f32> = parts.iter().flat_map(|own| own[tensor].clone()).collect();
            assert!(whole == expected.values_mut(name).unwrap(), "{shards} shares on {world}: {name}");
        }
    }
}

#[test]
fn weights_reach_everybody_in_their_own_type() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let all = among(3, |world| {
            let params = params(dtype);
            let mut among = Among::new(world.clone(), &params, 1);
            for (tensor, var) in params.values().enumerate() {
                let mut values = vec![0f32; var.elem_count()];
                values[among.parts().of(world.rank(), tensor)].fill(world.rank() as f32 + 1.5);
                var.set(&Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()).unwrap();
            }
            among.spread(&params).unwrap();
            let flat = |var: &Var| var.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
            params.values().map(flat).collect::<Vec<_>>()
        });
        assert!(all.iter().all(|one| *one == all[0]));
        assert!(all[0].iter().flatten().all(|value| [1.5, 2.5, 3.5].contains(value)), "{dtype:?}");
    }
}
