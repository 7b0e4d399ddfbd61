//! The page as a whole: what is in it, what is not, and that it is the same
//! each time.

use serde_json::json;
use spin_run::schema::{MetricsRow, ScoreRow};

use super::browser::{Cell, Reply, Row, Source};
use super::charts::Figures;
use super::data::{Model, Report, Run, Training};
use super::lineage::{Lineages, Link};
use super::scores::Board;
use super::{html, markdown};

const NAME: &str = "</script><b onclick=\"x\">'&\u{202e}\u{0}`|";

fn link(reference: &str) -> Link {
    Link { reference: reference.into(), content: "0123456789abcdef".into() }
}

fn scores(m: usize, with_margins: bool) -> Vec<ScoreRow> {
    let mut out = Vec::new();
    for i in 0..40 {
        let mut add = |task: &str, metric: &str, value: f64, weight: f64| {
            let (task, metric, row_id) = (task.into(), metric.into(), format!("r{i}"));
            out.push(ScoreRow { task, metric, row_id, value, weight, prediction: None, target: None });
        };
        let right = |every: usize| f64::from(u8::from((i * 7) % 10 < every));
        add("exact_match", "exact_match,none,sampled", right(4 + 2 * m), 1.0);
        add("exact_match", "exact_match,none,greedy", right(6), 1.0);
        add("nll", "nll_per_token", 3.0 - m as f64 * 0.4 + (i % 5) as f64 * 0.1, 4.0);
        for t in [0.9, 0.7] {
            add("nll", &format!("nll_per_token,temperature={t}"), 3.5 - t, 4.0);
            add("nll", &format!("expected_match,temperature={t}"), 0.8 - t / 2.0, 1.0);
        }
        add("nll", "expected_match,temperature=1", 0.3, 1.0);
        if with_margins {
            add("margin", "logp_margin", i as f64 / 4.0 - 3.0 + m as f64, 1.0);
        }
    }
    out
}

fn run(name: &str, with_margins: bool) -> Run {
    let labels = ["iter-0", "iter-1", "sft-more"];
    let models: Vec<Model> = labels
        .iter()
        .enumerate()
        .map(|(m, label)| Model {
            label: (*label).into(),
            iteration: (m < 2).then_some(m),
            scores: link(&format!("scores/{name}/{label}@v1")),
            rows: scores(m, with_margins),
        })
        .collect();
    let board = Board::of(&models.iter().map(|model| model.rows.as_slice()).collect::<Vec<_>>());
    let update = |update: u32, paired: bool| MetricsRow {
        update,
        loss: 0.7 / f64::from(update),
        rewards_margins: paired.then_some(f64::from(update)),
        logps_real: paired.then_some(-3.0),
        logps_generated: paired.then_some(-4.0),
        ..MetricsRow::default()
    };
    let training = |label: &str, paired: bool| Training {
        label: label.into(),
        paired,
        is_first: label == "iter-0",
        link: link(&format!("metrics/{name}/{label}@v1")),
        rows: (1..9).map(|n| update(n, paired)).collect(),
    };
    Run {
        name: name.into(),
        file: format!("{name}.toml"),
        seed: 3,
        beta: 0.5,
        models,
        missing: vec![("iter-2".into(), "spin-bench x.toml --iteration 2".into())],
        board,
        trainings: vec![training("iter-0", false), training("iter-1", true)],
        answers: Vec::new(),
        leaderboard: Default::default(),
        commands: vec![format!("spin-fit '{name}'")],
    }
}

fn report(names: &[&str], with_margins: bool) -> Report {
    let reply = Reply {
        text: NAME.into(),
        pieces: vec![NAME.encode_utf16().count()],
        logps: vec![-1.0, -2.0],
        logp: -3.0,
        finish: "stop".into(),
        right: Some(false),
    };
    let row = Row {
        id: NAME.into(),
        rank: 0,
        prompt: vec![(NAME.into(), NAME.into())],
        real: NAME.into(),
        models: vec![Cell { nll: Some(1.0), margin: None, replies: vec![Some(reply)] }],
    };
    let source = Source {
        name: NAME.into(),
        id: "held-out-0".into(),
        models: vec![NAME.into()],
        decodings: vec!["sampled".into()],
        margin: None,
        rows: vec![row],
        all: 9,
    };
    let runs = names.iter().map(|name| run(name, with_margins)).collect();
    Report::new(runs, Lineages::default(), vec![source])
}

