use spin_cuda::{clip_factor, squared_norm, squared_norm_parts};
use spin_model::squares;

use crate::library::host;
use crate::memory::{Memory, numbers};

#[test]
fn the_norm_and_what_clips_it() {
    let Some(host) = host() else { return };
    for (len, max_norm) in [(1, 0.5), (7, 1e9), (129, 0.0), (16_384, 1.0), (50_001, 3.0)] {
        let values = numbers::<f32>(1, len);
        let mut parts = Memory::of(&vec![f64::NAN; squared_norm_parts(len)]);
        squared_norm(host, Memory::of(&values).view(), &mut parts.view_mut()).unwrap();
        let wanted = squares(&values);
        for (found, wanted) in parts.read().into_iter().zip(&wanted) {
            assert!((found - wanted).abs() <= 1e-13 * wanted, "{found} {wanted}");
        }
        let (mut norm, mut factor) = (Memory::of(&[f64::NAN]), Memory::of(&[f32::NAN]));
        clip_factor(host, parts.view(), &mut norm.view_mut(), &mut factor.view_mut(), max_norm).unwrap();
        let exact = wanted.iter().sum::<f64>().sqrt();
        assert!((norm.read()[0] - exact).abs() <= 1e-13 * exact);
        let wanted = if max_norm == 0.0 { None } else { spin_model::clip_factor(exact, max_norm) };
        assert!((f64::from(factor.read()[0]) - wanted.unwrap_or(1.0)).abs() < 1e-7, "{len}");
    }
}

#[test]
fn what_is_not_finite_is_not_clipped() {
    let Some(host) = host() else { return };
    for broken in [f64::NAN, f64::INFINITY] {
        let (mut norm, mut factor) = (Memory::of(&[0.0]), Memory::of(&[f32::NAN]));
        clip_factor(host, Memory::of(&[1.0, broken]).view(), &mut norm.view_mut(), &mut factor.view_mut(), 1.0)
            .unwrap();
        assert!(!norm.read()[0].is_finite());
        assert_eq!(factor.read(), [1.0]);
    }
}
