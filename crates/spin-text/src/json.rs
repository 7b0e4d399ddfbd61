//! The `tojson` filter, which `transformers` defines as Python's `json.dumps`; minijinja's own escapes
//! for HTML.

use std::io::{Error as IoError, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::limits;

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(crate) fn to_json(value: Value, args: Kwargs) -> Result<String, Error> {
    let failed = |what: &dyn std::fmt::Display| {
        Error::new(ErrorKind::InvalidOperation, format!("tojson cannot serialize this: {what}"))
    };
    let indent: Option<usize> = args.get("indent")?;
    if indent.is_some_and(|columns| columns > limits::INDENT) {
        let problem = format!("tojson: an indent of more than {} columns", limits::INDENT);
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    let separators: Option<Vec<String>> = args.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(failed(&"`separators` are two texts")),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let ascii = args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = args.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    args.assert_all_used()?;

    let mut value = serde_json::to_value(value).map_err(|error| failed(&error))?;
    if sorted {
        value.sort_all_objects();
    }
    let mut out = Vec::new();
    let python = Python { indent, item, key, ascii, level: 0, filled: false };
    value.serialize(&mut Serializer::with_formatter(&mut out, python)).map_err(|error| failed(&error))?;
    String::from_utf8(out).map_err(|error| failed(&error))
}

/// Where Python puts line breaks and separators.
struct Python {
    indent: Option<usize>,
    item: String,
    key: String,
    ascii: bool,
    level: usize,
    /// Whether the container that was left last has items.
    filled: bool,
}

impl Python {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> Result<(), IoError> {
        self.level += 1;
        self.filled = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> Result<(), IoError> {
        self.level -= 1;
        if self.filled {
            self.line(writer)?;
        }
        self.filled = true;
        writer.write_all(bracket)
    }

    fn begin<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<(), IoError> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.filled = true;
        self.line(writer)
    }

    fn line<W: ?Sized + Write>(&self, writer: &mut W) -> Result<(), IoError> {
        match self.indent {
            Some(indent) => write!(writer, "\n{:1$}", "", indent * self.level),
            None => Ok(()),
        }
    }
}

impl Formatter for Python {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<(), IoError> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<(), IoError> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<(), IoError> {
        self.begin(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> Result<(), IoError> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<(), IoError> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<(), IoError> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<(), IoError> {
        self.begin(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<(), IoError> {
        writer.write_all(self.key.as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> Result<(), IoError> {
        if !self.ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for unit in fragment.encode_utf16() {
            // Python escapes what is not ASCII, surrogates one by one.
            match u8::try_from(unit).ok().filter(u8::is_ascii) {
                Some(byte) => writer.write_all(&[byte])?,
                None => write!(writer, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumps(value: &str, args: &[(&str, Value)]) -> Result<String, Error> {
        let value: serde_json::Value = serde_json::from_str(value).unwrap();
        to_json(Value::from_serialize(value), args.iter().map(|(name, value)| (*name, value.clone())).collect())
    }

    #[test]
    fn writes_json_like_python() {
        let json = r#"{"b": "<é> & \"q\" '\n\u0001", "a": [1, 1.5, null, true, {}, []]}"#;
        assert_eq!(dumps(json, &[]).unwrap(), json);
        let short = Value::from(vec![",", ":"]);
        let ascii = dumps(json, &[("sort_keys", true.into()), ("ensure_ascii", true.into()), ("separators", short)]);
        let expected = r#"{"a":[1,1.5,null,true,{},[]],"b":"<\u00e9> & \"q\" '\n\u0001"}"#;
        assert_eq!(ascii.unwrap(), expected);
        let lines = "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}";
        assert_eq!(dumps(lines, &[("indent", 2.into())]).unwrap(), lines);
        assert!(dumps("1", &[("default", 1.into())]).is_err());
        assert!(dumps("1", &[("separators", Value::from(vec![","]))]).is_err());
    }
}
