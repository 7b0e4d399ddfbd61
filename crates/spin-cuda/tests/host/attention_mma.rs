//! The scalar twin of the product that tensor cores do: its layout is the one that PTX has, so that what is tested here
//! is all of the kernel but the instruction.

use half::bf16;
use spin_cuda::{Attention, Known, attention, attention_backward, attention_mma};

use crate::attention::{OnDevice, cases, groups};
use crate::library::host;
use crate::memory::{Memory, as_f64, assert_close, numbers};
use crate::reference::{self, Shape};

#[test]
fn tensor_cores_compute_the_same_attention() {
    let Some(host) = host() else { return };
    let long = Attention { heads: 2, kv_heads: 1, dim: 40, scale: 0.2, softcap: None, window: Some(70) };
    for (groups, of) in cases().into_iter().chain([(groups(&[(30, &[130, 66])]), long)]) {
        let plan = OnDevice::new(&groups, of.dim);
        let rows = plan.views().rows;
        let qkv = numbers::<bf16>(1, rows * of.qkv_width());
        let (mut out, mut log_sums) =
            (Memory::<bf16>::poisoned(rows * of.out_width()), Memory::<f32>::poisoned(rows * of.heads));
        let memory = Memory::of(&qkv);
        let to = (&mut out.view_mut(), &mut log_sums.view_mut());
        let done = attention_mma(host, &of, &plan.views(), memory.view(), to.0, to.1);
        if of.dim > 128 {
            assert!(done.unwrap_err().to_string().contains("wider than 128"));
            continue;
        }
        done.unwrap();
        let (outs, sums) = reference::attention(Shape { of }, &groups, &as_f64(&qkv));
        assert_close(&out.read(), &outs, 4.0);
        // Scores are sums of products of bf16 in f32: as exact as attention.cu's.
        assert_close(&log_sums.read(), &sums, 4.0);
    }
}

#[test]
fn the_backward_pass_takes_either() {
    let Some(host) = host() else { return };
    let (groups, of) = cases().remove(2);
    let plan = OnDevice::new(&groups, of.dim);
    let (views, rows) = (plan.views(), plan.views().rows);
    let qkv = Memory::of(&numbers::<bf16>(1, rows * of.qkv_width()));
    let out_grad = Memory::of(&numbers::<bf16>(2, rows * of.out_width()));
    let gradient = |with_mma: bool| {
        let (mut out, mut log_sums) =
            (Memory::<bf16>::poisoned(rows * of.out_width()), Memory::<f32>::poisoned(rows * of.heads));
        let (to, sums) = (&mut out.view_mut(), &mut log_sums.view_mut());
        match with_mma {
            true => attention_mma(host, &of, &views, qkv.view(), to, sums).unwrap(),
            false => attention(host, &of, &views, qkv.view(), to, sums).unwrap(),
        }
        let (mut delta, mut grad) =
            (Memory::<f32>::poisoned(rows * of.heads), Memory::<bf16>::poisoned(rows * of.qkv_width()));
        let known = Known { qkv: qkv.view(), out: out.view(), log_sums: log_sums.view(), out_grad: out_grad.view() };
        attention_backward(host, &of, &views, &known, &mut delta.view_mut(), &mut grad.view_mut()).unwrap();
        grad.read()
    };
    assert_close(&gradient(true), &as_f64(&gradient(false)), 6.0);
}
