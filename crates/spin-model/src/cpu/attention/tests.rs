//! Parts against the whole, bit for bit. What the whole computes is compared
//! with finite differences and with other sets of operations elsewhere.

use std::ops::Range;

use crate::batch::{Group, Span};
use crate::cpu::attention::Attention;
use crate::cpu::attention::heads::LARGE_SPAN;
use crate::cpu::attention::parts::{KeyPart, Parts, QueryPart, spans_of};
use crate::cpu::tiles::LANES;
use crate::init::standard_normal;
use crate::ops::{Attended, Heads};
use crate::rope::RopeTable;

/// Groups of a prompt's length and the lengths of its answers.
fn groups(of: &[(usize, &[usize])]) -> Vec<Group> {
    let mut next = 0;
    let mut group = |&(prompt, answers): &(usize, &[usize])| {
        let start = next;
        let spans = answers.iter().enumerate().map(|(index, answer)| {
            let first = next;
            next += if index == 0 { prompt + answer } else { *answer };
            let shared = if index == 0 { start..start } else { start..start + prompt };
            Span { shared, own: first..next }
        });
        let spans: Vec<Span> = spans.collect();
        Group { rows: start..next, spans }
    };
    of.iter().map(&mut group).collect()
}

/// A call and what it is given.
struct Call {
    heads: Heads,
    rope: RopeTable,
    groups: Vec<Group>,
    qkv: Vec<f32>,
    out_grad: Vec<f32>,
}

/// The bits of outputs, log-sum-exps and gradients.
#[derive(Debug, PartialEq)]
struct Bits([Vec<u32>; 3]);

impl Call {
    fn new(heads: Heads, groups: Vec<Group>) -> Self {
        let rows = groups.last().map_or(0, |group| group.rows.end);
        let half = heads.head_dim / 2;
        let longest = groups.iter().flat_map(|group| &group.spans).map(Span::len).max().unwrap_or(0);
        let (sin, cos) = (0..longest * half).map(|at| (at as f32 * 0.37).sin_cos()).unzip();
        let rope = RopeTable { half, cos, sin };
        let qkv = standard_normal(1, "qkv", rows * heads.qkv_width());
        let out_grad = standard_normal(2, "grad", rows * heads.out_width());
        Self { heads, rope, groups, qkv, out_grad }
    }

    fn attention(&self) -> Attention<'_> {
        Attention::new(&self.heads, &self.rope)
    }

    /// What a way of both passes computes; what it does not write stays NaN.
    fn bits(
        &self,
        forward: impl Fn(&Attention<'_>, &mut [f32], &mut [f32]),
        backward: impl Fn(&Attention<'_>, Attended<'_, Vec<f32>>, &mut [f32]),
    ) -> Bits {
        let rows = self.out_grad.len() / self.heads.out_width();
        let mut out = vec![f32::NAN; self.out_grad.len()];
        let mut log_sums = vec![f32::NAN; rows * self.heads.heads];
        let mut grad = vec![f32::NAN; self.qkv.len()];
        forward(&self.attention(), &mut out, &mut log_sums);
        let known = Attended { qkv: &self.qkv, out: &out, log_sums: &log_sums };
        backward(&self.attention(), known, &mut grad);
        let all = [out, log_sums, grad];
        assert!(all.iter().flatten().all(|value| value.is_finite()), "not written");
        Bits(all.map(|values| values.into_iter().map(f32::to_bits).collect()))
    }

    /// By parts of the forward pass and of the backward pass.
    fn by(&self, parts: [Option<&Parts>; 2]) -> Bits {
        let [of_forward, of_backward] = parts;
        self.bits(
            |attention, out, log_sums| attention.forward_in(of_forward, &self.groups, &self.qkv, out, log_sums),
            |attention, known, grad| {
                attention.backward_in(of_backward, &self.groups, known, &self.out_grad, grad);
            },
        )
    }

    fn for_threads(&self, threads: usize) -> Bits {
        let attention = self.attention();
        let parts = [attention.forward_parts(&self.groups, threads), attention.backward_parts(&self.groups, threads)];
        self.by(parts.each_ref().map(Option::as_ref))
    }

    /// By those of the current pool.
    fn on_pool(&self) -> Bits {
        self.bits(
            |attention, out, log_sums| attention.forward(&self.groups, &self.qkv, out, log_sums),
            |attention, known, grad| attention.backward(&self.groups, known, &self.out_grad, grad),
        )
    }
}

fn heads(heads: usize, kv_heads: usize, head_dim: usize) -> Heads {
    Heads { heads, kv_heads, head_dim, scale: 0.3, softcap: None, window: None, rotates: true }
}

