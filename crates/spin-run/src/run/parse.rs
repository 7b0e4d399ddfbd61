//! Reading the run file: overrides, unknown keys, impossible values.

use std::path::Path;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use toml::{Table, Value};

use super::{FitConfig, ObjectiveKind, RunFile, SampleConfig, inherit};
use spin_store::error::{Result, StoreError};
use spin_store::store::is_name;

pub(super) fn load(path: &Path, overrides: &[String]) -> Result<RunFile> {
    let text = std::fs::read_to_string(path).map_err(StoreError::io("read the run file", path))?;
    let written: Table = toml::from_str(&text).map_err(|e| explain(path, &e))?;
    let mut table = inherit::extended(path, written.clone())?;
    for assignment in overrides {
        set(&mut table, assignment).map_err(|problem| StoreError::run(path, problem))?;
    }
    inherit::fill_seed(&mut table).map_err(|problem| StoreError::run(path, problem))?;
    let mut run: RunFile = if table == written {
        // Straight from the text, so that a message points at line and column.
        toml::from_str(&text).map_err(|e| explain(path, &e))?
    } else {
        table.try_into().map_err(|e| explain(path, &e))?
    };
    run.path = path.to_path_buf();
    check(&run)?;
    Ok(run)
}

/// `base` with the keys of `overrides` replaced.
pub(super) fn merged<T: Serialize + DeserializeOwned>(
    run: &RunFile,
    base: &T,
    overrides: &Table,
    place: &str,
) -> Result<T> {
    let mut table = Table::try_from(base).expect("configurations are plain tables");
    for (key, value) in overrides {
        table.insert(key.clone(), value.clone());
    }
    table
        .try_into()
        .map_err(|e: toml::de::Error| StoreError::run(&run.path, format!("in [{place}]: {}", with_hint(e.message()))))
}

/// A day, written as a string or as a date of TOML.
pub(super) fn day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(Some(text)),
        Value::Datetime(day) => Ok(Some(day.to_string())),
        other => Err(D::Error::custom(format!("{other} is no day; write one as \"2024-02-29\""))),
    }
}

/// Applies one `--set key.path=value`. Numbers in the path index arrays of
/// tables; the value is read as TOML, or as a string when it is not.
fn set(table: &mut Table, assignment: &str) -> Result<(), String> {
    let (path, text) =
        assignment.split_once('=').ok_or_else(|| format!("--set {assignment:?} has no `=`; write key.path=value"))?;
    let value = toml::from_str::<Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| Value::String(text.into()));
    let keys: Vec<&str> = path.split('.').map(str::trim).collect();
    let (last, parents) = keys.split_last().expect("split gives at least one");
    let mut current = table;
    let mut steps = parents.iter();
    while let Some(key) = steps.next() {
        let entry = current.entry((*key).to_owned()).or_insert_with(|| Value::Table(Table::new()));
        current = match entry {
            Value::Table(t) => t,
            Value::Array(items) => {
                let count = items.len();
                let index = steps.next().and_then(|i| i.parse::<usize>().ok());
                match index.and_then(|i| items.get_mut(i)) {
                    Some(Value::Table(t)) => t,
                    _ => return Err(format!("--set {path}: {key:?} is a list of {count} tables; write {key}.N.…")),
                }
            }
            _ => return Err(format!("--set {path}: {key:?} is a value, not a table")),
        };
    }
    current.insert((*last).to_owned(), value);
    Ok(())
}

fn explain(path: &Path, error: &toml::de::Error) -> StoreError {
    let text = error.to_string();
    StoreError::run(path, with_hint(text.trim_end()))
}

/// Adds the nearest valid key to serde's message about an unknown one.
pub(crate) fn with_hint(message: &str) -> String {
    let Some(rest) = message.split("unknown field `").nth(1).or_else(|| message.split("unknown variant `").nth(1))
    else {
        return message.to_owned();
    };
    let Some((unknown, rest)) = rest.split_once('`') else { return message.to_owned() };
    let nearest = rest
        .split('`')
        .skip(1)
        .step_by(2)
        .max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)));
    match nearest {
        Some(nearest) => format!("{message}\nhint: did you mean `{nearest}`?"),
        None => message.to_owned(),
    }
}

