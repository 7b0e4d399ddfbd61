//! `ast.literal_eval`: reads back what Python's `repr` writes.

use serde_json::{Map, Number, Value};

use super::text::strip;

/// Lists in lists, at most.
const DEPTH: usize = 100;

/// The value of a Python literal: texts, numbers, `True`, `False`, `None`,
/// lists, tuples (as lists) and dictionaries with texts for keys.
///
/// ```
/// use serde_json::json;
/// use spin_bench::harness::literal::eval;
///
/// assert_eq!(eval("['a', \"b\\'\", 1, (2.5,), None]"), Some(json!(["a", "b'", 1, [2.5], null])));
/// assert_eq!(eval("[a, b]"), None);
/// ```
pub fn eval(text: &str) -> Option<Value> {
    let text = strip(text);
    let mut parser = Parser { rest: text };
    let value = parser.value(0)?;
    parser.space();
    parser.rest.is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
    }

    fn eat(&mut self, text: &str) -> bool {
        self.space();
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.space();
        if depth > DEPTH {
            return None;
        }
        match self.rest.chars().next()? {
            '[' => {
                self.eat("[");
                self.items("]", depth).map(|(items, _)| Value::Array(items))
            }
            '(' => {
                self.eat("(");
                let (mut items, comma) = self.items(")", depth)?;
                // Parentheses around one value without a comma are no tuple.
                if items.len() == 1 && !comma { items.pop() } else { Some(Value::Array(items)) }
            }
            '{' => {
                self.eat("{");
                self.entries(depth)
            }
            '\'' | '"' => {
                let mut text = self.text()?;
                // Texts side by side are one.
                loop {
                    self.space();
                    if !self.rest.starts_with(['\'', '"']) {
                        return Some(Value::String(text));
                    }
                    text += &self.text()?;
                }
            }
            c if c.is_ascii_alphabetic() => {
                let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(end);
                self.rest = rest;
                match word {
                    "True" => Some(Value::Bool(true)),
                    "False" => Some(Value::Bool(false)),
                    "None" => Some(Value::Null),
                    _ => None,
                }
            }
            _ => self.number(),
        }
    }

    /// Values up to a closing bracket, and whether a comma ends them.
    fn items(&mut self, close: &str, depth: usize) -> Option<(Vec<Value>, bool)> {
        let (mut items, mut comma) = (Vec::new(), true);
        while !self.eat(close) {
            if !comma {
                return None;
            }
            items.push(self.value(depth + 1)?);
            comma = self.eat(",");
        }
        Some((items, comma))
    }

    fn entries(&mut self, depth: usize) -> Option<Value> {
        let (mut map, mut comma) = (Map::new(), true);
        while !self.eat("}") {
            if !comma {
                return None;
            }
            let Value::String(key) = self.value(depth + 1)? else { return None };
            if !self.eat(":") {
                return None;
            }
            map.insert(key, self.value(depth + 1)?);
            comma = self.eat(",");
        }
        Some(Value::Object(map))
    }

    fn number(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        let digits = word.trim_start_matches(['+', '-']);
        let leading_zero = digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
        // Python refuses 007.
        if leading_zero && digits.bytes().any(|b| b != b'0') {
            return None;
        }
        if let Ok(whole) = word.parse::<i64>() {
            return Some(Value::from(whole));
        }
        if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return None;
        }
        Number::from_f64(word.parse().ok()?).map(Value::Number)
    }

    fn text(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        self.rest = &self.rest[1..];
        let (mut out, mut chars) = (String::new(), self.rest.char_indices());
        loop {
            let (at, c) = chars.next()?;
            match c {
                c if c == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(out);
                }
                '\n' => return None,
                '\\' => {
                    let (_, escaped) = chars.next()?;
                    let mut hex = |digits: usize| {
                        let text: String = (0..digits).map_while(|_| chars.next().map(|(_, c)| c)).collect();
                        let code = (text.len() == digits).then(|| u32::from_str_radix(&text, 16).ok())??;
                        char::from_u32(code)
                    };
                    match escaped {
                        'n' => out.push('\n'),
                        't' => out.push('\t'),
                        'r' => out.push('\r'),
                        'a' => out.push('\u{7}'),
                        'b' => out.push('\u{8}'),
                        'f' => out.push('\u{c}'),
                        'v' => out.push('\u{b}'),
                        '\n' => {}
                        '\\' | '\'' | '"' => out.push(escaped),
                        'x' => out.push(hex(2)?),
                        'u' => out.push(hex(4)?),
                        'U' => out.push(hex(8)?),
                        // Octal and named characters are rare enough to refuse.
                        '0'..='7' | 'N' => return None,
                        other => out.extend(['\\', other]),
                    }
                }
                c => out.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // Expected values: ast.literal_eval of Python 3.11.
    #[test]
    fn reads_what_python_reads() {
        let cases = [
            ("['a', 'b']", json!(["a", "b"])),
            (" [ 1 , -2, 2.5, 1e3, 1e-05 ] ", json!([1, -2, 2.5, 1000.0, 1e-5])),
            ("('a',)", json!(["a"])),
            ("('a')", json!("a")),
            ("()", json!([])),
            ("[True, False, None]", json!([true, false, null])),
            (r"['it\'s', 'a\nb', '\x41\u00e9', '\d']", json!(["it's", "a\nb", "Aé", "\\d"])),
            ("['a' \"b\", 'c',]", json!(["ab", "c"])),
            ("{'a': [1], 'b': {}}", json!({"a": [1], "b": {}})),
            ("0", json!(0)),
        ];
        for (text, value) in cases {
            assert_eq!(eval(text), Some(value), "{text}");
        }
    }

    #[test]
    fn refuses_what_python_refuses() {
        let deep = "[".repeat(5000);
        for text in ["", "[a]", "['a'", "['a' 1]", "[1,,2]", "007", "1 2", "'a\nb'", "f('x')", "nan", "[1] x", &deep] {
            assert_eq!(eval(text), None, "{text}");
        }
    }
}
