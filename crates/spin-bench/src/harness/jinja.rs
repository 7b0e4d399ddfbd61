//! Templates of task files, set up as lm-evaluation-harness sets up Jinja:
//! undefined names are errors, final line breaks stay, values print as in
//! Python.
//!
//! What strings and values can do is the chat templates' ([`python`]); here is
//! what only expressions of tasks need: `list.index`, `'...' % value`
//! (`percent.rs`), floats and lists as Python prints them (`values.rs`),
//! `regex_replace` (`filters.rs`).

mod filters;
mod percent;
mod values;

use minijinja::value::{ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value, escape_formatter};
use spin_text::{limits, python};

pub use percent::without_percent;
pub use values::{float, mapping, str_of, value_of};

use filters::{escape, regex_replace, to_json};
use percent::{PERCENT, percent};
use values::repr;

/// Bytes that a template may make of a row: more is a mistake, or an attack.
const LONGEST: usize = 4 << 20;

/// An environment for the templates of a task.
pub fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    python::register(&mut env);
    limits::apply(&mut env);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_keep_trailing_newline(true);
    env.set_unknown_method_callback(method);
    env.set_formatter(write);
    env.add_filter("regex_replace", regex_replace);
    env.add_filter("string", |value: &Value| str_of(value));
    env.add_filter("tojson", to_json);
    env.add_filter("e", escape);
    env.add_filter("escape", escape);
    env.add_filter(PERCENT, percent);
    env
}

/// A template's text of a row, of at most 4 MiB and in as many steps as a chat template may take.
///
/// # Errors
/// What the template engine says, or that the text has no end.
pub fn render(env: &Environment<'_>, name: &str, row: &Value) -> Result<String, Error> {
    limits::render(env, name, row, LONGEST)
}

/// Writes a value into the text.
fn write(out: &mut Output<'_>, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Number => {
            out.write_str(&str_of(value)).map_err(|e| Error::new(ErrorKind::WriteFailure, e.to_string()))
        }
        _ => escape_formatter(out, state, value),
    }
}

fn method(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.kind(), name) {
        (ValueKind::Seq | ValueKind::Iterable, "index") => {
            let (what,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *what);
            at.map(Value::from).ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, format!("{} is not in {}", repr(what), repr(value)))
            })
        }
        (ValueKind::String, "index") => {
            let (what,): (&str,) = from_args(args)?;
            let text = value.as_str().unwrap_or_default();
            let at = text.find(what).map(|at| text[..at].chars().count());
            at.map(Value::from).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))
        }
        _ => python::method(state, value, name, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &str, row: &str) -> Result<String, Error> {
        let mut env = environment();
        env.add_template_owned("t", without_percent(source))?;
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        render(&env, "t", &value_of(&row))
    }

    /// Expected values: lm_eval 0.4.13's `apply_template`, by
    /// `tests/golden/make_task_golden.py`.
    #[test]
    fn templates_print_like_the_harness() {
        let golden = include_str!("../../../../tests/golden/task_templates.json");
        let cases: Vec<[String; 3]> = serde_json::from_str(golden).unwrap();
        assert!(cases.len() > 30);
        for [source, row, expected] in cases {
            match (shown(&source, &row), expected.strip_prefix("ERROR")) {
                (Ok(text), None) => assert_eq!(text, expected, "{source}"),
                (Err(_), Some(_)) => {}
                (found, _) => panic!("{source}: {found:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn endless_texts_end() {
        for (source, problem) in [
            ("{{ range(10 ** 9)|list|length }}", "too many elements"),
            ("{% for i in range(5000) %}{% for j in range(5000) %}{% endfor %}{% endfor %}", "steps"),
            ("{% for a in q * 9999 %}{% for b in q * 9999 %}{% endfor %}{% endfor %}", "steps"),
            ("{% for i in range(900) %}{{ q * 10000 }}{% endfor %}", "more than 4194304 bytes"),
        ] {
            let error = format!("{:#}", shown(source, r#"{"q": "x"}"#).unwrap_err());
            assert!(error.contains(problem), "{source}: {error}");
        }
    }
}
