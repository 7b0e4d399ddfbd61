//! Templates of task files, set up as lm-evaluation-harness sets up Jinja:
//! undefined names are errors, final line breaks stay, values print as in
//! Python.
//!
//! What strings and values can do is the chat templates' ([`python`]); here is
//! what only expressions of tasks need: `list.index`, `'...' % value`, floats
//! and lists as Python prints them, `regex_replace`.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value, escape_formatter};
use regex::Regex;
use spin_text::{limits, python};

/// Bytes that a template may make of a row: more is a mistake, or an attack.
const LONGEST: usize = 4 << 20;

/// A row's value as templates see it: lists and mappings that print as in
/// Python wherever they are printed, in `~` and `join` too.
pub fn value_of(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Array(items) => Value::from_object(List(items.iter().map(value_of).collect())),
        serde_json::Value::Object(row) => mapping(row),
        scalar => Value::from_serialize(scalar),
    }
}

/// A row, or a mapping in it.
pub fn mapping(row: &serde_json::Map<String, serde_json::Value>) -> Value {
    Value::from_object(Mapping(row.iter().map(|(key, value)| (key.clone(), value_of(value))).collect()))
}

#[derive(Debug)]
struct List(Vec<Value>);

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0.iter().map(repr).collect::<Vec<_>>().join(", "))
    }
}

#[derive(Debug)]
struct Mapping(Vec<(String, Value)>);

impl Object for Mapping {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        self.0.iter().find(|(own, _)| own == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(key, _)| Value::from(key.as_str())).collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = |(key, value): &(String, Value)| format!("{}: {}", quoted(key), repr(value));
        write!(f, "{{{}}}", self.0.iter().map(entry).collect::<Vec<_>>().join(", "))
    }
}

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

/// `str` of a value: lists and mappings by their `repr`.
pub fn str_of(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => repr(value),
    }
}

/// `repr` of a value.
fn repr(value: &Value) -> String {
    let items = |value: &Value| value.try_iter().map(|items| items.collect::<Vec<_>>()).unwrap_or_default();
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            format!("[{}]", items(value).iter().map(repr).collect::<Vec<_>>().join(", "))
        }
        ValueKind::Map => {
            let entry = |key: &Value| {
                format!("{}: {}", repr(key), value.get_item(key).map_or_else(|_| "None".into(), |v| repr(&v)))
            };
            format!("{{{}}}", items(value).iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
        }
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        // In a list nothing else would tell that it is one.
        ValueKind::Undefined => "Undefined".into(),
        _ => value.to_string(),
    }
}

/// `repr` of a float: the shortest digits that read back, in scientific form
/// outside of 1e-4 and 1e16.
pub fn float(value: f64) -> String {
    if !value.is_finite() {
        let sign = if value == f64::NEG_INFINITY { "-" } else { "" };
        return format!("{sign}{}", if value.is_nan() { "nan" } else { "inf" });
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').expect("scientific form has an exponent");
    let exponent: i32 = exponent.parse().expect("a number");
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// `repr` of a text.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote || c == '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
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

/// Jinja's `tojson` without arguments: `json.dumps(value, sort_keys=True)`,
/// safe for HTML.
fn to_json(value: Value) -> Result<String, Error> {
    let json =
        serde_json::to_value(value).map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}")))?;
    let mut out = String::new();
    dump(&json, &mut out);
    Ok(out)
}

fn dump(value: &serde_json::Value, out: &mut String) {
    let separate = |i: usize, out: &mut String| out.push_str(if i == 0 { "" } else { ", " });
    match value {
        serde_json::Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                separate(i, out);
                dump(item, out);
            }
            out.push(']');
        }
        serde_json::Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                separate(i, out);
                dump_text(key, out);
                out.push_str(": ");
                dump(&map[key], out);
            }
            out.push('}');
        }
        serde_json::Value::String(text) => dump_text(text, out),
        serde_json::Value::Number(number) if number.is_f64() => {
            out.push_str(&float(number.as_f64().unwrap_or(f64::NAN)))
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn dump_text(text: &str, out: &mut String) {
    let quoted = serde_json::Value::String(text.to_owned()).to_string();
    for unit in quoted.encode_utf16() {
        match u8::try_from(unit).ok().filter(u8::is_ascii).map(char::from) {
            Some(c) if !"<>&'".contains(c) => out.push(c),
            _ => out.push_str(&format!("\\u{unit:04x}")),
        }
    }
}

/// `markupsafe.escape`.
fn escape(value: &Value) -> String {
    let pairs = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ("\"", "&#34;")];
    pairs.iter().fold(str_of(value), |text, (c, escaped)| text.replace(c, escaped))
}

