use half::bf16;
use spin_cuda::{Attention, TreePlan, TreeRows, TreeViews, attention_tree};

use crate::library::host;
use crate::memory::{Memory, Tested, as_f64, assert_close, ids, numbers};
use crate::reference::{Shape, attend};

/// A tree in depth-first order behind a path: parents, from which ends and positions follow.
struct Tree {
    positions: Vec<u32>,
    ends: Vec<u32>,
    path_ends: Vec<u32>,
    /// Row r sees these rows, and these positions of the path.
    sees: Vec<(Vec<usize>, Vec<usize>)>,
}

impl Tree {
    /// Each row below the one before, or below one of those above it; rows of several trees, where the path ends.
    fn random(seed: u64, rows: usize, path: usize) -> Self {
        let draws = ids(seed, rows, 8);
        let (mut open, mut sees) = (Vec::new(), Vec::new());
        let (mut ends, mut path_ends) = (vec![rows as u32; rows], vec![rows as u32; path]);
        let mut kept = path;
        for (row, draw) in draws.into_iter().enumerate() {
            // Mostly chains, so that sequences become longer than a tile.
            if draw == 0 && !open.is_empty() {
                let depth = ids(seed + row as u64, 1, open.len() as u64 + 1)[0] as usize;
                open.drain(depth..).for_each(|closed| ends[closed] = row as u32);
                if depth == 0 && kept > 1 {
                    let shorter = kept - 1 - ids(seed + 1, 1, (kept as u64 - 1).min(3))[0] as usize;
                    path_ends[shorter..kept].fill(row as u32);
                    kept = shorter;
                }
            }
            open.push(row);
            sees.push((open.clone(), (0..kept).collect::<Vec<usize>>()));
        }
        let positions = sees.iter().map(|(rows, path)| (path.len() + rows.len() - 1) as u32).collect();
        Self { positions, ends, path_ends, sees }
    }
}

fn compared<T: Tested>() {
    let Some(host) = host() else { return };
    let plain = |heads, kv_heads, dim| Attention { heads, kv_heads, dim, scale: 0.4, softcap: None, window: None };
    for (seed, (of, rows, path)) in [
        (plain(1, 1, 8), 1, 0),
        (plain(2, 1, 16), 33, 7),
        (plain(2, 2, 33), 60, 40),
        (Attention { window: Some(9), ..plain(2, 1, 24) }, 70, 12),
        (Attention { softcap: Some(1.0), window: Some(40), ..plain(3, 3, 8) }, 90, 50),
        (plain(2, 1, 140), 20, 5),
    ]
    .into_iter()
    .enumerate()
    {
        let (tree, shape) = (Tree::random(seed as u64 + 1, rows, path), Shape { of });
        let kv_width = of.kv_heads * of.dim;
        // Every second row, and the last.
        let wanted: Vec<u32> = (0..rows as u32).filter(|row| row % 2 == 0 || *row + 1 == rows as u32).collect();
        let qkv = numbers::<T>(2, rows * of.qkv_width());
        let queries: Vec<T> =
            wanted.iter().flat_map(|row| qkv[*row as usize * of.qkv_width()..][..of.out_width()].to_vec()).collect();
        let (path_keys, path_values) = (numbers::<T>(3, path * kv_width), numbers::<T>(4, path * kv_width));
        let plan = TreePlan::new(&tree.ends, &tree.path_ends, &wanted, of.dim).unwrap();
        let lists = [&plan.stretches, &plan.tiles, &wanted, &tree.positions, &tree.ends, &tree.path_ends];
        let [stretches, tiles, wanted_memory, positions, ends, path_ends] = lists.map(|list| Memory::of(list));
        let views = TreeViews {
            stretches: stretches.view(),
            tiles: tiles.view(),
            wanted: wanted_memory.view(),
            positions: positions.view(),
            ends: ends.view(),
            path_ends: path_ends.view(),
            dim: of.dim,
        };
        let memories = [&queries, &qkv, &path_keys, &path_values].map(|values| Memory::of(values));
        let given = TreeRows {
            queries: memories[0].view(),
            query_stride: of.out_width(),
            rows: memories[1].view(),
            row_stride: of.qkv_width(),
            key_column: of.out_width(),
            value_column: of.out_width() + kv_width,
            path_keys: memories[2].view(),
            path_values: memories[3].view(),
        };
        let mut out = Memory::<T>::poisoned(wanted.len() * of.out_width());
        attention_tree(host, &of, &views, &given, &mut out.view_mut()).unwrap();

        let (qkv, path_keys, path_values) = (as_f64(&qkv), as_f64(&path_keys), as_f64(&path_values));
        let mut outs = Vec::new();
        for row in &wanted {
            let (own, cached) = &tree.sees[*row as usize];
            for head in 0..of.heads {
                let kv_head = head / (of.heads / of.kv_heads);
                let column = kv_head * of.dim..(kv_head + 1) * of.dim;
                let path = |at: &usize| *at * kv_width + column.start..*at * kv_width + column.end;
                let mut keys: Vec<&[f64]> = cached.iter().map(|at| &path_keys[path(at)]).collect();
                keys.extend(own.iter().map(|row| shape.key(&qkv, *row, head)));
                let mut values: Vec<&[f64]> = cached.iter().map(|at| &path_values[path(at)]).collect();
                values.extend(own.iter().map(|row| shape.value(&qkv, *row, head)));
                let query = shape.query(&qkv, *row as usize, head);
                let last = keys.len() - 1;
                let sees = |_, key| shape.sees(last, key);
                outs.extend(attend(&[query], &keys, &values, shape.scores(), sees).0.concat());
            }
        }
        assert_close(&out.read(), &outs, 4.0);
    }
}

#[test]
fn rows_of_trees_attend_to_what_leads_to_them() {
    compared::<f32>();
    compared::<bf16>();
}
