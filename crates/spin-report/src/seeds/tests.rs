use serde_json::json;

use super::*;

fn table(run: &str, seed: u64, models: &[(&str, f64, f64)]) -> (String, Value) {
    let model = |&(name, greedy, nll): &(&str, f64, f64)| {
        json!({"model": name, "results": {
            "exact_match": {"exact_match,none,greedy": {"value": greedy}},
            "nll": {"nll_per_token": {"value": nll}, "expected_match,temperature=1": {"value": greedy - 0.1},
                "nll_per_token,temperature=0.5": {"value": nll + 0.2},
                "expected_match,temperature=0.5": {"value": greedy}},
        }})
    };
    let models: Vec<Value> = models.iter().map(model).collect();
    (format!("{run}-{seed}.json"), json!({"run": format!("{run}-{seed}"), "seed": seed, "models": models}))
}

// scipy.stats: t.ppf(.975, 2) * sem([1, 2, 4]) and ttest_1samp([1, 2, 4], 0).pvalue.
#[test]
fn intervals_and_tests_are_students() {
    let spread = Spread::of(&[1.0, 2.0, 4.0]).unwrap();
    assert!((spread.mean - 7.0 / 3.0).abs() < 1e-12);
    assert!((spread.reach.unwrap() - 3.794584).abs() < 1e-5, "{spread:?}");
    assert!((t_test(&[1.0, 2.0, 4.0]) - 0.118083).abs() < 1e-5, "{}", t_test(&[1.0, 2.0, 4.0]));
    assert_eq!((t_test(&[1.0]), t_test(&[0.0, 0.0]), t_test(&[1.0, 1.0])), (1.0, 1.0, 0.0));
    assert_eq!(Spread::of(&[3.0]).unwrap().reach, None);
}

#[test]
fn seeds_are_paired_with_the_first_model_and_judged() {
    let tables = [
        table("words", 1, &[("iter-0", 0.50, 0.30), ("iter-1", 0.52, 0.31)]),
        table("words", 2, &[("iter-0", 0.60, 0.35), ("iter-1", 0.62, 0.36)]),
        table("words", 3, &[("iter-0", 0.40, 0.25), ("iter-1", 0.4205, 0.26)]),
        table("beta", 1, &[("iter-0", 0.50, 0.30), ("iter-1", 0.44, 0.29)]),
    ];
    let seeds = Seeds::read(&tables).unwrap();
    let text = seeds.render(false);
    // The seeds differ by a tenth, the models by .02: pairs show it.
    assert!(text.contains("words: iter-1"), "{text}");
    assert!(text.contains("+0.0202 ±0.0007 better"), "{text}");
    assert!(text.contains("+0.0100 ±0.0000 worse"), "{text}");
    // iter-0 at temperature .5 has .1 more match for .2 nats: at .01 nats more, .005.
    assert!(text.contains("+0.0152 ±0.0007 better"), "{text}");
    // One seed alone is no difference, and its own iter-0 is the first one.
    assert!(text.contains("beta: iter-1") && text.contains("-0.0600") && !text.contains("beta: iter-0"), "{text}");
    assert!(text.ends_with("Seeds 1, 2, 3.\n"), "{text}");
    assert!(seeds.render(true).starts_with("| model"), "{text}");
}

#[test]
fn what_is_no_table_is_refused() {
    let error = |tables: &[(String, Value)]| Seeds::read(tables).err().unwrap().to_string();
    assert!(error(&[("x.json".into(), json!({"run": "a"}))]).contains("x.json has no `run` and `seed`"));
    let one = || table("words", 1, &[("iter-0", 0.5, 0.3)]);
    assert!(error(&[one(), one()]).contains("words with seed 1 again"));
    assert!(error(&[]).contains("no table has a model"));
}
