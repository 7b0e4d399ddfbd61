//! The report in a real browser: it is quiet, reads on a phone, works by
//! keyboard, leads from a score to the answers, and hostile answers are text.

use std::path::{Path, PathBuf};

use serde_json::Value;
use spin_report::report::browser::{Cell, Reply, Row, Source};
use spin_report::report::charts::Figures;
use spin_report::report::data::{Model, Run};
use spin_report::report::lineage::{Lineages, Link};
use spin_report::report::scores::Board;
use spin_report::report::{Report, html};
use spin_run::schema::ScoreRow;

use crate::project::{Project, shipped};
use crate::webdriver::Browser;

fn text(browser: &Browser, id: &str) -> String {
    browser.run(&format!("return document.getElementById('{id}').textContent;")).as_str().expect("text").to_owned()
}

fn assert_fits(browser: &Browser, width: u32) {
    let wide = browser.run("return document.documentElement.scrollWidth;").as_u64().expect("a number");
    assert!(wide <= u64::from(width), "{wide} wide on a screen of {width}");
}

#[test]
#[ignore = "needs chromium and chromedriver"]
fn a_score_leads_to_its_record_and_to_its_answers() {
    let project = Project::new();
    project.run_plan("never");
    let tasks = shipped("pipelines/tasks");
    for model in ["--iteration 0", "--baseline sft-more"] {
        project.run(&format!("spin-bench eval {model} --include-path {} --tasks opposites", tasks.display()));
    }
    let said = project.run("spin-bench report --out out.html");
    assert!(said.contains("wrote out.html, out.md and") && said.contains("charts in out/"), "{said}");
    let page = std::fs::read(project.path("out.html")).unwrap();
    project.run("spin-bench report --out again.html");
    assert!(page == std::fs::read(project.path("again.html")).unwrap(), "the same store gives the same page");
    let markdown = std::fs::read_to_string(project.path("out.md")).unwrap();
    assert!(markdown.contains("| sft-more") && markdown.contains("](out/scores-nll-per-token.svg)"), "{markdown}");
    assert!(project.path("out/training-pairs-loss.svg").exists());

    let browser = Browser::start();
    browser.open(&project.path("out.html"), "");
    browser.wait("!document.getElementById('browser').hidden");
    for part in [
        "iter-0",
        "iter-2",
        "sft-more",
        "accuracy, sampled",
        "spin-fit run.toml --iteration 1",
        "opposites",
        "file:train.jsonl",
    ] {
        let has = browser.run(&format!("return document.body.textContent.includes('{part}');"));
        assert_eq!(has, true, "{part}");
    }
    // All links of the page lead somewhere, and ids are there once.
    let broken = browser.run(
        "return [...document.querySelectorAll('a[href^=\"#a-\"], nav a')].map((a) => a.getAttribute('href').slice(1)) \
         .filter((id) => !document.getElementById(id));",
    );
    assert_eq!(broken, serde_json::json!([]));
    let twice = browser.run(
        "const ids = [...document.querySelectorAll('[id]')].map((e) => e.id); \
         return ids.filter((id, i) => ids.indexOf(id) !== i);",
    );
    assert_eq!(twice, serde_json::json!([]));
    // Headings follow each other, images say what they are, tables are named.
    let skipped = browser.run(
        "let last = 0, bad = []; for (const h of document.querySelectorAll('h1,h2,h3,h4')) { const n = Number(h.tagName[1]); \
         if (n > last + 1) bad.push(h.textContent); last = n; } return bad;",
    );
    assert_eq!(skipped, serde_json::json!([]));
    let unnamed = browser.run(
        "return [...document.querySelectorAll('svg[role=img], svg[role=group]')].filter((s) => !s.querySelector('title')?.textContent).length \
         + [...document.querySelectorAll('table')].filter((t) => !t.caption).length \
         + [...document.querySelectorAll('#tools select, #tools input')].filter((c) => !c.labels.length).length;",
    );
    assert_eq!(unnamed, 0);

    // From a number to its record.
    browser.click("#scores td a");
    browser.wait("document.querySelector('details.record[open]')");
    let record = browser.run("return document.querySelector('details.record[open]').textContent;");
    let record = record.as_str().unwrap();
    assert!(record.contains("scores/tiny/iter-0@v1") && record.contains("Made from"), "{record}");
    // From a number to the answers that made it.
    browser.click("#scores a.rows");
    browser.wait("document.getElementById('outcome').value === 'wrong'");
    let marks = browser.run(
        "return [...document.querySelectorAll('#list .marks')].map((m) => m.firstChild.textContent).every((s) => s === '✗');",
    );
    assert_eq!(marks, true);
    assert!(text(&browser, "status").contains("of 40 rows"), "{}", text(&browser, "status"));
    // Tokens are shaded, and the source of pairs is there.
    assert!(browser.run("return document.querySelectorAll('#detail .t').length;").as_u64().unwrap() > 4);
    browser.choose("source", "1");
    assert!(text(&browser, "status").contains("rows"), "{}", text(&browser, "status"));
    for (width, height) in [(360, 740), (1280, 900)] {
        browser.screen(width, height);
        browser.open(&project.path("out.html"), "");
        assert_fits(&browser, width);
    }
    browser.assert_quiet();
}

