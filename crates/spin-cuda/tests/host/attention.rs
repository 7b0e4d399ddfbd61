use half::bf16;
use spin_cuda::{Attention, AttentionPlan, AttentionViews, Span, attention};

use crate::library::host;
use crate::memory::{Memory, Tested, as_f64, assert_close, numbers};
use crate::reference::{self, Shape};

/// Groups of a prompt and its responses, laid out as `spin-model/src/batch.rs` does it.
pub fn groups(lengths: &[(usize, &[usize])]) -> Vec<Vec<Span>> {
    let mut next = 0;
    let mut group = |(prompt, responses): &(usize, &[usize])| {
        let start = next;
        let span = |(index, response): (usize, &usize)| {
            let shared_len = if index == 0 { 0 } else { *prompt };
            let own_len = prompt + response - 1 - shared_len;
            let span = Span { shared: if index == 0 { 0 } else { start }, shared_len, own: next, own_len };
            next += own_len;
            span
        };
        responses.iter().enumerate().map(span).collect()
    };
    lengths.iter().map(&mut group).collect()
}

/// A plan where the kernels can read it.
pub struct OnDevice {
    spans: Memory<u32>,
    tiles: Memory<u32>,
    wide_tiles: Memory<u32>,
    key_tiles: Memory<u32>,
    rows: usize,
    dim: usize,
}

impl OnDevice {
    pub fn new(groups: &[Vec<Span>], dim: usize) -> Self {
        let plan = AttentionPlan::new(groups, dim).unwrap();
        Self {
            spans: Memory::of(&plan.spans),
            tiles: Memory::of(&plan.tiles),
            wide_tiles: Memory::of(&plan.wide_tiles),
            key_tiles: Memory::of(&plan.key_tiles),
            rows: plan.rows,
            dim,
        }
    }

    pub fn views(&self) -> AttentionViews<'_> {
        AttentionViews {
            spans: self.spans.view(),
            tiles: self.tiles.view(),
            wide_tiles: self.wide_tiles.view(),
            key_tiles: self.key_tiles.view(),
            rows: self.rows,
            dim: self.dim,
        }
    }
}

/// Batches and attentions: prompts shared by two and three responses, of which one has no rows of its own, sequences
/// longer than a tile and than 32 keys, windows that cut prompts, groups of heads, soft caps, widths between kernels.
pub fn cases() -> Vec<(Vec<Vec<Span>>, Attention)> {
    let plain = |heads, kv_heads, dim| Attention {
        heads,
        kv_heads,
        dim,
        scale: 0.7 / (dim as f32).sqrt(),
        softcap: None,
        window: None,
    };
    vec![
        (groups(&[(1, &[1])]), plain(1, 1, 8)),
        (groups(&[(3, &[4, 1, 3]), (2, &[2])]), plain(2, 1, 7)),
        (groups(&[(20, &[15, 30]), (5, &[1]), (1, &[33])]), plain(4, 2, 16)),
        (groups(&[(37, &[8, 9])]), Attention { window: Some(5), ..plain(2, 2, 33) }),
        (groups(&[(18, &[20, 3, 40])]), Attention { window: Some(33), softcap: Some(2.0), ..plain(3, 1, 24) }),
        (groups(&[(4, &[7, 6])]), Attention { softcap: Some(0.5), ..plain(2, 1, 96) }),
        (groups(&[(9, &[12, 4])]), plain(2, 1, 130)),
    ]
}

fn compared<T: Tested>() {
    let Some(host) = host() else { return };
    for (groups, of) in cases() {
        let plan = OnDevice::new(&groups, of.dim);
        let qkv = numbers::<T>(1, plan.rows * of.qkv_width());
        let mut out = Memory::<T>::poisoned(plan.rows * of.out_width());
        let mut log_sums = Memory::<f32>::poisoned(plan.rows * of.heads);
        let memory = Memory::of(&qkv);
        attention(host, &of, &plan.views(), memory.view(), &mut out.view_mut(), &mut log_sums.view_mut()).unwrap();
        let (outs, sums) = reference::attention(Shape { of }, &groups, &as_f64(&qkv));
        assert_close(&out.read(), &outs, 4.0);
        assert_close(&log_sums.read(), &sums, 4.0);
    }
}

#[test]
fn rows_that_share_prompts_attend() {
    compared::<f32>();
    compared::<bf16>();
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let Some(host) = host() else { return };
    let plan = OnDevice::new(&groups(&[(3, &[4])]), 8);
    let of = cases()[0].1;
    let (qkv, mut out, mut sums) = (Memory::of(&[0.0_f32; 143]), Memory::of(&[0.0_f32; 48]), Memory::of(&[0.0; 6]));
    let mut refused = |of: Attention| {
        let refused = attention(host, &of, &plan.views(), qkv.view(), &mut out.view_mut(), &mut sums.view_mut());
        refused.unwrap_err().to_string()
    };
    assert_eq!(refused(of), "attention_forward_float_32: qkv has 143 numbers where 144 belong");
    assert!(refused(Attention { dim: 16, ..of }).contains("the plan is for heads of 8"));
    assert!(refused(Attention { heads: 3, kv_heads: 2, ..of }).contains("no whole number of heads"));
    assert!(refused(Attention { window: Some(0), ..of }).contains("window"));
    assert!(refused(Attention { dim: 257, ..of }).contains("wider than 256"));
}
