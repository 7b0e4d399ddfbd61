use half::bf16;
use spin_cuda::{DropoutMask, dropout};
use spin_noise::{fnv1a, mix};

use crate::library::host;
use crate::memory::{Memory, Tested, as_f64, numbers};

/// spin-model/src/dropout.rs, with tensor_key of spin-model/src/init.rs.
fn mask(rate: f64, seed: u64, name: &str) -> DropoutMask {
    DropoutMask {
        key: mix(mix(seed) ^ fnv1a(name)),
        threshold: (rate * 4_294_967_296.0) as u32,
        kept: (1.0 / (1.0 - rate)) as f32,
    }
}

fn dropped<T: Tested>() {
    let Some(host) = host() else { return };
    for (len, first, rate) in [(1, 0, 0.5), (7, 3, 0.1), (129, 1 << 33, 0.25), (9_001, 5, 0.05)] {
        let (mask, values) = (mask(rate, 7, "a"), numbers::<T>(1, len));
        let mut memory = Memory::of(&values);
        dropout(host, &mut memory.view_mut(), first, &mask).unwrap();
        let factor = |at: u64| if (mix(mask.key ^ mix(at)) as u32) < mask.threshold { 0.0 } else { mask.kept };
        let wanted: Vec<T> = (first..).zip(&values).map(|(at, value)| T::of(value.get() as f32 * factor(at))).collect();
        assert_eq!(as_f64(&memory.read()), as_f64(&wanted), "{len}");
        let share = memory.read().iter().filter(|value| value.get() == 0.0).count() as f64 / len as f64;
        assert!(len < 1_000 || (share - rate).abs() < 0.01, "{share}");
    }
}

#[test]
fn the_same_are_dropped_as_on_the_cpu() {
    dropped::<f32>();
    dropped::<bf16>();
}