/// Values that no stage could work with, found before any work is done.
fn check(run: &RunFile) -> Result<()> {
    let bad = |problem: String| Err(StoreError::run(&run.path, problem));
    if !is_name(&run.run) || run.run.contains('/') {
        return bad(format!("run = {:?} is not a name; use letters, digits, `-`, `_` and `.`", run.run));
    }
    let template = &run.template;
    if template.max_prompt_length >= template.max_length {
        return bad(format!(
            "template.max_prompt_length = {} leaves no room for an answer in template.max_length = {}",
            template.max_prompt_length, template.max_length
        ));
    }
    if let Some(date) = &template.date
        && template.day().is_none()
    {
        return bad(format!("template.date = {date:?} is no day; write one from the year 1000 on, as \"2024-02-29\""));
    }
    if let Some(sft) = &run.sft {
        if sft.objective != ObjectiveKind::Sft {
            return bad("[sft] needs objective = \"sft\"".into());
        }
        check_fit(run, sft, "sft")?;
    }
    if run.model.init == super::Init::Random && run.sft.is_none() {
        return bad("model.init = \"random\" needs an [sft] table: a random model cannot play".into());
    }
    check_sample(run, &run.sample, "sample")?;
    check_fit(run, &run.fit, "fit")?;
    for t in 0..run.rounds() {
        check_sample(run, &run.sample_at(t)?, &format!("iteration.{t}.sample"))?;
        check_fit(run, &run.fit_at(t)?, &format!("iteration.{t}.fit"))?;
        let (pair, samples) = (run.pair_at(t)?, run.sample_at(t)?.samples_per_prompt);
        if pair.window == 0 {
            return bad(format!("iteration.{t}: pair.window must be at least 1"));
        }
        if pair.min_identical > 0 && pair.min_identical >= samples {
            return bad(format!(
                "iteration.{t}: pair.min_identical = {} leaves no answer of {samples} to tell apart; it must be below \
                 sample.samples_per_prompt",
                pair.min_identical
            ));
        }
    }
    for (i, b) in run.baseline.iter().enumerate() {
        if !is_name(&b.name) || b.name.contains('/') || b.name.starts_with("iter-") || b.name == "base" {
            return bad(format!("baseline name {:?} is not usable; take a word other than base and iter-N", b.name));
        }
        if run.baseline[..i].iter().any(|other| other.name == b.name) {
            return bad(format!("two baselines are called {:?}", b.name));
        }
        if b.from > run.rounds() || b.match_iterations > run.rounds() {
            return bad(format!("baseline {:?} refers to an iteration beyond the {} there are", b.name, run.rounds()));
        }
        let fit = run.baseline_fit(b)?;
        match (&b.preferences, fit.objective) {
            (None, ObjectiveKind::Sft) | (Some(_), ObjectiveKind::Spin | ObjectiveKind::Dpo) => {}
            (None, _) => {
                return bad(format!(
                    "baseline {:?}: this objective trains on pairs; name the file of a preference set, preferences = {{ \
                     path = \"…\" }}, or set objective = \"sft\" for the run's demonstrations",
                    b.name
                ));
            }
            (Some(_), _) => {
                return bad(format!(
                    "baseline {:?}: a preference set is trained on with fit.objective = \"dpo\" or \"spin\"; sft takes \
                     the run's demonstrations, so leave preferences out for it",
                    b.name
                ));
            }
        }
        check_fit(run, &fit, &format!("baseline.{}.fit", b.name))?;
    }
    run.bench.check().map_err(|problem| StoreError::run(&run.path, problem))?;
    run.eval.check().map_err(|problem| StoreError::run(&run.path, format!("in [eval]: {problem}")))?;
    Ok(())
}

