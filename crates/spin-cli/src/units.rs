//! Bytes and seconds for people.

/// Bytes, as coarse as they are worth.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..0x4000_0000 => format!("{} MiB", bytes.div_ceil(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// Seconds, as coarse as they are known.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_coarse_as_they_are_known() {
        let text = [0.04, 42.0, 99.6, 754.0, 9_000.0, 400_000.0].map(duration);
        assert_eq!(text, ["0.0 s", "42 s", "100 s", "13 min", "2.5 h", "5 days"]);
    }
}
