//! Charts in our own few lines of SVG: axes, error bars, markers and dashes that
//! tell methods apart without colour, and labels at the lines themselves.
//!
//! Looks are classes of `assets/chart.css`; nothing has a style of its own, so
//! that a page may forbid those.

use super::axis::{Axis, short};
use super::escape;

/// The style sheet of all charts.
pub const STYLE: &str = include_str!("assets/chart.css");

/// Width of one character of a label, about.
pub const CHAR: f64 = 7.0;

/// A mark of a series.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    /// Place.
    pub x: f64,
    /// Place.
    pub y: f64,
    /// How far the interval reaches to both sides.
    pub reach_x: Option<f64>,
    /// The same upwards and downwards.
    pub reach_y: Option<f64>,
    /// What it is, for a pointer and for those who listen.
    pub title: String,
    /// What is written beside it.
    pub label: String,
}

/// Marks that belong together.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Name, written where it ends.
    pub name: String,
    /// Number of its look: colour, marker and dashes.
    pub look: usize,
    /// The marks.
    pub marks: Vec<Mark>,
    /// Whether a line goes through them.
    pub joined: bool,
    /// Whether the marks are drawn; without them it is a curve.
    pub dotted: bool,
    /// Whether marks are hollow and the line is dashed, whatever its look.
    pub hollow: bool,
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// File name without its end, and part of ids.
    pub name: String,
    /// Heading.
    pub title: String,
    /// What is to be seen, in a sentence.
    pub description: String,
    /// Axis to the right.
    pub x: Axis,
    /// Axis upwards.
    pub y: Axis,
    /// What is drawn.
    pub series: Vec<Series>,
}

/// A coordinate with one decimal.
pub fn at(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// Opens an SVG element with its name and its description.
pub fn open(name: &str, title: &str, description: &str, width: f64, height: f64) -> String {
    let (id, title, description) = (escape::id(name), escape::html(title), escape::html(description));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {} {}\" role=\"img\" \
         aria-labelledby=\"t-{id} d-{id}\"><title id=\"t-{id}\">{title}</title><desc id=\"d-{id}\">{description}</desc>",
        at(width),
        at(height)
    )
}

/// A text at a place; `class` says where it is anchored, too.
pub fn text(x: f64, y: f64, class: &str, words: &str) -> String {
    format!("<text x=\"{}\" y=\"{}\" class=\"{class}\">{}</text>", at(x), at(y), escape::html(words))
}

/// A straight line.
pub fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) -> String {
    format!("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" class=\"{class}\"/>", at(x1), at(y1), at(x2), at(y2))
}

/// A marker: each look has a shape of its own.
pub fn marker(x: f64, y: f64, look: usize, hollow: bool, title: &str) -> String {
    let class = format!("mark {}s{}", if hollow { "hollow " } else { "" }, look % LOOKS);
    let path = |points: &[(f64, f64)]| {
        let all: Vec<String> = points.iter().map(|(dx, dy)| format!("{},{}", at(x + dx), at(y + dy))).collect();
        format!("<polygon points=\"{}\" class=\"{class}\">", all.join(" "))
    };
    let (shape, end) = match look % LOOKS {
        0 => (format!("<circle cx=\"{}\" cy=\"{}\" r=\"4.2\" class=\"{class}\">", at(x), at(y)), "circle"),
        1 => (path(&[(-3.8, -3.8), (3.8, -3.8), (3.8, 3.8), (-3.8, 3.8)]), "polygon"),
        2 => (path(&[(0.0, -5.0), (4.8, 3.8), (-4.8, 3.8)]), "polygon"),
        3 => (path(&[(0.0, -5.4), (5.4, 0.0), (0.0, 5.4), (-5.4, 0.0)]), "polygon"),
        4 => (path(&[(0.0, 5.0), (4.8, -3.8), (-4.8, -3.8)]), "polygon"),
        5 => (
            path(
                &[(-1.6, -5.0), (1.6, -5.0), (1.6, -1.6), (5.0, -1.6), (5.0, 1.6), (1.6, 1.6), (1.6, 5.0)]
                    .into_iter()
                    .chain([(-1.6, 5.0), (-1.6, 1.6), (-5.0, 1.6), (-5.0, -1.6), (-1.6, -1.6)])
                    .collect::<Vec<_>>(),
            ),
            "polygon",
        ),
        _ => (path(&[(-5.0, 0.0), (-2.5, -4.4), (2.5, -4.4), (5.0, 0.0), (2.5, 4.4), (-2.5, 4.4)]), "polygon"),
    };
    format!("{shape}<title>{}</title></{end}>", escape::html(title))
}

