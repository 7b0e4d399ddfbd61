use half::bf16;
use spin_cuda::{RotatedHeads, Rotation, rotate};

use crate::library::host;
use crate::memory::{Memory, Tested, as_f64, assert_close, ids, numbers};

fn rotated<T: Tested>() {
    let Some(host) = host() else { return };
    // Rows, heads, width, half, what else a row has.
    for (rows, heads, dim, half, more) in [(1, 1, 2, 1, 0), (7, 3, 16, 8, 16), (33, 2, 12, 3, 5), (9, 5, 64, 32, 0)] {
        let stride = heads * dim + more;
        let angles = numbers::<f32>(1, 50 * half);
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| angle.sin_cos()).unzip();
        let (values, positions) = (numbers::<T>(2, rows * stride), ids(3, rows, 50));
        let (cos_memory, sin_memory, places) = (Memory::of(&cos), Memory::of(&sin), Memory::of(&positions));
        let rotation = Rotation { cos: cos_memory.view(), sin: sin_memory.view(), half };
        let mut memory = Memory::of(&values);
        let of = RotatedHeads { heads, dim, stride };
        rotate(host, &mut memory.view_mut(), places.view(), &rotation, of, false).unwrap();
        // spin-model/src/rope.rs.
        let mut wanted = as_f64(&values);
        for (row, position) in wanted.chunks_exact_mut(stride).zip(&positions) {
            for head in row[..heads * dim].chunks_exact_mut(dim) {
                for i in 0..half {
                    let at = *position as usize * half + i;
                    let (a, b, c, s) = (head[i], head[i + half], f64::from(cos[at]), f64::from(sin[at]));
                    (head[i], head[i + half]) = (a * c - b * s, b * c + a * s);
                }
            }
        }
        assert_close(&memory.read(), &wanted, 2.0);
        rotate(host, &mut memory.view_mut(), places.view(), &rotation, of, true).unwrap();
        assert_close(&memory.read(), &as_f64(&values), 4.0);
    }
}

#[test]
fn heads_are_rotated_and_back() {
    rotated::<f32>();
    rotated::<bf16>();
}

#[test]
fn heads_that_do_not_fit_are_refused() {
    let Some(host) = host() else { return };
    let (table, places, mut rows) = (Memory::of(&[0.0_f32; 8]), Memory::of(&[0_u32; 2]), Memory::of(&[0.0_f32; 15]));
    let rotation = Rotation { cos: table.view(), sin: table.view(), half: 4 };
    for (heads, dim, stride) in [(1, 8, 8), (1, 7, 7), (2, 8, 8)] {
        let of = RotatedHeads { heads, dim, stride };
        assert!(rotate(host, &mut rows.view_mut(), places.view(), &rotation, of, false).is_err(), "{of:?}");
    }
}
