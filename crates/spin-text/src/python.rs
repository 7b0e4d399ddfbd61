//! Where Jinja's Python shows: what templates call on strings and values, as Python answers.
//!
//! minijinja and its `pycompat` know most of it; here is what they lack or answer differently.

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};
use minijinja_contrib::pycompat;

use crate::limits;

/// Teach `env` what is here.
pub fn register(env: &mut Environment<'_>) {
    env.set_unknown_method_callback(method);
    env.set_formatter(write);
    env.add_filter("trim", trim);
    env.add_test("iterable", |value: &Value| {
        value.as_str().is_some() || (!value.is_none() && value.try_iter().is_ok())
    });
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
}

/// Write a value into the text; lists and mappings as their `repr`.
fn write(out: &mut Output<'_>, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map => {
            let mut text = String::new();
            repr(value, &mut text)?;
            out.write_str(&text).map_err(|error| Error::new(ErrorKind::WriteFailure, error.to_string()))
        }
        _ => escape_formatter(out, state, value),
    }
}

fn repr(value: &Value, out: &mut String) -> Result<(), Error> {
    let separate = |i: usize, out: &mut String| out.push_str(if i == 0 { "" } else { ", " });
    match (value.kind(), value.as_str()) {
        (ValueKind::Seq, _) => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                separate(i, out);
                repr(&item, out)?;
            }
            out.push(']');
        }
        (ValueKind::Map, _) => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                separate(i, out);
                repr(&key, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out)?;
            }
            out.push('}');
        }
        (_, Some(text)) => {
            out.push_str(&quoted(text));
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// Python's `str.isspace` for one character.
fn is_space(c: char) -> bool {
    // To Unicode the separators of ASCII are no white space.
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn trim(value: Value, chars: Option<String>) -> String {
    let text = value.to_string();
    match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).to_owned(),
        None => text.trim_matches(is_space).to_owned(),
    }
}

/// The answer of a method of Python's, for an environment's unknown methods.
///
/// # Errors
/// When there is no such method, or its arguments do not fit.
pub fn method(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) if name == "format" => {
            limits::check_format(text)?;
            pycompat::unknown_method_callback(state, value, name, args)
        }
        Some(text) => string_method(text, name, args)
            .unwrap_or_else(|| pycompat::unknown_method_callback(state, value, name, args)),
        None => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// The answer of a string's method, unless `pycompat` gives it.
fn string_method(text: &str, name: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    let all = |is: fn(char) -> bool| no_args(args).map(|()| (!text.is_empty() && text.chars().all(is)).into());
    let cased = |is: fn(char) -> bool, not: fn(char) -> bool| {
        no_args(args).map(|()| (text.chars().any(is) && !text.chars().any(not)).into())
    };
    Some(match name {
        "strip" if is_bare(args) => Ok(text.trim_matches(is_space).into()),
        "lstrip" if is_bare(args) => Ok(text.trim_start_matches(is_space).into()),
        "rstrip" if is_bare(args) => Ok(text.trim_end_matches(is_space).into()),
        "split" => split(text, args, false),
        "rsplit" => split(text, args, true),
        "splitlines" => splitlines(text, args),
        "partition" => one(args).map(|by| match text.split_once(by) {
            Some((before, after)) => Value::from_iter([before, by, after]),
            None => Value::from_iter([text, "", ""]),
        }),
        "removeprefix" => one(args).map(|by| text.strip_prefix(by).unwrap_or(text).into()),
        "removesuffix" => one(args).map(|by| text.strip_suffix(by).unwrap_or(text).into()),
        "isspace" => all(is_space),
        "isdigit" | "isnumeric" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isupper" => cased(char::is_uppercase, char::is_lowercase),
        "islower" => cased(char::is_lowercase, char::is_uppercase),
        _ => return None,
    })
}

fn is_bare(args: &[Value]) -> bool {
    args.iter().all(Value::is_none)
}

fn no_args(args: &[Value]) -> Result<(), Error> {
    from_args(args)
}

fn one(args: &[Value]) -> Result<&str, Error> {
    let (text,) = from_args(args)?;
    Ok(text)
}

/// `str.split(sep=None, maxsplit=-1)`, or `str.rsplit`.
fn split(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (given, named): (Rest<Value>, Kwargs) = from_args(args)?;
    let (mut by, mut most): (Option<String>, Option<i64>) = from_args(&given)?;
    by = by.or(named.get("sep")?);
    most = most.or(named.get("maxsplit")?);
    named.assert_all_used()?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let mut parts = Vec::new();
    match (by.as_deref(), from_end) {
        (Some(""), _) => return Err(Error::new(ErrorKind::InvalidOperation, "split: the separator is empty")),
        (Some(by), false) => parts.extend(text.splitn(most.saturating_add(1), by)),
        (Some(by), true) => parts.extend(text.rsplitn(most.saturating_add(1), by)),
        (None, false) => {
            let mut rest = text.trim_start_matches(is_space);
            while !rest.is_empty() {
                let end = if parts.len() == most { None } else { rest.find(is_space) };
                let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
                parts.push(part);
                rest = after.trim_start_matches(is_space);
            }
        }
        (None, true) => {
            let mut rest = text.trim_end_matches(is_space);
            while !rest.is_empty() {
                let found = if parts.len() == most { None } else { rest.char_indices().rfind(|(_, c)| is_space(*c)) };
                let start = found.map_or(0, |(i, c)| i + c.len_utf8());
                parts.push(&rest[start..]);
                rest = rest[..start].trim_end_matches(is_space);
            }
        }
    }
    if from_end {
        parts.reverse();
    }
    Ok(Value::from_iter(parts))
}

fn splitlines(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep,): (Option<bool>,) = from_args(args)?;
    let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let found = rest.find(ends);
        let end = found.unwrap_or(rest.len());
        let after = &rest[end..];
        let length = if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        lines.push(&rest[..if keep == Some(true) { end + length } else { end }]);
        rest = &after[length..];
    }
    Ok(Value::from_iter(lines))
}

/// Python's `repr` of a text, but for letters that Unicode does not print, which
/// Python escapes, too.
pub fn quoted(text: &str) -> String {
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