/// How many looks there are before they repeat.
pub const LOOKS: usize = 7;

/// The plotting area of a chart.
struct Area<'a> {
    chart: &'a Chart,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Area<'_> {
    fn x(&self, value: f64) -> f64 {
        self.left + self.chart.x.share(value) * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - self.chart.y.share(value).clamp(-0.02, 1.02) * (self.bottom - self.top)
    }

    fn axes(&self) -> String {
        let mut out = String::new();
        for (value, words) in &self.chart.y.ticks {
            let y = self.y(*value);
            out += &line((self.left, y), (self.right, y), "grid");
            out += &text(self.left - 7.0, y + 3.6, "tick end", words);
        }
        for (value, words) in &self.chart.x.ticks {
            out += &text(self.x(*value), self.bottom + 16.0, "tick middle", words);
        }
        out += &line((self.left, self.bottom), (self.right, self.bottom), "axis");
        out += &text((self.left + self.right) / 2.0, self.bottom + 33.0, "name middle", &self.chart.x.label);
        out + &text(self.left - 46.0, self.top - 10.0, "name", &self.chart.y.label)
    }

    fn series(&self, series: &Series) -> String {
        let look = series.look % LOOKS;
        let mut out = String::new();
        let points: Vec<(f64, f64)> = series.marks.iter().map(|mark| (self.x(mark.x), self.y(mark.y))).collect();
        if series.joined && points.len() > 1 {
            let all: Vec<String> = points.iter().map(|(x, y)| format!("{},{}", at(*x), at(*y))).collect();
            let dashes = if series.hollow { "dashed" } else { "line" };
            out += &format!("<polyline points=\"{}\" class=\"{dashes} s{look}\"/>", all.join(" "));
        }
        let whisker = format!("whisker s{look}");
        for (mark, &(x, y)) in series.marks.iter().zip(&points).filter(|_| series.dotted) {
            if let Some(reach) = mark.reach_y {
                out += &line((x, self.y(mark.y - reach)), (x, self.y(mark.y + reach)), &whisker);
            }
            if let Some(reach) = mark.reach_x {
                out += &line((self.x(mark.x - reach), y), (self.x(mark.x + reach), y), &whisker);
            }
            out += &marker(x, y, look, series.hollow, &mark.title);
        }
        out
    }

    /// Labels of marks and of series' ends, each where it lies over no marker and
    /// no other label.
    fn labels(&self) -> String {
        let mut wanted: Vec<(f64, f64, usize, &str)> = Vec::new();
        let mut taken: Vec<Rect> = Vec::new();
        for series in &self.chart.series {
            let place = |mark: &Mark| (self.x(mark.x), self.y(mark.y));
            if series.dotted {
                taken.extend(series.marks.iter().map(place).map(|(x, y)| Rect::new(x - 5.0, y - 5.0, 10.0, 10.0)));
            }
            let named = series.marks.iter().filter(|mark| !mark.label.is_empty());
            wanted.extend(named.map(|mark| (place(mark).0, place(mark).1, series.look, mark.label.as_str())));
            if let Some(last) = series.marks.last().filter(|_| !series.name.is_empty()) {
                wanted.push((place(last).0, place(last).1, series.look, &series.name));
            }
        }
        wanted.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut out = String::new();
        for (x, y, look, words) in wanted {
            let width = words.chars().count() as f64 * CHAR;
            let beside = [(x + 8.0, 3.6), (x + 6.0, -9.0), (x + 6.0, 16.0), (x - 8.0 - width, 3.6)];
            let around = [(x - 6.0 - width, -9.0), (x - 6.0 - width, 16.0), (x - width / 2.0, -11.0)];
            // Where nothing is free it goes further down, at the edge.
            let edge = (x + 8.0).min(WIDTH - width - 2.0);
            let below = (2..12).map(|step| (edge, 3.6 + f64::from(step) * 12.5));
            let spots = beside.into_iter().chain(around).chain(below);
            let spots: Vec<Rect> = spots.map(|(left, down)| Rect::new(left, y + down - 9.5, width, 12.0)).collect();
            let is_free =
                |spot: &Rect| spot.is_inside(self.bottom + 10.0) && !taken.iter().any(|other| spot.meets(other));
            let spot = spots.iter().copied().find(is_free).unwrap_or(spots[0]);
            if (spot.top - y).abs() > 24.0 {
                out += &line((x, y), (spot.left - 2.0, spot.top + 6.0), "leader");
            }
            out += &text(spot.left, spot.top + 9.5, &format!("label s{}", look % LOOKS), words);
            taken.push(spot);
        }
        out
    }
}