#[test]
fn names_and_answers_are_no_markup_and_bytes_follow_from_the_data() {
    let write = || {
        let report = report(&[NAME, "other"], true);
        let figures = Figures::of(&report);
        let files: Vec<String> = figures.all().map(super::charts::Figure::file).collect();
        (html(&report, &figures), markdown(&report, &figures, "out"), files)
    };
    let (page, text, files) = write();
    assert_eq!((page.clone(), text.clone(), files.clone()), write());
    assert!(!page.contains("<b onclick") && !page.contains('\u{202e}') && !page.contains('\0'));
    // One element with the data, one with the program.
    assert_eq!((page.matches("<script").count(), page.matches("</script>").count()), (2, 2));
    assert!(!page.contains("http://") || page.matches("http://").all(|_| page.contains("http://www.w3.org/2000/svg")));
    assert!(
        files
            .iter()
            .all(|file| file.starts_with("<svg ") && !file.contains("<b onclick") && !file.contains("</script"))
    );
    // Every mark has its backslash, but where commands stand as code.
    assert!(!text.contains('\u{202e}') && !text.contains('\0'));
    let prose: String = text.split("```").step_by(2).collect();
    let [all, escaped] = ["<b onclick", "\\<b onclick"].map(|mark| prose.matches(mark).count());
    assert!(all > 0 && all == escaped, "{text}");
    let start = page.find("id=\"pairs\">").unwrap() + "id=\"pairs\">".len();
    let data = &page[start..start + page[start..].find("</script>").unwrap()];
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["sources"][0]["rows"][0][2], json!(NAME));
    // What is not there is said.
    for words in ["Not scored yet: iter-2", "1 of 9 rows", "no evaluations", "count nothing", "no artifact"] {
        assert!(page.contains(words), "{words}");
    }
    // Each name of a file is there once.
    let figures = Figures::of(&report(&[NAME, "other"], true));
    let mut names: Vec<&str> = figures.all().map(|figure| figure.name.as_str()).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn temperatures_of_the_first_model_are_a_curve_of_their_own() {
    let report = report(&["a"], true);
    let figures = Figures::of(&report);
    let [sampled, greedy] = &figures.frontier[..] else { panic!("two decodings") };
    assert!(sampled.svg.contains(">T 0.7<") && sampled.svg.contains(">T 0.9<") && !sampled.svg.contains(">T 1<"));
    assert_eq!(sampled.svg.matches("class=\"dashed").count(), 1);
    assert!(sampled.note.contains("costs no training") && !greedy.svg.contains(">T 0.7<"));
    // Two runs from the same θ0 have the same curve.
    let both = Figures::of(&self::report(&["a", "b"], true));
    assert_eq!(both.frontier[0].svg.matches("class=\"dashed").count(), 1);
}

#[test]
fn margins_are_drawn_where_they_are_and_missed_where_not() {
    let with = report(&["a"], true);
    let figures = Figures::of(&with);
    let titles: Vec<&str> = figures.margins.iter().map(|figure| figure.title.as_str()).collect();
    assert_eq!(titles, ["Margins", "Margins as rewards"]);
    // Beside θ0 the second model gained 1 nat on every row, times beta.
    assert_eq!(figures.margins[1].rows[0][1..5], ["40", "0.5000", "0.5000", "0.5000"].map(str::to_owned));
    let without = report(&["a"], false);
    let figures = Figures::of(&without);
    assert!(figures.margins.is_empty());
    assert!(html(&without, &figures).contains("lacks &quot;margin&quot;"));
}