/// Answers as nobody wants them.
const HOSTILE: [&str; 7] = [
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror=\"window.pwned = 2\">",
    "\u{202e}olleh\u{202c} \u{0}\u{7} end",
    "\u{301}\u{301}lone marks",
    "<!--<script>",
    "'\"><svg onload=window.pwned=3>",
    "javascript:window.pwned=4//\u{2028}`${window.pwned=5}`",
];

fn reply(text: &str, right: bool) -> Reply {
    let pieces: Vec<usize> = text.split_inclusive(' ').map(|word| word.encode_utf16().count()).collect();
    let logps = (0..=pieces.len()).map(|i| -0.7 * i as f32).collect();
    Reply { text: text.into(), pieces, logps, logp: -1.5, finish: "stop".into(), right: Some(right) }
}

/// A report of one run with hostile rows among ordinary ones, each with
/// answers of four models.
fn hostile_report(rows: usize) -> Report {
    let labels = ["iter-0", "iter-1", "<b>iter-2", "sft"];
    let row = |i: usize| {
        let odd = HOSTILE[i % HOSTILE.len()];
        let long = if i == 3 { "x".repeat(100_000) } else { "some more words of an answer ".repeat(4) };
        let cell = |m: usize| Cell {
            nll: Some(i as f64 / 10.0 + m as f64),
            margin: Some(i as f64 - 50.0),
            replies: vec![Some(reply(&format!("{odd} {long}{m}"), (i + m).is_multiple_of(3))), Some(reply(odd, m > 1))],
        };
        Row {
            id: format!("row-{i}{}", if i == 5 { odd } else { "" }),
            rank: (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            prompt: vec![("system".into(), odd.into()), ("user".into(), format!("question {i}? {odd}"))],
            real: format!("{odd} human {long}"),
            models: (0..labels.len()).map(cell).collect(),
        }
    };
    let scores = |m: usize| -> Vec<ScoreRow> {
        let one = |i: usize| ScoreRow {
            task: "exact_match".into(),
            metric: "exact_match,none,sampled".into(),
            row_id: format!("row-{i}"),
            value: f64::from(u8::from((i + m).is_multiple_of(3))),
            weight: 1.0,
            prediction: None,
            target: None,
        };
        (0..rows).map(one).collect()
    };
    let models: Vec<Model> = labels
        .iter()
        .enumerate()
        .map(|(m, label)| Model {
            label: (*label).into(),
            iteration: (m < 3).then_some(m),
            scores: Link { reference: format!("scores/<script>window.pwned=6</script>/{m}@v1"), content: "c".into() },
            rows: scores(m),
        })
        .collect();
    let board = Board::of(&models.iter().map(|model| model.rows.as_slice()).collect::<Vec<_>>());
    let run = Run {
        name: HOSTILE[1].into(),
        file: HOSTILE[0].into(),
        seed: 1,
        beta: 0.1,
        models,
        missing: vec![(HOSTILE[0].into(), HOSTILE[5].into())],
        board,
        trainings: Vec::new(),
        answers: Vec::new(),
        leaderboard: Default::default(),
        commands: vec![format!("spin-fit '{}'", HOSTILE[0])],
    };
    let source = Source {
        name: format!("held out {}", HOSTILE[1]),
        id: "held-out-0".into(),
        models: labels.map(str::to_owned).to_vec(),
        decodings: vec!["sampled".into(), "greedy".into()],
        margin: Some("m".into()),
        rows: (0..rows).map(row).collect(),
        all: rows,
    };
    Report::new(vec![run], Lineages::default(), vec![source])
}

fn written(dir: &Path, rows: usize) -> PathBuf {
    let report = hostile_report(rows);
    let page = html(&report, &Figures::of(&report));
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
    assert!(!page.contains("<script>window") && !page.contains("<img") && !page.contains('\0'));
    let path = dir.join("hostile.html");
    std::fs::write(&path, page).unwrap();
    path
}

#[test]
#[ignore = "needs chromium and chromedriver"]
fn hostile_answers_are_text_and_keys_work() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), 2000);
    let browser = Browser::start();
    browser.screen(1280, 900);
    browser.open(&path, "");
    browser.wait("!document.getElementById('browser').hidden");
    let first = |browser: &Browser| browser.run("return document.querySelector('#list .id').textContent;");
    let shown = |browser: &Browser| text(browser, "detail-title");
    assert_eq!(text(&browser, "status"), "2,000 of 2,000 rows");
    assert_eq!(browser.run("return document.querySelectorAll('#list li').length;"), 50);

    // Every row is shown once; nothing of it runs or becomes an element.
    browser.run("document.querySelector('#list button').focus();");
    for i in 0..HOSTILE.len() {
        assert!(shown(&browser).starts_with(&format!("row-{i}")), "{}", shown(&browser));
        browser.press(&["j"]);
    }
    let detail =
        browser.run("return document.querySelectorAll('#detail img, #detail script, #detail svg, #detail b').length;");
    assert_eq!(detail, 0);
    browser.press(&["k", "k"]);
    assert!(shown(&browser).contains("row-5'\""), "{}", shown(&browser));
    assert_eq!(browser.run("return location.hash.includes('pair=row-5');"), true);
    browser.open(&path, "#pair=row-2&source=held-out-0");
    let answer = text(&browser, "detail");
    assert!(answer.contains("U+202E") && answer.contains("U+0000") && !answer.contains('\u{202e}'), "{answer}");

    // Search, by the key that leads there.
    browser.press(&["/"]);
    browser.press(&["Q", "u", "e", "s", "t", "i", "o", "n", " ", "1", "9", "9", "?"]);
    browser.wait("document.getElementById('status').textContent === '1 of 2,000 rows'");
    assert_eq!(first(&browser), "row-199");
    browser.press(&["\u{e00c}"]);
    browser.wait("document.activeElement.closest('#list')");
    browser.click("#clear");
    browser.wait("document.getElementById('status').textContent === '2,000 of 2,000 rows'");

    // Sort, filter, pages.
    browser.choose("sort", "nll-down");
    browser.run("document.getElementById('list').querySelector('button').click();");
    assert_eq!(first(&browser), "row-199".to_owned() + "9");
    browser.choose("sort", "margin-up");
    browser.click("#clear");
    assert_eq!(first(&browser), "row-0");
    browser.choose("model", "1");
    browser.choose("outcome", "correct");
    assert_eq!(text(&browser, "status"), "666 of 2,000 rows");
    browser.choose("change", "fixed");
    assert_eq!(text(&browser, "status"), "666 of 2,000 rows");
    browser.choose("outcome", "wrong");
    assert_eq!(text(&browser, "status"), "0 of 2,000 rows");
    assert_eq!(shown(&browser), "No row");
    browser.click("#clear");
    browser.run("document.querySelector('#list button').focus();");
    browser.press(&["n"]);
    assert_eq!(text(&browser, "page"), "Page 2 of 40");
    assert_eq!(first(&browser), "row-50");
    browser.press(&["p", "\u{e015}", "d"]);
    assert_eq!(browser.run("return document.getElementById('decoding').value;"), "1");
    browser.press(&["?"]);
    assert_eq!(browser.run("return document.getElementById('help').open;"), true);
    browser.press(&["\u{e00c}"]);
    assert_eq!(browser.run("return document.getElementById('help').open;"), false);
    // Keys can be switched off.
    browser.click("#keys");
    browser.run("document.querySelector('#list button').focus();");
    browser.press(&["?"]);
    assert_eq!(browser.run("return document.getElementById('help').open;"), false);

    // Addresses lead to rows and to filters.
    browser.open(&path, "#pair=row-1500&source=held-out-0");
    assert_eq!(shown(&browser), "row-1500");
    browser.run("location.hash = '#source=held-out-0&model=3&outcome=wrong&decoding=1';");
    browser.wait("document.getElementById('status').textContent !== '2,000 of 2,000 rows'");
    let chosen: Vec<Value> = ["model", "outcome", "decoding"]
        .iter()
        .map(|id| browser.run(&format!("return document.getElementById('{id}').value;")))
        .collect();
    assert_eq!(chosen, ["3", "wrong", "1"]);

    for (width, height) in [(360, 740), (1280, 900)] {
        browser.screen(width, height);
        browser.open(&path, "#pair=row-3&source=held-out-0");
        assert_eq!(shown(&browser), "row-3");
        assert_fits(&browser, width);
    }
    assert_eq!(browser.run("return typeof window.pwned;"), "undefined");
    browser.assert_quiet();
}
