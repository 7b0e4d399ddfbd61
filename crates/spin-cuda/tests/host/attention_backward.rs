use half::bf16;
use spin_cuda::{Known, attention, attention_backward};

use crate::attention::{OnDevice, cases};
use crate::library::host;
use crate::memory::{Memory, Tested, as_f64, assert_close, numbers};
use crate::reference::{self, Shape, numeric_gradient};

#[test]
fn the_reference_is_the_derivative() {
    for (groups, of) in cases().into_iter().take(2) {
        let rows = groups.iter().flatten().map(|span| span.own + span.own_len).max().unwrap();
        let qkv = as_f64(&numbers::<f32>(1, rows * of.qkv_width()));
        let grad = as_f64(&numbers::<f32>(2, rows * of.out_width()));
        let shape = Shape { of };
        let numeric = numeric_gradient(&qkv, &grad, |qkv| reference::attention(shape, &groups, qkv).0);
        let wanted = reference::attention_backward(shape, &groups, &qkv, &grad);
        assert_close(&numeric.iter().map(|value| *value as f32).collect::<Vec<_>>(), &wanted, 10.0);
    }
}

fn compared<T: Tested>() {
    let Some(host) = host() else { return };
    for (groups, of) in cases() {
        let plan = OnDevice::new(&groups, of.dim);
        let rows = plan.views().rows;
        let (qkv, grad) = (numbers::<T>(1, rows * of.qkv_width()), numbers::<T>(2, rows * of.out_width()));
        let (qkv_memory, grad_memory) = (Memory::of(&qkv), Memory::of(&grad));
        let mut out = Memory::<T>::poisoned(rows * of.out_width());
        let mut log_sums = Memory::<f32>::poisoned(rows * of.heads);
        let mut delta = Memory::<f32>::poisoned(rows * of.heads);
        let views = plan.views();
        attention(host, &of, &views, qkv_memory.view(), &mut out.view_mut(), &mut log_sums.view_mut()).unwrap();
        let known =
            Known { qkv: qkv_memory.view(), out: out.view(), log_sums: log_sums.view(), out_grad: grad_memory.view() };
        let mut gradients = || {
            let mut qkv_grad = Memory::<T>::poisoned(rows * of.qkv_width());
            attention_backward(host, &of, &views, &known, &mut delta.view_mut(), &mut qkv_grad.view_mut()).unwrap();
            qkv_grad.read()
        };
        let wanted = reference::attention_backward(Shape { of }, &groups, &as_f64(&qkv), &as_f64(&grad));
        let found = gradients();
        // The outputs that the gradients start from are rounded, too.
        assert_close(&found, &wanted, 12.0);
        assert_eq!(as_f64(&found), as_f64(&gradients()));
    }
}

#[test]
fn gradients_of_rows_that_share_prompts() {
    compared::<f32>();
    compared::<bf16>();
}
