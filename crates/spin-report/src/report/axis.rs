//! Scales of charts: which range, which ticks, how numbers are written.

/// A range with round ticks.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// Its name, with the unit.
    pub label: String,
    /// Where it begins.
    pub min: f64,
    /// Where it ends; above `min`.
    pub max: f64,
    /// Places with their texts.
    pub ticks: Vec<(f64, String)>,
    /// Whether the texts are names, and what lies between them means nothing.
    pub named: bool,
}

impl Axis {
    /// An axis that holds all values, with room at both ends and about `count`
    /// ticks. Values that are not finite are left out.
    pub fn of(label: &str, values: impl IntoIterator<Item = f64>, count: usize) -> Axis {
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.into_iter().filter(|value| value.is_finite()) {
            (min, max) = (min.min(value), max.max(value));
        }
        if min > max {
            (min, max) = (0.0, 1.0);
        }
        let room = match max - min {
            0.0 => min.abs().max(1.0) * 0.1,
            span => span * 0.06,
        };
        let ticks = ticks(min - room, max + room, count);
        Axis { label: label.into(), min: min - room, max: max + room, ticks, named: false }
    }

    /// An axis of places with names, each half a step from the ends.
    pub fn of_names(label: &str, names: Vec<String>) -> Axis {
        let ticks: Vec<(f64, String)> = names.into_iter().enumerate().map(|(i, name)| (i as f64, name)).collect();
        Axis { label: label.into(), min: -0.35, max: ticks.len().max(1) as f64 - 0.65, ticks, named: true }
    }

    /// Where a value lies, from 0 to 1.
    pub fn share(&self, value: f64) -> f64 {
        (value - self.min) / (self.max - self.min)
    }
}

/// Multiples of 1, 2 or 5 times a power of ten between two values.
fn ticks(min: f64, max: f64, count: usize) -> Vec<(f64, String)> {
    let rough = (max - min) / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((min / step).ceil() as i64, (max / step).floor() as i64);
    let decimals = usize::try_from((-step.log10().floor()) as i64).unwrap_or(0);
    (first..=last).map(|i| i as f64 * step).map(|value| (value, tick(value, decimals))).collect()
}

fn tick(value: f64, decimals: usize) -> String {
    if decimals > 5 || value.abs() >= 1e6 { short(value) } else { minus(&format!("{value:.decimals$}")) }
}

/// A number with the minus sign of typesetting, and no negative zero.
pub fn minus(text: &str) -> String {
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|b| b"0.".contains(&b)) => rest.into(),
        Some(rest) => format!("−{rest}"),
        None => text.into(),
    }
}

/// A number in few characters, for titles of marks.
pub fn short(value: f64) -> String {
    let size = value.abs();
    let text = if value != 0.0 && !(1e-3..1e6).contains(&size) {
        format!("{value:.2e}")
    } else if size >= 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.4}")
    };
    minus(&text)
}

/// `12,345`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(texts(&Axis::of("x", [0.512, 0.872], 5)), ["0.5", "0.6", "0.7", "0.8"]);
        assert_eq!(texts(&Axis::of("x", [-0.4, 0.4], 5)), ["−0.4", "−0.2", "0.0", "0.2", "0.4"]);
        assert_eq!(texts(&Axis::of("x", [0.0, 7e-7], 3)).first(), Some(&"0.0000"));
        let axis = Axis::of("x", [1.0, f64::NAN, 250.0], 5);
        assert!(axis.ticks.iter().all(|(at, _)| (axis.min..=axis.max).contains(at)), "{axis:?}");
        assert_eq!(texts(&axis), ["0", "100", "200"]);
    }

    #[test]
    fn thousands_are_set_apart() {
        let found = [0, 999, 1000, 1234567].map(grouped);
        assert_eq!(found, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn one_value_or_none_is_an_axis_too() {
        for values in [vec![], vec![3.0], vec![0.0], vec![f64::NAN]] {
            let axis = Axis::of("x", values, 5);
            assert!(axis.max > axis.min && axis.ticks.len() >= 2, "{axis:?}");
        }
        let middle = Axis::of_names("", vec!["a".into(), "b".into()]).share(0.5);
        assert!((middle - 0.5).abs() < 1e-12, "{middle}");
    }
}