/// That parts have every tile and every key once, keys from multiples of
/// [`LANES`].
fn check_cover(call: &Call, parts: &Parts, has_keys: bool) {
    for (index, span) in spans_of(&call.groups).into_iter().enumerate() {
        let rows = if span.len() >= LARGE_SPAN { 64 } else { 4 };
        for head in 0..call.heads.heads {
            let parts = parts.queries.iter().filter(|part| part.span == index && part.head == head);
            let tiles: Vec<usize> = parts.flat_map(|part| part.tiles.clone()).collect();
            assert_eq!(tiles, (0..span.own.len().div_ceil(rows)).collect::<Vec<_>>());
        }
        for kv_head in 0..call.heads.kv_heads {
            let mut next = 0;
            for part in parts.keys.iter().filter(|part| part.span == index && part.kv_head == kv_head) {
                assert!(part.keys.start == next && !part.keys.is_empty() && next.is_multiple_of(LANES));
                next = part.keys.end;
            }
            assert_eq!(next, if has_keys { span.len() } else { 0 });
        }
    }
}

/// Prompts that are shared, answers of no row of their own, spans below and
/// above [`LARGE_SPAN`], last tiles of one row and a few, last ranges of keys likewise.
const SHAPES: [&[(usize, &[usize])]; 6] = [
    &[(1, &[0])],
    &[(5, &[30, 12, 0]), (70, &[1])],
    &[(100, &[40, 61, 3])],
    &[(1, &[160]), (150, &[14, 9, 11])],
    &[(193, &[0, 1, 4, 0, 130])],
    &[(63, &[162]), (3, &[2, 190]), (0, &[227])],
];

#[test]
fn the_finest_parts_have_the_bits_of_the_whole() {
    for dim in [3, 5, 7, 8, 13, 16, 24, 32, 33, 64, 80, 128] {
        let ways = [
            (None, None, true),
            (Some(1), None, true),
            (Some(7), Some(2.0), true),
            (Some(70), None, false),
            (Some(170), Some(5.0), true),
        ];
        for (index, (window, softcap, rotates)) in ways.into_iter().enumerate() {
            for (number, shape) in SHAPES.iter().enumerate() {
                let (heads_of, kv_heads) = [(4, 2), (3, 1), (2, 2)][(index + number) % 3];
                let heads = Heads { window, softcap, rotates, ..heads(heads_of, kv_heads, dim) };
                let call = Call::new(heads, groups(shape));
                let parts = call.attention().finest_parts(&call.groups);
                check_cover(&call, &parts, true);
                assert!(call.by([Some(&parts); 2]) == call.by([None; 2]), "{heads:?} {shape:?}");
            }
        }
    }
}

/// Ranges of keys from every multiple of [`LANES`] to every other.
#[test]
fn ranges_of_keys_have_the_bits_of_the_whole() {
    for (dim, prompt, answer) in [(8, 20, 55), (12, 31, 66), (8, 150, 27), (20, 193, 1), (64, 64, 130), (128, 161, 18)]
    {
        for (window, softcap) in [(None, None), (Some(18), Some(3.0)), (Some(100), None)] {
            let heads = Heads { window, softcap, ..heads(2, 1, dim) };
            let call = Call::new(heads, groups(&[(prompt, &[0, answer])]));
            let expected = call.by([None; 2]);
            let spans = spans_of(&call.groups);
            let ends = prompt + answer;
            for start in (0..ends).step_by(LANES) {
                for end in (start + LANES..ends + LANES).step_by(LANES) {
                    // What is before, the range and what is after.
                    let parts = spans.iter().enumerate().flat_map(|(span, of)| {
                        let ranges: [Range<usize>; 3] = [0..start, start..end, end..ends + LANES];
                        let keys = ranges.map(|range| range.start.min(of.len())..range.end.min(of.len()));
                        keys.into_iter().filter(|keys| !keys.is_empty()).map(move |keys| KeyPart {
                            span,
                            kv_head: 0,
                            keys,
                        })
                    });
                    let mut parts = Parts { queries: Vec::new(), keys: parts.collect() };
                    for (span, of) in spans.iter().enumerate() {
                        let rows = if of.len() >= LARGE_SPAN { 64 } else { 4 };
                        let tiles = 0..of.own.len().div_ceil(rows);
                        parts.queries.extend((0..2).map(|head| QueryPart { span, head, tiles: tiles.clone() }));
                    }
                    check_cover(&call, &parts, true);
                    assert!(call.by([None, Some(&parts)]) == expected, "{heads:?} {prompt} {answer} {start}..{end}");
                }
            }
        }
    }
}