/// A place that is taken.
#[derive(Clone, Copy, Debug)]
struct Rect {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Rect {
    fn new(left: f64, top: f64, width: f64, height: f64) -> Rect {
        Rect { left, top, right: left + width, bottom: top + height }
    }

    fn meets(&self, other: &Rect) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    fn is_inside(&self, bottom: f64) -> bool {
        self.left >= 2.0 && self.right <= WIDTH && self.top >= 2.0 && self.bottom <= bottom
    }
}

/// Width of every chart.
pub const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 250.0;

impl Chart {
    /// The chart as an element.
    pub fn draw(&self) -> String {
        let longest = |series: &Series| {
            let of_marks = series.marks.iter().map(|mark| (self.x.share(mark.x), mark.label.chars().count()));
            let end = series.marks.last().map(|mark| (self.x.share(mark.x), series.name.chars().count()));
            // Only what stands near the right edge needs room beside it.
            of_marks.chain(end).filter(|(share, _)| *share > 0.7).map(|(_, chars)| chars).max().unwrap_or(0)
        };
        let chars = self.series.iter().map(longest).max().unwrap_or(0);
        let right = WIDTH - (chars as f64 * CHAR + 14.0).clamp(12.0, 150.0);
        let area = Area { chart: self, left: 50.0, right, top: 26.0, bottom: HEIGHT - 42.0 };
        let mut out = open(&self.name, &self.title, &self.description, WIDTH, HEIGHT);
        out += &area.axes();
        self.series.iter().for_each(|series| out += &area.series(series));
        out + &area.labels() + "</svg>"
    }

    /// The same numbers as rows: series, where, value and interval.
    pub fn rows(&self) -> Vec<[String; 4]> {
        let place = |x: f64| {
            let named = self.x.ticks.iter().find(|(at, _)| self.x.named && *at == x);
            named.map_or_else(|| short(x), |(_, words)| words.clone())
        };
        let mut rows = Vec::new();
        for series in &self.series {
            for mark in &series.marks {
                let name = if mark.label.is_empty() { &series.name } else { &mark.label };
                let reach = mark.reach_y.map_or_else(String::new, |reach| format!("±{}", short(reach)));
                rows.push([name.clone(), place(mark.x), short(mark.y), reach]);
            }
        }
        rows
    }
}

/// An element as a file of its own, in light colours.
pub fn file(element: &str) -> String {
    let style = format!("<style>{STYLE}</style>");
    let at = element.find("</desc>").map_or(0, |at| at + "</desc>".len());
    format!("{}{style}{}\n", &element[..at], &element[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let mark = |x: f64, y: f64| Mark { x, y, reach_y: Some(0.02), title: format!("<{x}>"), ..Mark::default() };
        let series = |name: &str, look, y: f64| Series {
            name: name.into(),
            look,
            marks: vec![mark(0.0, y), mark(1.0, y)],
            joined: true,
            dotted: true,
            hollow: false,
        };
        Chart {
            name: "a".into(),
            title: "A & B".into(),
            description: "d".into(),
            x: Axis::of_names("round", vec!["θ0".into(), "1".into()]),
            y: Axis::of("accuracy", [0.4, 0.6], 4),
            series: vec![series("first", 0, 0.5), series("second", 1, 0.501)],
        }
    }

    #[test]
    fn texts_are_escaped_and_labels_do_not_lie_over_each_other() {
        let drawn = chart().draw();
        assert!(drawn.contains("A &amp; B") && drawn.contains("<title>&lt;0&gt;</title>"), "{drawn}");
        let places: Vec<f64> = drawn
            .match_indices("class=\"label")
            .map(|(at, _)| {
                let before = &drawn[..at];
                let y = &before[before.rfind("y=\"").unwrap() + 3..];
                y[..y.find('"').unwrap()].parse().unwrap()
            })
            .collect();
        assert_eq!(places.len(), 2);
        assert!((places[0] - places[1]).abs() >= 11.9, "{places:?}");
        assert!(!drawn.contains("style="), "a page may forbid styles of elements");
        assert_eq!(drawn, chart().draw());
    }

    #[test]
    fn a_file_has_its_looks_and_rows_have_the_numbers() {
        let file = file(&chart().draw());
        assert!(file.starts_with("<svg xmlns=") && file.contains("<style>") && file.ends_with("</svg>\n"));
        let rows = chart().rows();
        assert_eq!(rows[0], ["first", "θ0", "0.5000", "±0.0200"]);
        assert_eq!(rows[1][1], "1");
    }
}