fn check_sample(run: &RunFile, s: &SampleConfig, place: &str) -> Result<()> {
    let bad = |problem: &str| Err(StoreError::run(&run.path, format!("in [{place}]: {problem}")));
    if !(s.temperature >= 0.0 && s.temperature.is_finite()) {
        return bad("temperature must be 0 (greedy) or more");
    }
    if s.temperature > 0.0 && s.temperature < 1e-6 {
        return bad("temperature is too small to divide by; 0 is greedy");
    }
    if !(s.top_p > 0.0 && s.top_p <= 1.0) {
        return bad("top_p must be above 0 and at most 1");
    }
    if !(s.min_p >= 0.0 && s.min_p <= 1.0) {
        return bad("min_p must be between 0 and 1");
    }
    if !(s.repetition_penalty > 0.0 && s.repetition_penalty.is_finite()) {
        return bad("repetition_penalty must be above 0; 1 is none");
    }
    if s.stop.iter().any(String::is_empty) {
        return bad("stop has an empty text, which ends every answer");
    }
    if !(s.max_failed >= 0.0 && s.max_failed <= 1.0) {
        return bad("max_failed is a share, between 0 and 1");
    }
    if s.max_new_tokens == 0 || s.samples_per_prompt == 0 || s.rows_per_part == 0 {
        return bad("max_new_tokens, samples_per_prompt and rows_per_part must be at least 1");
    }
    Ok(())
}