/// The harness's filter: `re.sub`.
fn regex_replace(text: &str, pattern: &str, with: &str, count: Option<usize>, named: Kwargs) -> Result<String, Error> {
    let count = count.or(named.get("count")?).unwrap_or(0);
    named.assert_all_used()?;
    let pattern = Regex::new(pattern).map_err(|e| {
        Error::new(ErrorKind::InvalidOperation, format!("regex_replace: {e} (look-around is not supported)"))
    })?;
    // Python's \1 and \g<name> are $1 and $name here.
    let mut replacement = String::new();
    let mut rest = with;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '$' => replacement.push_str("$$"),
            '\\' => {
                let group = rest.strip_prefix("g<").and_then(|r| r.split_once('>'));
                let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
                match (group, digits) {
                    (Some((name, after)), _) => {
                        replacement.push_str(&format!("${{{name}}}"));
                        rest = after;
                    }
                    (None, 1..) => {
                        replacement.push_str(&format!("${{{}}}", &rest[..digits]));
                        rest = &rest[digits..];
                    }
                    _ => {
                        let escaped = rest.chars().next().unwrap_or('\\');
                        rest = &rest[escaped.len_utf8().min(rest.len())..];
                        replacement.push(match escaped {
                            'n' => '\n',
                            't' => '\t',
                            other => other,
                        });
                    }
                }
            }
            c => replacement.push(c),
        }
    }
    Ok(pattern.replacen(text, count, replacement.as_str()).into_owned())
}

/// The filter that stands for `'...' % value`.
const PERCENT: &str = "__percent";

fn percent(state: &State<'_, '_>, text: &str, values: Rest<Value>) -> Result<Value, Error> {
    // `%s` of a list is its `repr`.
    let plain = |value: &Value| match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::None => Value::from(str_of(value)),
        _ => value.clone(),
    };
    let mut args = vec![Value::from(text)];
    args.extend(values.iter().map(plain));
    state.apply_filter("format", &args)
}

/// A source in which `'...' % value` is a filter: the engine has `%` for
/// numbers alone. Only texts in quotes before the sign are known to be texts.
pub fn without_percent(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = ["{{", "{%", "{#"].into_iter().filter_map(|mark| rest.find(mark)).min() {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let upto = |mark: &str| from.find(mark).map_or(from.len(), |at| at + mark.len());
        let end = match &from[..2] {
            "{{" => end_of(from, "}}"),
            "{%" => end_of(from, "%}"),
            _ => upto("#}"),
        };
        let raw = from.starts_with("{%") && from[2..end].trim_start_matches(['-', '+']).trim_start().starts_with("raw");
        let end = if raw { upto("endraw") } else { end };
        match raw || from.starts_with("{#") {
            true => out.push_str(&from[..end]),
            false => out.push_str(&expression(&from[..end])),
        }
        rest = &from[end..];
    }
    out + rest
}

/// Where a block ends, its closing mark included; marks in texts do not count.
fn end_of(block: &str, close: &str) -> usize {
    let mut at = 2;
    while at < block.len() {
        if block[at..].starts_with(close) {
            return at + 2;
        }
        at += token(&block[at..]);
    }
    block.len()
}

/// Length of a text in quotes, or of one character.
fn token(text: &str) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    if first != '\'' && first != '"' {
        return first.len_utf8();
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == first => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn expression(block: &str) -> String {
    let (mut out, mut at) = (String::new(), 0);
    while at < block.len() {
        let length = token(&block[at..]);
        let (found, after) = block[at..].split_at(length);
        out.push_str(found);
        at += length;
        let sign = after.trim_start();
        let is_text = found.starts_with(['\'', '"']) && length > 1;
        if !is_text || !sign.starts_with('%') || sign.starts_with("%}") {
            continue;
        }
        let value = sign[1..].trim_start();
        let length = operand(value);
        let inner = &value[..length];
        // A tuple's values are the arguments; so is one value in parentheses.
        let tuple = inner.strip_prefix('(').and_then(|i| i.strip_suffix(')')).filter(|_| bracket(inner) == inner.len());
        let inner = expression(tuple.unwrap_or(inner));
        out.push_str(&format!("|{PERCENT}({})", inner.trim_end().trim_end_matches(',')));
        at = block.len() - value.len() + length;
    }
    out
}

/// Length of a bracket with all that is in it.
fn bracket(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match text.as_bytes()[at] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += token(&text[at..]);
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Length of a value with its attributes, calls and filters.
fn operand(text: &str) -> usize {
    let word = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    let number = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let mut at = match text.chars().next() {
        Some('(' | '[' | '{') => bracket(text),
        Some('\'' | '"') => token(text),
        Some('-' | '+') => 1 + operand(&text[1..]),
        Some(c) if c.is_ascii_digit() => number(text),
        _ => word(text),
    };
    loop {
        let rest = &text[at..];
        let gap = rest.len() - rest.trim_start().len();
        let rest = rest.trim_start();
        match rest.chars().next() {
            Some('(' | '[') => at += gap + bracket(rest),
            Some('.' | '|') => {
                let name = &rest[1..];
                let space = name.len() - name.trim_start().len();
                at += gap + 1 + space + word(name.trim_start());
            }
            _ => return at,
        }
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
