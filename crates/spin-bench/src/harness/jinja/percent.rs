//! `'...' % value`, for which the engine has no operator: a template's source is
//! rewritten so that a filter does it.

use minijinja::value::{Rest, ValueKind};
use minijinja::{Error, State, Value};

use super::values::str_of;

/// The filter that stands for `'...' % value`.
pub(super) const PERCENT: &str = "__percent";

pub(super) fn percent(state: &State<'_, '_>, text: &str, values: Rest<Value>) -> Result<Value, Error> {
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
