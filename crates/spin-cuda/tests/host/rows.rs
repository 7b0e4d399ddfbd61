use half::bf16;
use spin_cuda::{SegmentViews, Segments, add_segments, gather};

use crate::library::host;
use crate::memory::{Memory, Tested, as_f64, assert_close, ids, numbers};

fn gathered<S: Tested, T: Tested>() {
    let Some(host) = host() else { return };
    for (table, rows, width) in [(1, 1, 1), (10, 7, 33), (40, 33, 8), (5, 3, 1_100)] {
        let (from, chosen) = (numbers::<S>(1, table * width), ids(2, rows, table as u64));
        let mut to = Memory::<T>::poisoned(rows * width);
        gather(host, Memory::of(&from).view(), Memory::of(&chosen).view(), &mut to.view_mut(), width, 1.5).unwrap();
        let row = |id: &u32| from[*id as usize * width..][..width].iter().map(|v| v.get() * 1.5);
        assert_close(&to.read(), &chosen.iter().flat_map(row).collect::<Vec<_>>(), 1.0);
    }
}

#[test]
fn rows_are_gathered() {
    gathered::<f32, f32>();
    gathered::<f32, bf16>();
    gathered::<bf16, f32>();
    gathered::<bf16, bf16>();
}

fn added<S: Tested, T: Tested>() {
    let Some(host) = host() else { return };
    for (table, rows, width) in [(1, 1, 1), (3, 70, 33), (40, 33, 8), (5, 9, 1_100)] {
        for add in [true, false] {
            let (from, targets) = (numbers::<S>(1, rows * width), ids(2, rows, table as u64));
            let before = numbers::<T>(3, table * width);
            let segments = Segments::new(&targets);
            let (order, starts) = (Memory::of(&segments.order), Memory::of(&segments.starts));
            let chosen = Memory::of(&segments.targets);
            let views = SegmentViews { order: order.view(), starts: starts.view(), targets: chosen.view() };
            let mut to = Memory::of(&before);
            add_segments(host, Memory::of(&from).view(), &views, &mut to.view_mut(), width, 0.5, add).unwrap();
            let mut wanted = as_f64(&before);
            if !add {
                targets.iter().for_each(|id| wanted[*id as usize * width..][..width].fill(0.0));
            }
            for (row, id) in from.chunks_exact(width).zip(&targets) {
                let sums = wanted[*id as usize * width..][..width].iter_mut();
                sums.zip(row).for_each(|(sum, value)| *sum += 0.5 * value.get());
            }
            assert_close(&to.read(), &wanted, 10.0);
        }
    }
}

#[test]
fn rows_are_added_to_rows() {
    added::<f32, f32>();
    added::<f32, bf16>();
    added::<bf16, f32>();
    added::<bf16, bf16>();
}

#[test]
fn segments_are_in_the_order_of_rows() {
    let segments = Segments::new(&[5, 2, 5, 2, 9]);
    assert_eq!(segments.order, [1, 3, 0, 2, 4]);
    assert_eq!((segments.starts, segments.targets), (vec![0, 2, 4, 5], vec![2, 5, 9]));
    assert_eq!(Segments::new(&[]).starts, [0]);
}
