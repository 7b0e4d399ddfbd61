use half::bf16;
use spin_cuda::{Attention, NO_ROW, NewRows, PagedScratch, Pages, SPLIT, attention_paged, cache_append, splits};

use crate::library::host;
use crate::memory::{Memory, Tested, as_f64, assert_close, numbers};
use crate::reference::{Shape, attend};

/// Positions of a page.
const PAGE: usize = 16;

struct Case {
    of: Attention,
    /// Tokens of each sequence; its last `new` of them are new.
    lengths: Vec<usize>,
    new: usize,
}

/// Keys and values of whole sequences put into pages that lie in any order, then the outputs of new rows.
fn outputs<T: Tested>(case: &Case, tokens: &[Vec<T>], only: Option<usize>) -> Vec<Vec<T>> {
    let host = host().expect("asked before");
    let Case { of, lengths, new } = case;
    let longest = *lengths.iter().max().unwrap();
    let (width, table_len) = (of.qkv_width(), longest.div_ceil(PAGE));
    let count = lengths.len() * table_len;
    // Pages backwards, so that neighbours are none.
    let tables: Vec<u32> = (0..count as u32).rev().collect();
    let tables = Memory::of(&tables);
    let pages = Pages { tables: tables.view(), table_len, page: PAGE };
    let mut keys = Memory::<T>::poisoned(count * PAGE * of.kv_heads * of.dim);
    let mut values = Memory::<T>::poisoned(count * PAGE * of.kv_heads * of.dim);
    let chosen = |sequence: &usize| only.is_none_or(|only| only == *sequence);
    for sequence in (0..lengths.len()).filter(chosen) {
        let qkv = Memory::of(&tokens[sequence]);
        let sequences = Memory::of(&vec![sequence as u32; lengths[sequence]]);
        let positions = Memory::of(&(0..lengths[sequence] as u32).collect::<Vec<_>>());
        let rows = NewRows { qkv: qkv.view(), sequences: sequences.view(), positions: positions.view() };
        cache_append(host, of, &rows, &pages, &mut keys.view_mut(), &mut values.view_mut()).unwrap();
    }
    // New rows of all sequences, with rows of none among them.
    let (mut qkv, mut sequences, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    for sequence in (0..lengths.len()).filter(chosen) {
        for position in lengths[sequence].saturating_sub(*new)..lengths[sequence] {
            qkv.extend_from_slice(&tokens[sequence][position * width..(position + 1) * width]);
            sequences.push(sequence as u32);
            positions.push(position as u32);
        }
        qkv.extend(vec![T::poison(); width]);
        sequences.push(u32::MAX);
        positions.push(NO_ROW);
    }
    let rows = positions.len();
    let (qkv, sequences_memory, positions_memory) = (Memory::of(&qkv), Memory::of(&sequences), Memory::of(&positions));
    let parts = splits(longest) * rows * of.heads;
    let (mut outs, mut sums) = (Memory::<f32>::poisoned(parts * of.dim), Memory::<f32>::poisoned(parts * 2));
    let mut out = Memory::<T>::poisoned(rows * of.out_width());
    let new_rows = NewRows { qkv: qkv.view(), sequences: sequences_memory.view(), positions: positions_memory.view() };
    let mut scratch = PagedScratch { outs: outs.view_mut(), sums: sums.view_mut() };
    let to = &mut out.view_mut();
    attention_paged(host, of, &new_rows, &pages, keys.view(), values.view(), longest, &mut scratch, to).unwrap();
    let _ = (outs.read(), sums.read());
    let mut by_sequence = vec![Vec::new(); lengths.len()];
    for ((row, sequence), position) in out.read().chunks_exact(of.out_width()).zip(&sequences).zip(&positions) {
        match *position == NO_ROW {
            true => assert!(row.iter().all(|value| value.get().is_nan()), "a row of no sequence was written"),
            false => by_sequence[*sequence as usize].extend_from_slice(row),
        }
    }
    by_sequence
}

fn compared<T: Tested>() {
    if host().is_none() {
        return;
    }
    let plain = |heads, kv_heads, dim| Attention { heads, kv_heads, dim, scale: 0.3, softcap: None, window: None };
    for case in [
        Case { of: plain(1, 1, 8), lengths: vec![1], new: 1 },
        Case { of: plain(4, 2, 16), lengths: vec![7, 1, 40, 33], new: 2 },
        Case { of: Attention { softcap: Some(1.5), ..plain(3, 1, 33) }, lengths: vec![SPLIT + 9, 3, SPLIT], new: 1 },
        Case { of: Attention { window: Some(20), ..plain(2, 1, 24) }, lengths: vec![SPLIT + 11, 5], new: 1 },
        Case { of: plain(18, 1, 32), lengths: vec![5, 19], new: 1 },
        Case { of: plain(9, 1, 136), lengths: vec![35], new: 1 },
    ] {
        let (of, shape) = (case.of, Shape { of: case.of });
        let tokens: Vec<Vec<T>> =
            (0..).zip(&case.lengths).map(|(seed, length)| numbers(seed, length * of.qkv_width())).collect();
        let found = outputs(&case, &tokens, None);
        for (sequence, (tokens, length)) in tokens.iter().zip(&case.lengths).enumerate() {
            let rows = as_f64(tokens);
            let first = length.saturating_sub(case.new);
            let mut wanted = vec![0.0; (length - first) * of.out_width()];
            for head in 0..of.heads {
                let queries: Vec<_> = (first..*length).map(|row| shape.query(&rows, row, head)).collect();
                let keys: Vec<_> = (0..*length).map(|row| shape.key(&rows, row, head)).collect();
                let values: Vec<_> = (0..*length).map(|row| shape.value(&rows, row, head)).collect();
                let sees = |q: usize, k: usize| shape.sees(first + q, k);
                let (outs, _) = attend(&queries, &keys, &values, shape.scores(), sees);
                for (row, out) in outs.iter().enumerate() {
                    let at = row * of.out_width() + head * of.dim;
                    wanted[at..at + of.dim].copy_from_slice(out);
                }
            }
            assert_close(&found[sequence], &wanted, 4.0);
        }
        // To the bit what each gets alone.
        for sequence in 0..case.lengths.len() {
            let alone = outputs(&case, &tokens, Some(sequence));
            assert_eq!(as_f64(&alone[sequence]), as_f64(&found[sequence]));
        }
    }
}

#[test]
fn sequences_of_all_lengths_attend_to_their_pages() {
    compared::<f32>();
    compared::<bf16>();
}

#[test]
fn pages_that_are_too_few_are_refused() {
    let Some(host) = host() else { return };
    let of = Attention { heads: 1, kv_heads: 1, dim: 8, scale: 1.0, softcap: None, window: None };
    let (qkv, zero, mut floats) = (Memory::of(&[0.0_f32; 24]), Memory::of(&[0_u32]), Memory::of(&[0.0_f32; 256]));
    let new = NewRows { qkv: qkv.view(), sequences: zero.view(), positions: zero.view() };
    let pages = Pages { tables: zero.view(), table_len: 1, page: 16 };
    let keys = Memory::of(&[0.0_f32; 128]);
    let (mut sums, mut out) = (Memory::of(&[0.0_f32; 2]), Memory::of(&[0.0_f32; 8]));
    let mut scratch = PagedScratch { outs: floats.view_mut(), sums: sums.view_mut() };
    let to = &mut out.view_mut();
    let refused = attention_paged(host, &of, &new, &pages, keys.view(), keys.view(), 17, &mut scratch, to);
    assert!(refused.unwrap_err().to_string().contains("17 positions"));
}
