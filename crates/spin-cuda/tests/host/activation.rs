use half::bf16;
use spin_cuda::{Gate, gated, gated_backward};

use crate::library::host;
use crate::memory::{Memory, Tested, as_f64, assert_close, numbers};
use crate::reference::numeric_gradient;

/// spin-model/src/cpu/activation.rs.
fn activation(gate: Gate, g: f64) -> f64 {
    match gate {
        Gate::Silu => g / (1.0 + (-g).exp()),
        Gate::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g * g * g);
            0.5 * g * (1.0 + u.tanh())
        }
    }
}

fn forward(gate: Gate, gate_up: &[f64], width: usize) -> Vec<f64> {
    let row = |row: &[f64]| (0..width).map(|i| activation(gate, row[i]) * row[width + i]).collect::<Vec<_>>();
    gate_up.chunks_exact(2 * width).flat_map(row).collect()
}

fn compared<T: Tested>() {
    let Some(host) = host() else { return };
    for (gate, (rows, width)) in [Gate::Silu, Gate::GeluTanh]
        .into_iter()
        .flat_map(|gate| [(1, 1), (7, 33), (3, 129), (2, 520), (33, 8)].map(|shape| (gate, shape)))
    {
        let mut gate_up = numbers::<T>(1, 2 * rows * width);
        if width > 30 {
            // Where exponentials are large.
            (gate_up[0], gate_up[1]) = (T::of(-95.0), T::of(60.0));
        }
        let grad = numbers::<T>(2, rows * width);
        let mut out = Memory::<T>::poisoned(rows * width);
        let mut memory = Memory::of(&gate_up);
        gated(host, gate, memory.view(), &mut out.view_mut(), width).unwrap();
        assert_close(&out.read(), &forward(gate, &as_f64(&gate_up), width), 4.0);
        gated_backward(host, gate, &mut memory.view_mut(), Memory::of(&grad).view(), width).unwrap();
        if rows * width > 300 {
            assert!(memory.read().iter().all(|value| value.get().is_finite()));
            continue;
        }
        let wanted = numeric_gradient(&as_f64(&gate_up), &as_f64(&grad), |x| forward(gate, x, width));
        assert_close(&memory.read(), &wanted, 8.0);
    }
}

#[test]
fn gates_and_their_gradients() {
    compared::<f32>();
    compared::<bf16>();
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let Some(host) = host() else { return };
    let (gate_up, mut out) = (Memory::of(&[0.0_f32; 15]), Memory::of(&[0.0_f32; 8]));
    assert!(gated(host, Gate::Silu, gate_up.view(), &mut out.view_mut(), 4).is_err());
    assert!(gated(host, Gate::Silu, gate_up.view(), &mut out.view_mut(), 3).is_err());
}