fn check_fit(run: &RunFile, fit: &FitConfig, place: &str) -> Result<()> {
    fit.check().map_err(|problem| StoreError::run(&run.path, format!("in [{place}]: {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::OptimizerKind;

    const SMALL: &str = r#"
run = "t"
seed = 1
[model]
path = "m"
[data]
train = { path = "a.jsonl" }
test = { path = "b.jsonl" }
[fit]
learning_rate = 5e-7
[[iteration]]
[[iteration]]
fit = { learning_rate = 1e-7, beta = 5.0 }
[[baseline]]
name = "sft-more"
fit = { optimizer = "adamw" }
"#;

    fn load_text(text: &str, overrides: &[&str]) -> Result<RunFile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        load(&path, &overrides)
    }

    #[test]
    fn ladder_overrides_single_keys() {
        let run = load_text(SMALL, &[]).unwrap();
        assert_eq!(run.fit_at(0).unwrap().beta, 0.1);
        let second = run.fit_at(1).unwrap();
        assert_eq!((second.learning_rate, second.beta, second.batch_size), (1e-7, 5.0, 64));
        assert!(run.fit_at(2).unwrap_err().to_string().contains("2 [[iteration]] tables"));
        let baseline = run.baseline_fit(&run.baseline[0]).unwrap();
        assert_eq!((baseline.objective, baseline.optimizer), (ObjectiveKind::Sft, OptimizerKind::Adamw));
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let error = load_text(&SMALL.replace("learning_rate = 5e-7", "learning_rte = 1.0"), &[]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("run.toml") && text.contains("did you mean `learning_rate`?"), "{text}");
        let error = load_text(SMALL, &["sample.temprature=0.7"]).unwrap_err().to_string();
        assert!(error.contains("did you mean `temperature`?"), "{error}");
        let error = load_text(&SMALL.replace("beta = 5.0", "betta = 5.0"), &[]).unwrap_err().to_string();
        assert!(error.contains("iteration.1.fit") && error.contains("did you mean `beta`?"), "{error}");
    }

    #[test]
    fn a_date_is_a_day() {
        for text in ["template.date=2024-02-29", "template.date=\"2024-02-29\""] {
            let run = load_text(SMALL, &[text]).unwrap();
            assert_eq!(run.template.date.as_deref(), Some("2024-02-29"));
            assert_eq!(run.template.day(), chrono::NaiveDate::from_ymd_opt(2024, 2, 29));
        }
        for bad in ["2023-02-29", "2024-2-9", "29.02.2024", "today", "2024-02-29T10:00:00", "0999-01-01", "2024", ""] {
            let error = load_text(SMALL, &[&format!("template.date={bad}")]).unwrap_err().to_string();
            assert!(error.contains("is no day; write one") && error.contains("2024-02-29\""), "{error}");
        }
        let text = format!("{SMALL}\n[template]\ndate = 2024-02-29\n");
        assert_eq!(load_text(&text, &[]).unwrap().template.date.as_deref(), Some("2024-02-29"));
    }

    /// Artifacts that were made before `template.date` was known keep their identity.
    #[test]
    fn no_date_leaves_no_trace() {
        let params = |overrides: &[&str]| crate::run::as_params(&load_text(SMALL, overrides).unwrap().template);
        assert!(params(&[]).get("date").is_none());
        assert_eq!(params(&["template.date=2024-02-29"])["date"], "2024-02-29");
    }

    /// Artifacts that were made before `pair.min_identical` was known keep their identity.
    #[test]
    fn identical_answers_are_asked_for_below_all_of_them() {
        let pair = |overrides: &[&str]| crate::run::as_params(&load_text(SMALL, overrides).unwrap().pair);
        assert!(pair(&[]).get("min_identical").is_none());
        assert_eq!(pair(&["pair.min_identical=1", "sample.samples_per_prompt=2"])["min_identical"], 1);
        let error = load_text(SMALL, &["pair.min_identical=1"]).unwrap_err().to_string();
        assert!(error.contains("iteration.0") && error.contains("below sample.samples_per_prompt"), "{error}");
    }

    #[test]
    fn a_baseline_has_pairs_where_its_objective_needs_them() {
        let set = "preferences = { path = \"p.jsonl\" }\nfit = { objective = \"dpo\", loss = \"ipo\", optimizer";
        let run = load_text(&SMALL.replace("fit = { optimizer", set), &[]).unwrap();
        let fit = run.baseline_fit(&run.baseline[0]).unwrap();
        assert_eq!((fit.objective, fit.optimizer, fit.learning_rate), (ObjectiveKind::Dpo, OptimizerKind::Adamw, 5e-7));
        let said = |text: &str| load_text(&SMALL.replace("fit = { optimizer", text), &[]).unwrap_err().to_string();
        let text = said("fit = { objective = \"dpo\", optimizer");
        assert!(text.contains("\"sft-more\"") && text.contains("preferences = { path"), "{text}");
        let text = said("preferences = { path = \"p.jsonl\" }\nfit = { optimizer");
        assert!(text.contains("\"sft-more\"") && text.contains("objective = \"dpo\" or \"spin\""), "{text}");
    }

    #[test]
    fn a_file_extends_another_and_its_seed_names_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let load = |name: &str, sets: &[&str]| {
            super::load(&dir.path().join(name), &sets.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
        };
        let base =
            SMALL.replace("\"t\"", "\"words-{seed}\"").replace("\"a.jsonl\"", "\"a.jsonl\", shuffle = \"{seed}\"");
        write("base.toml", &base.replace("\"m\"", "\"models/{seed}/m\""));
        write(
            "child.toml",
            "extends = \"base.toml\"\nrun = \"hinge-{seed}\"\n[fit]\nloss = \"hinge\"\n[[iteration]]\n",
        );
        write("grandchild.toml", "extends = \"child.toml\"\n[data.test]\nlimit = 9\n");
        let run = load("grandchild.toml", &["seed=7", "fit.beta=2"]).unwrap();
        assert_eq!((run.run.as_str(), run.seed, run.rounds()), ("hinge-7", 7, 1));
        assert_eq!(run.model.path, Path::new("models/7/m"));
        let data = run.data.as_ref().unwrap();
        assert_eq!((data.train.shuffle, data.test.limit, data.test.path.as_path()), (Some(7), 9, Path::new("b.jsonl")));
        let fit = run.fit_at(0).unwrap();
        assert_eq!((fit.learning_rate, fit.beta, fit.loss), (5e-7, 2.0, Some(crate::run::Loss::Hinge)));
        assert_eq!(run.path, dir.path().join("grandchild.toml"));
        assert_eq!(load("base.toml", &[]).unwrap().run, "words-1");

        write("circle.toml", "extends = \"circle.toml\"\n");
        write("far.toml", "extends = \"../base.toml\"\n");
        write("gone.toml", "extends = \"none.toml\"\n");
        for (name, part) in [("circle.toml", "extends itself"), ("far.toml", "beside it"), ("gone.toml", "none.toml")] {
            let error = load(name, &[]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = load("child.toml", &["fit.los=1"]).unwrap_err().to_string();
        assert!(error.contains("did you mean `loss`?"), "{error}");
    }

    #[test]
    fn set_reaches_everything() {
        let run = load_text(SMALL, &["seed=7", "iteration.1.fit.beta=2", "data.train.limit=500", "run=other"]).unwrap();
        assert_eq!((run.seed, run.fit_at(1).unwrap().beta, run.run.as_str()), (7, 2.0, "other"));
        assert_eq!(run.data.as_ref().unwrap().train.limit, 500);
        for bad in ["seed", "iteration.9.fit.beta=1", "seed.x=1", "seed=-1", "template.max_length=10"] {
            assert!(load_text(SMALL, &[bad]).is_err(), "{bad} was accepted");
        }
    }
}
