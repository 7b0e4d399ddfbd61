//! Filters that only templates of tasks have, as Jinja and the harness define
//! them.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use regex::Regex;

use super::values::{float, str_of};

/// Jinja's `tojson` without arguments: `json.dumps(value, sort_keys=True)`,
/// safe for HTML.
pub(super) fn to_json(value: Value) -> Result<String, Error> {
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
pub(super) fn escape(value: &Value) -> String {
    let pairs = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ("\"", "&#34;")];
    pairs.iter().fold(str_of(value), |text, (c, escaped)| text.replace(c, escaped))
}

/// The harness's filter: `re.sub`.
pub(super) fn regex_replace(
    text: &str,
    pattern: &str,
    with: &str,
    count: Option<usize>,
    named: Kwargs,
) -> Result<String, Error> {
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