#[test]
fn more_threads_have_the_bits_of_one() {
    for (shape, threads) in
        [(&[(90, &[40, 61, 3][..])][..], [3, 7, 64, 200]), (&[(40, &[300, 260][..]), (700, &[9])], [5, 9, 64, 1000])]
    {
        let call = Call::new(heads(6, 2, 32), groups(shape));
        let one = call.for_threads(1);
        let mut cuts = 0;
        for threads in threads {
            let (attention, groups) = (call.attention(), &call.groups);
            for (parts, has_keys) in
                [(attention.forward_parts(groups, threads), false), (attention.backward_parts(groups, threads), true)]
            {
                parts.iter().for_each(|parts| check_cover(&call, parts, has_keys));
                cuts += usize::from(parts.is_some());
            }
            assert!(call.for_threads(threads) == one, "{threads}");
        }
        assert!(cuts >= 7, "{cuts}");
    }
}

#[test]
fn a_pool_of_seven_has_the_bits_of_one() {
    let call = Call::new(heads(4, 2, 16), groups(&[(150, &[200, 3, 77])]));
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| call.on_pool())
    };
    let is_cut = |threads: usize| {
        let (attention, groups) = (call.attention(), &call.groups);
        (attention.forward_parts(groups, threads).is_some(), attention.backward_parts(groups, threads).is_some())
    };
    assert_eq!((is_cut(1), is_cut(7)), ((false, false), (true, true)));
    assert!(on(7) == on(1));
}

/// The work of every part of both passes, in multiply-adds, and how many parts
/// are of keys; none where a pass is not cut.
fn works(heads: Heads, of: &[(usize, &[usize])], threads: usize) -> [Option<(Vec<usize>, usize)>; 2] {
    let (groups, rope) = (groups(of), RopeTable { half: 0, cos: Vec::new(), sin: Vec::new() });
    let attention = Attention::new(&heads, &rope);
    let parts = [attention.forward_parts(&groups, threads), attention.backward_parts(&groups, threads)];
    parts.map(|parts| parts.map(|parts| (attention.works(&groups, &parts), parts.keys.len())))
}

/// Two sequences of 2048 tokens of a model with 12 heads, 4 of them of keys:
/// 8 tasks of a key-value head of a group each.
#[test]
fn sixty_four_threads_get_hundreds_of_parts() {
    let two: [(usize, &[usize]); 2] = [(1, &[2047]), (1, &[2047])];
    let [forward, backward] = works(heads(12, 4, 64), &two, 64).map(Option::unwrap);
    assert_eq!((forward.0.len(), forward.1), (264, 0));
    assert_eq!((backward.0.len(), backward.1), (272, 152));
    // Of seven products instead of five.
    let pairs = 12 * 2 * 64 * (64 * (1..=32).sum::<usize>());
    assert_eq!([&forward, &backward].map(|(works, _)| works.iter().sum::<usize>()), [2, 7].map(|n| n * 64 * pairs));
    for (works, _) in [forward, backward] {
        let (largest, all) = (*works.iter().max().unwrap(), works.iter().sum::<usize>());
        let average = all / works.len();
        assert!(2 * largest < 3 * average, "{largest} {average}");
        // Threads that each take the next part end before a share and the largest part.
        let mut ends = [0; 64];
        for work in works {
            *ends.iter_mut().min().unwrap() += work;
        }
        let last = *ends.iter().max().unwrap();
        assert!(last * 64 < all * 5 / 4, "{last} {}", all / 64);
    }
}

/// Where each thread has a task the work is not cut, nor where it is little, nor
/// the backward pass where its two products more are what other threads gain,
/// or where a part's products would not be the whole's.
#[test]
fn work_is_cut_for_idle_threads_alone() {
    let is_cut = |head_dim: usize, tokens: usize, threads: usize| {
        works(heads(12, 4, head_dim), &[(1, &[tokens][..]), (1, &[tokens])], threads).map(|parts| parts.is_some())
    };
    for (threads, expected) in
        [(1, [false; 2]), (2, [false; 2]), (8, [false; 2]), (9, [true, false]), (11, [true, false]), (12, [true; 2])]
    {
        assert_eq!(is_cut(64, 500, threads), expected, "{threads}");
    }
    assert_eq!(is_cut(64, 9, 64), [false; 2]);
    assert_eq!([2, 3, 512, 513].map(|dim| is_cut(dim, 500, 64)), [[true, false], [true; 2], [true; 2], [true, false]]);
}
